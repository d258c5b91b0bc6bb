"""Sweeps run on a stand-in for `twinbench`: order, sharing, failures, resuming, kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_fixtures import FAKE, HERE, calls, make_sweep, run_session

from twin_env.files import FolderInUseError
from twin_eval.sweeps import session
from twin_eval.sweeps.jobs import read_ends
from twin_eval.sweeps.running import StillAtWork, jobs_lock
from twin_eval.sweeps.spec import Sweep

FOLDER = Path("outputs/sweeps/small")
FAULTY = {"grid": {"v": {"good": {"train.x": 1}, "bad": {"train.fault": "train"}}}}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finished(folder: Path = FOLDER) -> set[str]:
    """Runs with an evaluation."""
    return {str(path.parents[1].relative_to(folder / "runs")) for path in _journals(folder)}


def _journals(folder: Path) -> list[Path]:
    return list((folder / "runs").glob("**/eval/journal.jsonl"))


@pytest.mark.processes
def test_a_sweep_does_each_thing_once_and_then_nothing() -> None:
    sweep = make_sweep(seeds=[0])
    tables: list[int] = []
    assert run_session(sweep, write_table=lambda: tables.append(len(_journals(FOLDER)))) == []
    assert finished() == {run.name for run in sweep.runs}
    assert tables
    assert tables[0] >= 1
    called = calls()
    prepared = [line for line in called if "--prepare" in line]
    trained = [line for line in called if "train-many" in line and "--threads" in line]
    trained = [line for line in trained if "--prepare" not in line]
    assert len([line for line in called if line.startswith("collect")]) == 2
    assert len(prepared) == 2
    # A task is one process: its two layers share features.
    assert len(trained) == 2
    assert all(line.split("--only ")[1].count(" ") == 1 for line in trained)
    assert {end.state for end in read_ends(FOLDER)} == {"done"}
    assert len(read_ends(FOLDER)) == 2 + 2 + 2 + 2 + 4
    assert run_session(sweep) == []
    assert calls("collect", "plan", "eval") == []


@pytest.mark.processes
def test_a_failure_takes_nothing_with_it_but_what_needs_it() -> None:
    sweep = make_sweep(**FAULTY, tasks=["click_bell"])
    failed = run_session(sweep)
    assert [failure.run for failure in failed] == [f"click_bell/v=bad/seed{n}" for n in (0, 1)]
    assert str(failed[0].loss) == "blocked: training failed: the loss is not finite"
    assert finished() == {f"click_bell/v=good/seed{n}" for n in (0, 1)}
    text = session.failures_text(failed, 4, FOLDER)
    assert "2 of 4 runs failed" in text
    log = FOLDER / "logs" / f"{failed[0].loss.job}.log"
    assert f"({log})" in text
    assert log.exists()

    calls()
    failed = run_session(sweep)
    assert "earlier; --retry-failed tries again" in str(failed[0].loss)
    assert calls("collect", "eval") == []
    Path("mended").touch()
    assert run_session(sweep, retry_failed=True) == []
    assert len(finished()) == 4


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("plan", "cannot be trained: its weights are missing"),
        ("prepare", "blocked: preparing the data failed: a picture is damaged"),
        ("crash", "blocked: training failed: Segmentation fault, or so"),
        ("save", "blocked: training failed: No space left on device"),
        ("evaluate", "evaluation failed: the checkpoint is not whole"),
    ],
)
def test_each_kind_of_failure_says_why(fault: str, reason: str) -> None:
    grid = {"v": {"bad": {"train.fault": fault, "policy.live": "tuned"}, "good": {"train.x": 1}}}
    sweep = make_sweep(grid=grid, tasks=["click_bell"], seeds=[0])
    failed = run_session(sweep, slots=1)
    assert [str(failure.loss) for failure in failed] == [reason]
    assert finished() == {"click_bell/v=good/seed0"}


@pytest.mark.processes
def test_runs_of_other_settings_are_refused() -> None:
    grid = {"v": {"a": {"train.lr": 0.1}}}
    run_session(make_sweep(grid=grid, tasks=["click_bell"], seeds=[0]))
    other = make_sweep(
        grid={"v": {"a": {"train.lr": 0.2}}}, tasks=["click_bell"], seeds=[0], demonstrations=2
    )
    with pytest.raises(ValueError, match=r"(?s)episodes: 3 there, 2 now.*train.lr: 0.1 there, 0.2"):
        run_session(other)


@pytest.mark.processes
def test_only_some_variants() -> None:
    sweep = make_sweep(tasks=["click_bell"])
    with pytest.raises(ValueError, match="Known: clip_layer=0, clip_layer=1"):
        run_session(sweep, only=["clip_layer=7"])
    assert run_session(sweep, only=["clip_layer=1"]) == []
    assert finished() == {f"click_bell/clip_layer=1/seed{n}" for n in (0, 1)}


def test_missing_demonstrations_may_be_refused() -> None:
    with pytest.raises(ValueError, match=r"3 demonstrations of beat_block_hammer .* collect beat_"):
        session.show_plan(
            make_sweep(), FOLDER, make_sweep().runs, session.Means(collect=False), command=FAKE
        )


def test_one_session_at_a_time() -> None:
    with (
        session.held(FOLDER),
        pytest.raises(FolderInUseError, match="another run"),
        session.held(FOLDER),
    ):
        pass


def test_jobs_of_a_killed_sweep_are_waited_for() -> None:
    with (
        jobs_lock(FOLDER),
        pytest.raises(StillAtWork, match="end them, or wait"),
        jobs_lock(FOLDER, patience_s=0.0),
    ):
        pass


def waiting_sweep() -> Sweep:
    return make_sweep(grid={"train.waits": [True]}, tasks=["click_bell"], seeds=[0])


SESSION = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from sweep_fixtures import run_session
from test_sweep_running import waiting_sweep
run_session(waiting_sweep(), slots=1)
"""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def provenance() -> list[Path]:
    return list(FOLDER.glob("runs/**/provenance.json"))


@pytest.mark.processes
def test_a_sweep_that_is_stopped_has_its_jobs_save_first() -> None:
    def stop() -> None:
        wait_until(lambda: bool(provenance()))
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        run_session(waiting_sweep(), slots=1)
    stopper.join()
    (end,) = [end for end in read_ends(FOLDER) if end.kind == "train"]
    assert end.state == "interrupted"
    assert {run.state for run in end.runs.values()} == {"interrupted"}
    assert '"steps": 1' in provenance()[0].read_text()
    Path("go").touch()
    assert run_session(waiting_sweep(), slots=1) == []
    assert len(finished()) == 1


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells jobs of their parent's death")
def test_a_killed_sweep_leaves_no_orphans_and_goes_on() -> None:
    command = [sys.executable, "-c", SESSION]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: bool(provenance()))
        os.killpg(process.pid, signal.SIGKILL)
    assert not [end for end in read_ends(FOLDER) if end.kind == "train"]
    with jobs_lock(FOLDER, patience_s=60):  # Free once the training has noticed and saved.
        assert '"steps": 1' in provenance()[0].read_text()
    calls()
    Path("go").touch()
    assert run_session(waiting_sweep(), slots=1) == []
    assert calls("collect") == []
    assert len(finished()) == 1
