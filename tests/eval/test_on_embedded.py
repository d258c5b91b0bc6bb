"""The harness on the real embedded simulator: floor, ceiling, and the same on 1 and 2 workers."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from harness_process import MAY_DIFFER
from numpy.typing import NDArray

from twin_env.backends import load_config, make_env
from twin_env.episodes import read_episode
from twin_env.replay_files import read_replay_folder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.simulator


def call(cwd: Path, *command: str) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def evaluate(cwd: Path, policy: str, out: str, *words: str) -> list[dict[str, str]]:
    script = str(ROOT / "eval.sh")
    status, said = call(cwd, "bash", script, "beat_block_hammer", policy, "--out", out, *words)
    assert status == 0, said
    with (cwd / out / "episodes.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    """All pictures of an MP4, RGB uint8 (H, W, 3)."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (answer := capture.read())[0]:
        frames.append(np.asarray(cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB), dtype=np.uint8))
    capture.release()
    return frames


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the seed plan and results that the tests here share."""
    return tmp_path_factory.mktemp("embedded")


def test_expert_replay_succeeds_the_same_on_one_and_two_workers(workplace: Path) -> None:
    words = ("--episodes", "3", "--videos", "1")
    one = evaluate(workplace, "expert_replay", "one", *words, "--workers", "1")
    two = evaluate(workplace, "expert_replay", "two", *words, "--workers", "2")
    assert [row["outcome"] for row in one] == ["success"] * 3
    same = [key for key in one[0] if not key.endswith(MAY_DIFFER)]
    assert "actions_digest" in same
    assert [[row[key] for key in same] for row in one] == [[r[k] for k in same] for r in two]
    assert {row["stage"] for row in one} == {"struck"}


def test_video_shows_the_scene_and_then_the_result(workplace: Path) -> None:
    (row,) = evaluate(
        workplace, "expert_replay", "filmed", "--episodes", "1", "--videos", "1", "--workers", "1"
    )
    frames = read_video(workplace / "filmed" / row["video"])
    first, last = frames[0], frames[-1]
    assert first.shape == (528, 640, 3)
    assert first[:480].std() > 20
    assert np.abs(first[100:400].astype(int) - last[100:400]).mean() > 2
    border = cv2.mean(last[1:4, 1:-1])[:3]
    assert border[1] > border[0] + 40, "the frame of a success is green"


def test_hold_still_fails_at_the_step_limit(workplace: Path) -> None:
    (row,) = evaluate(
        workplace, "hold_still", "still", "--episodes", "1", "--videos", "0", "--workers", "1"
    )
    assert (row["outcome"], row["steps"]) == ("failure", "400")
    assert row["reason"] == "no success within 400 steps"


def test_rollouts_change_nothing_and_hold_what_the_cameras_saw(workplace: Path) -> None:
    words = ("--episodes", "2", "--videos", "0", "--workers", "1", "--config", "random_light")
    off = evaluate(workplace, "expert_replay", "unrecorded", *words)
    on = evaluate(workplace, "expert_replay", "recorded", *words, "--rollouts", "all")
    same = [key for key in off[0] if not key.endswith(MAY_DIFFER)]
    assert [[row[key] for key in same] for row in off] == [[r[k] for k in same] for r in on]
    first, _ = read_replay_folder(workplace / "recorded" / "rollouts")
    assert first.n_transitions == int(on[0]["steps"])
    assert first.terminal[-1]
    np.testing.assert_array_equal(first.vector[1:-1], first.action[:-1])
    assert first.stage is not None
    assert first.stage[0] == 0
    assert first.stage[-1] == first.about.n_stages == len(set(first.stage)) - 1
    env = make_env("beat_block_hammer")
    env.setup_demo(seed=int(on[0]["seed"]), is_test=True, **load_config("random_light"))
    seen = env.get_obs()["observation"]
    for camera in ("head_camera", "left_camera", "right_camera"):
        picture = read_episode(first.path).rgb(camera, [0])[0]
        error = picture.astype(float) - seen[camera]["rgb"]
        assert np.sqrt(np.mean(error**2)) < 6, camera


def test_sixteen_numbers_are_recorded_learned_and_acted_on_by_that_robot_alone(
    workplace: Path,
) -> None:
    config = workplace / "arm7.yml"
    config.write_text("embodiment: [twin-arm7]\nsave_freq: 30\n")
    scenes = ("--config", str(config))
    data = workplace / "outputs" / "data" / "beat_block_hammer" / "arm7"
    training = ("--steps", "2", "--set", "train.val_every=2", "--set", "train.val_windows=2")
    evaluation = ("eval", "brief", "dp_resnet", "--provider", "altered_simulator")
    evaluation += ("--episodes", "1", "--workers", "1", "--videos", "off", "--no-report")
    evaluation += ("--checkpoint", "arm7", "--out", "of_arm7")
    for words in (
        ("collect", "beat_block_hammer", "--episodes", "2", "--workers", "1", *scenes),
        ("train", "brief", "dp_resnet_demo", "--data", str(data), "--out", "arm7", *training),
        (*evaluation, *scenes),
    ):
        status, said = call(workplace, sys.executable, "-m", "twin_eval.cli", *words)
        assert status == 0, said
    with (workplace / "of_arm7" / "episodes.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["outcome"], row["reason"]) == ("failure", "no success within 24 steps")
    status, said = call(workplace, sys.executable, "-m", "twin_eval.cli", *evaluation[:-1], "six")
    assert status != 0
    assert "left_arm_dim: the policy was trained with 7, and 6 is declared" in said
    assert '"kind": "episode"' not in (workplace / "six" / "journal.jsonl").read_text()
