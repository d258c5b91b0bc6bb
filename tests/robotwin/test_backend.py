"""A RoboTwin checkout as the harness's simulator: plans, parallel episodes, faults."""

import contextlib
import csv
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from twin_env import environment_fingerprint, make_env
from twin_env.replay_files import read_replay_folder
from twin_env.robotwin_config import load_robotwin_config
from twin_env.robotwin_home import Home
from twin_env.robotwin_instructions import fill_templates
from twin_env.robotwin_planner import do_without_planner
from twin_env.task_env import BrokenSimulatorError, ExpertError, UnstableError
from twin_env.workers import Done, WorkerPool
from twin_eval.environments import EnvironmentSpec
from twin_eval.seed_plan import BrokenMachineError, complete_plan
from twin_eval.seed_verification import verify_seed

TASK = "place_object_scale"
EPISODES = 6
KNOWING = """
import os, sys
import numpy as np

def get_model(usr_args):
    assert os.path.exists("./task_config/demo_clean.yml"), os.getcwd()
    assert (usr_args["left_arm_dim"], usr_args["right_arm_dim"]) == (6, 6)
    return {"phase": 0}

def reset_model(model):
    model["phase"] = 0

def eval(TASK_ENV, model, observation):
    '''Does as the expert does, with an unsteady hand.'''
    assert os.path.exists("./task_config/demo_clean.yml"), os.getcwd()
    side = "right" if TASK_ENV.object[0] > 0 else "left"
    shake = np.random.uniform(-0.07, 0.07)
    above = TASK_ENV.scale + np.array([shake, 0, 0.02])
    place, gripper = [(TASK_ENV.object, 1), (TASK_ENV.object, 0), (above, 0), (above, 1)][
        min(model["phase"], 3)
    ]
    state = np.array(observation["joint_action"]["vector"])
    first = 0 if side == "left" else 7
    state[first:first + 6] = TASK_ENV.robot.reach(side, place)
    state[first + 6] = gripper
    TASK_ENV.take_action(state)
    model["phase"] += 1
"""
SETTINGS = {"policy_name": "Knowing", "task_name": None, "instruction_type": "unseen"}


@pytest.fixture
def root(robotwin_root: Path) -> Iterator[Path]:
    """A checkout whose modules this process forgets afterwards."""
    yield robotwin_root
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        del sys.modules[name]


def spec(root: Path, task: str = TASK, **options: str) -> EnvironmentSpec:
    return EnvironmentSpec(
        task=task,
        config_name="demo_clean",
        config=load_robotwin_config(root, "demo_clean"),
        backend="robotwin",
        options={"root": str(root), **options},
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def start(cwd: Path, root: Path, *more: str, workers: int, log: Path | None = None) -> Any:
    """`twinbench eval` of the checkout's own policy, told by its name."""
    cwd.mkdir(exist_ok=True)
    words = f"eval {TASK} Knowing --backend robotwin --robotwin {root} --episodes {EPISODES}"
    command = [sys.executable, "-m", "twin_eval.cli", *words.split(), "--workers", str(workers)]
    return subprocess.Popen(
        [*command, "--out", "run", "--videos", "1", "--no-report", "--quiet", *more],
        cwd=cwd,
        env={**os.environ, "FAKE_ROBOTWIN_LOG": str(log or os.devnull)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: Any) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return str(said)


def untimed(cwd: Path) -> list[dict[str, str]]:
    with (cwd / "run" / "episodes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    differ = ("session", "attempts", "video")
    return [
        {k: v for k, v in row.items() if k not in differ and not k.endswith("_s")} for row in rows
    ]


@pytest.mark.processes
def test_two_workers_killed_and_resumed_find_what_one_does(
    robotwin_root: Path, tmp_path: Path
) -> None:
    folder = robotwin_root / "policy" / "Knowing"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .deploy_policy import *\n")
    (folder / "deploy_policy.py").write_text(KNOWING)
    (folder / "deploy_policy.yml").write_text(yaml.safe_dump(SETTINGS))
    two, one = tmp_path / "two", tmp_path / "one"
    process = start(two, robotwin_root, workers=2)
    journal = two / "run" / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b'"episode"') < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    said = finished(start(two, robotwin_root, workers=2))
    finished(start(one, robotwin_root, "--rollouts", "all", workers=1))

    rows = untimed(two)
    assert rows == untimed(one)
    rollouts = read_replay_folder(one / "run" / "rollouts")
    assert [episode.about.outcome for episode in rollouts] == [row["outcome"] for row in rows]
    assert [episode.n_transitions for episode in rollouts] == [int(row["steps"]) for row in rows]
    assert not (two / "run" / "rollouts").exists()
    assert [int(row["seed"]) for row in rows] == [100_000, *range(100_004, 100_009)]
    assert {row["outcome"] for row in rows} == {"success", "failure"}
    assert len({row["actions_digest"] for row in rows}) == EPISODES
    plan = f"outputs/plans/robotwin/{TASK}-demo_clean.json"
    assert (two / plan).read_text() == (one / plan).read_text()
    verdicts = [entry["verdict"] for entry in json.loads((two / plan).read_text())["entries"]]
    assert verdicts == ["ok", "unstable", *["expert_failed"] * 2, *["ok"] * 5]
    assert "step:" not in said
    assert "step:" in "".join(log.read_text() for log in (two / "run" / "logs").iterdir())
    session = json.loads(journal.read_text().splitlines()[0])["robotwin"]
    assert (session["root"], session["render"]) == (str(robotwin_root), "robotwin")
    assert session["commit"] == (robotwin_root / ".git/refs/heads/stable_2.0").read_text().strip()
    assert next((two / "run" / "videos").glob("*.mp4")).stat().st_size


def test_what_the_expert_makes_of_a_scene(root: Path) -> None:
    environment = spec(root)
    ok, unstable, lost, crashed = (verify_seed(environment, 100_000 + n) for n in range(4))
    assert ok.verdict == "ok"  # type: ignore[union-attr]
    assert ok.attributes == {"arm_tag": {"text": "left", "class": "ArmTag"}}  # type: ignore[union-attr]
    assert "{" not in "".join(ok.instructions.values())  # type: ignore[union-attr]
    assert unstable.verdict == "unstable"  # type: ignore[union-attr]
    assert lost.reason == "the expert found no motion"
    assert crashed.verdict == "expert_failed"  # type: ignore[union-attr]
    place = r"IndexError: list index out of range (envs/place_object_scale.py:"
    assert crashed.reason.startswith(f"the expert's code failed: {place}")
    assert str(root) not in crashed.reason


@pytest.mark.processes
def test_a_missing_asset_ends_it_at_the_first_scene(
    robotwin_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_ROBOTWIN_LOG", str(log))
    edit(
        robotwin_root / "envs" / f"{TASK}.py",
        "        self.held_by: str | None = None\n",
        "        print('047_mouse is not exist model file!')\n"
        "        self.held_by: str | None = None\n        None.get_pose()\n",
    )
    with pytest.raises(BrokenMachineError, match=r"'get_pose'.*047_mouse is not.*in .*/assets"):
        complete_plan(
            spec(robotwin_root, log_folder=str(tmp_path / "logs")),
            0,
            3,
            workers=1,
            root=tmp_path / "plans",
            quiet=True,
        )
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["seed"] for event in events if event["event"] == "scene"] == [100_000]


def test_code_that_exits_is_an_error_of_its_own(root: Path) -> None:
    task = root / "envs" / f"{TASK}.py"
    edit(
        task,
        "        self.object = self._scatter",
        "        exit(3)\n        self.object = self._scatter",
    )
    env = make_env(TASK, "robotwin", root=root)
    with pytest.raises(BrokenSimulatorError, match=r"SystemExit: 3 \(envs/place_object_scale"):
        env.setup_demo(seed=4, **load_robotwin_config(root, "demo_clean"))


def test_output_of_all_kinds_goes_to_the_log(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(
        root / "envs" / f"{TASK}.py",
        "        self._show()\n",
        "        os.write(1, b'from a library\\n')\n        os.system('echo a program >&2')\n"
        "        self._show()\n",
    )
    edit(root / "envs" / f"{TASK}.py", "import numpy as np\n", "import os\nimport numpy as np\n")
    env = make_env(TASK, "robotwin", root=root, log_folder=tmp_path / "logs")
    env.setup_demo(seed=4, **load_robotwin_config(root, "demo_clean"))
    env.play_once()
    env.take_action(env.get_obs()["joint_action"]["vector"])
    print("ours")
    assert capfd.readouterr() == ("ours\n", "")
    (log,) = (tmp_path / "logs").iterdir()
    for text in ("from a library", "a program", "step: "):
        assert text in log.read_text()


def test_a_renderer_that_draws_nothing_is_noticed(root: Path) -> None:
    env: Any = make_env(TASK, "robotwin", root=root)
    env.setup_demo(seed=4, **load_robotwin_config(root, "demo_clean"))
    env.cameras.get_rgb = lambda: {
        name: {"rgb": picture["rgb"] * 0}
        for name, picture in type(env.cameras).get_rgb(env.cameras).items()
    }
    with pytest.raises(BrokenSimulatorError, match="--render cpu"):
        env.get_obs()


def test_instructions_are_robotwins_and_drawn_by_the_seed(root: Path) -> None:
    names = {"{A}": "072_electronicscale/base0", "{B}": "047_mouse/base0", "{a}": "left"}
    ours = {seed: fill_templates(root, TASK, names, seed) for seed in range(30)}
    assert ours[3] == fill_templates(root, TASK, names, 3)
    assert ours[3] != ours[4]
    theirs = _their_sentences(root, names)
    for split in ("seen", "unseen"):
        assert {text for found in ours.values() for text in found[split]} == theirs[split]
    with pytest.raises(BrokenSimulatorError, match=r"072_electronicscale/base9\.json.*git"):
        fill_templates(root, TASK, {**names, "{A}": "072_electronicscale/base9"}, 0)


def _their_sentences(root: Path, names: dict[str, str]) -> dict[str, set[str]]:
    """All that RoboTwin's own generator gives in many draws."""
    path = root / "description" / "utils" / "generate_episode_instructions.py"
    module: Any = importlib.util.module_from_spec(  # type: ignore[attr-defined]
        found := importlib.util.spec_from_file_location("theirs", path)  # type: ignore[attr-defined]
    )
    found.loader.exec_module(module)
    sentences: dict[str, set[str]] = {"seen": set(), "unseen": set()}
    for _ in range(50):
        (drawn,) = module.generate_episode_descriptions(TASK, [dict(names)], 100)
        for split, texts in sentences.items():
            texts.update(drawn[split])
    return sentences


def test_what_identifies_a_checkouts_environment(root: Path) -> None:
    def parts() -> dict[str, str]:
        return environment_fingerprint(
            TASK, load_robotwin_config(root, "demo_clean"), "robotwin", root=root
        )

    def changed_by(path: str, text: str = "\n# edited\n") -> set[str]:
        before, kept = parts(), (root / path).read_text()
        (root / path).write_text(kept + text)
        after = parts()
        (root / path).write_text(kept)
        return {name for name in after if after[name] != before[name]}

    assert changed_by("envs/_base_task.py") == {"simulator"}
    assert changed_by("envs/robot/robot.py") == {"simulator"}
    assert changed_by(f"envs/{TASK}.py") == {"task_file"}
    assert changed_by("task_config/demo_clean.yml", "pcd_crop: false\n") == {"config"}
    assert changed_by("task_config/_eval_step_limit.yml", f"{TASK}: 31\n") == {"config"}
    assert changed_by(f"description/task_instruction/{TASK}.json", " ") == {"instructions"}
    assert changed_by("assets/embodiments/aloha-agilex/urdf/robot.urdf", " ") == {"robots"}
    assert changed_by("task_config/demo_clean.yml", "save_path: ./elsewhere\n") == set()
    for path in ("envs/beat_block_hammer.py", "policy/Your_Policy/deploy_policy.py"):
        assert changed_by(path) == set()
    moved = root.with_name("moved")
    before = parts()
    shutil.copytree(root, moved)
    config = load_robotwin_config(moved, "demo_clean")
    assert environment_fingerprint(TASK, config, "robotwin", root=moved) == before
    on_cpu = environment_fingerprint(TASK, config, "robotwin", root=moved, render="cpu")
    assert on_cpu == {**before, "render": "cpu"}


def test_main_keeps_its_configs_elsewhere(root: Path) -> None:
    (root / "env_cfg").mkdir()
    (root / "task_config").rename(root / "env_cfg" / "task_config")
    config = load_robotwin_config(root, "demo_randomized")
    assert config["domain_randomization"]["random_background"]
    assert environment_fingerprint(TASK, config, "robotwin", root=root)["config"]


def test_the_robot_is_made_once_and_handed_on(root: Path) -> None:
    """As RoboTwin does it within one task object: its planners take long to make."""
    edit(
        root / "envs" / "_base_task.py",
        "self.robot = Robot(**kwags)",
        "self.robot = self.robot if hasattr(self, 'robot') else Robot(**kwags)",
    )
    config = load_robotwin_config(root, "demo_clean")
    robots = []
    for seed in (4, 1, 5):  # The second is unstable.
        env: Any = make_env(TASK, "robotwin", root=root)
        with contextlib.suppress(UnstableError):
            env.setup_demo(seed=seed, **config)
        robots.append(env.robot)
        env.close_env()
    assert robots[0] is robots[1] is robots[2]
    first, second = (make_env(TASK, "robotwin", root=root) for _ in range(2))
    first.setup_demo(seed=4, **config)
    second.setup_demo(seed=4, **config)
    assert vars(first)["robot"] is robots[0]
    assert vars(second)["robot"] is not robots[0]
    second.setup_demo(seed=3, **config)
    with pytest.raises(ExpertError):
        second.play_once()


def test_robotwin_may_start_processes_in_a_worker(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does for two different arms; Python forbids it to daemons, which workers are."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setitem(config, "daemon", True)
    process = multiprocessing.get_context("spawn").Process(target=os.getpid, daemon=True)
    with pytest.raises(AssertionError, match="daemonic"):
        process.start()
    Home(root).run("starting one", process.start)
    process.kill()
    process.join()
    assert config["daemon"] is True


def _visible(_: int) -> str:
    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.processes
def test_workers_take_the_gpus_in_turn() -> None:
    with WorkerPool(3, _visible, gpus=("0", "2")) as pool:
        told = [outcome.value for _, outcome in pool.run(range(3)) if isinstance(outcome, Done)]
    assert sorted(told) == ["0", "0", "2"]


def test_without_its_planner_a_scene_is_played_but_not_verified(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    planner = root / "envs" / "robot" / "planner.py"
    planner.write_text("import numpy\n")
    edit(
        root / "envs" / "robot" / "robot.py",
        "import os\n",
        "import os\nfrom .planner import CuroboPlanner\n",
    )
    with pytest.raises(BrokenSimulatorError, match=r"CuroboPlanner.*robot\.py"):
        make_env(TASK, "robotwin", root=root)
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        del sys.modules[name]
    do_without_planner()
    assert make_env(TASK, "robotwin", root=root).step_lim == 30
    stand_in = sys.modules["envs.robot.robot"].CuroboPlanner("arm", yml_path="curobo.yml")
    path = stand_in.plan_grippers(0.0, 1.0)
    assert (path["num_step"], path["result"][0], path["result"][-1]) == (200, 0.0, 1.0)
    with pytest.raises(BrokenSimulatorError, match="make the seed plan where it is"):
        stand_in.plan_batch([0.0] * 6, [])
    planner.write_text("class CuroboPlanner: genuine = True\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "envs"]:
        del sys.modules[name]
    make_env(TASK, "robotwin", root=root)
    assert sys.modules["envs.robot.robot"].CuroboPlanner.genuine


RENDERED = """
from twin_env.robotwin_render import render_on_cpu
render_on_cpu()
import warnings
warnings.simplefilter("ignore")
import sapien.core as sapien
engine = sapien.Engine()
engine.set_renderer(sapien.SapienRenderer())
sapien.render.set_camera_shader_dir("rt")
sapien.render.set_ray_tracing_denoiser("oidn")
scene = engine.create_scene(sapien.SceneConfig())
assert sapien.render.get_camera_shader_dir().endswith("default")
assert sapien.render.get_ray_tracing_denoiser() == "none"
"""


@pytest.mark.simulator
def test_on_a_cpu_nothing_is_ray_traced_or_denoised() -> None:
    done = subprocess.run([sys.executable, "-c", RENDERED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
