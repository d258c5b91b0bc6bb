"""What a sweep says while it runs: a line for each event, and on a terminal one that lives."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from twin_eval.live import duration_text
from twin_eval.sweeps.jobs import JobEnd

PLAIN_EVERY_S = 60.0
LIVING_EVERY_S = 0.5


class Progress:
    """Events and status of a sweep.

    Args:
        total: jobs that there are.
        stream: stderr by default; if it is no terminal, the status is a line now and then.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._living = self._stream.isatty()
        self._total, self._ended = total, 0
        self._every_s = LIVING_EVERY_S if self._living else PLAIN_EVERY_S
        self._shown_s = time.monotonic()
        self._began_s = self._shown_s

    def say(self, line: str) -> None:
        """Writes a line that stays."""
        clear = "\r\x1b[K" if self._living else ""
        self._stream.write(f"{clear}{line}\n")
        self._stream.flush()

    def ended(self, end: JobEnd) -> None:
        """Says how a job ended."""
        self._ended += 1
        self.say(f"[{self._ended}/{self._total}] {end.job}: {end_text(end)}")

    def more(self, jobs: int) -> None:
        """Counts jobs that have come to those there are."""
        self._total += jobs

    def show(self, status: str) -> None:
        """Shows how things stand, unless it was done just before."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self._every_s:
            return
        self._shown_s = now_s
        line = f"{duration_text(now_s - self._began_s)}: {self._ended} of {self._total} jobs done"
        line = f"{line}; {status}"
        if self._living:
            self._stream.write(f"\r\x1b[K{line[: _width() - 1]}")
            self._stream.flush()
        else:
            self.say(line)

    def left(self, seconds: float) -> str:
        """How long it will take still."""
        return f"about {duration_text(seconds)} left"

    def close(self) -> None:
        """Leaves the terminal with an empty line."""
        if self._living:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _width() -> int:
    return shutil.get_terminal_size().columns


def end_text(end: JobEnd) -> str:
    """How a job ended, in one line."""
    failed = sum(run.state == "failed" for run in end.runs.values())
    of = f" for {failed} of {len(end.runs)} runs" if 0 < failed < len(end.runs) else ""
    took = f" in {duration_text(end.seconds)}"
    return f"{end.state}{took}{of}" + (f": {end.reason}" if end.reason else "")
