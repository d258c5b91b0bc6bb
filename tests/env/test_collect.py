"""Recording demonstrations: RoboTwin's layout, the same for any worker count, resumable."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from twin_env import load_env_config, make_env
from twin_env.collect import CollectionError, Recording, collect
from twin_env.episodes import list_episodes, read_episode
from twin_env.files import FolderInUseError, locked

pytestmark = pytest.mark.simulator

TASK = "beat_block_hammer"
CONFIG = load_env_config("demo_clean")


def recording(folder: Path, **changes: object) -> Recording:
    return Recording(TASK, "embedded", {**CONFIG, "save_freq": 60, **changes}, folder)


def contents(folder: Path) -> dict[str, bytes]:
    """What the episodes hold, whatever HDF5 wrote around it."""
    found = {name: (folder / name).read_bytes() for name in ("seed.txt", "scene_info.json")}
    for path in sorted(folder.glob("*/episode*")):
        if path.suffix != ".hdf5":
            found[path.name] = path.read_bytes()
            continue
        with h5py.File(path) as file:
            datasets: list[str] = []
            file.visit(datasets.append)
            for name in datasets:
                if isinstance(file[name], h5py.Dataset):
                    found[f"{path.name}/{name}"] = file[name][()].tobytes()
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demonstrations") / "demo_clean"
    collect(recording(folder), episodes=3, workers=1)
    return folder


def test_the_folder_is_robotwins(recorded: Path) -> None:
    assert (recorded / "seed.txt").read_text() == "0 1 2 "
    scenes = json.loads((recorded / "scene_info.json").read_text())
    assert set(scenes) == {"episode_0", "episode_1", "episode_2"}
    assert scenes["episode_0"]["info"]["{A}"] == "020_hammer/base0"
    assert [path.name for path in list_episodes(recorded)] == [f"episode{n}.hdf5" for n in range(3)]
    for number in range(3):
        texts = json.loads((recorded / "instructions" / f"episode{number}.json").read_text())
        assert texts["seen"]
        assert texts["unseen"]


def test_opencv_decodes_true_rgb(recorded: Path) -> None:
    env = make_env(TASK)
    env.setup_demo(seed=0, **CONFIG)
    live = env.get_obs()["observation"]["head_camera"]["rgb"].astype(int)
    with h5py.File(recorded / "data" / "episode0.hdf5") as file:
        jpeg = file["observation/head_camera/rgb"][0]
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert np.abs(decoded - live).mean() < 3.0


def test_state_starts_at_rest_and_ends_with_the_hammer_in_hand(recorded: Path) -> None:
    for path in list_episodes(recorded):
        episode = read_episode(path)
        assert set(episode.cameras) == {"head_camera", "left_camera", "right_camera"}
        grippers = episode.vector[:, [6, 13]]
        np.testing.assert_array_equal(grippers[0], [1.0, 1.0])
        assert sorted(grippers[-1]) == [0.0, 1.0]


def test_the_number_of_workers_changes_nothing(recorded: Path, tmp_path: Path) -> None:
    collect(recording(tmp_path), episodes=3, workers=2)
    assert contents(tmp_path) == contents(recorded)


def test_workers_that_grow_are_replaced_and_nothing_is_lost(
    recorded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="twin_env.workers"):
        records = collect(recording(tmp_path), episodes=2, workers=1, max_memory_mb=1.0)
    assert [record.verdict for record in records] == ["ok", "ok"]
    assert caplog.text.count("is replaced") == 2
    found, expected = contents(tmp_path), contents(recorded)
    episodes = [name for name in found if name.startswith("episode")]
    assert episodes
    assert all(found[name] == expected[name] for name in episodes)


def test_asking_again_records_nothing_and_asking_for_more_goes_on(tmp_path: Path) -> None:
    collect(recording(tmp_path), episodes=1, workers=1)
    stamp = (tmp_path / "data" / "episode0.hdf5").stat().st_mtime_ns
    assert len(collect(recording(tmp_path), episodes=1, workers=1)) == 1
    assert len(collect(recording(tmp_path), episodes=2, workers=1)) == 2
    assert (tmp_path / "data" / "episode0.hdf5").stat().st_mtime_ns == stamp
    assert (tmp_path / "seed.txt").read_text() == "0 1 "


def test_another_environment_is_refused_by_the_part_that_differs(recorded: Path) -> None:
    with pytest.raises(CollectionError, match=r"another environment \(different: config\)"):
        collect(recording(recorded, save_freq=30), episodes=4, workers=1)


def test_keys_that_no_episode_depends_on_may_change(recorded: Path) -> None:
    same = recording(recorded, save_path="elsewhere", language_num=1)
    assert len(collect(same, episodes=3, workers=1)) == 3


def test_a_deleted_episode_is_recorded_again(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    (folder / "data" / "episode1.hdf5").unlink()
    collect(recording(folder), episodes=3, workers=1)
    assert contents(folder) == contents(recorded)


def test_somebody_elses_episodes_are_left_alone(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    (folder / "collection.json").unlink()
    before = contents(folder)
    with pytest.raises(CollectionError, match="not recorded here"):
        collect(recording(folder), episodes=4, workers=1)
    assert contents(folder) == before


def test_a_second_recording_in_the_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FolderInUseError, match="another run is at work"):
        collect(recording(tmp_path), episodes=1, workers=1)


def test_a_log_that_was_doubled_is_refused(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(recorded, folder)
    log = folder / "collection.jsonl"
    log.write_text(log.read_text() + log.read_text().splitlines(keepends=True)[-1])
    with pytest.raises(CollectionError, match="line 4 is of seed 2, not 3"):
        collect(recording(folder), episodes=4, workers=1)


def test_a_machine_that_cannot_render_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, "/nonexistent.json")
    with pytest.raises(CollectionError, match=r"seeds 0 to 2 .*Vulkan.*twinbench doctor"):
        collect(recording(tmp_path), episodes=2, workers=1)
    assert not (tmp_path / "collection.jsonl").exists()
    monkeypatch.undo()
    assert [record.seed for record in collect(recording(tmp_path), episodes=1, workers=1)] == [0]


def test_a_killed_recording_resumes_to_the_same_files(recorded: Path, tmp_path: Path) -> None:
    config = tmp_path / "coarse.yml"
    config.write_text("save_freq: 60\n")
    folder = tmp_path / "demonstrations"
    command = [sys.executable, "-m", "twin_eval.cli", "collect", TASK, "--episodes", "3"]
    command += ["--workers", "1", "--config", str(config), "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    log = folder / "collection.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(log.read_text().splitlines()) < 3
    with log.open("a") as file:
        file.write('{"seed": 1, "verd')  # A line torn by the kill.
    subprocess.run(command, check=True, capture_output=True)
    assert contents(folder) == contents(recorded)
    names = {path.name for path in (folder / "data").iterdir()}
    assert names == {f"episode{number}.hdf5" for number in range(3)}
