"""Train the runs of a file, such as those of a sweep, in one process that shares what it can."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin_train.many import Outcome, Session
    from twin_train.runs_file import PlannedRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a JSON of runs, as `twinbench sweep` writes it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these runs; default: all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--prepare", action="store_true", help="convert data and extract features, train nothing"
    )
    what.add_argument("--plan", action="store_true", help="print what would be done, as JSON")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:N"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    parser.add_argument("--report", type=Path, help="a file that gets a line of JSON for each run")


def run(args: argparse.Namespace) -> int:
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be at least 1, and is {args.threads}")

    import torch

    from twin_policy.deploy import choose_device
    from twin_train.commands.train import count_cpus, keep_freed_memory
    from twin_train.many import Session, failure
    from twin_train.many_plan import describe_plan
    from twin_train.runs_file import camera_sets, choose, plan_runs, read_runs
    from twin_train.sharing import Shared

    specs = read_runs(args.file)
    chosen = choose(specs, args.only)
    # All of them, so that each part of a sweep finds the stores of the other parts.
    planned, faults = plan_runs(specs)
    shared = Shared(camera_sets(list(planned.values())))
    names = [spec.name for spec in chosen]
    mine = {name: planned[name] for name in names if name in planned}
    threads = args.threads or count_cpus()
    torch.set_num_threads(threads)
    if args.plan:
        print(json.dumps(describe_plan(chosen, mine, faults, shared), indent=1))
        return 0
    keep_freed_memory()
    # Activations that die out become denormal numbers, which a CPU multiplies slowly.
    torch.set_flush_denormal(True)
    reporter = _Reporter(args.report, names)
    session = Session(
        shared=shared,
        device=choose_device(args.device),
        threads=threads,
        tell=reporter.tell,
        say=lambda line: print(line, flush=True),
    )
    for name in names:
        if name in faults:
            reporter.tell(failure(name, faults[name]))
    try:
        (_prepare if args.prepare else _train)(list(mine.values()), session)
    except KeyboardInterrupt:
        reporter.interrupted()
        raise
    return reporter.status()


class _Reporter:
    """Prints what comes of each run, and appends it to the report."""

    def __init__(self, path: Path | None, names: list[str]) -> None:
        self._path = path
        self._waiting = list(names)
        self._failed: list[str] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def tell(self, outcome: Outcome) -> None:
        self._waiting.remove(outcome.name)
        if outcome.state == "failed":
            self._failed.append(outcome.name)
        trained = f", {outcome.steps} steps in {outcome.seconds:.0f} s" if outcome.steps else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        print(f"{outcome.name}: {outcome.state}{trained}{reason}", flush=True)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(outcome.line() + "\n")

    def interrupted(self) -> None:
        """Says so of all that nothing was told of."""
        from twin_train.many import Outcome

        for name in list(self._waiting):
            self.tell(Outcome(name, "interrupted"))

    def status(self) -> int:
        if self._failed:
            print(f"{len(self._failed)} failed: {', '.join(self._failed)}")
        return 1 if self._failed else 0


def _prepare(runs: list[PlannedRun], session: Session) -> None:
    import time

    from twin_train.many import Outcome, failure, prepare

    began = time.perf_counter()
    with _terminated_as_interrupted():
        faults = prepare(runs, session)
    seconds = round((time.perf_counter() - began) / max(1, len(runs)), 2)
    for each in runs:
        name = each.spec.name
        fault = faults.get(name)
        session.tell(failure(name, fault) if fault else Outcome(name, "done", seconds=seconds))


def _train(runs: list[PlannedRun], session: Session) -> None:
    from twin_train.commands.train import asked_to_stop
    from twin_train.many import failure, finished, prepare, train_each

    waiting = []
    with _terminated_as_interrupted():
        for each in runs:
            try:
                if (outcome := finished(each, session)) is None:
                    waiting.append(each)
                else:
                    session.tell(outcome)
            except Exception as error:  # noqa: BLE001 one run's fault is no other's
                session.tell(failure(each.spec.name, error))
        faults = prepare(waiting, session)
    for name, fault in faults.items():
        session.tell(failure(name, fault))
    with asked_to_stop() as stop:
        ready = [each for each in waiting if each.spec.name not in faults]
        train_each(ready, session, stop=lambda: bool(stop))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C, which leaves whole files and ends at once."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
