"""RoboTwin's own tasks, from a checkout of it, behind the interface that all simulators speak.

Their code runs as RoboTwin's scripts run it: with the checkout on `sys.path` and as the working
directory, while one of their methods is called. Nothing here knows of a task but its name.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from numpy.typing import NDArray

from twin_env.gym_spaces import Layout
from twin_env.names import unknown
from twin_env.task_env import InvalidActionError, Observation, TaskEnv, UnstableError

UNLISTED_STEP_LIMIT = 1000
"""RoboTwin's for a task that its list of limits has not."""
_UNLIMITED_RAD = 2 * np.pi
"""Bound of a joint whose description gives none."""
Root = str | PathLike[str]


class RoboTwinError(RuntimeError):
    """RoboTwin's own code raised; the cause tells what."""


def list_robotwin_tasks(root: Root) -> list[str]:
    """Names of the tasks of the checkout at `root`.

    Raises:
        ValueError: there is no checkout.
    """
    return sorted(p.stem for p in (_checked(root) / "envs").glob("*.py") if p.stem[0] != "_")


def make_robotwin_task(task: str, root: Root) -> TaskEnv:
    """RoboTwin's task object, adapted where it differs from the other simulators'.

    `setup_demo(now_ep_num, seed, is_test, **config)` takes the config as its YAML has it and
    completes it as RoboTwin's `script/eval_policy.py` does.

    Raises:
        ValueError: no checkout, or no such task in it.
        RoboTwinError: its module could not be imported.
    """
    place = _checked(root)
    tasks = list_robotwin_tasks(place)
    if task not in tasks:
        raise unknown(f"task of the RoboTwin checkout {place}", task, tasks)
    _check_only_checkout(place)
    try:
        with _at_home(place):
            module = importlib.import_module(f"envs.{task}")
    except Exception as error:
        raise RoboTwinError(
            f"importing RoboTwin's envs/{task}.py from {place} failed with "
            f"{type(error).__name__}: {error}; install what that checkout requires"
        ) from error
    theirs = getattr(module, task, None)
    if not isinstance(theirs, type):
        raise ValueError(
            f"RoboTwin's loader wants a class of the module's name: {place}/envs/{task}.py has no "
            f"class {task}"
        )
    # A subclass, not a proxy: what the expert leaves on the task must be found on the task.
    kind = type(task, (_Adapted, theirs), {"_root": place, "_task_name": task})
    adapted: TaskEnv = kind()
    return adapted


def load_robotwin_config(root: Root, config: Root | Mapping[str, Any]) -> dict[str, Any]:
    """The environment config of that name in the checkout's `task_config/`, or at that path, or
    these keys laid over RoboTwin's `demo_clean`."""
    folder = _checked(root) / "task_config"
    if isinstance(config, Mapping):
        return {**_read_yaml(folder / "demo_clean.yml"), **config}
    path = Path(config)
    if path.suffix not in (".yml", ".yaml"):
        known = {p.stem: p for p in folder.glob("*.yml") if p.stem[0] != "_"}
        if str(config) not in known:
            raise unknown(f"environment config in {folder}", str(config), known)
        path = known[str(config)]
    return _read_yaml(path)


def setup_arguments(root: Root, task: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What RoboTwin's evaluation passes to `setup_demo` beside episode, seed and `is_test`.

    Nothing is shown in a viewer and no video written, whatever the config says.
    """
    place = _checked(root)
    arms = list(config["embodiment"])
    if len(arms) not in (1, 3):
        raise ValueError(
            "RoboTwin's embodiment is [robot] or [left robot, right robot, metres between them], "
            f"not {arms!r}"
        )
    folders = [_robot_folder(place, name) for name in (arms[0], arms[len(arms) // 2])]
    camera_types = _read_yaml(place / "task_config" / "_camera_config.yml")
    head = _camera_type(camera_types, config["camera"]["head_camera_type"])
    arguments = {
        **config,
        "task_name": task,
        "render_freq": 0,
        "head_camera_h": head["h"],
        "head_camera_w": head["w"],
        "left_robot_file": folders[0],
        "right_robot_file": folders[1],
        "dual_arm_embodied": len(arms) == 1,
        "left_embodiment_config": _read_yaml(place / folders[0] / "config.yml"),
        "right_embodiment_config": _read_yaml(place / folders[1] / "config.yml"),
    }
    if len(arms) == 3:
        arguments["embodiment_dis"] = arms[2]
    return arguments


def robotwin_layout(root: Root, config: Mapping[str, Any]) -> Layout:
    """Joint limits, from the robots' URDF, and cameras that RoboTwin makes of a config."""
    place = _checked(root)
    arguments = setup_arguments(place, "", config)
    lower, upper = [], []
    for number, side in enumerate(("left", "right")):
        robot = arguments[f"{side}_embodiment_config"]
        urdf = place / arguments[f"{side}_robot_file"] / robot["urdf_path"]
        for low, high in _joint_limits(urdf, robot["arm_joints_name"][number]):
            lower.append(low)
            upper.append(high)
        lower.append(0.0)
        upper.append(1.0)
    return Layout(
        lower=np.array(lower),
        upper=np.array(upper),
        cameras=_cameras(place, arguments),
        targets_within_limits=False,
    )


class _Adapted:
    """What RoboTwin's class lacks of our interface; mixed in before it."""

    _root: Path
    _task_name: str

    def __init__(self) -> None:
        super().__init__()
        self.take_action_cnt, self.eval_success, self.plan_success = 0, False, True
        self.seed = 0
        self.info: dict[str, Any] = {"info": {}}
        self.instruction = ""
        self.step_lim: int = _step_limit(self._root, self._task_name)

    def setup_demo(
        self, now_ep_num: int = 0, seed: int = 0, is_test: bool = False, **config: Any
    ) -> None:
        arguments = setup_arguments(self._root, self._task_name, config)
        arguments["eval_mode"] = is_test
        theirs: Any = super()
        try:
            with _at_home(self._root):
                theirs.setup_demo(now_ep_num=now_ep_num, seed=seed, is_test=is_test, **arguments)
        except Exception as error:
            if type(error).__name__ == "UnStableError":
                raise UnstableError(str(error)) from error
            raise RoboTwinError(
                f"setting up {self._task_name} (seed {seed}) in the RoboTwin checkout {self._root} "
                f"failed with {type(error).__name__}: {error}; are its assets in "
                f"{self._root / 'assets'}?"
            ) from error
        # RoboTwin reads its limit only in evaluation, and forgets seed and instruction.
        self.seed, self.instruction = seed, ""
        self.step_lim = _step_limit(self._root, self._task_name)

    def play_once(self) -> Any:
        theirs: Any = super()
        with _at_home(self._root):
            return theirs.play_once()

    def get_obs(self) -> Observation:
        """RoboTwin's, and beside its drive targets the joints as the physics has them: the vector
        (Da,) of `joint_state`, whose grippers are RoboTwin's, targets."""
        theirs: Any = super()
        with _at_home(self._root):
            observation: Observation = theirs.get_obs()
        robot = self._robot
        left, right = robot.get_left_arm_real_jointState(), robot.get_right_arm_real_jointState()
        observation["joint_state"] = {"vector": np.array([*left, *right], dtype=np.float64)}
        return observation

    def take_action(self, action: NDArray[np.float64], action_type: str = "qpos") -> None:
        robot = self._robot
        arms = (robot.left_arm_joints_name, robot.right_arm_joints_name)
        size = sum(len(arm) if action_type == "qpos" else 7 for arm in arms) + 2
        if np.shape(action) != (size,):
            raise InvalidActionError(f"an action has shape ({size},); got {np.shape(action)}")
        if not np.all(np.isfinite(action)):
            bad = np.flatnonzero(~np.isfinite(action)).tolist()
            raise InvalidActionError(f"an action must be finite; elements {bad} are not")
        theirs: Any = super()
        with _at_home(self._root):
            theirs.take_action(np.asarray(action, np.float64), action_type)

    def instructions(self) -> dict[str, list[str]]:
        """`seen` and `unseen` phrasings that name nothing of the episode, else the task's one-line
        description; RoboTwin fills in the others from what the expert did."""
        path = self._root / "description" / "task_instruction" / f"{self._task_name}.json"
        if not path.exists():
            return {"seen": [], "unseen": []}
        texts = _read_yaml(path)  # JSON is YAML.
        whole = [text for text in [texts.get("full_description")] if text]
        return {
            split: [text for text in texts.get(split, ()) if "{" not in text] or whole
            for split in ("seen", "unseen")
        }

    def render_video_frame(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) RGB from RoboTwin's observer camera, which has a size of its own."""
        task: Any = self
        with _at_home(self._root):
            task._update_render()
            return np.ascontiguousarray(task.cameras.get_observer_rgb(), dtype=np.uint8)

    @property
    def _robot(self) -> Any:
        robot = getattr(self, "robot", None)
        if robot is None:
            raise RuntimeError("the task has no scene; call setup_demo first")
        return robot


@contextmanager
def _at_home(root: Path) -> Iterator[None]:
    before = os.getcwd()
    sys.path.insert(0, str(root))
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(root))


def _checked(root: Root) -> Path:
    place = Path(root).resolve()
    if not (place / "envs").is_dir() or not (place / "task_config").is_dir():
        raise ValueError(
            f"a RoboTwin root has the folders envs/ and task_config/; {place} has not: give the "
            "folder into which RoboTwin was cloned"
        )
    return place


def _check_only_checkout(root: Path) -> None:
    loaded = sys.modules.get("envs")
    if loaded is not None:
        places = [Path(place).resolve() for place in getattr(loaded, "__path__", ())]
        if root / "envs" not in places:
            raise ValueError(
                "one process holds one package called envs, and this one has loaded "
                f"{', '.join(map(str, places)) or loaded}: use another process for {root}"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f"RoboTwin's {path} is missing; its assets come by the checkout's own "
            "script/_download_assets.sh"
        )
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a mapping of keys to values, not {type(content).__name__}")
    return content


def _step_limit(root: Path, task: str) -> int:
    limits = _read_yaml(root / "task_config" / "_eval_step_limit.yml")
    return int(limits.get(task, UNLISTED_STEP_LIMIT))


def _robot_folder(root: Path, name: str) -> str:
    """As RoboTwin's list writes it: relative to the checkout."""
    known = _read_yaml(root / "task_config" / "_embodiment_config.yml")
    if name not in known:
        raise unknown(f"embodiment of the RoboTwin checkout {root}", str(name), known)
    return str(known[name]["file_path"])


def _camera_type(known: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in known:
        raise unknown("camera type of the RoboTwin checkout", str(name), known)
    found: Mapping[str, Any] = known[name]
    return found


def _cameras(root: Path, arguments: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    known = _read_yaml(root / "task_config" / "_camera_config.yml")
    wanted = arguments["camera"]
    types: dict[str, str] = {}
    if wanted.get("collect_wrist_camera", True):
        types |= dict.fromkeys(("left_camera", "right_camera"), wanted["wrist_camera_type"])
    for fixed in arguments["left_embodiment_config"].get("static_camera_list", ()):
        if fixed["name"] != "head_camera":
            types[fixed["name"]] = fixed["type"]
        elif wanted.get("collect_head_camera", True):
            types["head_camera"] = wanted["head_camera_type"]
    sizes = {name: _camera_type(known, kind) for name, kind in types.items()}
    return {name: (int(size["h"]), int(size["w"])) for name, size in sizes.items()}


def _joint_limits(urdf: Path, names: list[str]) -> list[tuple[float, float]]:
    if not urdf.exists():
        raise FileNotFoundError(
            f"the robot's description {urdf} is missing; it comes with RoboTwin's assets, by the "
            "checkout's own script/_download_assets.sh"
        )
    joints = {joint.get("name"): joint for joint in ElementTree.parse(urdf).iter("joint")}
    limits = []
    for name in names:
        if name not in joints:
            raise ValueError(f"{urdf} has no joint {name!r}, which its config.yml names")
        limit = joints[name].find("limit")
        given = {} if limit is None or joints[name].get("type") == "continuous" else limit.attrib
        low = float(given.get("lower", -_UNLIMITED_RAD))
        limits.append((low, float(given.get("upper", _UNLIMITED_RAD))))
    return limits
