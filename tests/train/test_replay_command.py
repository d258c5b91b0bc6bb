"""`twinbench replay`: what becomes of demonstrations, rollouts and flat files, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layout_fixtures import picture, write_download, write_stable_folder

from twin_env.episodes import list_episodes, read_episode
from twin_env.episodes_pictures import encode_recorded
from twin_env.replay_files import (
    ReplayAbout,
    ReplayFrames,
    read_replay,
    read_replay_folder,
    sparse_labels,
    write_replay,
)
from twin_env.replay_folders import content_digest
from twin_eval.cli import main
from twin_train import replay_output
from twin_train.layout_conversion import convert_layout
from twin_train.replay_draft import split_joints

Capture = pytest.CaptureFixture[str]


def replay(capsys: Capture, *words: object) -> tuple[int, str]:
    status = main(["replay", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def write_rollouts(run: Path, outcomes: str, *, task: str = "push", n: int = 4) -> Path:
    """The rollouts that an evaluation keeps: `s` and `f` an episode."""
    for number, letter in enumerate(outcomes):
        rng = np.random.default_rng([number, len(run.name)])
        vector = rng.normal(size=(n + 1, 14))
        outcome: Any = {"s": "success", "f": "failure"}[letter]
        reward, terminal, truncated = sparse_labels(n, outcome)
        jpegs = [encode_recorded(picture(step)) for step in range(n + 1)]
        cameras = ("front_camera", "head_camera", "left_camera")
        write_replay(
            run / f"rollouts/data/episode{number}.hdf5",
            frames=ReplayFrames(split_joints(vector, 6), dict.fromkeys(cameras, jpegs)),
            action=vector[1:],
            reward=reward,
            terminal=terminal,
            truncated=truncated,
            stage=np.array([0, 1, 1, 1, 3 if letter == "s" else 2]),
            about=ReplayAbout(task=task, outcome=outcome, source="dp", n_stages=3, checkpoint="c"),
            instructions=[f"push {number}"],
        )
    manifest = {"episodes": len(outcomes), "left_out": {"ended in an error": 2}, "sources": [{}]}
    (run / "rollouts/replay.json").write_text(json.dumps(manifest))
    return run


# create ---------------------------------------------------------------------------------------


def test_demonstrations_become_successes_with_their_own_bytes(
    tmp_path: Path, capsys: Capture
) -> None:
    source = write_stable_folder(tmp_path / "demos")
    out = tmp_path / "out"
    status, said = replay(capsys, "create", source, "--out", out, "--task", "push")
    assert status == 0, said
    assert "2 episodes: 2 successes, 0 failures, 7 transitions" in said
    assert "no contrast" in said
    for number, path in enumerate(list_episodes(source)):
        before, after = read_episode(path), read_replay(out / f"data/episode{number}.hdf5")
        np.testing.assert_array_equal(after.action, before.vector[1:])
        assert after.reward.tolist() == [0.0] * (len(after.reward) - 1) + [1.0]
        assert after.about.seed == 3 * number
        assert (after.about.task, after.about.source) == ("push", "demonstration")
        plain = read_episode(after.path)
        for camera in before.cameras:
            assert plain.stored_pictures(camera) == before.stored_pictures(camera)
        assert plain.instructions == before.instructions
    manifest = json.loads((out / "replay.json").read_text())
    assert manifest["counts"] == {"demonstration": {"success": 2, "failure": 0}}
    assert manifest["sources"][0]["kind"] == "demonstrations"
    assert replay(capsys, "verify", out)[0] == 0


def test_the_task_is_asked_for_where_nobody_names_it(tmp_path: Path, capsys: Capture) -> None:
    source = write_stable_folder(tmp_path / "demos")
    status, said = replay(capsys, "create", source, "--out", tmp_path / "out")
    assert status == 2
    assert "give --task TASK" in said
    (source / "collection.json").write_text(json.dumps({"environment": {"task": "push"}}))
    assert replay(capsys, "create", source, "--out", tmp_path / "out")[0] == 0


def test_main_layout_loses_its_last_transition_unless_we_kept_the_frame(
    tmp_path: Path, capsys: Capture
) -> None:
    vectors = write_download(tmp_path / "download")
    status, said = replay(
        capsys, "create", tmp_path / "download", "--out", tmp_path / "a", "--task", "push"
    )
    assert status == 0, said
    assert "the main layout has no picture after the last action" in said
    episode = read_replay(tmp_path / "a/data/episode0.hdf5")
    np.testing.assert_array_equal(episode.vector, vectors[:4])
    np.testing.assert_array_equal(episode.action, vectors[1:4])
    assert episode.terminal[-1]
    source = write_stable_folder(tmp_path / "stable", count=1)
    convert_layout(source, tmp_path / "main", "main")
    status, said = replay(
        capsys, "create", tmp_path / "main", "--out", tmp_path / "b", "--task", "push"
    )
    assert status == 0, said
    assert "no picture" not in said
    kept, original = read_episode(tmp_path / "b/data/episode0.hdf5"), list_episodes(source)[0]
    np.testing.assert_array_equal(kept.vector, read_episode(original).vector)
    assert kept.stored_pictures("head_camera") == read_episode(original).stored_pictures(
        "head_camera"
    )


def test_demonstrations_and_rollouts_go_together(tmp_path: Path, capsys: Capture) -> None:
    demos = write_stable_folder(tmp_path / "demos")
    run = write_rollouts(tmp_path / "run", "sff")
    out = tmp_path / "out"
    status, said = replay(capsys, "create", demos, run, "--out", out, "--task", "push")
    assert status == 0, said
    assert "5 episodes: 3 successes, 2 failures" in said
    assert "left out: 2 (ended in an error)" in said
    episodes = read_replay_folder(out)
    assert [e.about.source for e in episodes] == ["demonstration"] * 2 + ["dp"] * 3
    assert episodes[3].truncated[-1]
    assert episodes[3].stage is not None
    assert episodes[3].about.checkpoint == "c"
    status, said = replay(capsys, "verify", out, "--json")
    found = json.loads(said)
    assert status == 0
    assert found["counts"]["dp"] == {"success": 1, "failure": 2}
    assert (found["terminal"], found["truncated"], found["returns"]) == (3, 2, [0.0, 1.0])
    assert found["notes"] == []


def test_an_evaluation_without_rollouts_is_told_how_to_keep_them(
    tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/journal.jsonl").touch()
    status, said = replay(capsys, "create", tmp_path / "run", "--out", tmp_path / "out")
    assert status == 2
    assert "--rollouts all" in said


def test_all_cells_of_an_evaluation_are_taken_but_those_set_aside(
    tmp_path: Path, capsys: Capture
) -> None:
    root = tmp_path / "eval"
    for name in ("dp", "expert", "dp.aside1"):
        write_rollouts(root / name, "sf")
    status, said = replay(capsys, "create", root, "--out", tmp_path / "out", "--episodes", 1)
    assert status == 0, said
    sources = json.loads((tmp_path / "out/replay.json").read_text())["sources"]
    assert [Path(source["path"]).parent.name for source in sources] == ["dp", "expert"]
    assert [source["episodes"] for source in sources] == [1, 1]


def test_stages_pay_one_in_all_and_need_stages(tmp_path: Path, capsys: Capture) -> None:
    run = write_rollouts(tmp_path / "run", "sf")
    words = ("--reward", "stages", "--out")
    assert replay(capsys, "create", run, *words, tmp_path / "out")[0] == 0
    success, failure = read_replay_folder(tmp_path / "out")
    np.testing.assert_allclose(success.reward, [1 / 3, 0, 0, 2 / 3])
    np.testing.assert_allclose(failure.reward, [1 / 3, 0, 0, 1 / 3])
    assert failure.about.reward_rule == "stages"
    demos = write_stable_folder(tmp_path / "demos")
    status, said = replay(capsys, "create", demos, "--task", "push", *words, tmp_path / "none")
    assert status == 2
    assert "twinbench eval push expert_replay --rollouts all" in said


RULES = """
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

@dataclass
class Weights:
    step: float = -0.01

def hurry(episode):
    return np.full(episode.n_transitions, Weights().step) + episode.reward

def dropped(episode):
    lost = episode.about.outcome == "failure"
    terminal = np.zeros(episode.n_transitions, bool)
    terminal[-1] = True
    return -0.5 * terminal * lost, terminal

def short(episode):
    return [0.0]

def broken(episode):
    return episode.no_such_thing

def infinite(episode):
    return np.full(episode.n_transitions, np.inf)
"""


def test_a_function_of_ones_own_labels(tmp_path: Path, capsys: Capture) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(RULES)
    run = write_rollouts(tmp_path / "run", "sf")

    def create(name: str) -> tuple[int, str]:
        words = ("--reward", f"{rules}:{name}", "--out", tmp_path / name)
        return replay(capsys, "create", run, *words)

    assert create("hurry")[0] == 0
    success, failure = read_replay_folder(tmp_path / "hurry")
    np.testing.assert_allclose(success.reward, [-0.01, -0.01, -0.01, 0.99], rtol=1e-6)
    assert failure.truncated[-1]
    assert success.about.reward_rule.startswith("rules.py:hurry@")
    assert create("dropped")[0] == 0
    success, failure = read_replay_folder(tmp_path / "dropped")
    assert failure.terminal[-1]
    assert not failure.truncated.any()
    assert (success.reward.sum(), failure.reward.sum()) == (0.0, -0.5)
    for name, reason in (
        ("short", "a reward for each of 4 transitions"),
        ("broken", "AttributeError"),
        ("infinite", "not finite at transition 0"),
        ("hury", "did you mean 'hurry'"),
    ):
        status, said = create(name)
        assert status == 2
        assert reason in said, said
    # What it was made of has its own rewards still.
    assert read_replay_folder(run / "rollouts")[0].reward.tolist() == [0, 0, 0, 1]


def test_creation_goes_on_and_refuses_what_is_another(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_rollouts(tmp_path / "run", "sfs")
    out = tmp_path / "out"
    words = ("create", run, "--out", out)

    class Stop(Exception):
        pass

    def stop(path: Path, number: int) -> Path:
        if number == 2:
            raise Stop
        return path / "data" / f"episode{number}.hdf5"

    with monkeypatch.context() as patch:
        patch.setattr(replay_output, "episode_path", stop)
        with pytest.raises(Stop):
            main([str(word) for word in ("replay", *words)])
    capsys.readouterr()
    made = {path: path.stat().st_mtime_ns for path in list_episodes(out)}
    assert len(made) == 2
    status, said = replay(capsys, "verify", out)
    assert status == 1
    assert "2 of its 3 episodes are there: give the command that made the folder once more" in said
    (out / "data/.episode2.1.part.hdf5").touch()
    status, said = replay(capsys, *words)
    assert status == 0
    assert "3 episodes, 2 of them there already" in said
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert not list((out / "data").glob(".*"))
    status, said = replay(capsys, *words, "--reward", "stages")
    assert status == 2
    assert "reward: 'sparse' there, 'stages' now" in said
    # More of the same evaluation is welcome, another one is not.
    write_rollouts(run, "sfsf")
    assert "4 episodes, 3 of them" in replay(capsys, *words)[1]
    other = write_rollouts(tmp_path / "another", "sfs")
    status, said = replay(capsys, "create", other, "--out", out)
    assert status == 2
    assert "other episodes" in said
    stable = write_stable_folder(tmp_path / "demos")
    status, said = replay(capsys, "create", run, "--out", stable)
    assert "no `twinbench replay` put there" in said


@pytest.mark.parametrize("command", ["create", "merge"])
def test_any_source_may_have_more_by_now(tmp_path: Path, capsys: Capture, command: str) -> None:
    first, second = write_rollouts(tmp_path / "a", "s"), write_rollouts(tmp_path / "bb", "fsf")
    words = (command, first, second, "--out", tmp_path / "out")
    assert replay(capsys, *words)[0] == 0
    before = {path: content_digest(path) for path in list_episodes(tmp_path / "out")}
    write_rollouts(tmp_path / "a", "sfsfsf")
    status, said = replay(capsys, *words)
    assert status == 0, said
    after = {path: content_digest(path) for path in list_episodes(tmp_path / "out")}
    assert before.items() < after.items()
    assert replay(capsys, "verify", tmp_path / "out")[0] == 0


def test_robots_cameras_and_tasks_are_not_mixed(tmp_path: Path, capsys: Capture) -> None:
    run = write_rollouts(tmp_path / "run", "s")
    other = write_rollouts(tmp_path / "other", "f", task="pull")
    status, said = replay(capsys, "create", run, other, "--out", tmp_path / "out")
    assert status == 2
    assert "task pull, not push" in said
    one_camera = tmp_path / "one"
    words = ("--out", one_camera, "--cameras", "head_camera")
    assert replay(capsys, "create", write_rollouts(tmp_path / "more", "f"), *words)[0] == 0
    status, said = replay(capsys, "create", run, one_camera, "--out", tmp_path / "out")
    assert status == 2
    assert "--cameras" in said
    words = ("--out", tmp_path / "out", "--cameras", "head_camera")
    assert replay(capsys, "create", run, one_camera, *words)[0] == 0
    assert read_episode(tmp_path / "out/data/episode0.hdf5").cameras == ("head_camera",)
    status, said = replay(capsys, "create", run, "--out", tmp_path / "x", "--cameras", "head_cam")
    assert "did you mean 'head_camera'" in said


@pytest.mark.parametrize("dims", [14, 16])
def test_the_sample_is_sound_has_both_ends_and_is_the_same_again(
    tmp_path: Path, capsys: Capture, dims: int
) -> None:
    words = ("create", "--synthetic", 6, "--dims", dims, "--out")
    assert replay(capsys, *words, tmp_path / "a")[0] == 0
    assert replay(capsys, *words, tmp_path / "b")[0] == 0
    assert replay(capsys, "verify", tmp_path / "a", "--every-picture")[0] == 0
    episodes = read_replay_folder(tmp_path / "a")
    assert [e.about.outcome for e in episodes] == ["success", "failure"] * 3
    assert episodes[0].action.shape[1] == dims
    for one, same in zip(episodes, read_replay_folder(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(one.action, same.action)
        assert one.path.read_bytes() == same.path.read_bytes()
    words = ("create", tmp_path / "a", "--reward", "stages", "--out", tmp_path / "c")
    assert replay(capsys, *words)[0] == 0
    returns = [episode.reward.sum() for episode in read_replay_folder(tmp_path / "c")]
    assert returns[::2] == pytest.approx([1] * 3)


def test_sources_or_a_sample(tmp_path: Path, capsys: Capture) -> None:
    for words, reason in (
        ((), "either SOURCE"),
        ((tmp_path, "--synthetic", 3), "either SOURCE"),
        (("--synthetic", 3, "--reward", "stages"), "--reward is of SOURCE"),
        (("--synthetic", 3, "--dims", 15), "14, 16"),
        (("--synthetic", 3, "--size", "4x4"), "HEIGHTxWIDTH"),
        ((tmp_path, "--dims", 14), "--dims is of --synthetic"),
        ((tmp_path, "--reward", "stagse"), "did you mean 'stages'"),
    ):
        status, said = replay(capsys, "create", *words, "--out", tmp_path / "out")
        assert status == 2
        assert reason in said, said


# verify ---------------------------------------------------------------------------------------


def test_verify_lists_every_fault(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "run/rollouts"
    write_rollouts(tmp_path / "run", "ssfff")
    data = folder / "data"
    with h5py.File(data / "episode0.hdf5", "r+") as file:
        file["replay/reward"][1] = np.nan
        file["replay/truncated"][0] = True
    with h5py.File(data / "episode1.hdf5", "r+") as file:
        stored = file["observation/head_camera/rgb"][()]
        stored[2] = b"no picture"
        file["observation/head_camera/rgb"][...] = stored
    with h5py.File(data / "episode2.hdf5", "r+") as file:
        file["replay"].attrs["reward_rule"] = "stages"
    shutil.copy(data / "episode3.hdf5", data / "episode9.hdf5")
    status, said = replay(capsys, "verify", folder)
    assert status == 1
    for fault in (
        "episode0.hdf5: replay/reward: is not finite at transition 1",
        "episode0.hdf5: replay/truncated: is set at transition 0",
        "episode1.hdf5: observation/head_camera/rgb[2]: 10 bytes that are no JPEG",
        "rewards by sparse, not stages",
        "episode9.hdf5: has the same content as episode3.hdf5",
        "replay.json: tells of 5 episodes, and there are 6",
    ):
        assert f"{fault}" in said, said
    assert "note: no contrast: every episode is a failure" in said


def test_verify_says_what_plain_episodes_are(tmp_path: Path, capsys: Capture) -> None:
    status, said = replay(capsys, "verify", write_stable_folder(tmp_path / "demos"))
    assert status == 1
    assert "twinbench replay create" in said
    assert "2 faults" in said


# merge ----------------------------------------------------------------------------------------


def test_merge_links_and_skips_what_is_there_twice(tmp_path: Path, capsys: Capture) -> None:
    a, bb = write_rollouts(tmp_path / "a", "sf"), write_rollouts(tmp_path / "bb", "ffs")
    both = tmp_path / "both"
    shutil.copytree(a / "rollouts", tmp_path / "copy")
    words = ("merge", a, bb, tmp_path / "copy", "--out", both)
    status, said = replay(capsys, *words)
    assert status == 0, said
    assert "5 episodes: 2 successes, 3 failures" in said
    assert "2 (the same content as another)" in said
    assert list_episodes(both)[2].samefile(bb / "rollouts/data/episode0.hdf5")
    assert read_episode(list_episodes(both)[2]).instructions == ("push 0",)
    manifest = json.loads((both / "replay.json").read_text())
    assert [source["episodes"] for source in manifest["sources"]] == [2, 3, 0]
    assert replay(capsys, "verify", both)[0] == 0
    assert "5 of them there already" in replay(capsys, *words)[1]


def test_merge_refuses_what_does_not_go_together(tmp_path: Path, capsys: Capture) -> None:
    a, bb = write_rollouts(tmp_path / "a", "sf"), write_rollouts(tmp_path / "bb", "ff")
    out = tmp_path / "out"
    replay(capsys, "create", bb, "--reward", "stages", "--out", tmp_path / "staged")
    demos = write_stable_folder(tmp_path / "demos")
    for words, reason in (
        ((a, tmp_path / "staged"), "different reward rules"),
        ((a, demos), "twinbench replay create"),
        ((a, a), "named twice"),
    ):
        status, said = replay(capsys, "merge", *words, "--out", out)
        assert status == 2
        assert reason in said, said
    assert "is a source itself" in replay(capsys, "merge", a, "--out", a / "rollouts")[1]


# convert --------------------------------------------------------------------------------------

ENDS = {"terminals": [3, 9], "timeouts": [6]}
"""Rows; the last, 10 and 11, end nowhere."""


def write_flat(path: Path, *, after: bool = False, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 12
    values: dict[str, Any] = {
        "left_images": np.stack([picture(step) for step in range(n)]),
        "right_images": np.stack([picture(step) for step in range(n)]),
        "global_images": np.stack([picture(step) for step in range(n)]),
        "joint": rng.normal(size=(n, 16)).astype(np.float32),
        "actions": rng.normal(size=(n, 16)),
        "rewards": np.zeros(n, np.float32),
    }
    values["rewards"][9] = 1.0
    for name, rows in ENDS.items():
        values[name] = np.isin(np.arange(n), rows)
    if after:
        values |= {f"next_{k}": np.roll(v, 3, 0) for k, v in values.items() if "images" in k}
        values["next_joint"] = values["joint"] + 1
    values |= changes
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if value is not None:
                file[name] = value
    return values


def test_a_flat_file_is_cut_into_episodes(tmp_path: Path, capsys: Capture) -> None:
    flat = write_flat(tmp_path / "flat.hdf5")
    out = tmp_path / "out"
    words = ("convert", tmp_path / "flat.hdf5", "--task", "pour", "--out", out)
    status, said = replay(capsys, *words)
    assert status == 0, said
    lost, cut_off, solved, rest = read_replay_folder(out)
    assert [e.n_transitions for e in (lost, cut_off, solved, rest)] == [4, 2, 3, 1]
    assert [e.about.outcome for e in (lost, solved)] == ["failure", "success"]
    assert lost.terminal[-1]
    assert cut_off.truncated[-1]
    assert rest.truncated[-1]
    np.testing.assert_array_equal(cut_off.vector, flat["joint"][4:7])
    np.testing.assert_array_equal(cut_off.action, flat["actions"][4:6])
    np.testing.assert_array_equal(solved.reward, [0, 0, 1])
    assert solved.about.task == "pour"
    assert read_episode(solved.path).cameras == ("head_camera", "left_camera", "right_camera")
    shown = read_episode(cut_off.path).rgb("head_camera")
    assert np.abs(shown.astype(int) - flat["global_images"][4:7]).mean() < 12
    assert "that transition is left out (2 episodes)" in said
    assert "the last one is repeated (2 episodes)" in said
    assert "the last row ends no episode" in said
    assert replay(capsys, "verify", out)[0] == 0
    assert "4 of them there already" in replay(capsys, *words)[1]


def test_what_comes_after_is_taken_where_the_file_has_it(tmp_path: Path, capsys: Capture) -> None:
    flat = write_flat(tmp_path / "flat.hdf5", after=True)
    words = ("convert", tmp_path / "flat.hdf5", "--task", "pour", "--out", tmp_path / "out")
    status, said = replay(capsys, *words)
    assert status == 0, said
    episodes = read_replay_folder(tmp_path / "out")
    assert [e.n_transitions for e in episodes] == [4, 3, 3, 2]
    np.testing.assert_array_equal(episodes[1].vector[-1], flat["joint"][6] + 1)
    assert "left out" not in said


def test_other_names_shapes_and_kinds(tmp_path: Path, capsys: Capture) -> None:
    pictures = np.stack([picture(step) for step in range(12)])
    write_flat(
        tmp_path / "flat.hdf5",
        global_images=None,
        left_images=None,
        right_images=None,
        scene=np.moveaxis(pictures, 3, 1).astype(np.float32) / 255,
        joint=None,
        timeouts=None,
        **{"observations/qpos": np.zeros((12, 15)), "actions": np.ones((12, 15))},
    )
    words = ("convert", tmp_path / "flat.hdf5", "--task", "pour", "--out", tmp_path / "out")
    status, said = replay(capsys, *words)
    assert status == 2
    assert "--map global=NAME; the file holds actions, observations/qpos" in said
    words += ("--map", "global=scene")
    status, said = replay(capsys, *words)
    assert "15 numbers a step" in said
    assert "--arms LEFT RIGHT" in said
    status, said = replay(capsys, *words, "--arms", 6, 7)
    assert status == 0, said
    assert "no timeouts" in said
    episode = read_episode(tmp_path / "out/data/episode0.hdf5")
    assert (episode.left_arm, episode.right_arm) == (6, 7)
    assert np.abs(episode.rgb("head_camera", [1])[0].astype(int) - pictures[1]).mean() < 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rewards": np.zeros(11)}, "has 11 rows, joint 12"),
        ({"actions": np.zeros((12, 7))}, "absolute joint targets"),
        ({"rewards": None}, "--map reward=NAME"),
        ({"terminals": np.full(12, 3)}, "true or false"),
        ({"rewards": np.full(12, np.nan)}, "not finite in row 0"),
        ({"left_images": np.zeros((12, 24, 32))}, "must be pictures"),
        ({"left_images": np.full((12, 24, 32, 3), 7.0)}, "in [0, 1], and are 7 to 7"),
    ],
)
def test_a_flat_file_with_a_fault_is_refused(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], reason: str
) -> None:
    write_flat(tmp_path / "flat.hdf5", **changes)
    words = ("convert", tmp_path / "flat.hdf5", "--task", "pour", "--out", tmp_path / "out")
    status, said = replay(capsys, *words)
    assert status == 2
    assert reason in said, said
