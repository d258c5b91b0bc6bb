"""The options of `twinbench eval`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twin_eval.environments import add_backend_options
from twin_eval.option_types import alpha, natural, positive, rollout_mode, seconds, video_mode
from twin_eval.provenance import usable_cores
from twin_eval.rollouts import RolloutMode
from twin_eval.video import VideoMode

EPISODES = 100
"""Of each policy on each task, unless said otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `twinbench eval`."""
    what = parser.add_argument_group("what")
    what.add_argument("task", nargs="?", help="task to evaluate on, e.g. beat_block_hammer")
    what.add_argument(
        "policy",
        nargs="?",
        help="name of a folder in policy/, or a path to one; [LABEL=]POLICY[@CHECKPOINT]",
    )
    what.add_argument("--suite", help="YAML of tasks, e.g. suites/seeds5.yaml, instead of TASK")
    what.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="only these tasks of the suite"
    )
    what.add_argument(
        "--policies", nargs="+", default=[], metavar="POLICY", help="several, instead of POLICY"
    )
    what.add_argument(
        "--episodes", type=positive, help=f"of each policy on each task (default: {EPISODES})"
    )
    what.add_argument("--config", help="environment config (default: demo_clean)")
    what.add_argument(
        "--seed", type=natural, help="scenes start at seed 100000 * (1 + SEED) (default: 0)"
    )
    what.add_argument(
        "--noise-seed",
        type=natural,
        default=0,
        help="another draw of the policy's own randomness on the same scenes (default: 0)",
    )
    what.add_argument(
        "--instruction-type",
        choices=("seen", "unseen"),
        default="unseen",
        help="list that instructions are drawn from (default: %(default)s)",
    )
    what.add_argument(
        "--checkpoint",
        help="folder of the checkpoint (default: outputs/checkpoints/TASK/POLICY, "
        "or the only one whose name starts with it)",
    )
    what.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting of the policy's deploy_policy.yml (may be repeated)",
    )
    add_backend_options(parser.add_argument_group("simulator"))
    _add_how(parser.add_argument_group("how"))
    _add_results(parser.add_argument_group("results"))
    parser.add_argument("--provider", default="twin_env", help=argparse.SUPPRESS)


def _add_how(how: Any) -> None:
    how.add_argument(
        "--workers",
        type=positive,
        default=usable_cores(),
        help="simulator processes (default: %(default)s); results do not depend on it",
    )
    how.add_argument(
        "--inference",
        choices=("auto", "worker", "shared"),
        default="auto",
        help="a copy of the policy in each worker, or one process that serves all of them in "
        "batches; auto: shared where there is an NVIDIA GPU (default: %(default)s)",
    )
    how.add_argument(
        "--stop-when-decided",
        type=alpha,
        metavar="ALPHA",
        help="compare two policies pair by pair, and stop once one is better at this error rate",
    )
    how.add_argument(
        "--leak-check",
        type=natural,
        nargs="?",
        const=3,
        default=0,
        metavar="N",
        help="afterwards, repeat N episodes alone in fresh processes and compare (default N: 3)",
    )
    how.add_argument(
        "--episode-timeout",
        type=seconds,
        default=3600.0,
        metavar="S",
        help="an episode that takes longer is tried once more, then an error (default: 3600)",
    )
    how.add_argument(
        "--step-timeout",
        type=seconds,
        default=300.0,
        metavar="S",
        help="so is one that neither acts nor observes for so long (default: 300)",
    )
    how.add_argument(
        "--worker-memory",
        type=positive,
        metavar="MB",
        help="replace a worker that holds more after an episode (default: a share of the memory)",
    )
    how.add_argument(
        "--retry-errors", action="store_true", help="play episodes that ended in an error again"
    )
    how.add_argument("--refresh-plan", action="store_true", help="verify all seeds anew")
    how.add_argument(
        "--if-plan-stale",
        choices=("refuse", "refresh"),
        default="refuse",
        help="what to do with a damaged plan or one of another environment (default: %(default)s)",
    )


def _add_results(results: Any) -> None:
    results.add_argument(
        "--out", type=Path, help="folder of the results (default: outputs/eval/TASK/POLICY)"
    )
    results.add_argument(
        "--if-changed",
        choices=("refuse", "set-aside"),
        default="refuse",
        help="what to do with results of a different run in the same folder (default: %(default)s)",
    )
    results.add_argument(
        "--videos",
        type=video_mode,
        default=VideoMode.parse("first:3"),
        metavar="WHICH",
        help="off, failures, all, or the first K: first:K or K (default: 3)",
    )
    results.add_argument(
        "--video-cameras",
        choices=("head", "all"),
        default="head",
        help="the head camera, or all three side by side (default: %(default)s)",
    )
    results.add_argument(
        "--rollouts",
        type=rollout_mode,
        default=RolloutMode.none(),
        metavar="WHICH",
        help="keep episodes as replay data in the run's rollouts/: all, successes, failures or "
        "first:K (default: off); results do not depend on it",
    )
    results.add_argument(
        "--no-report",
        dest="drawn",
        action="store_false",
        help="tables only; `twinbench report` makes figures and page of them later",
    )
    results.add_argument("--quiet", action="store_true", help="a line now and then, for logs")
