"""Jobs of a sweep: what one is, the journal of finished ones, and how fast they were."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

VERSION = 1
JOURNAL = "jobs.jsonl"
LOGS = "logs"

Kind = Literal["collect", "scenes", "prepare", "train", "evaluate"]
KINDS: tuple[Kind, ...] = ("collect", "scenes", "prepare", "train", "evaluate")
"""In the order in which a run needs them."""

State = Literal["done", "failed", "interrupted", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command line, and what must be there before it can start.

    What jobs need and give are named as `checkpoint of RUN`.
    """

    name: str
    """Unique in the sweep; its log is `logs/NAME.log`."""
    kind: Kind
    words: tuple[str, ...]
    """Arguments of `twinbench`, without those that follow from `runs`."""
    rank: int
    """Of jobs that could start, the lowest does."""
    needs: tuple[str, ...] = ()
    """What all of it needs."""
    gives: tuple[str, ...] = ()
    """What it gives besides what it gives for each of its runs."""
    runs: tuple[str, ...] = ()
    """Names of the runs that it is for."""
    run_needs: str = ""
    """What it needs for each of its runs: of this kind."""
    run_gives: str = ""
    """What it gives for each of its runs."""
    report: Path | None = None
    """File in which `train-many` says how each run ended."""
    gpu: bool = False
    """Whether a GPU makes it faster."""
    units: int = 0
    """How much work it is: episodes, pictures or steps."""
    rate_keys: tuple[str, ...] = ()
    """What work it is, the most exact description first; the same work takes the same time."""

    @property
    def command(self) -> tuple[str, ...]:
        """All arguments of `twinbench`."""
        if self.report is None:
            return self.words
        return (*self.words, "--report", str(self.report), "--only", *self.runs)

    def without(self, runs: Iterable[str]) -> Job:
        """The same job for its other runs."""
        left = tuple(run for run in self.runs if run not in set(runs))
        units = self.units * len(left) // max(1, len(self.runs))
        return replace(self, runs=left, units=units)


@dataclass(frozen=True)
class RunEnd:
    """How a job ended for one run."""

    state: State
    reason: str = ""
    definition: str = ""
    """Digest of what the run was asked to be."""
    crashed: bool = False
    """Whether the job's process broke down while it was at work on this run."""


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """A line of the journal: a job that ended."""

    job: str
    kind: Kind
    words: tuple[str, ...]
    state: State
    """`done`, or what the worst of its runs came to."""
    reason: str
    """The last line of a failure, else empty."""
    seconds: float
    """Wall time."""
    when: str
    """End, UTC, ISO 8601."""
    host: str
    units: int
    rate_keys: tuple[str, ...]
    runs: Mapping[str, RunEnd] = field(default_factory=dict)


def append_end(folder: Path, end: JobEnd) -> None:
    """Adds a line to the journal of the sweep in `folder`; it is on disk once this returns."""
    path = folder / JOURNAL
    before = path.read_bytes() if path.exists() else b""
    with path.open("ab") as stream:
        if before and not before.endswith(b"\n"):  # A kill cut the last line.
            stream.write(b"\n")
        stream.write((json.dumps({"version": VERSION, **asdict(end)}) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def read_ends(folder: Path) -> list[JobEnd]:
    """The journal of the sweep in `folder`, oldest first; a torn line does not count.

    Raises:
        ValueError: the journal is of another version.
    """
    path = folder / JOURNAL
    if not path.exists():
        return []
    ends = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = dict(json.loads(line))
        except (ValueError, TypeError):
            continue  # A kill cut it: that job's results tell how it ended.
        if (version := values.pop("version", None)) != VERSION:
            raise ValueError(
                f"{path} line {number} is of version {version!r}, not {VERSION}: delete the file, "
                "which forgets times and failures but no result"
            )
        ends.append(_read_end(values))
    return ends


def _read_end(values: dict[str, Any]) -> JobEnd:
    values["runs"] = {name: RunEnd(**run) for name, run in values["runs"].items()}
    values["words"], values["rate_keys"] = tuple(values["words"]), tuple(values["rate_keys"])
    return JobEnd(**values)


def failures(ends: Sequence[JobEnd]) -> dict[tuple[Kind, str], RunEnd]:
    """The kinds of work that failed when they were last tried, of each run."""
    last = {(end.kind, name): run for end in ends for name, run in end.runs.items()}
    return {key: run for key, run in last.items() if run.state == "failed"}


class Rates:
    """Seconds that a unit of work takes, from jobs that are done."""

    def __init__(self, ends: Iterable[JobEnd] = ()) -> None:
        self._seconds: dict[str, list[float]] = {}
        for end in ends:
            self.learn(end)

    def learn(self, end: JobEnd) -> None:
        """Takes a job into account, if it did all that it was to do."""
        if end.state == "done" and end.units > 0:
            for key in end.rate_keys:
                self._seconds.setdefault(key, []).append(end.seconds / end.units)

    def expected_s(self, job: Job) -> float | None:
        """Wall time that a job will take; None if no such work has been done yet."""
        if not job.units:
            return 0.0
        for key in job.rate_keys:
            if key in self._seconds:
                return job.units * statistics.median(self._seconds[key])
        return None


def rates_below(root: Path) -> Rates:
    """From the journals of all sweeps below `root`."""
    return Rates(
        end for path in sorted(root.glob(f"*/{JOURNAL}")) for end in read_ends(path.parent)
    )
