"""Jobs as processes of this machine: slots, devices, logs, signals."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from twin_eval.sweeps.executor import Ended, LocalExecutor
from twin_eval.sweeps.jobs import Job

PYTHON = (sys.executable, "-S", "-c")


def job(code: str, name: str = "x") -> Job:
    return Job(name=name, kind="collect", words=(code,), rank=0)


def run_all(executor: LocalExecutor) -> dict[str, Ended]:
    ended: dict[str, Ended] = {}
    deadline = time.monotonic() + 60
    while executor.running:
        assert time.monotonic() < deadline
        ended |= {each.job.name: each for each in executor.wait(1.0)}
    return ended


@pytest.mark.processes
def test_jobs_run_beside_each_other_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    executor = LocalExecutor(devices=["cuda:2", "cuda:5"], command=PYTHON)
    assert executor.slots == 2
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])"
    executor.submit(job(code, "a/1"), tmp_path / "a" / "1.log")
    executor.submit(job(f"{code}; raise SystemExit(3)", "b"), tmp_path / "b.log")
    with pytest.raises(ValueError, match="all 2 slots are busy"):
        executor.submit(job(code), tmp_path / "c.log")
    ended = run_all(executor)
    assert {name: each.status for name, each in ended.items()} == {"a/1": 0, "b": 3}
    first, second = ((tmp_path / name).read_text() for name in ("a/1.log", "b.log"))
    assert first.startswith("== ")
    assert first.splitlines()[1:] == [f"2 {executor.threads}"]
    assert second.splitlines()[1:] == [f"5 {executor.threads}"]
    executor.submit(job("print(1)", "a/1"), tmp_path / "a" / "1.log")
    run_all(executor)
    assert len((tmp_path / "a/1.log").read_text().splitlines()) == 4


@pytest.mark.processes
def test_an_interrupted_job_may_save_and_a_killed_one_may_not(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; begun = Path({0!r})\n"
        "try:\n"
        "    begun.touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    {1}; raise SystemExit(130)\n"
    )
    for way, status in (("interrupt", 130), ("kill", -signal.SIGKILL)):
        executor = LocalExecutor(1, command=PYTHON)
        begun = tmp_path / way
        saving = "begun.write_text('saved')"
        executor.submit(job(code.format(str(begun), saving)), tmp_path / "x.log")
        while not begun.exists():
            assert executor.wait(0.02) == []
        getattr(executor, way)()
        assert run_all(executor)["x"].status == status
        assert begun.read_text() == ("saved" if way == "interrupt" else "")


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells jobs of their parent's death")
def test_a_killed_job_takes_its_own_processes_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid) + '.')\n"
        "time.sleep(60)\n"
    )
    executor = LocalExecutor(1, command=PYTHON)
    executor.submit(job(code), tmp_path / "x.log")
    while not (child.exists() and child.read_text().endswith(".")):
        assert executor.wait(0.02) == []
    executor.kill()
    run_all(executor)
    pid = int(child.read_text().rstrip("."))
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_devices_are_gpus_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert LocalExecutor(devices=["cuda:1"], command=PYTHON)._devices == ["7"]
    with pytest.raises(ValueError, match="cuda:2 is none of the 2 GPUs"):
        LocalExecutor(devices=["cuda:2"], command=PYTHON)
    with pytest.raises(ValueError, match="got 'gpu0'"):
        LocalExecutor(devices=["gpu0"], command=PYTHON)


def test_slots_share_the_cores() -> None:
    assert LocalExecutor(command=PYTHON).threads == len(os.sched_getaffinity(0))
    assert LocalExecutor(10_000, command=PYTHON).threads == 1
