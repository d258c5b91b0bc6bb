"""Watch a robot learn: record demonstrations, train a small policy, evaluate it beside references.

Run again, it reuses what is finished and resumes what was interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twin_env.files import write_text
from twin_eval.provenance import usable_cores

POLICIES = ("dp_resnet", "expert_replay", "hold_still")
TRAINED = "dp_resnet"
ENV_CONFIG = "demo_clean"
REFERENCES = "the scripted expert's own actions, and an arm that never moves"


class DemoError(ValueError):
    """A part of the demo failed; it has said why itself."""


@dataclass(frozen=True)
class Part:
    """One sub-command of the demo."""

    name: str
    """Key of `timings.json`."""
    title: str
    words: tuple[str, ...]
    """Arguments of `twinbench`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `twinbench demo`."""
    parser.add_argument("--task", default="beat_block_hammer", help="default: %(default)s")
    parser.add_argument("--config", default=ENV_CONFIG, help="default: %(default)s")
    parser.add_argument(
        "--demonstrations", type=int, default=100, help="to train on (default: %(default)s)"
    )
    parser.add_argument(
        "--episodes", type=int, default=40, help="to evaluate on (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--videos", type=int, default=3, help="a policy (default: %(default)s)")
    parser.add_argument(
        "--policy-config", default="dp_resnet_demo", help="what to train (default: %(default)s)"
    )
    parser.add_argument(
        "--train-options", default="", metavar="WORDS", help="more words for `twinbench train`"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="%(default)s")


def run(args: argparse.Namespace) -> int:
    """Runs the parts, then prints one table and where the time went."""
    timings_path: Path = args.out / "timings.json"
    timings = read_timings(timings_path)
    parts = plan_parts(args)
    for number, part in enumerate(parts, start=1):
        banner(f"{number}/{len(parts)}  {part.title}")
        started = time.perf_counter()
        try:
            run_part(part)
        finally:
            spent = time.perf_counter() - started
            timings[part.name] = round(timings.get(part.name, 0.0) + spent, 1)
            write_text(timings_path, json.dumps(timings, indent=2) + "\n")
    finish(args, timings)
    return 0


def plan_parts(args: argparse.Namespace) -> list[Part]:
    """The sub-commands, in order."""
    workers = ("--workers", str(args.workers))
    collect = ("collect", args.task, "--config", args.config, *workers)
    demonstrations = ("--episodes", str(args.demonstrations))
    checkpoint = checkpoint_of(args)
    train: tuple[str, ...] = ("train", args.task, args.policy_config, "--config", args.config)
    if args.config != ENV_CONFIG:
        train = (*train, "--out", str(checkpoint))
    train = (*train, *demonstrations, *shlex.split(args.train_options))
    parts = [
        Part(
            "collect",
            f"record {args.demonstrations} demonstrations of {args.task} by the scripted expert",
            (*collect, *demonstrations),
        ),
        Part("train", f"train {args.policy_config} on them", train),
    ]
    for policy in POLICIES:
        words = [
            *("eval", args.task, policy, "--config", args.config, *workers),
            *("--episodes", str(args.episodes), "--videos", str(args.videos)),
            *("--out", str(folder_of(args, policy)), "--if-plan-stale", "refresh"),
            *("--if-changed", "set-aside", "--no-report"),
        ]
        if policy == TRAINED:
            words += ["--checkpoint", str(checkpoint)]
        title = f"evaluate {policy} on {args.episodes} seeds that it never saw"
        parts.append(Part(f"eval {policy}", title, tuple(words)))
    return parts


def checkpoint_of(args: argparse.Namespace) -> Path:
    """Where the demo trains: `twinbench train`'s own folder, or one beside it for other scenes."""
    config = Path(args.config).stem
    scenes = args.task if config == ENV_CONFIG else f"{args.task}-{config}"
    return Path("outputs/checkpoints") / scenes / Path(args.policy_config).stem


def folder_of(args: argparse.Namespace, policy: str) -> Path:
    """Where the demo evaluates a policy."""
    return Path(args.out) / "eval" / policy


def run_part(part: Part) -> None:
    """Runs `twinbench` with the part's words.

    Raises:
        DemoError: if it fails.
        KeyboardInterrupt: if it was interrupted.
    """
    print(f"$ twinbench {shlex.join(part.words)}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "twin_eval.cli", *part.words]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C reached it too; it tidies up and ends by itself.
            raise
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise DemoError(
            f"the part `twinbench {shlex.join(part.words)}` failed (exit status {status}); its "
            "message is above. Mend that and run the demo again: finished parts are kept."
        )


def finish(args: argparse.Namespace, timings: Mapping[str, float]) -> None:
    """Writes and prints the results."""
    from twin_eval.report import summary_text, write_report

    files = write_report([folder_of(args, policy) for policy in POLICIES], args.out)
    table, split = summary_text(files.rows), timing_table(timings)
    write_text(args.out / "table.md", f"{table}\n\n{split}\n")
    banner(f"{args.task}: the learned policy beside {REFERENCES}")
    print(table)
    print(f"\n{split}\n")
    print(f"results: {args.out}/ ({files}, table.md, timings.json, eval/*/videos/)")


def timing_table(timings: Mapping[str, float]) -> str:
    """Where the wall time went, as a Markdown table."""
    total = sum(timings.values())
    lines = [*timings.items(), ("all", total)]
    body = [f"| {name:<18} | {seconds / 60:7.1f} |" for name, seconds in lines]
    return "\n".join(
        ["| part               | minutes |", "| ------------------ | ------: |", *body]
    )


def read_timings(path: Path) -> dict[str, float]:
    """Seconds spent on each part so far, over all runs of the demo in this folder."""
    if not path.exists():
        return {}
    try:
        return {str(name): float(spent) for name, spent in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise DemoError(f"{path} is damaged ({error}): delete it and run again") from error


def banner(text: str) -> None:
    """A heading on the terminal."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)
