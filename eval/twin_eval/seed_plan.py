"""The fixed list of scenes of an evaluation: seeds that the expert verified, once for all."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from twin_env.files import write_text
from twin_env.task_env import UnstableError
from twin_env.workers import Died, Done, WorkerPool
from twin_eval.environments import EnvironmentSpec

FORMAT = 1
SEEDS_PER_GROUP = 100_000
SEED_TIMEOUT_S = 600.0
ATTEMPTS = 2
"""A seed whose worker died is verified once more."""

Verdict = Literal["ok", "expert_failed", "unstable"]
"""What the scene is like. A crash says nothing about the scene, so it is no verdict."""


class SeedPlanError(ValueError):
    """The plan is stale, damaged, or cannot be completed."""


@dataclass(frozen=True)
class PlanEntry:
    """One scene and what the expert made of it."""

    seed: int
    verdict: Verdict
    reason: str = ""
    """Why the verdict is not ok."""


@dataclass(frozen=True)
class SeedPlan:
    """Consecutive seeds from `first_seed`, each with a verdict. More episodes only ever append."""

    task: str
    config: str
    first_seed: int
    fingerprint: Mapping[str, str]
    """The environment that the verdicts hold for."""
    entries: tuple[PlanEntry, ...] = field(default=())
    format: int = FORMAT

    @property
    def next_seed(self) -> int:
        """The first seed that has no verdict yet."""
        return self.first_seed + len(self.entries)

    def usable(self) -> list[int]:
        """Seeds that the expert can do, in order."""
        return [entry.seed for entry in self.entries if entry.verdict == "ok"]


def first_seed(group: int) -> int:
    """RoboTwin's first evaluation seed for its argument `seed`."""
    return SEEDS_PER_GROUP * (1 + group)


def plan_path(environment: EnvironmentSpec, group: int, root: Path) -> Path:
    """Where the plan of this environment and seed group lies by default."""
    suffix = f"-seed{group}" if group else ""
    name = f"{environment.task}-{environment.config_name}{suffix}.json"
    return root / environment.backend / name


def load_plan(path: Path) -> SeedPlan:
    """Reads a plan.

    Raises:
        SeedPlanError: if the file is damaged or of another format.
    """
    remedy = "delete the file, or give --refresh-plan"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise SeedPlanError(f"{path}: plan format {values['format']}, not {FORMAT}: {remedy}")
        # Plans once held crashes as `error`: from the first one on, seeds are verified again.
        sound = itertools.takewhile(lambda e: e["verdict"] != "error", values["entries"])
        plan = SeedPlan(**{**values, "entries": tuple(PlanEntry(**entry) for entry in sound)})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise SeedPlanError(f"{path} is no seed plan ({error!r}): {remedy}") from error
    if [entry.seed for entry in plan.entries] != list(range(plan.first_seed, plan.next_seed)):
        raise SeedPlanError(f"{path}: its seeds are not consecutive: {remedy}")
    return plan


def save_plan(plan: SeedPlan, path: Path) -> None:
    """Writes a plan, whole or not at all."""
    write_text(path, json.dumps(asdict(plan), indent=1) + "\n")


def open_plan(
    path: Path,
    environment: EnvironmentSpec,
    group: int,
    *,
    refresh: bool = False,
    replace_stale: bool = False,
) -> SeedPlan:
    """The plan at `path`, or an empty one for this environment.

    Args:
        refresh: always begin with an empty plan.
        replace_stale: begin with an empty plan if the one at `path` is damaged or stale.

    Raises:
        SeedPlanError: if the plan is damaged or was made for another environment.
    """
    now = environment.fingerprint()
    empty = SeedPlan(environment.task, environment.config_name, first_seed(group), now)
    if refresh or not path.exists():
        return empty
    try:
        plan = load_plan(path)
    except SeedPlanError:
        if replace_stale:
            return empty
        raise
    changes = [
        f"{part}: {plan.fingerprint.get(part)} then, {now.get(part)} now"
        for part in sorted({*plan.fingerprint, *now})
        if plan.fingerprint.get(part) != now.get(part)
    ]
    if (plan.task, plan.config, plan.first_seed) != (empty.task, empty.config, empty.first_seed):
        changes.append(f"it is of {plan.task}, {plan.config}, from seed {plan.first_seed}")
    if not changes:
        return plan
    if replace_stale:
        return empty
    raise SeedPlanError(
        f"the seed plan {path} was made for another environment:\n  "
        + "\n  ".join(changes)
        + "\nVerify the seeds anew with --refresh-plan."
    )


def verify_seed(environment: EnvironmentSpec, seed: int) -> PlanEntry:
    """Lets the expert do the scene of `seed` once; what breaks otherwise is raised."""
    env = environment.make()
    try:
        env.setup_demo(now_ep_num=0, seed=seed, is_test=True, **environment.config)
        env.play_once()
        if not env.plan_success:
            return PlanEntry(seed, "expert_failed", "the expert found no motion")
        if not env.check_success():
            return PlanEntry(seed, "expert_failed", "the expert did not reach the goal")
        return PlanEntry(seed, "ok")
    except UnstableError as error:
        return PlanEntry(seed, "unstable", str(error))
    finally:
        env.close_env()


def extend_plan(
    plan: SeedPlan,
    environment: EnvironmentSpec,
    n: int,
    *,
    workers: int,
    save: Callable[[SeedPlan], None],
    progress: Callable[[int], object] = lambda done: None,
) -> SeedPlan:
    """The plan with at least `n` usable seeds, verified in parallel.

    Each wave verifies as many seeds as are missing, so the plan depends on `n` alone and never on
    the number of workers or on which of them was faster. `save` is called after each wave, also
    with what was verified up to a crash; `progress` is told the number of seeds verified since the
    last call.

    Raises:
        SeedPlanError: if the expert fails so often that the plan would not end, or if a seed could
            not be verified because something crashed.
    """
    budget = 20 + 3 * n
    target = functools.partial(verify_seed, environment)
    with WorkerPool(workers, target, job_timeout_s=SEED_TIMEOUT_S) as pool:
        while (missing := n - len(plan.usable())) > 0:
            if len(plan.entries) + missing > budget:
                raise SeedPlanError(_hopeless(plan))
            wave = range(plan.next_seed, plan.next_seed + missing)
            entries, crash = _verify_wave(pool, wave, progress)
            plan = replace(plan, entries=plan.entries + entries)
            save(plan)
            if crash:
                raise SeedPlanError(
                    f"{crash}; `twinbench doctor` says what is amiss. The "
                    f"{len(plan.entries)} seeds before are kept: mend that and run the same "
                    "command again."
                )
    return plan


def _verify_wave(
    pool: WorkerPool, wave: Sequence[int], progress: Callable[[int], object]
) -> tuple[tuple[PlanEntry, ...], str]:
    """Entries up to the first gap, and the crash that ended the wave early (empty if none did)."""
    verdicts: dict[int, PlanEntry] = {}
    crash = ""
    waiting = list(wave)
    for attempt in range(1, ATTEMPTS + 1):
        if not waiting:
            break
        jobs, waiting = waiting, []
        for seed, outcome in pool.run(jobs):
            if isinstance(outcome, Done):
                verdicts[seed] = outcome.value
                progress(1)
            elif isinstance(outcome, Died) and attempt < ATTEMPTS:
                waiting.append(seed)
            else:
                reason = outcome.reason if isinstance(outcome, Died) else outcome.error_text
                crash, waiting = f"seed {seed} could not be verified: {reason}", []
                break
    known = itertools.takewhile(verdicts.__contains__, wave)
    return tuple(verdicts[seed] for seed in known), crash


def _hopeless(plan: SeedPlan) -> str:
    verdicts = Counter(entry.verdict for entry in plan.entries)
    reasons = Counter(entry.reason for entry in plan.entries if entry.reason)
    worst = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return (
        f"the expert did only {verdicts['ok']} of {len(plan.entries)} seeds of {plan.task} "
        f"({plan.config}) from {plan.first_seed}, too few to fill a plan: {worst}"
    )
