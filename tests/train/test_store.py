"""The dataset store: what is read is what the files hold, however it was converted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import zarr
from training_fixtures import make_frame, write_episodes

from twin_env.episodes import EpisodeFileError, read_episode, write_episode
from twin_policy.images import resize_rgb
from twin_train.conversion import convert_episode, default_store_path, open_or_build_store
from twin_train.loading import prefetch
from twin_train.store import Store, StoreError, episode_folders, open_store

SIZES = {"head_camera": (12, 16), "left_camera": (24, 32)}
"""The pictures in the files are 24x32: one camera is resized, one is kept."""


def build(folder: Path, cameras: Any = SIZES, **options: Any) -> Store:
    options = {"workers": 1, "quiet": True, **options}
    return open_or_build_store(folder, options.pop("store_path", None), cameras, **options)


def write_noisy(folder: Path, count: int, n_frames: int = 5) -> list[Path]:
    """Episodes with pictures that no two frames share."""
    rng = np.random.default_rng(count)
    for number in range(count):
        frames = [make_frame(rng.normal(size=14), (0, 0, 0)) for _ in range(n_frames)]
        for frame in frames:
            for camera in frame["observation"].values():
                camera["rgb"] = rng.integers(0, 255, (24, 32, 3), np.uint8)
        write_episode(folder / "data" / f"episode{number}.hdf5", frames)
    return [folder / "data" / f"episode{number}.hdf5" for number in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path to bytes of every file but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_pictures_are_what_deployment_makes_of_the_files(tmp_path: Path) -> None:
    paths = write_noisy(tmp_path, 2)
    store = build(tmp_path)
    for path, stored in zip(paths, store.episodes, strict=True):
        episode = read_episode(path)
        np.testing.assert_array_equal(stored.vector, episode.vector)
        np.testing.assert_array_equal(stored.action, episode.vector[1:])
        for camera, size in SIZES.items():
            # Every frame, the one after the last action too.
            for frame, picture in enumerate(episode.rgb(camera)):
                expected = resize_rgb(picture, size)
                np.testing.assert_array_equal(stored.pictures[camera].read(frame), expected)
    assert {camera: p.codec for camera, p in store.episodes[0].pictures.items()} == {
        "head_camera": "blosc",
        "left_camera": "jpeg",
    }
    assert store.source_shapes == {"head_camera": (24, 32, 3), "left_camera": (24, 32, 3)}
    assert (store.left_arm, store.right_arm, store.embodiment) == (6, 6, "arms_6_6")


def test_jpegs_of_the_wanted_size_are_kept_as_they_are(tmp_path: Path) -> None:
    (path,) = write_noisy(tmp_path, 1)
    stored = build(tmp_path).episodes[0].pictures["left_camera"]
    with h5py.File(path) as file:
        source = [bytes(jpeg) for jpeg in file["observation/left_camera/rgb"]]
    assert stored.file.read_bytes() == b"".join(source)
    assert stored.offsets.tolist() == np.cumsum([0, *map(len, source)]).tolist()
    assert stored.color_kinds == {"swapped": 5}


def test_a_zarr_library_opens_it(tmp_path: Path) -> None:
    (path,) = write_noisy(tmp_path, 1)
    store = build(tmp_path)
    root: Any = zarr.open_group(str(store.path), mode="r")
    assert root.attrs["cameras"] == {"head_camera": [12, 16], "left_camera": [24, 32]}
    group = root["episodes/000000"]
    np.testing.assert_array_equal(group["vector"][:], read_episode(path).vector)
    ends = group["left_camera/offsets"][:]
    first = group["left_camera/frames"][: ends[1]]
    expected = read_episode(path).rgb("left_camera", [0])[0]
    np.testing.assert_array_equal(cv2.imdecode(first, cv2.IMREAD_COLOR), expected)


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin_train.conversion.WORTH_A_PROCESS", 1)
    write_noisy(tmp_path / "episodes", 4)
    serial = build(tmp_path / "episodes", store_path=tmp_path / "serial.zarr")
    parallel = build(tmp_path / "episodes", store_path=tmp_path / "parallel.zarr", workers=2)
    assert contents(serial.path) == contents(parallel.path)
    assert len(contents(serial.path)) > 4
    assert serial.fingerprint == parallel.fingerprint


KILLED = """
import sys, time
from pathlib import Path
from twin_train import conversion
convert_episode = conversion.convert_episode
def slowly(told, path):
    if path.name == "episode2.hdf5":
        (told.store / "episodes" / ".000002.1.part").mkdir()
        print("converting", path.name, flush=True)
        time.sleep(60)
    convert_episode(told, path)
conversion.convert_episode = slowly
conversion.open_or_build_store(
    Path(sys.argv[1]), None, {"head_camera": (12, 16), "left_camera": (24, 32)},
    workers=1, quiet=True,
)
"""


def test_a_killed_conversion_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_noisy(tmp_path / "episodes", 4)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "episodes")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "converting episode2.hdf5\n"
        process.send_signal(signal.SIGKILL)
    target = default_store_path(tmp_path / "episodes", SIZES)
    assert list(episode_folders(target)) == [0, 1]

    converted = []
    monkeypatch.setattr(
        "twin_train.conversion.convert_episode",
        lambda told, path: (converted.append(path.name), convert_episode(told, path)),
    )
    resumed = build(tmp_path / "episodes")
    assert converted == ["episode2.hdf5", "episode3.hdf5"]
    assert not list((target / "episodes").glob(".*.part"))
    fresh = build(tmp_path / "episodes", store_path=tmp_path / "fresh.zarr")
    assert contents(resumed.path) == contents(fresh.path)


def test_a_store_grows_and_is_reused(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", 3)
    two = build(tmp_path / "episodes", episodes=2)
    assert two.path.name == "episodes.head_camera-12x16+left_camera-24x32.zarr"
    before = contents(two.path)
    three = build(tmp_path / "episodes")
    assert [episode.number for episode in three.episodes] == [0, 1, 2]
    assert before.items() <= contents(three.path).items()
    assert build(tmp_path / "episodes", episodes=2).fingerprint == two.fingerprint
    assert three.fingerprint != two.fingerprint
    # The store alone will do, and one with more cameras serves a policy with fewer.
    head = build(three.path, {"head_camera": (12, 16)}, episodes=2)
    assert list(head.cameras) == ["head_camera"]
    assert len(head.episodes) == 2
    only = build(tmp_path / "episodes", {"head_camera": (12, 16)}, episodes=2)
    assert head.fingerprint == only.fingerprint


def test_the_fingerprint_is_of_contents_and_sizes(tmp_path: Path) -> None:
    write_noisy(tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = build(tmp_path / "a")
    assert build(tmp_path / "b").fingerprint == first.fingerprint
    assert build(tmp_path / "b", {**SIZES, "head_camera": (6, 8)}).fingerprint != first.fingerprint
    write_noisy(tmp_path / "c", 2, n_frames=6)
    assert build(tmp_path / "c").fingerprint != first.fingerprint


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    paths = write_noisy(tmp_path / "episodes", 2)
    build(tmp_path / "episodes")
    os.utime(paths[1], (1, 1))  # touched, but the same
    build(tmp_path / "episodes")
    with h5py.File(paths[1], "r+") as file:
        file["joint_action/vector"][0] = 0.5
    os.utime(paths[1], (2, 2))
    with pytest.raises(StoreError, match=r"episode1\.hdf5 is not the file that .* delete .*000001"):
        build(tmp_path / "episodes")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", 1)
    store = build(tmp_path / "episodes")
    with pytest.raises(StoreError, match=r"head_camera at 12x16, and 6x8 is wanted: .*delete"):
        build(tmp_path / "episodes", {"head_camera": (6, 8)}, store_path=store.path)
    with pytest.raises(StoreError, match=r"unknown camera.*did you mean"):
        build(store.path, {"head_kamera": (6, 8)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").touch()
    with pytest.raises(StoreError, match=r"no store of ours, it holds precious\.txt"):
        build(tmp_path / "episodes", store_path=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="data convert"):
        open_store(tmp_path / "nowhere.zarr")


def test_damage_is_named(tmp_path: Path) -> None:
    write_episodes(tmp_path / "episodes", 2)
    store = build(tmp_path / "episodes")
    frames = store.episodes[1].pictures["left_camera"].file
    whole = frames.read_bytes()
    frames.write_bytes(b"\0" * len(whole))
    with pytest.raises(StoreError, match=r"picture 3 is damaged: delete"):
        open_store(store.path).episodes[1].pictures["left_camera"].read(3)
    resized = store.episodes[1].pictures["head_camera"].file
    resized.write_bytes(b"\0" * resized.stat().st_size)
    with pytest.raises(StoreError, match=r"picture 3 is damaged: delete"):
        open_store(store.path).episodes[1].pictures["head_camera"].read(3)
    frames.write_bytes(whole[:-1])
    with pytest.raises(StoreError, match=r"000001 is damaged \(left_camera is cut short\)"):
        open_store(store.path)


def test_a_faulty_episode_is_named_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twin_train.conversion.WORTH_A_PROCESS", 1)
    paths = write_noisy(tmp_path / "episodes", 4)
    with h5py.File(paths[3], "r+") as file:
        file["observation/left_camera/rgb"][2] = b"not a picture"
    with pytest.raises(EpisodeFileError, match=r"episode3\.hdf5: .*left_camera/rgb\[2\]") as raised:
        build(tmp_path / "episodes", workers=2)
    assert raised.value.path == paths[3]
    target = default_store_path(tmp_path / "episodes", SIZES)
    # The faulty one is begun after two others are done; the third may still be under way.
    converted = set(episode_folders(target))
    assert len(converted) >= 2
    assert converted <= {0, 1, 2}
    with pytest.raises(EpisodeFileError, match=r"episode0.*front_camera.*unknown camera"):
        build(tmp_path / "episodes", {"front_camera": (4, 4)})


def test_episodes_that_disagree_are_named(tmp_path: Path) -> None:
    write_episodes(tmp_path, 2)
    frame = make_frame(np.zeros(14), (0, 0, 0))
    frame["observation"]["head_camera"] = {"rgb": np.zeros((8, 8, 3), np.uint8)}
    write_episode(tmp_path / "data" / "episode2.hdf5", [frame, frame])
    with pytest.raises(EpisodeFileError, match=r"episode2.*head_camera: is \(8, 8, 3\), episode0"):
        build(tmp_path)


def test_prefetching_changes_neither_order_nor_results() -> None:
    def make(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        if number == 7:
            raise ValueError("seven")
        return number * number

    for ahead in (0, 1, 4):
        assert list(prefetch(make, range(7), ahead=ahead)) == [n * n for n in range(7)]
        batches = prefetch(make, range(20), ahead=ahead)
        assert [next(batches) for _ in range(7)] == [n * n for n in range(7)]
        with pytest.raises(ValueError, match="seven"):
            next(batches)


def test_prefetching_stays_within_its_bound() -> None:
    made: list[int] = []
    batches = prefetch(made.append, range(100), ahead=2)
    for _ in range(3):
        next(batches)
    time.sleep(0.05)
    assert len(made) <= 5
    batches.close()
    assert len(made) <= 6
