"""How a job of a sweep ended: decided by its results; its report and log say why it failed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twin_eval.sweeps.executor import INTERRUPTED, Ended
from twin_eval.sweeps.jobs import LOGS, Job, JobEnd, RunEnd, State
from twin_eval.sweeps.plan import is_evaluated, is_trained, read_length, read_played
from twin_eval.sweeps.spec import Sweep, SweepRun
from twin_eval.sweeps.trainings import TrainingPlan, checkpoint_folder, lacks

TAIL_BYTES = 1 << 16
ORDERLY = (0, 2, INTERRUPTED)
"""Exit statuses of a command that ended by its own decision: 2 is a call that it refuses."""
HEAD = "== "
"""Begins the line that the executor writes in front of a job's output."""


class Outcomes:
    """What came of the jobs of the sweep in `folder`.

    Args:
        definitions: run to the digest of what it was asked to be.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        trainings: TrainingPlan,
        definitions: Mapping[str, str],
    ) -> None:
        self._sweep, self._folder, self._trainings = sweep, folder, trainings
        self._runs: dict[str, SweepRun] = {run.name: run for run in sweep.runs}
        self._definitions = definitions

    def log_of(self, job: str) -> Path:
        """Where a job's output goes."""
        return self._folder / LOGS / f"{job}.log"

    def trained_meanwhile(self, job: Job) -> list[str]:
        """Runs of a training that goes on which are finished: it has said so."""
        said = read_report(job.report)
        return [run for run in job.runs if _state(said, run) == "done" and self._trained(run)]

    def conclude(self, ended: Ended, *, stopping: bool) -> JobEnd:
        """What a job that ended has done; `stopping`: it had been asked to end."""
        job = ended.job
        runs = self._conclude_runs(ended, stopping=stopping)
        if runs:
            worst = next(
                (run for run in runs.values() if run.state == "failed"),
                next((run for run in runs.values() if run.state != "done"), RunEnd("done")),
            )
        elif ended.status == 0:
            worst = RunEnd("done")
        else:
            worst = RunEnd("interrupted") if stopping else RunEnd("failed", self._reason(ended))
        return JobEnd(
            job=job.name,
            kind=job.kind,
            words=job.command,
            state=worst.state,
            reason=worst.reason,
            seconds=round(ended.seconds, 3),
            when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            host=ended.host,
            units=job.units,
            rate_keys=job.rate_keys,
            runs=runs,
        )

    def _conclude_runs(self, ended: Ended, *, stopping: bool) -> dict[str, RunEnd]:
        """Where the process of trainings broke down, the run that it was at work on has failed,
        and those that it had not come to are interrupted."""
        job, said = ended.job, read_report(ended.job.report)
        runs: dict[str, RunEnd] = {}
        broke_down = job.kind == "train" and ended.status not in ORDERLY and not stopping
        for run in job.runs:
            failed = _state(said, run) == "failed"
            if not failed and self._is_done(ended, run, said):
                runs[run] = RunEnd("done", "", self._definitions.get(run, ""))
                continue
            later = broke_down and any(each.crashed for each in runs.values())
            if not failed and (stopping or (later and run not in said)):
                runs[run] = RunEnd("interrupted")
                continue
            reason = str(said.get(run, {}).get("reason") or "") if failed else ""
            reason = _one_line(reason) or self._lacking(ended, run) or self._reason(ended)
            crashed = broke_down and run not in said
            runs[run] = RunEnd("failed", reason, self._definitions.get(run, ""), crashed)
        return runs

    def _is_done(self, ended: Ended, run: str, said: Mapping[str, Mapping[str, Any]]) -> bool:
        if ended.job.kind == "prepare":
            return ended.status == 0 or _state(said, run) == "done"
        if ended.job.kind == "train":
            return self._trained(run)
        place = self._runs[run]
        played, planned = read_played(self._folder, place), read_length(self._folder, place)
        return is_evaluated(self._sweep, played, planned=planned)

    def _trained(self, run: str) -> bool:
        return is_trained(self._folder, self._runs[run], self._trainings)

    def _lacking(self, ended: Ended, run: str) -> str:
        """What a training that ended well has not left; empty if it did not end well."""
        if ended.job.kind != "train" or ended.status != 0:
            return ""
        checkpoint = checkpoint_folder(self._folder, self._runs[run])
        lacking = lacks(checkpoint, self._trainings.runs[run].total_steps)
        return f"it ended well, but {lacking}: delete {checkpoint} to train anew"

    def _reason(self, ended: Ended) -> str:
        if ended.status == INTERRUPTED:
            return "it was interrupted"
        if ended.status < 0:
            return f"it was ended by signal {-ended.status}"
        said = last_complaint(self.log_of(ended.job.name))
        if ended.status == 0:
            return f"it ended well, but its result is not there{f': {said}' if said else ''}"
        return said or f"exit status {ended.status}"


def read_report(path: Path | None) -> dict[str, dict[str, Any]]:
    """Run to what `train-many` says of it last; torn lines do not count."""
    if path is None or not path.exists():
        return {}
    said: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = dict(json.loads(line))
            said[str(values["name"])] = values
        except (ValueError, TypeError, KeyError):
            continue
    return said


def last_complaint(log: Path) -> str:
    """What a job's output says from the last line on that begins with `error:`, else its last."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    begin = max((n for n, line in enumerate(lines) if line.startswith(HEAD)), default=-1)
    output = [line.strip() for line in lines[begin + 1 :] if line.strip()]
    errors = [n for n, line in enumerate(output) if line.startswith("error:")]
    said = output[errors[-1] :] if errors else output[-1:]
    return _one_line(" ".join(said).removeprefix("error:"))


def _state(said: Mapping[str, Mapping[str, Any]], run: str) -> State | None:
    return said.get(run, {}).get("state")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
