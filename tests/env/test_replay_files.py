"""Replay episodes: what is written is read back, and every broken rule is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from twin_env.episodes import read_episode
from twin_env.episodes_fields import EpisodeFileError
from twin_env.replay_files import (
    ReplayAbout,
    ReplayFrames,
    find_faults,
    read_replay,
    read_replay_folder,
    sparse_labels,
    write_replay,
)

T = 4


def jpeg(value: int = 0) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((24, 32, 3), value, np.uint8))[1])


def written(path: Path, *, outcome: Any = "success", **changes: Any) -> Path:
    vector = np.arange((T + 1) * 14, dtype=np.float64).reshape(T + 1, 14) / 100
    joints = {
        "left_arm": vector[:, :6],
        "left_gripper": vector[:, 6],
        "right_arm": vector[:, 7:13],
        "right_gripper": vector[:, 13],
        "vector": vector,
    }
    reward, terminal, truncated = sparse_labels(T, outcome)
    cameras = ("head_camera", "left_camera", "right_camera")
    values: dict[str, Any] = {
        "frames": ReplayFrames(joints, {c: [jpeg(9 * t) for t in range(T + 1)] for c in cameras}),
        "action": vector[1:] + 0.001,
        "reward": reward,
        "terminal": terminal,
        "truncated": truncated,
        "stage": np.array([0, 0, 1, 1, 2]),
        "about": ReplayAbout(
            task="push", outcome=outcome, seed=7, noise_seed=2**62, source="dp", n_stages=2
        ),
    }
    write_replay(path, **{**values, **changes})
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "data/episode3.hdf5", instructions=["push it"])
    episode = read_replay(path)
    assert episode.n_transitions == T
    assert episode.vector.shape == (T + 1, 14)
    np.testing.assert_array_equal(episode.action, episode.vector[1:] + 0.001)
    assert episode.reward.tolist() == [0, 0, 0, 1]
    assert episode.terminal.tolist() == [False, False, False, True]
    assert not episode.truncated.any()
    assert episode.stage is not None
    assert episode.stage.tolist() == [0, 0, 1, 1, 2]
    assert episode.about == ReplayAbout(
        task="push", outcome="success", seed=7, noise_seed=2**62, source="dp", n_stages=2
    )
    plain = read_episode(path)
    assert plain.n_frames == T + 1
    assert plain.instructions == ("push it",)
    assert abs(int(plain.rgb("head_camera", [2])[0, 0, 0, 0]) - 18) <= 2


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        written(tmp_path / f"data/episode{number}.hdf5", outcome="failure")
    episodes = read_replay_folder(tmp_path)
    assert [episode.path.stem for episode in episodes] == ["episode2", "episode10"]
    assert [episode.truncated[-1] for episode in episodes] == [True, True]
    assert not any(episode.terminal.any() or episode.reward.any() for episode in episodes)


def test_a_plain_episode_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    path = written(tmp_path / "data/episode0.hdf5")
    with h5py.File(path, "r+") as file:
        del file["replay"]
    with pytest.raises(EpisodeFileError, match="twinbench replay create"):
        read_replay_folder(tmp_path)


def _set(field: str, index: int, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[field][index] = value

    return change


def _replace(field: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[field]
        if value is not None:
            file[field] = value

    return change


def _attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["replay"].attrs[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (_set("replay/terminal", 1, True), "replay/terminal", "transition 1, and only the last, 3"),
        (_set("replay/truncated", 0, True), "replay/truncated", "transition 0"),
        (_set("replay/truncated", 3, True), "replay/truncated", "terminal too"),
        (_set("replay/terminal", 3, False), "replay/terminal", "neither"),
        (_set("replay/reward", 2, np.nan), "replay/reward", "not finite at transition 2"),
        (_replace("replay/reward", np.zeros(T + 1)), "replay/reward", r"shape \(4,\)"),
        (_replace("replay/action", np.zeros((T, 7))), "replay/action", r"shape \(4, 14\)"),
        (_replace("replay/action", None), "replay/action", "missing"),
        (_replace("replay/terminal", np.zeros(T)), "replay/terminal", "must hold bool"),
        (_set("replay/stage", 3, 0), "replay/stage", "falls after frame 2"),
        (_set("replay/stage", 4, 3), "replay/stage", "from 0 to 2"),
        (_attribute("version", 2), "replay", "reads twinbench-replay 1"),
        (_attribute("outcome", "error"), "replay@outcome", "success or failure"),
        (_replace("observation/head_camera/rgb", np.array([b"x"])), "observation", "has 1 frames"),
    ],
)
def test_each_broken_rule_is_named(
    tmp_path: Path, change: Callable[[h5py.File], None], field: str, reason: str
) -> None:
    path = written(tmp_path / "data/episode0.hdf5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(EpisodeFileError, match=reason) as caught:
        read_replay(path)
    assert caught.value.field.startswith(field)
    assert str(path) in str(caught.value)


def test_all_faults_of_a_file_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "data/episode0.hdf5")
    with h5py.File(path, "r+") as file:
        _set("replay/reward", 0, np.inf)(file)
        _set("replay/terminal", 1, True)(file)
        _attribute("outcome", "maybe")(file)
    fields = [fault.field for fault in find_faults(path)]
    assert fields == ["replay@outcome", "replay/reward", "replay/terminal"]
    path.write_bytes(path.read_bytes()[:100])
    assert [fault.field for fault in find_faults(path)] == ["file"]


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(EpisodeFileError, match="neither terminal nor truncated"):
        written(tmp_path / "data/episode0.hdf5", terminal=np.zeros(T, bool))
    assert list((tmp_path / "data").iterdir()) == []
