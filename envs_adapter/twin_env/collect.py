"""Demonstrations: the expert at work on seed after seed, kept in RoboTwin's stable layout."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twin_env.backends import environment_fingerprint, make_env
from twin_env.episodes import write_episode
from twin_env.task_env import UnstableError
from twin_env.workers import Done, Outcome, Raised, WorkerPool

FORMAT_VERSION = 1
SEED_TIMEOUT_S = 600.0
HOPELESS_AFTER = 30
"""Seeds that may fail before the first success."""


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
    progress: Callable[[SeedRecord], None] = lambda record: None,
) -> list[SeedRecord]:
    """Record the first `episodes` seeds, from 0 upwards, on which the expert succeeds.

    Goes on where an earlier call on the folder stopped. Which seeds and which episode numbers
    come out does not depend on the number of workers.

    Raises:
        CollectionError: the folder holds another environment's episodes, or the expert always
            fails.
    """
    log = _Log(recording)
    unresolved: dict[int, SeedRecord] = {}
    next_seed = len(log.records)
    successes = log.successes
    if successes < episodes:
        target = functools.partial(record_seed, recording)
        with WorkerPool(workers, target, job_timeout_s=SEED_TIMEOUT_S) as pool:
            while successes < episodes or pool.busy:
                while pool.idle and successes + pool.busy < episodes:
                    pool.submit(next_seed)
                    next_seed += 1
                seed, outcome = pool.next_outcome()
                unresolved[seed] = _resolve(seed, outcome)
                successes += unresolved[seed].verdict == "ok"
                while len(log.records) in unresolved:
                    progress(log.append(unresolved.pop(len(log.records))))
                _give_up_if_hopeless(log.records)
    return log.records


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
        for leftover in (self.folder / "data").glob("pending*"):
            leftover.unlink()

    @property
    def successes(self) -> int:
        return sum(record.verdict == "ok" for record in self.records)

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
            _write_json(path, claim)
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != claim:
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
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                return  # The torn last line of a killed run: its seed is recorded again.
            record = SeedRecord(**json.loads(line))
            if record.episode is not None:
                path = self.folder / "data" / f"episode{record.episode}.hdf5"
                if not path.exists():
                    raise CollectionError(
                        f"{path} is missing, though {self._path.name} lists it; put it back, or "
                        "delete the folder to record anew"
                    )
            yield record

    def _rewrite(self) -> None:
        text = "".join(json.dumps(asdict(record)) + "\n" for record in self.records)
        _write_text(self._path, text)
        self._write_summaries()

    def _write_summaries(self) -> None:
        kept = [record for record in self.records if record.episode is not None]
        _write_text(self.folder / "seed.txt", "".join(f"{record.seed} " for record in kept))
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


def _give_up_if_hopeless(records: list[SeedRecord]) -> None:
    if len(records) >= HOPELESS_AFTER and all(record.verdict != "ok" for record in records):
        last = records[-1]
        raise CollectionError(
            f"the expert failed on all of the first {len(records)} seeds; the last one: "
            f"{last.verdict}: {last.reason}"
        )


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
