"""`twinbench eval` on a fake simulator: whole runs in processes of their own."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from harness_process import (
    BATCHED,
    SCRIPTED,
    evaluate,
    finish,
    rows,
    start,
    start_eval,
    untimed,
    wait_for_episodes,
)

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = evaluate(folder, "--report")
    assert status == 0, output
    return folder


def test_run_writes_tables_and_figure(undisturbed: Path) -> None:
    episodes = rows(undisturbed)
    (summary,) = rows(undisturbed, "run/summary.csv")
    assert len(episodes) == 12
    solvable = sum(int(row["seed"]) % 3 != 0 for row in episodes)
    assert [row["outcome"] for row in episodes].count("success") == solvable
    assert (int(summary["n"]), int(summary["successes"])) == (12, solvable)
    assert (undisturbed / "run" / "figures" / "success.png").stat().st_size > 1000
    assert not list(undisturbed.rglob("*.part*"))


def test_workers_change_nothing_but_times(undisturbed: Path, tmp_path: Path) -> None:
    status, output = evaluate(tmp_path, workers=2)
    assert status == 0, output
    assert untimed(tmp_path) == untimed(undisturbed)


def test_global_generators_depend_on_the_episode_alone(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        words = ("--set", "mode=draw")
        status, output = evaluate(tmp_path / name, *words, workers=workers, episodes=6)
        assert status == 0, output
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert len({row["steps"] for row in rows(tmp_path / "one")}) > 2


def test_the_checkpoint_is_named_before_the_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights"
    checkpoint.mkdir()
    weights = "random weights"
    provenance = {
        "steps": 26,
        "train_config": {"num_steps": 60},
        "backbone_weights": {"source": weights},
    }
    (checkpoint / "provenance.json").write_text(json.dumps(provenance))
    status, output = evaluate(tmp_path, "--checkpoint", str(checkpoint), episodes=1)
    assert status == 0, output
    training = "26 of 60 steps: training has not finished"
    assert f"checkpoint of scripted: {checkpoint} ({training}) ({weights})" in output
    assert f"scripted ({weights})" in output
    session = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert session["kind"] == "session"
    assert (session["training"], session["weights"]) == (training, weights)


def test_kill_9_and_resume_loses_and_doubles_nothing(undisturbed: Path, tmp_path: Path) -> None:
    slow = ("--set", "delay_s=0.03")
    journal = tmp_path / "run" / "journal.jsonl"
    for episodes in (2, 8, 15):
        with start(tmp_path, *slow, workers=2, episodes=36) as process:
            wait_for_episodes(process, journal, episodes)
            process.send_signal(signal.SIGKILL)
    before = journal.read_text().splitlines()
    assert 15 <= sum('"episode"' in line for line in before) < 36
    status, output = evaluate(tmp_path, *slow, episodes=36, workers=2)
    assert status == 0, output
    assert journal.read_text().splitlines()[: len(before)] == before
    assert untimed(tmp_path)[:12] == untimed(undisturbed)
    assert len(rows(tmp_path)) == 36


def test_a_video_torn_by_a_kill_is_swept_away(tmp_path: Path) -> None:
    torn = tmp_path / "run" / "videos" / ".episode000_seed100000.1.part.mp4"
    torn.parent.mkdir(parents=True)
    torn.touch()
    assert evaluate(tmp_path, "--videos", "1", episodes=1)[0] == 0
    assert [path.name for path in torn.parent.iterdir()] == ["episode000_seed100000.mp4"]


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    slow = ("--set", "delay_s=0.05")
    with start(tmp_path, *slow, workers=2, episodes=36) as process:
        wait_for_episodes(process, tmp_path / "run" / "journal.jsonl", 1)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    status, output = evaluate(tmp_path, *slow, workers=2, episodes=36)
    assert status == 0, output
    assert len(rows(tmp_path)) == 36


def test_finished_run_is_not_run_again(undisturbed: Path) -> None:
    before = (undisturbed / "run" / "journal.jsonl").read_bytes()
    status, _ = evaluate(undisturbed)
    assert status == 0
    assert (undisturbed / "run" / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nan", "InvalidActionError"),
        ("shape", "InvalidActionError"),
        ("raise", "a bug of the policy"),
    ],
)
def test_broken_episodes_are_errors_and_the_run_goes_on(
    tmp_path: Path, undisturbed: Path, mode: str, reason: str
) -> None:
    words = ("--set", f"mode={mode}", "--set", "on_seeds=[100001, 100004]")
    status, output = evaluate(tmp_path, *words)
    assert status == 0
    assert "2 x error" in output
    for row, whole in zip(rows(tmp_path), rows(undisturbed), strict=True):
        if row["seed"] in {"100001", "100004"}:
            assert row["outcome"] == "error"
            assert reason in row["reason"]
        else:
            assert row["outcome"] == whole["outcome"]
    (summary,) = rows(tmp_path, "run/summary.csv")
    assert (summary["n"], summary["errors"]) == ("10", "2")


def test_a_worker_that_dies_once_is_replaced_and_the_episode_retried(
    tmp_path: Path, undisturbed: Path
) -> None:
    words = ("--set", "mode=die", "--set", "on_seeds=[100001]")
    status, output = evaluate(tmp_path, *words, "--set", f"marker={tmp_path / 'died'}", workers=2)
    assert status == 0, output
    outcomes = [row["outcome"] for row in rows(tmp_path)]
    assert outcomes == [row["outcome"] for row in rows(undisturbed)]
    attempts = {row["seed"]: row["attempts"] for row in rows(tmp_path)}
    assert attempts.pop("100001") == "2"
    assert set(attempts.values()) == {"1"}


def test_a_worker_that_always_dies_is_an_error(tmp_path: Path) -> None:
    status, output = evaluate(tmp_path, "--set", "mode=die", "--set", "on_seeds=[100001]")
    assert status == 0, output
    (row,) = [row for row in rows(tmp_path) if row["outcome"] == "error"]
    assert row["seed"] == "100001"
    assert re.search(r"worker died: .*SIGKILL.* \(attempt 2 of 2\)", row["reason"])


def test_a_run_of_errors_alone_has_no_score_and_says_so(tmp_path: Path) -> None:
    seeds = list(range(100_000, 100_030))
    status, _ = evaluate(tmp_path, "--set", "mode=raise", "--set", f"on_seeds={seeds}", episodes=3)
    assert status == 1
    (summary,) = rows(tmp_path, "run/summary.csv")
    assert (summary["n"], summary["rate"], summary["errors"]) == ("0", "", "3")


def test_what_get_model_says_is_the_answer(tmp_path: Path) -> None:
    status, output = evaluate(tmp_path, "--set", "mode=needs_checkpoint")
    assert status == 2
    assert "error: no checkpoint: make one with `twinbench train reach_number`" in output
    assert "Traceback" not in output


def test_a_bug_in_get_model_shows_where_it_is(tmp_path: Path) -> None:
    status, output = evaluate(tmp_path, "--set", "mode=broken")
    assert status == 2
    assert "KeyError: 'weights'" in output
    assert "deploy_policy.py" in output


def test_another_definition_in_the_same_folder_is_refused_or_set_aside(tmp_path: Path) -> None:
    assert evaluate(tmp_path, episodes=2)[0] == 0
    status, output = evaluate(tmp_path, "--instruction-type", "seen", episodes=2)
    assert status == 2
    assert "instruction_type" in output
    words = ("--instruction-type", "seen", "--if-changed", "set-aside")
    status, output = evaluate(tmp_path, *words, episodes=2)
    assert status == 0, output
    assert {row["instruction"] for row in rows(tmp_path)} == {"reach it"}
    assert (tmp_path / "run.aside1" / "journal.jsonl").exists()


def test_more_episodes_extend_a_run(tmp_path: Path, undisturbed: Path) -> None:
    assert evaluate(tmp_path, episodes=4)[0] == 0
    assert untimed(tmp_path) == untimed(undisturbed)[:4]
    assert evaluate(tmp_path, episodes=12)[0] == 0
    assert untimed(tmp_path) == untimed(undisturbed)


def test_videos_are_filmed_and_change_no_result(tmp_path: Path, undisturbed: Path) -> None:
    import imageio_ffmpeg

    status, output = evaluate(tmp_path, "--videos", "2", episodes=4)
    assert status == 0, output
    videos = [row["video"] for row in rows(tmp_path)]
    assert [bool(video) for video in videos] == [True, True, False, False]
    for row in rows(tmp_path)[:2]:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "run" / row["video"]))
        assert frames > 0
        assert seconds == pytest.approx((1 + int(row["steps"]) + 30) / 20, abs=0.11)
    keys = ("seed", "outcome", "steps", "instruction")
    results = [[[row[k] for k in keys] for row in untimed(f)[:4]] for f in (tmp_path, undisturbed)]
    assert results[0] == results[1]


@pytest.mark.e2e
def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    words = ("--set", "delay_s=0.01")
    assert evaluate(tmp_path / "whole", *words, workers=2, episodes=60)[0] == 0
    folder, dice = tmp_path / "killed", random.Random(0)
    folder.mkdir()
    journal = folder / "run" / "journal.jsonl"
    for kill in range(30):
        process = start(folder, *words, workers=2, episodes=60)
        goal = min(kill * 2, 59)
        wait_for_episodes(process, journal, goal)
        time.sleep(dice.uniform(0.0, 0.05))
        children = workers_of(process.pid)
        victim = process.pid if kill % 3 == 0 or not children else dice.choice(children)
        if process.poll() is None:
            os.kill(victim, signal.SIGKILL)
        if victim != process.pid:  # The run goes on without its worker: let it, for a moment.
            time.sleep(0.1)
            process.kill()
        process.communicate()
    assert evaluate(folder, *words, workers=2, episodes=60)[0] == 0
    assert untimed(folder) == untimed(tmp_path / "whole")
    assert len(rows(folder)) == 60


def workers_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(child) for child in path.read_text().split()]
    except OSError:
        return []


def test_one_two_and_four_workers_and_a_shared_policy_give_one_table(tmp_path: Path) -> None:
    tables = []
    for workers, inference in ((1, "worker"), (2, "worker"), (4, "worker"), (4, "shared")):
        folder = tmp_path / f"{workers}{inference}"
        words = ("--inference", inference)
        status, output = evaluate(folder, *words, policy=BATCHED, workers=workers)
        assert status == 0, output
        tables.append(untimed(folder))
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert len({row["actions_digest"] for row in tables[0]}) == len(tables[0])


def test_several_policies_on_one_plan_make_one_report(tmp_path: Path, undisturbed: Path) -> None:
    words = ("--episodes", "6", "--workers", "2", "--out", "both")
    policies = (SCRIPTED, f"blind={BATCHED}")
    status, output = finish(start_eval(tmp_path, "reach_number", "--policies", *policies, *words))
    assert status == 0, output
    assert {path.name for path in (tmp_path / "both").iterdir()} >= {"scripted", "blind"}
    summary = rows(tmp_path, "both/summary.csv")
    assert {(row["policy"], row["n"]) for row in summary} == {("scripted", "6"), ("blind", "6")}
    assert (tmp_path / "both" / "comparison.csv").exists()
    seeds = [
        [r["seed"] for r in rows(tmp_path, "both/episodes.csv") if r["policy"] == name]
        for name in ("scripted", "blind")
    ]
    assert seeds[0] == seeds[1] == [row["seed"] for row in rows(undisturbed)][:6]


def write_suite(path: Path, **values: object) -> str:
    path.write_text(json.dumps({"tasks": ["reach_number", "lift_number"], **values}))
    return str(path)


def test_a_suite_of_tasks_and_policies_runs_and_resumes_as_one(tmp_path: Path) -> None:
    policies = [SCRIPTED, {"label": "half", "policy": SCRIPTED, "set": {"mode": "draw"}}]
    suite = write_suite(tmp_path / "two.yaml", episodes=4, policies=policies)
    status, output = finish(start_eval(tmp_path, "--suite", suite, "--workers", "2"))
    assert status == 0, output
    root = tmp_path / "outputs" / "eval" / "two"
    cells = {(r["task"], r["policy"]) for r in rows(root, "summary.csv")}
    names = ("reach_number", "lift_number")
    assert cells == {(task, policy) for task in names for policy in ("scripted", "half")}
    journals = {path: path.read_bytes() for path in root.rglob("journal.jsonl")}
    assert len(journals) == 4
    status, _ = finish(start_eval(tmp_path, "--suite", suite, "--workers", "1"))
    assert status == 0
    assert {path: path.read_bytes() for path in journals} == journals


def test_a_comparison_stops_once_it_is_decided_and_says_the_same_with_more_workers(
    tmp_path: Path,
) -> None:
    never = {"label": "never", "policy": SCRIPTED, "set": {"mode": "never"}}
    decisions = []
    for workers in ("1", "3"):
        out = tmp_path / workers
        suite = write_suite(
            tmp_path / "one.yaml",
            tasks=["reach_number"],
            episodes=40,
            policies=[SCRIPTED, never],
        )
        words = ("--suite", suite, "--workers", workers, "--out", str(out))
        status, output = finish(start_eval(tmp_path, *words, "--stop-when-decided", "0.05"))
        assert status == 0, output
        assert "scripted is better; decided after" in output
        decisions.append(json.loads((out / "comparison.json").read_text()))
        (decided,) = decisions[-1]["comparisons"]
        stopped_at = decided["tasks"]["reach_number"]["stopped_at"]
        assert [row["n"] for row in rows(out, "summary.csv")] == [str(stopped_at)] * 2
        assert stopped_at < 40
        run = json.loads((out / "reach_number" / "never" / "run.json").read_text())
        assert run["planned"] == stopped_at
    assert decisions[0] == decisions[1]


def test_a_policy_that_remembers_is_found_out_and_what_it_remembers_is_named(
    tmp_path: Path,
) -> None:
    status, output = evaluate(tmp_path, "--set", "mode=remember", "--leak-check", "2")
    assert status == 1
    assert "leaks: alone and after seed" in output
    assert "survives reset_model: " in output
    assert "model['remembered'][0]" in output


def test_a_policy_that_forgets_passes_the_leak_check(tmp_path: Path) -> None:
    status, output = evaluate(tmp_path, "--leak-check", "1", policy=BATCHED, episodes=4)
    assert status == 0, output
    assert re.search(r"leak check: reach_number batched episode \d+ .*: clean", output)


def test_chance_is_not_taken_for_a_leak(tmp_path: Path) -> None:
    words = ("--set", "mode=chance", "--set", f"on_seeds={list(range(100_000, 100_030))}")
    status, output = evaluate(tmp_path, *words, "--leak-check", "1", episodes=4)
    assert status == 1
    assert "not deterministic" in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--episodes", "0"], "at least 1: got '0'"),
        (["--workers", "two"], "at least 1: got 'two'"),
        (["--set", "mode"], "--set wants KEY=VALUE: got 'mode'"),
        (["--set", "mood=1"], "did you mean 'mode'"),
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
        (["--stop-when-decided", "0.05"], "compares exactly two policies: got 1"),
        (["--stop-when-decided", "2"], "an error rate in (0, 0.5): got '2'"),
        (["--step-timeout", "0"], "a number of seconds above 0: got '0'"),
        (["--policies", "a"], "either POLICY or --policies"),
        (["--videos", "some"], "some"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, words: list[str], complaint: str) -> None:
    status, output = evaluate(tmp_path, *words)
    assert status == 2
    assert complaint in output
