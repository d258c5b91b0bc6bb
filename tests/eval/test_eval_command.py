"""`twinbench eval` on a fake simulator: whole runs in processes of their own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTED = str(HERE / "policies" / "scripted")


def start(
    cwd: Path, *words: str, policy: str = SCRIPTED, workers: int = 1, episodes: int = 12
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "twin_eval.cli", "eval", "reach_number", policy]
    command += ["--provider", "fake_simulator", "--out", "run", "--videos", "0"]
    command += ["--config", str(ROOT / "task_configs" / "demo_clean.yml")]
    command += ["--workers", str(workers), "--episodes", str(episodes), *words]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(process: subprocess.Popen[str], journal: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def evaluate(
    cwd: Path, *words: str, policy: str = SCRIPTED, workers: int = 1, episodes: int = 12
) -> tuple[int, str]:
    cwd.mkdir(exist_ok=True)
    with start(cwd, *words, policy=policy, workers=workers, episodes=episodes) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def rows(folder: Path, name: str = "episodes.csv") -> list[dict[str, str]]:
    with (folder / "run" / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def untimed(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows(folder)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = evaluate(folder)
    assert status == 0, output
    return folder


def test_run_writes_tables_and_figure(undisturbed: Path) -> None:
    episodes = rows(undisturbed)
    (summary,) = rows(undisturbed, "summary.csv")
    assert len(episodes) == 12
    solvable = sum(int(row["seed"]) % 3 != 0 for row in episodes)
    assert [row["outcome"] for row in episodes].count("success") == solvable
    assert (int(summary["n"]), int(summary["successes"])) == (12, solvable)
    assert (undisturbed / "run" / "success.png").stat().st_size > 1000
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
    provenance = {"steps": 26, "train_config": {"num_steps": 60}}
    (checkpoint / "provenance.json").write_text(json.dumps(provenance))
    status, output = evaluate(tmp_path, "--checkpoint", str(checkpoint), episodes=1)
    assert status == 0, output
    training = "26 of 60 steps: training has not finished"
    assert f"checkpoint: {checkpoint} ({training})" in output
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["provenance"]["training"] == training


def test_kill_9_and_resume_loses_and_doubles_nothing(undisturbed: Path, tmp_path: Path) -> None:
    slow = ("--set", "delay_s=0.03")
    journal = tmp_path / "run" / "journal.jsonl"
    for lines in (2, 5, 9):
        with start(tmp_path, *slow, workers=2) as process:
            wait_for_lines(process, journal, lines)
            process.send_signal(signal.SIGKILL)
    before = journal.read_text().splitlines()
    assert 9 <= len(before) < 12
    status, output = evaluate(tmp_path, *slow)
    assert status == 0, output
    assert journal.read_text().splitlines()[: len(before)] == before
    assert untimed(tmp_path) == untimed(undisturbed)


def test_a_video_torn_by_a_kill_is_swept_away(tmp_path: Path) -> None:
    torn = tmp_path / "run" / "videos" / ".episode000_seed100000.1.part.mp4"
    torn.parent.mkdir(parents=True)
    torn.touch()
    assert evaluate(tmp_path, "--videos", "1", episodes=1)[0] == 0
    assert [path.name for path in torn.parent.iterdir()] == ["episode000_seed100000.mp4"]


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    with start(tmp_path, "--set", "delay_s=0.03", workers=2) as process:
        wait_for_lines(process, tmp_path / "run" / "journal.jsonl", 1)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    status, output = evaluate(tmp_path, "--set", "delay_s=0.03", workers=2)
    assert status == 0, output
    assert len(rows(tmp_path)) == 12


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
    (summary,) = rows(tmp_path, "summary.csv")
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
    (summary,) = rows(tmp_path, "summary.csv")
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
    assert (tmp_path / "run.1" / "journal.jsonl").exists()


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
        assert frames == 1 + int(row["steps"]) + 30
        assert seconds > 1
    keys = ("seed", "outcome", "steps", "instruction")
    results = [[[row[k] for k in keys] for row in untimed(f)[:4]] for f in (tmp_path, undisturbed)]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--episodes", "0"], "at least 1: got '0'"),
        (["--workers", "two"], "at least 1: got 'two'"),
        (["--set", "mode"], "--set wants KEY=VALUE: got 'mode'"),
        (["--set", "mood=1"], "did you mean 'mode'"),
        (["--checkpoint", "nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_wrong_words_are_refused(tmp_path: Path, words: list[str], complaint: str) -> None:
    status, output = evaluate(tmp_path, *words)
    assert status == 2
    assert complaint in output
