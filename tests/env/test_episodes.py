"""Episode files: what is written is read back, in RoboTwin's layout, and faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from twin_env.episodes import EpisodeFileError, list_episodes, read_episode, write_episode

CAMERAS = ("head_camera", "left_camera", "right_camera")


def observation(step: int) -> dict[str, Any]:
    """A live observation as RoboTwin gives it: pictures are not C-contiguous."""
    rng = np.random.default_rng(step)
    arms = {side: rng.normal(size=6) for side in ("left", "right")}
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[..., 0] = 238
    vector = np.concatenate([arms["left"], [0.25], arms["right"], [1.0]])
    return {
        "observation": {
            camera: {
                "rgb": np.asfortranarray(picture),
                "intrinsic_cv": np.eye(3, dtype=np.float32),
                "extrinsic_cv": np.ones((3, 4), np.float32),
                "cam2world_gl": np.eye(4, dtype=np.float32),
            }
            for camera in CAMERAS
        },
        "joint_action": {
            "left_arm": list(arms["left"]),
            "left_gripper": 0.25,
            "right_arm": list(arms["right"]),
            "right_gripper": 1.0,
            "vector": vector,
        },
        "endpose": {
            "left_endpose": [0.0] * 7,
            "left_gripper": 0.25,
            "right_endpose": [0.0] * 7,
            "right_gripper": 1.0,
        },
        "pointcloud": [],
    }


@pytest.fixture
def episode_path(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "episode0.hdf5"
    write_episode(path, [observation(step) for step in range(5)])
    return path


def test_what_is_written_is_read_back(episode_path: Path) -> None:
    episode = read_episode(episode_path)
    expected = np.stack([observation(step)["joint_action"]["vector"] for step in range(5)])
    np.testing.assert_array_equal(episode.vector, expected)
    assert episode.cameras == CAMERAS
    assert episode.n_frames == 5
    assert episode.image_shapes["left_camera"] == (48, 64, 3)
    assert episode.rgb("head_camera").shape == (5, 48, 64, 3)
    assert episode.rgb("head_camera", [3, 1]).shape == (2, 48, 64, 3)
    assert len(list(episode.each_rgb("head_camera"))) == 5
    assert list(episode_path.parent.iterdir()) == [episode_path]


def test_red_stays_red_through_jpeg(episode_path: Path) -> None:
    """G14: RGB handed to imencode unconverted, imdecode untouched."""
    red, green, blue = read_episode(episode_path).rgb("head_camera")[0, 20, 30]
    assert red > 230
    assert green < 10
    assert blue < 10
    pure_red = np.zeros((8, 8, 3), np.uint8)
    pure_red[..., 0] = 255
    decoded = cv2.imdecode(cv2.imencode(".jpg", pure_red)[1], cv2.IMREAD_COLOR)
    assert decoded[..., 0].min() > 250


def test_layout_is_robotwins(episode_path: Path) -> None:
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype.kind + str(item.dtype.itemsize), item.shape)
            assert item.chunks is None
            assert item.compression is None

    with h5py.File(episode_path) as file:
        file.visititems(note)
        jpegs = file["observation/head_camera/rgb"][()]
        assert jpegs.dtype.itemsize == max(map(len, jpegs))
    pictures = {name for name in found if name.endswith("/rgb")}
    assert pictures == {f"observation/{camera}/rgb" for camera in CAMERAS}
    assert all(found[name][0][0] == "S" and found[name][1] == (5,) for name in pictures)
    numbers = {k: v for k, v in found.items() if "head_camera" in k or k[:3] != "obs"}
    del numbers["observation/head_camera/rgb"]
    assert numbers == {
        "endpose/left_endpose": ("f8", (5, 7)),
        "endpose/left_gripper": ("f8", (5,)),
        "endpose/right_endpose": ("f8", (5, 7)),
        "endpose/right_gripper": ("f8", (5,)),
        "joint_action/left_arm": ("f8", (5, 6)),
        "joint_action/left_gripper": ("f8", (5,)),
        "joint_action/right_arm": ("f8", (5, 6)),
        "joint_action/right_gripper": ("f8", (5,)),
        "joint_action/vector": ("f8", (5, 14)),
        "observation/head_camera/cam2world_gl": ("f4", (5, 4, 4)),
        "observation/head_camera/extrinsic_cv": ("f4", (5, 3, 4)),
        "observation/head_camera/intrinsic_cv": ("f4", (5, 3, 3)),
        "pointcloud": ("f8", (5, 0)),
    }


def test_episodes_are_listed_by_number(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("episode10.hdf5", "episode9.hdf5", ".episode11.hdf5.7.part", "notes.txt"):
        (tmp_path / "data" / name).touch()
    names = [path.name for path in list_episodes(tmp_path)]
    assert names == ["episode9.hdf5", "episode10.hdf5"]
    assert list_episodes(tmp_path / "data") == list_episodes(tmp_path)


def test_no_episodes_names_the_command_that_records_some(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="twinbench collect"):
        list_episodes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"episode7\.hdf5"):
        read_episode(tmp_path / "episode7.hdf5")


def edit(path: Path, field: str, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[field]
        if value is not None:
            file[field] = value


@pytest.mark.parametrize(
    ("field", "value", "named", "reason"),
    [
        ("joint_action/vector", None, "joint_action/vector", "missing"),
        ("joint_action/left_arm", None, "joint_action/left_arm", "missing"),
        ("observation", None, "observation", "missing"),
        ("observation/head_camera/rgb", None, "observation/head_camera/rgb", "missing"),
        ("joint_action/right_arm", np.zeros((4, 6)), "joint_action/right_arm", "4 frames"),
        ("joint_action/vector", np.zeros((5, 12)), "joint_action/vector", "12 wide"),
        ("joint_action/vector", np.zeros(5), "joint_action/vector", "shape"),
        ("joint_action/vector", np.full((5, 14), np.nan), "joint_action/vector", "not finite"),
        ("joint_action/vector", np.array([b"x"] * 5), "joint_action/vector", "numbers"),
        ("observation/head_camera/rgb", np.array([b"x"] * 3), "head_camera/rgb", "3 frames"),
        ("observation/head_camera/rgb", np.array([b"x"] * 5), r"rgb\[0\]", "no JPEG"),
        ("observation/head_camera/rgb", np.zeros((5, 8, 8, 3)), "head_camera/rgb", "JPEG bytes"),
    ],
)
def test_a_fault_names_file_and_field(
    episode_path: Path, field: str, value: Any, named: str, reason: str
) -> None:
    edit(episode_path, field, value)
    with pytest.raises(EpisodeFileError, match=rf"episode0\.hdf5: .*{named}: .*{reason}"):
        read_episode(episode_path)


def test_a_bad_picture_in_the_middle_is_named(episode_path: Path) -> None:
    with h5py.File(episode_path, "r+") as file:
        file["observation/left_camera/rgb"][3] = b"not a picture"
    episode = read_episode(episode_path)
    with pytest.raises(EpisodeFileError, match=r"left_camera/rgb\[3\]: 13 bytes"):
        episode.rgb("left_camera")
    with pytest.raises(EpisodeFileError, match=r"front_camera/rgb: unknown camera .*did you mean"):
        episode.rgb("front_camera")


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_file_is_refused(episode_path: Path, kept: int) -> None:
    whole = episode_path.read_bytes()
    episode_path.write_bytes(whole[:kept])
    with pytest.raises(EpisodeFileError, match=r"episode0\.hdf5: file: .*whole HDF5"):
        read_episode(episode_path)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "episode0.hdf5"
    broken = [observation(0), {"observation": {}}]
    with pytest.raises(KeyError):
        write_episode(path, broken)
    with pytest.raises(ValueError, match="at least one frame"):
        write_episode(path, [])
    assert list(tmp_path.iterdir()) == []
