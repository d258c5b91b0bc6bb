"""The fixed list of scenes of an evaluation: seeds that the expert verified, once for all."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from twin_env.task_env import UnstableError
from twin_env.workers import Died, Done, Raised, WorkerPool
from twin_eval.environments import EnvironmentSpec
from twin_eval.files import write_text

FORMAT = 1
SEEDS_PER_GROUP = 100_000
SEED_TIMEOUT_S = 600.0

Verdict = Literal["ok", "expert_failed", "unstable", "error"]


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
        plan = SeedPlan(**{**values, "entries": tuple(PlanEntry(**e) for e in values["entries"])})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise SeedPlanError(f"{path} is no seed plan ({error!r}): {remedy}") from error
    if [entry.seed for entry in plan.entries] != list(range(plan.first_seed, plan.next_seed)):
        raise SeedPlanError(f"{path}: its seeds are not consecutive: {remedy}")
    return plan


def save_plan(plan: SeedPlan, path: Path) -> None:
    """Writes a plan, whole or not at all."""
    write_text(path, json.dumps(asdict(plan), indent=1) + "\n")


def open_plan(
    path: Path, environment: EnvironmentSpec, group: int, *, refresh: bool = False
) -> SeedPlan:
    """The plan at `path`, or an empty one for this environment.

    Raises:
        SeedPlanError: if the plan was made for another environment and `refresh` is not set.
    """
    now = environment.fingerprint()
    empty = SeedPlan(environment.task, environment.config_name, first_seed(group), now)
    if not path.exists():
        return empty
    try:
        plan = load_plan(path)
    except SeedPlanError:
        if refresh:
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
    if refresh:
        return empty
    raise SeedPlanError(
        f"the seed plan {path} was made for another environment:\n  "
        + "\n  ".join(changes)
        + "\nVerify the seeds anew with --refresh-plan."
    )


def verify_seed(environment: EnvironmentSpec, seed: int) -> PlanEntry:
    """Lets the expert do the scene of `seed` once."""
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
    except Exception as error:  # noqa: BLE001 - any crash of the scene is a verdict, not our end
        return PlanEntry(seed, "error", f"{type(error).__name__}: {error}")
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
    the number of workers or on which of them was faster. `save` is called after each wave;
    `progress` is told the number of seeds verified since the last call.

    Raises:
        SeedPlanError: if the expert fails so often that the plan would not end.
    """
    budget = 20 + 3 * n
    target = functools.partial(verify_seed, environment)
    with WorkerPool(workers, target, job_timeout_s=SEED_TIMEOUT_S) as pool:
        while (missing := n - len(plan.usable())) > 0:
            if len(plan.entries) + missing > budget:
                raise SeedPlanError(_hopeless(plan))
            wave = range(plan.next_seed, plan.next_seed + missing)
            verdicts: dict[int, PlanEntry] = {}
            for seed, outcome in pool.run(wave):
                verdicts[seed] = (
                    outcome.value
                    if isinstance(outcome, Done)
                    else PlanEntry(seed, "error", _describe(outcome))
                )
                progress(1)
            entries = plan.entries + tuple(verdicts[seed] for seed in wave)
            plan = SeedPlan(plan.task, plan.config, plan.first_seed, plan.fingerprint, entries)
            save(plan)
    return plan


def _describe(outcome: Raised | Died) -> str:
    return outcome.reason if isinstance(outcome, Died) else outcome.error_text


def _hopeless(plan: SeedPlan) -> str:
    verdicts = Counter(entry.verdict for entry in plan.entries)
    reasons = Counter(entry.reason for entry in plan.entries if entry.reason)
    worst = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return (
        f"the expert did only {verdicts['ok']} of {len(plan.entries)} seeds of {plan.task} "
        f"({plan.config}) from {plan.first_seed}, too few to fill a plan: {worst}"
    )
