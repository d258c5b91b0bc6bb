"""Environment configs: RoboTwin's YAML keys, checked against what the simulator can do."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twin_env.camera_types import CAMERA_TYPES
from twin_env.names import unknown

ARM_JOINTS = {"twin-arm6": 6, "twin-arm7": 7}
"""The embedded simulator's arms, and their joints without the gripper."""

ROBOTWIN_ARM_JOINTS = {
    "aloha-agilex": 6,
    "piper": 6,
    "ARX-X5": 6,
    "ur5-wsg": 6,
    "franka-panda": 7,
}
"""RoboTwin's arms, which the embedded simulator has not, and their joints."""

# A default's type is its key's: of one written as a whole number no fraction is taken.
DEFAULTS: dict[str, Any] = {
    "episode_num": 50,
    "save_freq": 15,
    "embodiment": ["twin-arm6"],
    "domain_randomization": {
        "random_background": False,
        "cluttered_table": False,
        "clean_background_rate": 1.0,
        "random_head_camera_dis": 0.0,
        "random_table_height": 0.0,
        "random_light": False,
        "crazy_random_light_rate": 0.0,
        "random_embodiment": False,
    },
    "camera": {
        "head_camera_type": "D435",
        "wrist_camera_type": "D435",
        "collect_head_camera": True,
        "collect_wrist_camera": True,
    },
    "data_type": {
        "rgb": True,
        "endpose": True,
        "qpos": True,
        "depth": False,
        "pointcloud": False,
        "mesh_segmentation": False,
        "actor_segmentation": False,
        "third_view": False,
        # RoboTwin's spelling: the point cloud is of all cameras, not of the head's alone.
        "conbine": False,
        "observer": False,
    },
    "pcd_down_sample_num": 1024,
    "pcd_crop": True,
    "shadow_map_size": 512,
    "samples_per_pixel": 1,
    # Keys of RoboTwin's files that mean nothing here (see `DECIDE_NOTHING`).
    "render_freq": 0,
    "use_seed": False,
    "language_num": 100,
    "save_path": "./data",
    "clear_cache_freq": 5,
    "collect_data": True,
    "eval_video_log": True,
}

DECIDE_NOTHING = (
    "episode_num",
    "render_freq",
    "use_seed",
    "language_num",
    "save_path",
    "clear_cache_freq",
    "collect_data",
    "eval_video_log",
    "domain_randomization.random_embodiment",
    "data_type.observer",
)
"""Keys that no episode depends on. All but the first are known so that RoboTwin's files load, and
used nowhere: RoboTwin itself reads neither `random_embodiment` nor `observer`."""

SAMPLES_PER_PIXEL = (1, 4, 9, 16)
"""Squares: a picture is rendered 1 to 4 times wider and higher, and averaged."""

_RANGES = {
    "episode_num": (1, 1_000_000, "episodes"),
    "save_freq": (1, 10_000, "physics steps from frame to frame"),
    # All cameras together have fewer pixels.
    "pcd_down_sample_num": (0, 1_000_000, "points, 0 for all of them"),
    "shadow_map_size": (0, 8192, "pixels each way, 0 for no shadows"),
}
"""Key -> its lowest and highest value, and what it counts."""
_RANDOMISATION_RANGES = {
    "clean_background_rate": (0, 1, "a share of the seeds"),
    "crazy_random_light_rate": (0, 1, "a share of the seeds"),
    "random_head_camera_dis": (0, 0.5, "metres"),
    "random_table_height": (0, 0.1, "metres that the table is lowered at most"),
}


def config_folder() -> Path:
    """`task_configs/` of the current folder, else the one beside the source roots.

    Raises:
        FileNotFoundError: neither exists.
    """
    places = [Path("task_configs"), Path(__file__).resolve().parents[2] / "task_configs"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no task_configs folder at {' or '.join(str(p) for p in places)}; "
        "run from the project's root"
    )


def load_env_config(name_or_path: str, *, option: str = "--config") -> dict[str, Any]:
    """The whole environment config of that name (`demo_clean`) or YAML path, defaults filled in.

    Args:
        option: Who asked for it; named when there is no such file.

    Raises:
        FileNotFoundError: nothing at that path.
        ValueError: unknown config, not YAML, unknown key, or a value that the simulator cannot
            honour.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yml", ".yaml"):
        known = _shipped_configs()
        if name_or_path not in known:
            raise unknown("environment config", name_or_path, known)
        path = known[name_or_path]
    elif not path.is_file():
        raise FileNotFoundError(
            f"{option} {path}: no such file; give the path of a YAML file, or one of: "
            f"{', '.join(_shipped_configs())}"
        )
    given = _read_yaml(path)
    if given is None:  # An empty file: all as by default.
        given = {}
    if not isinstance(given, dict):
        raise ValueError(f"{path}: an environment config is a mapping of keys to values")
    return complete_env_config(given, source=str(path))


def complete_env_config(given: Mapping[str, Any], *, source: str = "config") -> dict[str, Any]:
    """`given` laid over the defaults and checked; `source` is named in errors."""
    config = copy.deepcopy(DEFAULTS)
    _overlay(config, given, where=source)
    _check_offered(config, source)
    return config


@dataclass(frozen=True)
class Embodiment:
    """Two arms at the table."""

    left: str
    right: str
    """A name in `ARM_JOINTS` each."""
    distance_m: float = 0.6
    """Between their bases."""

    @property
    def arm_dims(self) -> tuple[int, int]:
        """Joints of the left and of the right arm, without grippers."""
        return ARM_JOINTS[self.left], ARM_JOINTS[self.right]


def read_embodiment(config: Mapping[str, Any], *, source: str = "config") -> Embodiment:
    """What the key `embodiment` says, in RoboTwin's form: `[arm]` for a pair of one kind, or
    `[left arm, right arm, metres between their bases]`.

    Raises:
        ValueError: another form, an unknown arm, or a distance at which the arms do not fit.
    """
    given = config["embodiment"]
    if len(given) not in (1, 3) or not all(isinstance(name, str) for name in given[:2]):
        raise ValueError(
            f"{source}: embodiment is [arm] or [left arm, right arm, metres between their bases], "
            f"not {given!r}"
        )
    if any(name in ROBOTWIN_ARM_JOINTS for name in given[:2]):
        ours = [_arm_like(name) for name in given[:2]]
        raise ValueError(
            f"{source}: embodiment {given!r} names RoboTwin's arms, which the embedded simulator "
            f"has not; its own with as many joints are [{', '.join(map(str, ours + given[2:]))}]"
        )
    for name in given[:2]:
        if name not in ARM_JOINTS:
            raise unknown(f"embodiment in {source}", name, ARM_JOINTS)
    if len(given) == 1:
        return Embodiment(given[0], given[0])
    left, right, distance = given
    if not isinstance(distance, (int, float)) or not 0.4 <= distance <= 0.8:
        raise ValueError(
            f"{source}: the arms' bases are 0.4 to 0.8 m apart, not {distance!r} (embodiment[2])"
        )
    return Embodiment(left, right, float(distance))


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that no episode depends on."""
    kept = copy.deepcopy(dict(config))
    for key in DECIDE_NOTHING:
        *section, name = key.split(".")
        (kept.get(section[0], {}) if section else kept).pop(name, None)
    return kept


def _arm_like(name: object) -> object:
    """Our arm with as many joints as RoboTwin's of that name; any other name as it is."""
    joints = ROBOTWIN_ARM_JOINTS.get(str(name))
    return next((arm for arm, n in ARM_JOINTS.items() if n == joints), name)


def _shipped_configs() -> dict[str, Path]:
    return {path.stem: path for path in sorted(config_folder().glob("*.yml"))}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML's own, and a plain ValueError of bytes that are no text, or of a date that is none.
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}"
        ) from error


def _check_offered(config: Mapping[str, Any], source: str) -> None:
    _check_ranges(config, _RANGES, f"{source}: ")
    _check_randomisation(config["domain_randomization"], f"{source}: domain_randomization")
    if config["data_type"]["pointcloud"] and not config["camera"]["collect_head_camera"]:
        raise ValueError(
            f"{source}: data_type.pointcloud is of what the head camera sees, and "
            "camera.collect_head_camera is false; turn it on, or the point cloud off"
        )
    if config["samples_per_pixel"] not in SAMPLES_PER_PIXEL:
        raise ValueError(
            f"{source}: samples_per_pixel is one of {', '.join(map(str, SAMPLES_PER_PIXEL))}, "
            f"not {config['samples_per_pixel']!r}"
        )
    for key in ("head_camera_type", "wrist_camera_type"):
        if config["camera"][key] not in CAMERA_TYPES:
            raise unknown(f"camera.{key} in {source}", config["camera"][key], CAMERA_TYPES)
    read_embodiment(config, source=source)


def _check_ranges(
    section: Mapping[str, Any], ranges: Mapping[str, tuple[float, float, str]], where: str
) -> None:
    for key, (lowest, highest, unit) in ranges.items():
        if not lowest <= section[key] <= highest:
            raise ValueError(
                f"{where}{key} is from {lowest} to {highest} ({unit}), not {section[key]!r}"
            )


def _check_randomisation(section: Mapping[str, Any], where: str) -> None:
    _check_ranges(section, _RANDOMISATION_RANGES, f"{where}.")
    if section["crazy_random_light_rate"] and not section["random_light"]:
        raise ValueError(
            f"{where}.crazy_random_light_rate={section['crazy_random_light_rate']!r} does nothing "
            "while random_light is false; set random_light to true, or the rate to 0"
        )
    if section["random_embodiment"]:
        raise ValueError(
            f"{where}.random_embodiment is not offered (nor used in RoboTwin); set it to false and "
            "name the arms in `embodiment`"
        )


def _overlay(base: dict[str, Any], given: Mapping[str, Any], *, where: str) -> None:
    for key, value in given.items():
        if key not in base:
            raise unknown(f"key in {where}", key, base)
        if isinstance(base[key], dict):
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key} must be a mapping, not {value!r}")
            _overlay(base[key], value, where=f"{where}: {key}")
        else:
            base[key] = _of_its_kind(value, base[key], what=f"{where}: {key}")


def _of_its_kind(value: Any, default: Any, *, what: str) -> Any:
    """`value`, if it is of the default's kind. Where that is a float, a whole number becomes one:
    the environment's fingerprint must not tell 0 from 0.0."""
    kind = _kind(default)
    if kind == "finite number":
        if _kind(value) in ("whole number", kind) and abs(value) <= sys.float_info.max:
            return float(value)
    elif _kind(value) == kind:
        return value
    raise ValueError(f"{what} must be a {kind}, such as {default!r}, not {value!r}")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int):
        return "whole number"
    if isinstance(value, float):
        return "finite number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "value of another kind"
