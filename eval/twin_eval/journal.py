"""The run's folder: its definition, its append-only journal of episodes, and its lock."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from twin_env.files import LOCK_NAME, locked, write_text
from twin_eval.records import EpisodeRecord, record_from_dict, record_to_dict

logger = logging.getLogger(__name__)

JOURNAL_NAME = "journal.jsonl"
RUN_NAME = "run.json"


class JournalError(ValueError):
    """The folder holds another run, is in use, or its journal cannot be read."""


class Journal:
    """The episodes of one run in `folder`, one JSON object a line, each flushed to disk.

    Use `open_journal`, which holds the lock.
    """

    def __init__(self, folder: Path, stream: IO[bytes], records: list[EpisodeRecord]) -> None:
        self.folder = folder
        self._stream = stream
        self._records = {record.index: record for record in records}

    @property
    def records(self) -> list[EpisodeRecord]:
        """All episodes so far, in the order of the plan."""
        return [self._records[index] for index in sorted(self._records)]

    def has(self, index: int) -> bool:
        """Whether the episode with this index is finished."""
        return index in self._records

    def append(self, record: EpisodeRecord) -> None:
        """Adds a finished episode; once this returns, a kill cannot lose it.

        Raises:
            JournalError: if this episode is there already.
        """
        if record.index in self._records:
            raise JournalError(f"episode {record.index} is already in {self.folder / JOURNAL_NAME}")
        line = json.dumps(record_to_dict(record), ensure_ascii=False) + "\n"
        self._stream.write(line.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._records[record.index] = record


@contextmanager
def open_journal(
    folder: Path,
    definition: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    set_aside: bool = False,
) -> Iterator[Journal]:
    """The journal in `folder`, locked: a new one, or the one of the same run to be resumed.

    `definition` says which run this is and must equal the folder's; `provenance` (host, versions)
    is written down for the reader and never compared. With `set_aside`, a different run that is
    found in the folder is moved to `<folder>.<n>` first.

    Raises:
        JournalError: if another process works here, if the folder holds a different run, or if the
            journal is damaged anywhere but at its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _claim(folder, definition, provenance, set_aside=set_aside)
        _cut_torn_line(folder / JOURNAL_NAME)
        records = read_journal(folder)
        with (folder / JOURNAL_NAME).open("ab") as stream:
            yield Journal(folder, stream, records)


def _claim(
    folder: Path, definition: Mapping[str, Any], provenance: Mapping[str, Any], *, set_aside: bool
) -> None:
    """Makes the folder this run's, or finds that it is."""
    described, recorded = (folder / RUN_NAME).exists(), bool(read_journal(folder))
    if recorded and not described:
        raise JournalError(
            f"{folder} has a {JOURNAL_NAME} without the {RUN_NAME} that says what it is: "
            "give another --out"
        )
    changes = _differences(_read_definition(folder), definition) if described else []
    if described and not changes:
        return
    if recorded and set_aside:
        aside = _move_aside(folder)
        logger.warning("%s held another run: moved to %s", folder, aside)
    elif recorded:
        raise JournalError(
            f"{folder} holds a different run:\n  "
            + "\n  ".join(changes)
            + "\nKeep both with another --out, or set the old one aside with"
            " --if-changed set-aside."
        )
    run = {"definition": dict(definition), "provenance": dict(provenance)}
    write_text(folder / RUN_NAME, json.dumps(run, indent=2, sort_keys=True) + "\n")


def read_journal(folder: Path) -> list[EpisodeRecord]:
    """The finished episodes in `folder`; a torn last line (a kill mid-write) does not count.

    Raises:
        JournalError: if any other line is damaged or an episode is there twice.
    """
    path = folder / JOURNAL_NAME
    if not path.exists():
        return []
    content = path.read_bytes()
    whole_lines = content[: content.rfind(b"\n") + 1]
    records: dict[int, EpisodeRecord] = {}
    for number, line in enumerate(whole_lines.splitlines(), start=1):
        try:
            record = record_from_dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"{path} line {number} is no episode record ({error}): "
                "restore it from a copy, or give another --out"
            ) from error
        if record.index in records:
            raise JournalError(f"{path} line {number}: episode {record.index} is there twice")
        records[record.index] = record
    return list(records.values())


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        logger.warning("%s ended in a torn line: %d bytes cut off", path, len(content) - whole)
        os.truncate(path, whole)


def _read_definition(folder: Path) -> dict[str, Any]:
    path = folder / RUN_NAME
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["definition"])
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{path} is no run description ({error!r}): give another --out"
        ) from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    new = json.loads(json.dumps(new))
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _move_aside(folder: Path) -> Path:
    """Moves all but the lock to the first free `<folder>.<n>`.

    The definition goes last: a kill midway leaves a folder that still says whose journal it had.
    """
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    aside.mkdir()
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == RUN_NAME):
        if entry.name != LOCK_NAME:
            entry.rename(aside / entry.name)
    return aside
