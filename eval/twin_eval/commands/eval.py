"""Evaluates policies closed-loop on seeds that they never saw: tables, figures, videos, a report.

A run that is interrupted or killed goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from twin_env.workers import fair_share_mb
from twin_eval.cells import Cell, Limits, Work, check_policies_load
from twin_eval.commands.eval_arguments import EPISODES, add_arguments
from twin_eval.environments import EnvironmentSpec, make_environment, settle_backend
from twin_eval.evaluation import Settings, make_cell, open_works, training_of, weights_of
from twin_eval.journal import JournalError, find_runs
from twin_eval.live import CellProgress, EpisodeDisplay
from twin_eval.records import EpisodeRecord
from twin_eval.report import (
    Comparison,
    clamped_note,
    load_runs,
    robustness_text,
    summary_text,
    write_report,
)
from twin_eval.report.runs import label_weights
from twin_eval.rollout_folder import settle
from twin_eval.rollouts import RolloutMode
from twin_eval.runner import run_works
from twin_eval.seed_plan import PlanEntry, complete_plan
from twin_eval.stopping import EarlyStop
from twin_eval.suites import PolicyChoice, Suite, check_labels, load_suite, parse_policy

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)

OUT = Path("outputs/eval")


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns 1 if not one episode could be scored, or if a policy leaks state."""
    suite, choices = read_request(args)
    settings = Settings(
        episodes=args.episodes or suite.episodes or EPISODES,
        seed=args.seed if args.seed is not None else suite.seed or 0,
        noise_seed=args.noise_seed,
        instruction_type=args.instruction_type,
        settings=parse_settings(args.settings),
        videos=args.videos,
        video_cameras=args.video_cameras,
        rollouts=args.rollouts,
        set_aside=args.if_changed == "set-aside",
    )
    settle_backend(args)
    root, folders = place(args, suite, choices)
    environments = make_environments(args, suite, root / "logs")
    cells = [
        make_cell(environment, choice, folders(environment, choice), settings)
        for environment in environments
        for choice in choices
    ]
    for cell in cells:
        announce(cell)
    plans = Plans(args, settings, cells)
    with open_works(cells, plans.entries, settings) as works:
        play_all(args, works, settings, root, plans.check_policies)
        status = report(works, root, drawn=args.drawn)
        if args.leak_check:
            status = max(status, look_for_leaks(works, args.leak_check, limits_of(args)))
    return status


def read_request(args: argparse.Namespace) -> tuple[Suite, tuple[PolicyChoice, ...]]:
    """The tasks and policies that the command line asks for.

    Raises:
        ValueError: if it names none, or two ways at once.
    """
    suite = read_suite(args)
    if args.policy and args.policies:
        raise ValueError("give either POLICY or --policies")
    words = [args.policy] if args.policy else args.policies
    choices = tuple(parse_policy(word) for word in words) or suite.policies
    if not choices:
        raise ValueError(f"say which policies: --policies A B ... ({suite.name} names none)")
    if args.checkpoint:
        if len(choices) > 1:
            raise ValueError("--checkpoint is of one policy; of several, write POLICY@CHECKPOINT")
        choices = (replace(choices[0], checkpoint=args.checkpoint),)
    check_labels(choices)
    return suite, choices


def read_suite(args: argparse.Namespace) -> Suite:
    """The tasks and configs that the command line asks for; one task is a suite too."""
    if args.suite and args.task:
        raise ValueError(f"give either TASK or --suite: got {args.task!r} and {args.suite!r}")
    if not (args.suite or args.task):
        raise ValueError("say what to evaluate on: TASK POLICY, TASK --policies ..., --suite FILE")
    suite = load_suite(args.suite) if args.suite else Suite(name=args.task, tasks=(args.task,))
    if args.tasks:
        strangers = [task for task in args.tasks if task not in suite.tasks]
        if strangers:
            raise ValueError(f"{suite.name} has the tasks {list(suite.tasks)}: got {strangers}")
        suite = replace(suite, tasks=tuple(args.tasks))
    return replace(suite, configs=(args.config,)) if args.config else suite


def make_environments(args: argparse.Namespace, suite: Suite, logs: Path) -> list[EnvironmentSpec]:
    """Every task in every config; all are looked up before anything runs."""
    environments = [
        make_environment(args, task, config, logs)
        for config in suite.configs
        for task in suite.tasks
    ]
    strangers: dict[str, ValueError] = {}
    for environment in environments:
        try:
            environment.fingerprint()
        except ValueError as error:
            strangers[environment.task] = error
    if len(suite.tasks) == 1 and strangers:
        raise next(iter(strangers.values()))
    if strangers:
        here = [task for task in suite.tasks if task not in strangers]
        raise ValueError(
            f"{suite.name} has tasks that the {args.backend} backend has not: "
            f"{', '.join(strangers)}; those that it has: --tasks {' '.join(here)}"
        )
    return environments


def place(
    args: argparse.Namespace, suite: Suite, choices: Sequence[PolicyChoice]
) -> tuple[Path, Any]:
    """The folder of the report, and where a cell lies in or below it."""
    if not args.suite and args.policy:
        root = args.out or OUT / args.task / choices[0].label
        return root, lambda environment, choice: root
    root = args.out or OUT / suite.name

    def folder(environment: EnvironmentSpec, choice: PolicyChoice) -> Path:
        if not args.suite:
            return Path(root / choice.label)
        task = environment.task
        several = len(suite.configs) > 1
        return Path(
            root / (f"{task}-{environment.config_name}" if several else task) / choice.label
        )

    return root, folder


def announce(cell: Cell) -> None:
    """Says which checkpoint is evaluated."""
    checkpoint = cell.policy.usr_args["checkpoint_path"]
    if checkpoint:
        said = "".join(f" ({word})" for word in (training_of(cell), weights_of(cell)) if word)
        print(f"checkpoint of {cell.policy.name}: {checkpoint}{said}", flush=True)


class Plans:
    """The seed plans of the environments; what is missing is verified when it is asked for."""

    def __init__(self, args: argparse.Namespace, settings: Settings, cells: Sequence[Cell]) -> None:
        self._args, self._settings = args, settings
        self._policies = [cell.policy for cell in cells]
        self._checked = False
        self._entries: dict[tuple[str, str], list[PlanEntry]] = {}

    def entries(self, environment: EnvironmentSpec) -> list[PlanEntry]:
        """Usable scenes of an environment, enough of them."""
        key = (environment.task, environment.config_name)
        if key not in self._entries:
            plan = complete_plan(
                environment,
                self._settings.seed,
                self._settings.episodes,
                workers=self._args.workers,
                gpus=self._args.gpus,
                refresh=self._args.refresh_plan,
                if_stale=self._args.if_plan_stale,
                before_verifying=self.check_policies,
                quiet=self._args.quiet,
            )
            self._entries[key] = plan.usable()
        return self._entries[key]

    def check_policies(self) -> None:
        """Loads each policy once, so that one that cannot be is found before hours are spent."""
        if not self._checked:
            check_policies_load(self._policies, workers=self._args.workers, gpus=self._args.gpus)
        self._checked = True


def play_all(
    args: argparse.Namespace,
    works: Sequence[Work],
    settings: Settings,
    root: Path,
    check_policies: Callable[[], None],
) -> None:
    """Plays what the journals lack."""
    if len(works) > 1 and any(len(work.journal.records) < len(work.requests) for work in works):
        check_policies()
    stop = EarlyStop(works, args.stop_when_decided) if args.stop_when_decided else None
    display = EpisodeDisplay(
        [
            CellProgress(
                label=label_of(work),
                done=[r for r in work.journal.records if r.index < settings.episodes],
                planned=settings.episodes,
            )
            for work in works
        ],
        quiet=args.quiet,
    )

    def hear(work: Work, record: EpisodeRecord) -> None:
        display.show(label_of(work), record)
        if stop:
            stop.hear(record)

    extra: dict[str, Any] = {"wanted": stop.wanted, "order": stop.order} if stop else {}
    try:
        with display:
            run_works(
                works,
                workers=args.workers,
                gpus=args.gpus,
                inference=choose_inference(args),
                limits=limits_of(args),
                retry_errors=args.retry_errors,
                progress=hear,
                **extra,
            )
    finally:
        settle_rollouts(works)
    if stop:
        stop.save(root)
        print(f"\n{stop.describe()}")


def settle_rollouts(works: Sequence[Work]) -> None:
    """Brings what was recorded in order, and says what there is."""
    for work in works:
        if work.cell.rollouts != RolloutMode.none():
            settled = settle(work.cell.folder, work.journal.records, work.cell.rollouts)
            print(f"rollouts of {label_of(work)}: {settled}")


def look_for_leaks(works: Sequence[Work], n: int, limits: Limits) -> int:
    """Repeats `n` episodes of each cell in fresh processes; 1 if one did not come out the same."""
    from twin_eval.leak_check import check_leaks

    print(f"\nleak check: {n} episodes of each policy, alone and after another, in fresh processes")
    findings = check_leaks(works, n=n, limits=limits, say=lambda line: print(line, flush=True))
    if not findings:
        print("leak check: no episode with a predecessor has finished")
    return 0 if all(finding.clean for finding in findings) else 1


def label_of(work: Work) -> str:
    """Task, config and policy of a cell."""
    environment = work.cell.environment
    return f"{environment.task} {environment.config_name} {work.cell.policy.name}"


def choose_inference(args: argparse.Namespace) -> Any:
    """Where policies compute. One worker needs no second process."""
    if args.inference != "auto":
        return args.inference
    shared = args.workers > 1 and Path("/dev/nvidia0").exists()
    return "shared_if_possible" if shared else "worker"


def limits_of(args: argparse.Namespace) -> Limits:
    """When something counts as hung or too large, as the options say."""
    return Limits(
        episode_s=args.episode_timeout,
        step_s=args.step_timeout,
        worker_mb=args.worker_memory or fair_share_mb(args.workers),
    )


def report(works: Sequence[Work], root: Path, *, drawn: bool) -> int:
    """Writes tables, figures and page, and prints the summary; 1 if nothing could be scored."""
    files = write_report(folders_of_report(works, root), root, drawn=drawn)
    print()
    print(summary_text(files.rows))
    ours = {
        (work.cell.environment.task, label_weights(work.cell.policy.name, weights_of(work.cell)))
        for work in works
    }
    for one in files.comparisons:
        if (one.task, one.a) in ours or (one.task, one.b) in ours:
            print(f"  {describe_comparison(one)}")
    if files.changes:
        print(f"\n{robustness_text(files.changes)}")
    if clamped := clamped_note(files.rows):
        print(f"  {clamped}")
    records = [record for work in works for record in work.journal.records]
    errors = [record for record in records if record.outcome == "error"]
    for reason, count in Counter(record.reason for record in errors).most_common(5):
        print(f"  {count} x error: {reason}")
    if errors:
        print("  (--retry-errors plays episodes that ended in an error again)")
    print(f"\nresults: {root}/ ({files})")
    return 0 if len(errors) < len(records) else 1


def folders_of_report(works: Sequence[Work], root: Path) -> list[Path]:
    """The folders of these cells, and what earlier commands left beside them in `root`."""
    ours = [work.cell.folder for work in works]
    others = [folder for folder in find_runs([root]) if folder not in ours]
    readable = []
    for folder in others:
        try:
            load_runs([folder])
        except JournalError as error:
            logger.warning("left out of the report: %s", error)
        else:
            readable.append(folder)
    return ours + readable


def describe_comparison(one: Comparison) -> str:
    """A line: the difference, its interval, and what can be said."""
    if one.difference is None:
        return f"{one.task}: {one.a}, {one.b}: {one.verdict}"
    points = [f"{100 * value:+.1f}" for value in (one.difference, one.low, one.high)]
    return (
        f"{one.task}: {one.a} minus {one.b}: {points[0]} points [{points[1]}, {points[2]}] on "
        f"{one.n} scenes: {one.verdict}"
    )


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as a mapping; values are read as YAML.

    Raises:
        ValueError: if a word has no `=` or its value is no YAML.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set wants KEY=VALUE: got {pair!r}")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {pair}: the value is no YAML ({error})") from error
    return settings
