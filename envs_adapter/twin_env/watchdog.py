"""What ends a process that hangs or has lost its parent, and tells afterwards where it was."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import Any

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a watched process write where it is; it goes on."""

SLACK = 0.1
"""Share of its limit by which a guard may end a process late, so that most calls cost nothing."""

_PR_SET_PDEATHSIG = 1

_TIMEOUT = re.compile(r"^Timeout \((\d+):(\d+):([\d.]+)\)!$", re.MULTILINE)
_THREAD = re.compile(r"^(Current thread|Thread) 0x.*\n((?:  .*\n)*)", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\S+) in (.*)$', re.MULTILINE)


class CrashLog:
    """A file that a process writes its last words to and its parent reads.

    It has no name, so nothing is left behind even if both are killed; it travels to a spawned
    process as an argument.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by `close`)
        else:
            self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 (as above)

    def __reduce__(self) -> tuple[Callable[[Any], CrashLog], tuple[Any]]:
        return _received, (reduction.DupFd(self.fileno()),)

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self.fileno()).st_size

    def where(self) -> str:
        """Innermost Python line of the thread that crashed or hung, as "file.py:123, function".

        Of the main thread, if the one that crashed belongs to a library; empty if unknown.
        """
        threads = _THREAD.findall(self._read())
        # Threads are listed from the newest to the main one, with a mark on the one that crashed.
        marked = [thread for thread in threads if thread[0] == "Current thread"]
        frames = [_FRAME.search(stack) for _, stack in (marked or threads)[-1:]]
        if not frames or frames[0] is None:
            return ""
        path, line, function = frames[0].groups()
        return f"{os.path.basename(path)}:{line}, {function}"

    def reason(self, exit_code: int | None) -> str:
        """Why the process ended, given its exit code (None if it runs on)."""
        limit_s = self._limit_s()
        if limit_s is not None:
            return f"no progress within {limit_s:g} s (step limit)"
        if exit_code is None:
            return "the worker closed its pipe"
        if exit_code >= 0:
            return f"the worker exited with code {exit_code}"
        name = signal.Signals(-exit_code).name
        guess = " (out of memory, or killed by hand)" if name == "SIGKILL" else ""
        return f"the worker was ended by {name}{guess}"

    def _limit_s(self) -> float | None:
        """The limit given to `guard`, if that is what ended the process."""
        match = _TIMEOUT.search(self._read())
        if match is None:
            return None
        hours, minutes, seconds = map(float, match.groups())
        return (3600 * hours + 60 * minutes + seconds) / (1 + SLACK)

    def _read(self) -> str:
        return os.pread(self.fileno(), self.size(), 0).decode(errors="replace")


def _received(descriptor: Any) -> CrashLog:
    return CrashLog(descriptor.detach())


class _Guard:
    def __init__(self, log: CrashLog) -> None:
        self.limit_s: float | None = None
        self._log = log
        self._armed_s = 0.0

    def arm(self, limit_s: float) -> None:
        now = time.monotonic()
        if limit_s == self.limit_s and now - self._armed_s < SLACK * limit_s:
            return
        # A thread without Python: it also ends code that never lets go of the interpreter's lock.
        faulthandler.dump_traceback_later((1 + SLACK) * limit_s, exit=True, file=self._log)
        self.limit_s, self._armed_s = limit_s, now

    def disarm(self) -> None:
        if self.limit_s is not None:
            faulthandler.cancel_dump_traceback_later()
            self.limit_s = None


_guard: _Guard | None = None


def watch(log: CrashLog) -> None:
    """From now on this process ends with its parent, leaves its last words, and heeds `guard`."""
    global _guard
    end_with_parent()
    faulthandler.enable(file=log)
    faulthandler.register(DUMP_SIGNAL, file=log, all_threads=True, chain=False)
    _guard = _Guard(log)


def guard(limit_s: float | None) -> None:
    """The process ends unless this or `unguard` is called again within `limit_s`; None: no limit.

    It ends between 1.0 and 1.1 times the limit after the last call, whatever it hangs in. Does
    nothing in a process that is not a worker.
    """
    if _guard is None:
        return
    if limit_s is None:
        _guard.disarm()
    else:
        _guard.arm(limit_s)


def unguard() -> None:
    """Lifts the limit that `guard` set."""
    guard(None)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """No limit inside; afterwards the same one as before, anew."""
    limit_s = _guard.limit_s if _guard else None
    unguard()
    try:
        yield
    finally:
        guard(limit_s)


def end_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends; on Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # It was faster than we.
        os._exit(1)


def resident_mb() -> float | None:
    """Memory that this process holds, 10^6 bytes; None where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
    except FileNotFoundError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fair_share_mb(workers: int) -> float:
    """What each of so many processes may hold, 10^6 bytes: together seven tenths of the machine's
    memory, but not too little."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 8 * 10**9
    return max(2000.0, 0.7 * memory / 10**6 / workers)
