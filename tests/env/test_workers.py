import os
import signal
import time

import pytest

from twin_env.workers import Died, Done, Outcome, Raised, WorkerPool


def act(job: str) -> str:
    if job == "raise":
        raise KeyError("a field")
    if job == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job == "hang":
        time.sleep(60)
    if job == "threads":
        return os.environ["OMP_NUM_THREADS"] + os.environ.get("LP_NUM_THREADS", "unset")
    return job.upper()


def run(jobs: list[str], workers: int, timeout_s: float | None = None) -> dict[str, Outcome]:
    with WorkerPool(workers, act, job_timeout_s=timeout_s) as pool:
        return dict(pool.run(jobs))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_raises_or_dies_spares_the_others(workers: int) -> None:
    outcomes = run(["a", "raise", "die", "b", "c"], workers)
    assert {job: outcome for job, outcome in outcomes.items() if isinstance(outcome, Done)} == {
        "a": Done("A"),
        "b": Done("B"),
        "c": Done("C"),
    }
    raised = outcomes["raise"]
    assert isinstance(raised, Raised)
    assert raised.error_text == "KeyError: 'a field'"
    assert "in act" in raised.traceback_text
    assert outcomes["die"] == Died("the worker was ended by SIGSEGV")


def test_a_job_that_hangs_is_ended() -> None:
    outcomes = run(["hang", "a"], 1, timeout_s=2.0)
    assert outcomes == {"hang": Died("no result within 2 s"), "a": Done("A")}


def test_rendering_threads_are_shared_out() -> None:
    assert run(["threads"], 1)["threads"] == Done("1unset")
    assert run(["threads"], 2)["threads"] == Done("10")


def test_no_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        WorkerPool(0, act)
