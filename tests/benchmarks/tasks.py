"""How often the experts succeed: every task with both embodiments, on seeds nobody tuned on.

    python tests/benchmarks/tasks.py [TASK ...] [--seeds 100] [--replay 20] [--out FOLDER]

Prints a Markdown table for docs; FOLDER also gets every seed as CSV and the rows as JSON. Physics
only. A replay sends the expert's own actions through `take_action`, as a policy does. Not a test:
it measures, and takes minutes. Ended before its time, it prints what it has.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from twin_env import UnstableError, list_tasks, load_env_config, make_env
from twin_env.expert_attributes import attributes_of, changed, restore
from twin_env.workers import Done, Outcome, Raised, WorkerPool
from twin_eval.provenance import describe_host, usable_cores
from twin_eval.report.tables import markdown_table
from twin_eval.statistics import wilson_interval

EMBODIMENTS = ("twin-arm6", "twin-arm7")
PHYSICS_HZ = 250
SEED_TIMEOUT_S = 600.0
HEADER = (
    "task",
    "arms",
    "expert [95%]",
    "failed",
    "unstable",
    "error",
    "actions: mean (max) of limit",
    "simulated s",
    "CPU ms",
    "replayed",
    "failed experts got to",
)


@dataclass(frozen=True)
class Job:
    """One seed of one task with one pair of arms."""

    task: str
    arms: str
    seed: int
    replays: bool
    config: str


@dataclass(frozen=True)
class Played:
    """What the expert made of it."""

    task: str
    arms: str
    seed: int
    verdict: str
    """"ok", "expert_failed", "unstable" or "error"."""
    reason: str = ""
    stage: str = ""
    """The furthest that the expert reached; empty if none."""
    actions: int = 0
    """That replay it."""
    step_lim: int = 0
    simulated_s: float = 0.0
    cpu_ms: float = 0.0
    """CPU time of set-up and expert, without pictures: a busy machine changes it little."""
    replayed: bool | None = None
    """Whether its actions succeed by `take_action`; None if it was not asked."""
    replay_steps: int | None = None


@functools.lru_cache(maxsize=1)
def environment_of(task: str) -> Any:
    return make_env(task)


def play(job: Job) -> Played:
    """Runs in a worker: the expert on one seed, and perhaps its actions again."""
    env = environment_of(job.task)
    config = {**load_env_config(job.config), "embodiment": [job.arms]}
    vectors: list[np.ndarray] = []

    def keep(task: Any) -> None:
        vectors.append(task.drive_vector())
        task._look_at_stages()  # A policy's actions do; an expert's motions do not.

    env.frame_sink = keep
    started = time.process_time()
    reason, verdict = "", "ok"
    attributes: dict[str, Any] = {}
    try:
        env.setup_demo(seed=job.seed, is_test=True, render=False, **config)
        before = attributes_of(env)
        env.play_once()
        attributes = changed(before, attributes_of(env))
        if not env.plan_success:
            verdict, reason = "expert_failed", "a pose was out of reach"
        elif not env.check_success():
            verdict, reason = "expert_failed", "check_success is false"
    except UnstableError as error:
        verdict, reason = "unstable", str(error)
    cpu_ms = 1e3 * (time.process_time() - started)
    env.frame_sink = None
    reached = len(env.stages) if verdict == "ok" else env.stages_reached
    actions = max(len(vectors) - 1, 0)
    played = Played(
        task=job.task,
        arms=job.arms,
        seed=job.seed,
        verdict=verdict,
        reason=reason,
        stage=env.stages[reached - 1] if reached else "",
        actions=actions,
        step_lim=env.step_lim,
        simulated_s=round(actions * config["save_freq"] / PHYSICS_HZ, 2),
        cpu_ms=round(cpu_ms, 1),
    )
    if job.replays and verdict == "ok":
        succeeded, steps = replay(env, job.seed, config, vectors[1:], attributes)
        played = Played(**{**asdict(played), "replayed": succeeded, "replay_steps": steps})
    env.close_env()
    return played


def replay(
    env: Any,
    seed: int,
    config: dict[str, Any],
    actions: Sequence[np.ndarray],
    attributes: dict[str, Any],
) -> tuple[bool, int]:
    """Whether the actions succeed, and after how many; the last one is held to the step limit."""
    env.setup_demo(seed=seed, is_test=True, render=False, **config)
    restore(env, attributes)
    try:
        for action in chain(actions, repeat(actions[-1])):
            if env.eval_success or env.take_action_cnt >= env.step_lim:
                break
            env.take_action(action)
    except UnstableError:
        return False, int(env.take_action_cnt)
    return bool(env.eval_success), int(env.take_action_cnt)


def resolve(job: Job, outcome: Outcome) -> Played:
    if isinstance(outcome, Done):
        played: Played = outcome.value
        return played
    reason = outcome.error_text if isinstance(outcome, Raised) else outcome.reason
    return Played(job.task, job.arms, job.seed, "error", " ".join(reason.split()))


def play_all(jobs: Sequence[Job], workers: int) -> Iterator[Played]:
    with (
        WorkerPool(workers, play, job_timeout_s=SEED_TIMEOUT_S) as pool,
        tqdm(total=len(jobs), unit="seed", mininterval=0.3 if sys.stderr.isatty() else 30) as bar,
    ):
        for job, outcome in pool.run(jobs):
            bar.set_postfix_str(f"{job.task} {job.arms}", refresh=False)
            bar.update()
            yield resolve(job, outcome)


def summarise(played: Sequence[Played]) -> list[dict[str, Any]]:
    """A row for each task and pair of arms."""
    groups: dict[tuple[str, str], list[Played]] = {}
    for one in sorted(played, key=lambda one: (one.task, one.arms, one.seed)):
        groups.setdefault((one.task, one.arms), []).append(one)
    return [_row(task, arms, group) for (task, arms), group in groups.items()]


def _row(task: str, arms: str, group: Sequence[Played]) -> dict[str, Any]:
    ok = [one for one in group if one.verdict == "ok"]
    verdicts = Counter(one.verdict for one in group)
    low, high = wilson_interval(len(ok), len(group))
    replays = [one for one in ok if one.replayed is not None]
    bad = [one for one in group if one.verdict != "ok"]
    return {
        "task": task,
        "arms": arms,
        "n": len(group),
        "ok": len(ok),
        "low": round(low, 4),
        "high": round(high, 4),
        **{name: verdicts[name] for name in ("expert_failed", "unstable", "error")},
        "actions_mean": round(statistics.mean([one.actions for one in ok] or [0]), 1),
        "actions_max": max([one.actions for one in ok], default=0),
        "step_lim": max(one.step_lim for one in group),
        "simulated_s": round(statistics.mean([one.simulated_s for one in ok] or [0]), 2),
        "cpu_ms": round(statistics.median([one.cpu_ms for one in ok] or [0]), 1),
        "replays": len(replays),
        "replays_ok": sum(bool(one.replayed) for one in replays),
        "replay_steps_max": max([one.replay_steps or 0 for one in replays], default=0),
        "failed_at": dict(Counter(one.stage or "none" for one in bad).most_common()),
        "failed_seeds": {one.seed: f"{one.verdict}: {one.reason}" for one in bad},
        "replays_failed": [one.seed for one in replays if not one.replayed],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    body = [
        (
            row["task"],
            row["arms"].removeprefix("twin-"),
            f"{row['ok']}/{row['n']} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]",
            str(row["expert_failed"]),
            str(row["unstable"]),
            str(row["error"]),
            f"{row['actions_mean']:.0f} ({row['actions_max']}) of {row['step_lim']}",
            f"{row['simulated_s']:.1f}",
            f"{row['cpu_ms']:.0f}",
            f"{row['replays_ok']}/{row['replays']}",
            ", ".join(f"{stage} {count}" for stage, count in row["failed_at"].items()),
        )
        for row in rows
    ]
    return markdown_table(HEADER, body, numeric={3, 4, 5, 7, 8})


def write(folder: Path, played: Sequence[Played], rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "experts.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Played.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(map(asdict, sorted(played, key=lambda p: (p.task, p.arms, p.seed))))
    values = {"made": describe_host(), "rows": rows}
    (folder / "experts.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / "experts.md").write_text(table(rows) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument("--seeds", type=int, default=100, help="of each (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1000, help="seed (default: %(default)s)")
    parser.add_argument(
        "--replay", type=int, default=20, help="of the first so many seeds (default: %(default)s)"
    )
    parser.add_argument("--embodiments", nargs="+", default=EMBODIMENTS, metavar="ARM")
    parser.add_argument("--config", default="demo_clean", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder for experts.csv, .json and .md")
    args = parser.parse_args()
    jobs = [
        Job(task, arms, seed, seed < args.first + args.replay, args.config)
        for task in args.tasks or list_tasks()
        for arms in args.embodiments
        for seed in range(args.first, args.first + args.seeds)
    ]
    played: list[Played] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for one in play_all(jobs, args.workers):
            played.append(one)
    except KeyboardInterrupt:
        print(f"stopped after {len(played)} of {len(jobs)} seeds", file=sys.stderr)
    rows = summarise(played)
    host = describe_host()
    print(f"{host['platform']}, {host['cores']} cores, {host['versions']}, {args.config}")
    print(f"seeds from {args.first}; replays of the first {args.replay}\n\n{table(rows)}")
    for row in rows:
        for seed, reason in row["failed_seeds"].items():
            print(f"{row['task']} {row['arms']} seed {seed}: {reason}")
        if row["replays_failed"]:
            print(f"{row['task']} {row['arms']}: replays failed of seeds {row['replays_failed']}")
    if args.out:
        write(args.out, played, rows)


if __name__ == "__main__":
    main()
