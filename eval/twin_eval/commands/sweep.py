"""Trains and evaluates every variant of a grid, and makes one table of them.

What is done is kept: interrupted or killed, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from twin_eval.option_types import positive
from twin_eval.provenance import usable_cores

if TYPE_CHECKING:
    from twin_eval.sweeps.ablation import AblationFiles
    from twin_eval.sweeps.spec import Sweep

OUT = Path("outputs/sweeps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `twinbench sweep`."""
    parser.add_argument("sweep", metavar="FILE", help="YAML, or a name in task_configs/sweeps")
    parser.add_argument(
        "--plan", action="store_true", help="say what is to be done and what it costs; do nothing"
    )
    parser.add_argument(
        "--table", action="store_true", help="only make the table, of what is there by now"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="jobs at a time (default: one for each of --devices, else 1)",
    )
    parser.add_argument(
        "--devices", nargs="+", default=[], metavar="cuda:N", help="GPUs that jobs are dealt out to"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        help="simulator processes of one job (default: its share of the cores)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the sweep (default: outputs/sweeps/NAME)"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="VARIANT", help="only these, as the table has them"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="try again what failed before, and episodes that ended in an error",
    )
    parser.add_argument(
        "--no-collect",
        dest="collect",
        action="store_false",
        help="refuse to start where demonstrations are missing",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the sweep; returns 1 if a run failed."""
    from twin_env.files import write_text
    from twin_eval.sweeps import session
    from twin_eval.sweeps.plan import Means
    from twin_eval.sweeps.spec import find_sweep, load_sweep

    if args.plan and args.table:
        raise ValueError("give either --plan or --table")
    text = find_sweep(args.sweep).read_text(encoding="utf-8")
    sweep = load_sweep(args.sweep)
    folder: Path = args.out or OUT / sweep.name
    if args.table:
        return write_table(sweep, folder)
    session.check_names(sweep)
    runs = session.choose_runs(sweep, args.only)
    slots = args.jobs or max(1, len(args.devices))
    threads = max(1, usable_cores() // slots)
    means = Means(
        slots=slots,
        threads=threads,
        workers=args.workers or threads,
        collect=args.collect,
        retry_errors=args.retry_failed,
    )
    print(f"looking at {len(sweep.runs)} trainings ...", file=sys.stderr, flush=True)
    if args.plan:
        print(session.show_plan(sweep, folder, runs, means, retry_failed=args.retry_failed))
        return 0
    with session.held(folder) as hold:
        failed = session.run_session(
            sweep,
            folder,
            runs,
            means,
            hold=hold,
            devices=args.devices,
            retry_failed=args.retry_failed,
            accepted=lambda: write_text(folder / "sweep.yaml", text),
            write_table=lambda: draw(sweep, folder, drawn=False),
            say=lambda text: print(text, flush=True),
        )
        status = write_table(sweep, folder)
    if failed:
        print(f"\n{session.failures_text(failed, len(runs), folder)}")
        print("\nMend that and run the same command with --retry-failed; what is done is kept.")
        return 1
    return status


def write_table(sweep: Sweep, folder: Path) -> int:
    """Makes the table with all its files; returns 1 if there is nothing to make it of."""
    if not any(folder.glob("runs/**/eval/run.json")):
        print(f"no table: no evaluation has begun in {folder}")
        return 1
    files = draw(sweep, folder, drawn=True)
    print(f"\nresults: {folder}/ ({files})")
    for note in files.notes:
        print(f"note: {note}")
    return 0


def draw(sweep: Sweep, folder: Path, *, drawn: bool) -> AblationFiles:
    """Writes the table; figures and page too, if `drawn`."""
    from twin_eval.sweeps.ablation import write_ablation

    return write_ablation(sweep, folder, drawn=drawn)
