"""Demonstrations: the expert at work on seed after seed, kept in RoboTwin's stable layout."""

from __future__ import annotations

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twin_env.backends import environment_fingerprint, make_env
from twin_env.episodes import write_episode
from twin_env.files import locked, write_text
from twin_env.task_env import UnstableError
from twin_env.workers import Done, Outcome, Raised, WorkerPool, fair_share_mb

FORMAT_VERSION = 1
SEED_TIMEOUT_S = 600.0
ATTEMPTS = 2
"""A seed whose worker died or raised is tried once more."""
HOPELESS_AFTER = 30
"""Seeds in a row that may fail before recording gives up."""
BROKEN_AFTER = 3
"""Seeds in a row that may end in an error: then it is the machine, and nothing of it is logged."""


class CollectionError(ValueError):
    """The folder holds something else, or the expert never succeeds."""


@dataclass(frozen=True)
class SeedRecord:
    """What became of one seed; a line of `collection.jsonl`."""

    seed: int
    verdict: str
    """"ok", "expert_failed", "unstable" or "error"."""
    reason: str
    """Empty if ok."""
    episode: int | None
    """N of `episode{N}.hdf5`, in seed order; None unless ok."""
    frames: int
    wall_s: float
    scene_info: dict[str, Any]
    """RoboTwin's entry of `scene_info.json`."""
    instructions: dict[str, list[str]]


@dataclass(frozen=True)
class Recording:
    """What a worker is told; picklable."""

    task: str
    backend: str
    config: dict[str, Any]
    folder: Path


def collect(
    recording: Recording,
    *,
    episodes: int,
    workers: int,
    max_memory_mb: float | None = None,
    progress: Callable[[SeedRecord], None] = lambda record: None,
) -> list[SeedRecord]:
    """Record the first `episodes` seeds, from 0 upwards, on which the expert succeeds.

    Goes on where an earlier call on the folder stopped. Which seeds and which episode numbers
    come out does not depend on the number of workers.

    Args:
        max_memory_mb: a worker that holds more after a seed is replaced; a share of the machine's
            memory by default.

    Raises:
        CollectionError: the folder holds another environment's episodes, or the expert always
            fails.
    """
    recording.folder.mkdir(parents=True, exist_ok=True)
    with locked(recording.folder):
        log = _Log(recording)
        if log.successes < episodes or log.missing:
            target = functools.partial(record_seed, recording)
            with WorkerPool(
                workers,
                target,
                job_timeout_s=SEED_TIMEOUT_S,
                max_memory_mb=max_memory_mb or fair_share_mb(workers),
            ) as pool:
                _record_missing(log, pool)
                _record_more(log, pool, episodes, progress)
        return log.records


def _record_missing(log: _Log, pool: WorkerPool) -> None:
    """Record anew the episodes whose files were deleted."""
    for seed, outcome in pool.run([record.seed for record in log.missing]):
        record = _resolve(seed, outcome)
        if record.verdict != "ok":
            raise CollectionError(f"seed {seed} cannot be recorded again: {record.reason}")
        log.restore(record)


def _record_more(
    log: _Log, pool: WorkerPool, episodes: int, progress: Callable[[SeedRecord], None]
) -> None:
    unlogged: dict[int, SeedRecord] = {}
    attempts: Counter[int] = Counter()
    errors: list[SeedRecord] = []
    again: list[int] = []
    successes, next_seed = log.successes, len(log.records)
    while successes < episodes or pool.busy:
        while pool.idle and (again or successes + pool.busy < episodes):
            if again:
                pool.submit(again.pop())
            else:
                pool.submit(next_seed)
                next_seed += 1
        seed, outcome = pool.next_outcome()
        attempts[seed] += 1
        if not isinstance(outcome, Done) and attempts[seed] < ATTEMPTS:
            again.append(seed)
            continue
        unlogged[seed] = _resolve(seed, outcome)
        successes += unlogged[seed].verdict == "ok"
        while (place := len(log.records) + len(errors)) in unlogged:
            record = unlogged.pop(place)
            if record.verdict == "error":
                errors.append(record)
                continue
            for settled in (*errors, record):
                progress(log.append(settled))
            errors.clear()
        _give_up_if_broken(errors)
        _give_up_if_hopeless(log.records)


def record_seed(recording: Recording, seed: int) -> SeedRecord:
    """Runs in a worker: one expert episode, written aside until its number is known."""
    started = time.perf_counter()
    env = _environment_of(recording.task, recording.backend)
    frames: list[dict[str, Any]] = []
    env.frame_sink = lambda task: frames.append(task.get_obs())
    reason, verdict = "", "ok"
    try:
        env.setup_demo(now_ep_num=seed, seed=seed, **recording.config)
        env.play_once()
        if not env.plan_success:
            verdict, reason = "expert_failed", "the expert could not reach a pose"
        elif not env.check_success():
            verdict, reason = "expert_failed", "check_success is false after the expert"
    except UnstableError as error:
        verdict, reason = "unstable", str(error)
    if verdict == "ok":
        write_episode(_pending(recording.folder, seed), frames)
    record = SeedRecord(
        seed=seed,
        verdict=verdict,
        reason=reason,
        episode=None,
        frames=len(frames),
        wall_s=round(time.perf_counter() - started, 3),
        scene_info=env.info,
        instructions=env.instructions(),
    )
    env.close_env()
    return record


class _Log:
    """The folder's records in seed order; files appear before the line that names them."""

    def __init__(self, recording: Recording) -> None:
        self.folder = recording.folder
        self.records: list[SeedRecord] = []
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "instructions").mkdir(exist_ok=True)
        self._path = self.folder / "collection.jsonl"
        self._claim(recording)
        if self._path.exists():
            self.records = list(self._read())
            self._rewrite()
        for pattern in ("pending*", ".*.part*"):
            for leftover in (self.folder / "data").glob(pattern):
                leftover.unlink()

    @property
    def successes(self) -> int:
        return sum(record.verdict == "ok" for record in self.records)

    @property
    def missing(self) -> list[SeedRecord]:
        """Records whose episode file is no longer there."""
        return [
            record
            for record in self.records
            if record.episode is not None and not self._episode(record.episode).exists()
        ]

    def restore(self, record: SeedRecord) -> None:
        """Put a newly recorded episode in the place of its missing file."""
        (known,) = (old for old in self.records if old.seed == record.seed)
        assert known.episode is not None
        os.replace(_pending(self.folder, record.seed), self._episode(known.episode))

    def _episode(self, number: int) -> Path:
        return self.folder / "data" / f"episode{number}.hdf5"

    def append(self, record: SeedRecord) -> SeedRecord:
        """Give an ok record its number and its files their names, then log it."""
        if record.verdict == "ok":
            number = self.successes
            record = SeedRecord(**{**asdict(record), "episode": number})
            _write_json(self.folder / "instructions" / f"episode{number}.json", record.instructions)
            os.replace(
                _pending(self.folder, record.seed), self.folder / "data" / f"episode{number}.hdf5"
            )
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._write_summaries()
        return record

    def _claim(self, recording: Recording) -> None:
        path = self.folder / "collection.json"
        environment = environment_fingerprint(recording.task, recording.config, recording.backend)
        claim = {
            "format_version": FORMAT_VERSION,
            "environment": environment,
            "config": recording.config,
        }
        if not path.exists():
            if list((self.folder / "data").glob("episode*")) or (self.folder / "seed.txt").exists():
                raise CollectionError(
                    f"{self.folder} holds episodes that were not recorded here (no "
                    f"{path.name}): give another --out"
                )
            _write_json(path, claim)
            return
        found = _read_json(path, path.read_text(encoding="utf-8"))
        # What no episode depends on, as `save_path`, may change from one session to the next.
        if any(found.get(key) != claim[key] for key in ("format_version", "environment")):
            old = found.get("environment", {})
            differing = sorted(
                key
                for key in environment.keys() | old.keys()
                if old.get(key) != environment.get(key)
            )
            raise CollectionError(
                f"{self.folder} holds demonstrations of another environment (different: "
                f"{', '.join(differing) or 'format version'}); give another --out, or delete the "
                "folder to record anew"
            )

    def _read(self) -> Iterator[SeedRecord]:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        for place, line in enumerate(lines):
            if not line.endswith("\n"):
                return  # The torn last line of a killed run: its seed is recorded again.
            record = SeedRecord(**_read_json(self._path, line))
            if record.seed != place:
                raise CollectionError(
                    f"{self._path}: line {place + 1} is of seed {record.seed}, not {place}: the "
                    "log is damaged; delete the folder to record anew"
                )
            yield record

    def _rewrite(self) -> None:
        text = "".join(json.dumps(asdict(record)) + "\n" for record in self.records)
        write_text(self._path, text)
        self._write_summaries()

    def _write_summaries(self) -> None:
        kept = [record for record in self.records if record.episode is not None]
        write_text(self.folder / "seed.txt", "".join(f"{record.seed} " for record in kept))
        _write_json(
            self.folder / "scene_info.json",
            {f"episode_{record.episode}": record.scene_info for record in kept},
        )


@functools.lru_cache(maxsize=1)
def _environment_of(task: str, backend: str) -> Any:
    return make_env(task, backend)


def _pending(folder: Path, seed: int) -> Path:
    return folder / "data" / f"pending_seed{seed}.hdf5"


def _resolve(seed: int, outcome: Outcome) -> SeedRecord:
    if isinstance(outcome, Done):
        return outcome.value
    reason = outcome.error_text if isinstance(outcome, Raised) else outcome.reason
    return SeedRecord(seed, "error", reason, None, 0, 0.0, {}, {})


def _give_up_if_broken(errors: list[SeedRecord]) -> None:
    if len(errors) >= BROKEN_AFTER:
        raise CollectionError(
            f"seeds {errors[0].seed} to {errors[-1].seed} all ended in an error, the last one: "
            f"{errors[-1].reason}; `twinbench doctor` says what is amiss. Nothing of them is "
            "logged: run the same command again to resume"
        )


def _give_up_if_hopeless(records: list[SeedRecord]) -> None:
    last = records[-HOPELESS_AFTER:]
    if len(last) == HOPELESS_AFTER and all(record.verdict != "ok" for record in last):
        raise CollectionError(
            f"the expert failed on {HOPELESS_AFTER} seeds in a row; the last one: "
            f"{last[-1].verdict}: {last[-1].reason}"
        )


def _read_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CollectionError(
            f"{path} is damaged ({error}); delete the folder to record anew"
        ) from error


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
