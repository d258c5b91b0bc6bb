"""Where jobs of a sweep run: the interface, and processes of this machine."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from twin_eval.provenance import usable_cores
from twin_eval.sweeps.jobs import Job

POLL_S = 0.05
INTERRUPTED = 130


@dataclass(frozen=True)
class Ended:
    """A job that an executor has run."""

    job: Job
    status: int
    """Exit status; minus the number of a signal that ended it."""
    seconds: float
    host: str


class Executor(Protocol):
    """Runs jobs, each a command line; a cluster engine has these methods too.

    Jobs share a file system with the sweep. When the executor's process is gone, however it ended,
    no job may go on for long.
    """

    @property
    def slots(self) -> int:
        """How many jobs can run at once."""
        ...

    @property
    def running(self) -> Sequence[Job]:
        """Jobs that were submitted and have not been returned as ended."""
        ...

    def submit(self, job: Job, log: Path) -> None:
        """Starts a job, or has it wait for a slot; what it prints is added to `log`."""
        ...

    def wait(self, timeout_s: float) -> list[Ended]:
        """Jobs that have ended since the last call; the first of them is waited for so long."""
        ...

    def interrupt(self) -> None:
        """Asks all jobs to save what they have and end."""
        ...

    def kill(self) -> None:
        """Ends all jobs at once."""
        ...


class LocalExecutor:
    """Processes of this machine, each job in a process group of its own.

    Args:
        slots: jobs at once; by default one for each device, or one.
        devices: GPUs as torch names them, dealt out to the slots; none: jobs see what there is.
        command: what a job's words are arguments of.
        hold: a descriptor that jobs keep open as long as they run, such as that of a lock.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        devices: Sequence[str] = (),
        command: Sequence[str],
        hold: int | None = None,
    ) -> None:
        self._slots = slots or max(1, len(devices))
        self._devices = [_cuda_index(device) for device in devices]
        self._command = tuple(command)
        self._hold = () if hold is None else (hold,)
        self._free = list(range(self._slots))
        self._processes: dict[int, _Process] = {}

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def threads(self) -> int:
        """Cores for each slot."""
        return max(1, usable_cores() // self._slots)

    @property
    def running(self) -> list[Job]:
        return [process.job for process in self._processes.values()]

    def submit(self, job: Job, log: Path) -> None:
        """Starts a job.

        Raises:
            ValueError: no slot is free.
        """
        if not self._free:
            raise ValueError(f"all {self._slots} slots are busy: wait for one before {job.name}")
        slot = min(self._free)
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("ab")
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        stream.write(f"== {now} twinbench {' '.join(job.command)}\n".encode())
        stream.flush()
        guard = (sys.executable, "-m", "twin_eval.sweeps.job_process", str(os.getpid()))
        process = subprocess.Popen(
            [*guard, *self._command, *job.command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment(slot)},
            start_new_session=True,
            pass_fds=self._hold,
        )
        self._free.remove(slot)
        self._processes[slot] = _Process(job, process, stream, time.monotonic())

    def wait(self, timeout_s: float) -> list[Ended]:
        deadline = time.monotonic() + timeout_s
        while not (ended := self._collect()) and self._processes:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(POLL_S, left))
        return ended

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _collect(self) -> list[Ended]:
        over = {slot: p for slot, p in self._processes.items() if p.popen.poll() is not None}
        ended = []
        for slot, process in over.items():
            del self._processes[slot]
            self._free.append(slot)
            process.log.close()
            if process.popen.returncode < 0:  # Killed: it could not end its own processes.
                _signal_group(process.popen.pid, signal.SIGKILL)
            seconds = time.monotonic() - process.began_s
            ended.append(Ended(process.job, process.popen.returncode, seconds, host_name()))
        return ended

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.popen.poll() is None:
                _signal_group(process.popen.pid, number)

    def _environment(self, slot: int) -> dict[str, str]:
        settings = {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "PYTHONUNBUFFERED": "1",
        }
        if self._devices:
            settings["CUDA_VISIBLE_DEVICES"] = self._devices[slot % len(self._devices)]
        return settings


@dataclass(frozen=True)
class _Process:
    job: Job
    popen: subprocess.Popen[bytes]
    log: IO[bytes]
    began_s: float


def host_name() -> str:
    """This machine."""
    return socket.gethostname()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _cuda_index(device: str) -> str:
    """`cuda:1` -> `1`, or the second of the GPUs that this process may see."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index.isdigit():
        raise ValueError(f"--devices are GPUs such as cuda:0 cuda:1: got {device!r}")
    visible = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    if visible and int(index) >= len(visible):
        raise ValueError(f"{device} is none of the {len(visible)} GPUs of CUDA_VISIBLE_DEVICES")
    return visible[int(index)] if visible else index
