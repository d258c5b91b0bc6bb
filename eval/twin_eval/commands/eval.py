"""Evaluates a policy closed-loop on seeds that it never saw: CSV, figure and videos.

A run that is interrupted or killed goes on where it stopped when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from twin_env import load_env_config
from twin_env.files import write_text
from twin_eval.environments import EnvironmentSpec
from twin_eval.journal import Journal, open_journal
from twin_eval.policies import (
    digest_checkpoint,
    digest_policy,
    find_checkpoint,
    find_policy,
    read_training_progress,
    read_usr_args,
)
from twin_eval.provenance import describe_host, usable_cores
from twin_eval.records import EpisodeRecord
from twin_eval.report import episodes_csv, summarise, summary_csv, summary_text
from twin_eval.runner import PolicySpec, RunSpec, check_policy_loads, plan_requests, run_requests
from twin_eval.seed_plan import SeedPlan, extend_plan, open_plan, plan_path, save_plan
from twin_eval.statistics import wilson_interval

ARM_DIM = 6
PLANS = Path("outputs/plans")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `twinbench eval`."""
    parser.add_argument("task", help="task to evaluate on, e.g. beat_block_hammer")
    parser.add_argument("policy", help="name of a folder in policy/, or a path to one")
    parser.add_argument(
        "--episodes", type=positive, default=100, help="number of episodes (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=positive, default=usable_cores(), help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: outputs/eval/TASK/POLICY)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="folder of the checkpoint (default: outputs/checkpoints/TASK/POLICY, "
        "or the only one whose name starts with it)",
    )
    parser.add_argument(
        "--config", default="demo_clean", help="environment config (default: %(default)s)"
    )
    parser.add_argument("--backend", default="embedded", help="simulator (default: %(default)s)")
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="scenes start at seed 100000 * (1 + SEED) (default: %(default)s)",
    )
    parser.add_argument(
        "--videos",
        type=natural,
        default=3,
        help="film the first VIDEOS episodes (default: %(default)s)",
    )
    parser.add_argument(
        "--instruction-type",
        choices=("seen", "unseen"),
        default="unseen",
        help="list that instructions are drawn from (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting of the policy's deploy_policy.yml (may be repeated)",
    )
    parser.add_argument(
        "--refresh-plan",
        action="store_true",
        help="verify all seeds anew, whatever their plan says",
    )
    parser.add_argument(
        "--if-plan-stale",
        choices=("refuse", "refresh"),
        default="refuse",
        help="what to do with a damaged plan or one of another environment (default: %(default)s)",
    )
    parser.add_argument(
        "--if-changed",
        choices=("refuse", "set-aside"),
        default="refuse",
        help="what to do with results of a different run in the same folder (default: %(default)s)",
    )
    parser.add_argument("--provider", default="twin_env", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns 1 if not one episode could be scored."""
    environment = EnvironmentSpec(
        task=args.task,
        config_name=Path(args.config).stem,
        config=load_env_config(args.config),
        backend=args.backend,
        provider=args.provider,
    )
    fingerprint = environment.fingerprint()
    policy = policy_spec(args)
    checkpoint: str | None = policy.usr_args["checkpoint_path"]
    out: Path = args.out or Path("outputs/eval") / args.task / policy.name
    definition = {
        "environment": fingerprint,
        "config": environment.config_name,
        "policy": policy.name,
        "policy_sources": digest_policy(policy.folder),
        "usr_args": {k: v for k, v in policy.usr_args.items() if k != "checkpoint_path"},
        "checkpoint": digest_checkpoint(Path(checkpoint)) if checkpoint else "none",
    }
    training = read_training_progress(Path(checkpoint)) if checkpoint else ""
    if checkpoint:
        print(f"checkpoint: {checkpoint}" + (f" ({training})" if training else ""), flush=True)
    provenance = {**describe_host(), "checkpoint_path": checkpoint, "training": training}
    with open_journal(
        out, definition, provenance, set_aside=args.if_changed == "set-aside"
    ) as journal:
        plan = complete_plan(args, environment, policy)
        requests = plan_requests(
            plan.usable()[: args.episodes],
            instruction_type=args.instruction_type,
            videos=args.videos,
        )
        spec = RunSpec(environment=environment, policy=policy, folder=out)
        with EpisodeBar(journal, len(requests)) as bar:
            run_requests(spec, requests, journal, workers=args.workers, progress=bar.show)
        records = [record for record in journal.records if record.index < len(requests)]
        return write_report(out, records, title=f"{args.task}, {environment.config_name}")


def policy_spec(args: argparse.Namespace) -> PolicySpec:
    """The policy that the command line names, with all that its `get_model` will receive."""
    folder = find_policy(args.policy)
    checkpoint = args.checkpoint or find_checkpoint(args.task, folder.name)
    if checkpoint is not None and not checkpoint.exists():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    harness = {
        "policy_name": folder.name,
        "task_name": args.task,
        "task_config": Path(args.config).stem,
        "ckpt_setting": checkpoint.name if checkpoint else Path(args.config).stem,
        "seed": args.seed,
        "instruction_type": args.instruction_type,
        "left_arm_dim": ARM_DIM,
        "right_arm_dim": ARM_DIM,
        "checkpoint_path": str(checkpoint) if checkpoint else None,
    }
    usr_args = read_usr_args(folder, harness, parse_settings(args.settings))
    return PolicySpec(name=folder.name, folder=folder, usr_args=usr_args)


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


def complete_plan(
    args: argparse.Namespace, environment: EnvironmentSpec, policy: PolicySpec
) -> SeedPlan:
    """The seed plan with enough usable seeds; verifies what is missing."""
    path = plan_path(environment, args.seed, PLANS)
    plan = open_plan(
        path,
        environment,
        args.seed,
        refresh=args.refresh_plan,
        replace_stale=args.if_plan_stale == "refresh",
    )
    missing = args.episodes - len(plan.usable())
    if missing <= 0:
        return plan
    check_policy_loads(policy)
    with tqdm(total=missing, desc="verify seeds", unit="seed", **bar_options()) as bar:
        plan = extend_plan(
            plan,
            environment,
            args.episodes,
            workers=args.workers,
            save=lambda grown: save_plan(grown, path),
            progress=bar.update,
        )
    skipped = Counter(entry.verdict for entry in plan.entries if entry.verdict != "ok")
    if skipped:
        reasons = ", ".join(f"{count} {verdict}" for verdict, count in sorted(skipped.items()))
        print(f"seed plan {path}: {len(plan.entries)} seeds, not usable: {reasons}")
    return plan


class EpisodeBar:
    """A progress bar over episodes with the running rate, its interval and the time left."""

    def __init__(self, journal: Journal, total: int) -> None:
        self._counts: Counter[str] = Counter()
        before = [record for record in journal.records if record.index < total]
        self._counts.update(record.outcome for record in before)
        self._bar = tqdm(
            total=total, initial=len(before), desc="evaluate", unit="ep", **bar_options()
        )

    def __enter__(self) -> EpisodeBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()

    def show(self, record: EpisodeRecord) -> None:
        """Counts one more episode."""
        self._counts[record.outcome] += 1
        n = self._counts["success"] + self._counts["failure"]
        low, high = wilson_interval(self._counts["success"], n)
        rate = f"{100 * self._counts['success'] / n:.0f}%" if n else "-"
        text = f"success {rate} [{100 * low:.0f}, {100 * high:.0f}]"
        if self._counts["error"]:
            text += f", errors {self._counts['error']}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()


def bar_options() -> dict[str, Any]:
    """In a log file, a line now and then; on a terminal, a living bar."""
    terminal = sys.stderr.isatty()
    return {"dynamic_ncols": terminal, "mininterval": 0.2 if terminal else 10.0}


def write_report(out: Path, records: list[EpisodeRecord], *, title: str) -> int:
    """Writes tables and figure of the records and prints the summary."""
    from twin_eval.figures import save_figure, success_figure

    rows = summarise(records)
    write_text(out / "episodes.csv", episodes_csv(records))
    write_text(out / "summary.csv", summary_csv(rows))
    save_figure(success_figure(rows, title), out / "success.png")
    print()
    print(summary_text(rows))
    errors = [record for record in records if record.outcome == "error"]
    reasons = Counter(record.reason for record in errors)
    for reason, count in reasons.most_common(5):
        print(f"  {count} x error: {reason}")
    print(f"\nresults: {out}/ (episodes.csv, summary.csv, success.png, videos/)")
    return 0 if len(errors) < len(records) else 1


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"a whole number of at least {least}: got {text!r}")
    return number
