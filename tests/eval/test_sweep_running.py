"""Sweeps run on a stand-in for `twinbench`: order, sharing, failures, resuming, kills."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from record_fixtures import make_record, write_run
from sweep_fixtures import FAKE, HERE, SMALL, calls, make_sweep, run_session

from twin_env.files import FolderInUseError
from twin_eval.commands import sweep as command
from twin_eval.policies import digest_checkpoint
from twin_eval.sweeps import session
from twin_eval.sweeps.ablation import read_ablation, write_ablation
from twin_eval.sweeps.asked import Asked
from twin_eval.sweeps.jobs import read_ends
from twin_eval.sweeps.running import StillAtWork, jobs_lock
from twin_eval.sweeps.spec import Sweep, load_sweep

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
    assert str(failed[0].loss) == "training failed: the loss is not finite"
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
        ("prepare", "preparing the data failed: a picture is damaged"),
        ("crash", "training failed: Segmentation fault, or so"),
        ("save", "training failed: No space left on device"),
        ("evaluate", "evaluation failed: the checkpoint is not whole"),
    ],
)
def test_each_kind_of_failure_says_why(fault: str, reason: str) -> None:
    grid = {"v": {"bad": {"train.fault": fault, "policy.live": "tuned"}, "good": {"train.x": 1}}}
    sweep = make_sweep(grid=grid, tasks=["click_bell"], seeds=[0])
    failed = run_session(sweep, slots=1)
    assert [str(failure.loss) for failure in failed] == [reason]
    assert finished() == {"click_bell/v=good/seed0"}


def trained_together() -> list[list[str]]:
    """Variants of each training process since the last look."""
    called = [line for line in calls("train-many") if "--threads" in line]
    chosen = [line.split("--only ")[1].split() for line in called if "--prepare" not in line]
    return [[name.split("/")[1] for name in names] for names in chosen]


@pytest.mark.processes
def test_a_run_that_breaks_its_process_takes_no_other_with_it() -> None:
    values = {"a": {}, "b": {"train.fault": "crash"}, "c": {"train.fault": "train"}, "d": {}}
    grid = {"v": {name: {"train.x": 1, **each} for name, each in values.items()}}
    sweep = make_sweep(grid=grid, tasks=["click_bell"], seeds=[0])
    failed = {failure.run: str(failure.loss) for failure in run_session(sweep, slots=1)}
    assert failed == {
        "click_bell/v=b/seed0": "training failed: Segmentation fault, or so",
        "click_bell/v=c/seed0": "training failed: the loss is not finite",
    }
    assert finished() == {"click_bell/v=a/seed0", "click_bell/v=d/seed0"}
    assert trained_together() == [["v=a", "v=b", "v=c", "v=d"], ["v=c", "v=d"]]
    Path("mended").touch()
    failed = {
        failure.run: str(failure.loss) for failure in run_session(sweep, slots=1, retry_failed=True)
    }
    assert list(failed) == ["click_bell/v=b/seed0"]
    assert trained_together() == [["v=b"], ["v=c"]]


@pytest.mark.processes
def test_runs_of_other_settings_are_refused() -> None:
    grid = {"v": {"a": {"train.lr": 0.1}}}
    run_session(make_sweep(grid=grid, tasks=["click_bell"], seeds=[0]))
    other = make_sweep(
        grid={"v": {"a": {"train.lr": 0.2}}}, tasks=["click_bell"], seeds=[0], demonstrations=2
    )
    with pytest.raises(ValueError, match=r"(?s)episodes: 3 there, 2 now.*train.lr: 0.1 there, 0.2"):
        run_session(other)


SMALLEST = {"tasks": ["click_bell"], "seeds": [0], "grid": {"v": {"a": {"train.lr": 0.1}}}}
RUN = "click_bell/v=a/seed0"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate": {"episodes": 2, "seed": 7}}, "evaluate.seed: 0 there, 7 now"),
        (
            {"evaluate": {"episodes": 2, "policy": "dp_resnet"}},
            "evaluate.policy: 'clip_dp' there, 'dp_resnet' now",
        ),
    ],
)
def test_evaluations_of_other_settings_are_refused_and_in_no_table(
    changes: dict[str, Any], said: str
) -> None:
    run_session(make_sweep(**SMALLEST))
    calls()
    other = make_sweep(**SMALLEST, **changes)
    with pytest.raises(
        ValueError, match=rf"1 evaluations .*{RUN}/eval:\n  {said}\nGive another --out"
    ):
        run_session(other)
    assert calls() == []
    files = write_ablation(other, FOLDER, drawn=False)
    assert files.cells[0].n == 0
    assert files.notes == (
        f"Left out, made by other settings than the sweep has now ({said}): 1 run ({RUN}).",
    )
    shutil.rmtree(FOLDER / "runs" / RUN / "eval")
    assert run_session(other) == []
    assert write_ablation(other, FOLDER, drawn=False).cells[0].n == 2


def call_sweep(*words: str) -> int:
    """`twinbench sweep`, in this process."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*words, "--out", str(FOLDER)]))


@pytest.mark.processes
def test_a_changed_sweep_touches_neither_its_copy_nor_its_old_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_session(make_sweep(**SMALLEST))
    (FOLDER / "sweep.yaml").write_text("as it was")
    runs_file = (FOLDER / "runs.json").read_bytes()
    grid = {"v": {"a": {"train.lr": 0.2}, "b": {"train.lr": 0.1}}}
    Path("small.yaml").write_text(yaml.safe_dump({**SMALL, **SMALLEST, "grid": grid}))
    with pytest.raises(ValueError, match="1 trainings by other settings"):
        call_sweep("small.yaml")
    assert (FOLDER / "sweep.yaml").read_text() == "as it was"
    assert (FOLDER / "runs.json").read_bytes() == runs_file
    assert "looking at 2 trainings ..." in capsys.readouterr().err
    assert call_sweep("small.yaml", "--table") == 0
    said = "(set.train.lr: 0.1 there, 0.2 now): 1 run (click_bell/v=a/seed0)"
    assert said in capsys.readouterr().out
    assert said in (FOLDER / "ablation.md").read_text()
    assert read_ablation(load_sweep("small.yaml"), FOLDER).cells[0].n == 0


@pytest.mark.processes
def test_the_copy_of_a_sweep_is_written_once_it_is_accepted() -> None:
    written: list[bool] = []
    run_session(make_sweep(**SMALLEST), accepted=lambda: written.append((FOLDER / "runs").exists()))
    assert written == [False]


@pytest.mark.processes
def test_more_episodes_go_on_and_fewer_are_enough() -> None:
    run_session(make_sweep(**SMALLEST))
    for episodes, played in ((1, False), (3, True)):
        calls()
        assert run_session(make_sweep(**SMALLEST, evaluate={"episodes": episodes})) == []
        assert bool(calls("eval")) == played


def test_a_checkpoint_that_was_trained_anew_is_another_one() -> None:
    sweep = make_sweep(**SMALLEST)
    (run,) = sweep.runs
    place = FOLDER / "runs" / RUN
    (place / "checkpoint").mkdir(parents=True)
    weights = place / "checkpoint" / "model.safetensors"
    weights.write_bytes(b"first")
    write_run(place / "eval", [make_record(0, policy="clip_dp")])
    description = place / "eval" / "run.json"
    digest = digest_checkpoint(place / "checkpoint")
    description.write_text(description.read_text().replace('"none"', f'"{digest}"'))
    os.utime(weights, ns=(0, description.stat().st_mtime_ns + 1))
    assert Asked(sweep, FOLDER).evaluation_changes(run) == []
    weights.write_bytes(b"again")
    os.utime(weights, ns=(0, description.stat().st_mtime_ns + 1))
    (changed,) = Asked(sweep, FOLDER).evaluation_changes(run)
    assert changed.startswith(f"checkpoint: '{digest}' there, ")


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
