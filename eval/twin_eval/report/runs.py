"""What a report is made from: run folders, the episodes in them that count, and early stops."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twin_eval.journal import (
    DECISIONS_NAME,
    find_runs,
    read_decisions,
    read_definition,
    read_journal,
    read_planned,
    read_sessions,
)
from twin_eval.policies import RANDOM_WEIGHTS
from twin_eval.records import EpisodeRecord
from twin_eval.report.tables import Cell, cell_of


@dataclass(frozen=True)
class Run:
    """A run folder: one policy on one task."""

    folder: Path
    definition: Mapping[str, Any]
    """What makes this run this run."""
    planned: int
    """Episodes of its plan."""
    records: tuple[EpisodeRecord, ...]
    """Finished episodes of the plan."""
    sessions: tuple[Mapping[str, Any], ...]
    """Processes that worked on it, oldest first."""

    @property
    def cell(self) -> Cell:
        """Task, config and policy. Only a run with an episode has one."""
        return cell_of(self.records[0])

    @property
    def weights(self) -> str:
        """Where the weights of its pretrained network came from; empty if nothing says so."""
        told = [str(session["weights"]) for session in self.sessions if session.get("weights")]
        return told[-1] if told else ""


@dataclass(frozen=True)
class Stop:
    """Where a comparison of two policies on one task was watched, and perhaps stopped."""

    source: Path
    """The file that says so."""
    task: str
    config: str
    a: str
    b: str
    alpha: float
    stopped_at: int | None
    """Episodes with an index below this count; None: it was not decided."""
    winner: str
    """"a", "b", or empty."""
    e_value: float


@dataclass(frozen=True)
class Evidence:
    """All that a report says something about, in an order that does not depend on the input's."""

    runs: tuple[tuple[str, Run], ...]
    """Each run with the label that its policy goes by in this report."""
    records: tuple[EpisodeRecord, ...]
    """Episodes that count, under those labels."""
    stops: tuple[Stop, ...]
    """Watched comparisons whose two runs are both here, under those labels."""
    environments: Mapping[Cell, Mapping[str, Any]]
    """Fingerprint of what each cell was played in."""
    notes: tuple[str, ...]
    """What a reader must know beside the numbers."""
    weights: Mapping[Cell, str] = field(default_factory=dict)
    """Where the weights of each cell's pretrained network came from, where that is told."""


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs at or below `folders`, each once, sorted.

    Raises:
        JournalError: if one of `folders` holds none, or a run cannot be read.
    """
    found = {folder.resolve(): folder for folder in find_runs(folders)}
    return [_load_run(found[place]) for place in sorted(found)]


def _load_run(folder: Path) -> Run:
    definition = read_definition(folder)
    records = sorted(read_journal(folder), key=lambda record: record.index)
    planned = read_planned(folder)
    return Run(
        folder=folder,
        definition=definition,
        planned=planned,
        records=tuple(record for record in records if record.index < planned),
        sessions=tuple(read_sessions(folder)),
    )


def gather(runs: Sequence[Run]) -> Evidence:
    """The episodes that count, under labels that tell all runs apart.

    Raises:
        ValueError: if no episode is finished.
    """
    runs = sorted(runs, key=lambda run: str(run.folder))
    notes = [f"{run.folder} has no finished episode yet." for run in runs if not run.records]
    runs = [run for run in runs if run.records]
    if not runs:
        raise ValueError("there is nothing to report: not one episode is finished in these runs")
    records: list[EpisodeRecord] = []
    watched: dict[Stop, dict[str, str]] = {}
    labels = [
        label_weights(label, run.weights) for label, run in zip(_labels(runs), runs, strict=True)
    ]
    for run, label in zip(runs, labels, strict=True):
        for stop in _find_stops(run):
            watched.setdefault(stop, {})[run.cell[2]] = label
        kept = [replace(record, policy=label) for record in run.records]
        if len(kept) < run.planned:
            task = run.cell[0]
            notes.append(f"{label} on {task}: {len(kept)} of {run.planned} episodes are finished.")
        records += kept
    if _labels(runs) != [run.cell[2] for run in runs]:
        notes.append("Runs of one name are told apart by their folders, in brackets.")
    notes += weights_notes(
        label for run, label in zip(runs, labels, strict=True) if run.weights == RANDOM_WEIGHTS
    )
    return Evidence(
        runs=tuple(zip(labels, runs, strict=True)),
        records=tuple(sorted(records, key=lambda r: (*cell_of(r), r.index))),
        stops=tuple(
            replace(stop, a=names[stop.a], b=names[stop.b])
            for stop, names in watched.items()
            if len(names) == 2
        ),
        environments={
            (*run.cell[:2], label): run.definition.get("environment", {})
            for run, label in zip(runs, labels, strict=True)
        },
        notes=tuple(notes),
        weights={
            (*run.cell[:2], label): run.weights
            for run, label in zip(runs, labels, strict=True)
            if run.weights
        },
    )


def label_weights(label: str, weights: str) -> str:
    """The label, which says so where the weights of a pretrained network are random ones."""
    return f"{label} ({weights})" if weights == RANDOM_WEIGHTS else label


def weights_notes(labels: Iterable[str]) -> list[str]:
    """What to know of policies whose pretrained network was never trained; none without any."""
    names = ", ".join(dict.fromkeys(labels))
    note = (
        f"{names}: the weights of the pretrained network are random ones, as its checkpoint says. "
        "The rates tell nothing about that network with its real weights."
    )
    return [note] if names else []


def _labels(runs: Sequence[Run]) -> list[str]:
    """A label for each run: its own, with its place behind it where two would be one cell."""
    cells = [run.cell for run in runs]
    doubled = {policy for (_, _, policy), count in Counter(cells).items() if count > 1}
    if not doubled:
        return [policy for *_, policy in cells]
    folders = [run.folder.resolve() for run in runs]
    top = Path(os.path.commonpath(folders))
    below = [folder.relative_to(top) for folder in folders]
    labels = []
    for (task, config, policy), folder in zip(cells, below, strict=True):
        usual = {task, f"{task}-{config}", policy}
        tag = "/".join(part for part in folder.parts if part not in usual)
        labels.append(f"{policy} [{tag}]" if policy in doubled and tag else policy)
    named = Counter((*cell[:2], label) for cell, label in zip(cells, labels, strict=True))
    return [
        label if named[(*cell[:2], label)] == 1 else f"{cell[2]} [{folder}]"
        for cell, label, folder in zip(cells, labels, below, strict=True)
    ]


def _find_stops(run: Run) -> list[Stop]:
    """What was watched of this run, from the folder of its evaluation: it or at most two above."""
    task, config, policy = run.cell
    folder = run.folder.resolve()
    return [
        Stop(
            source=place / DECISIONS_NAME,
            task=task,
            config=config,
            a=entry["policies"][0],
            b=entry["policies"][1],
            alpha=float(entry["alpha"]),
            stopped_at=decision["stopped_at"],
            winner=decision["winner"],
            e_value=float(decision["e_value"]),
        )
        for place in (folder, *folder.parents[:2])
        for entry in read_decisions(place)
        if policy in entry["policies"] and config == entry["config"]
        if (decision := entry["tasks"].get(task))
    ]
