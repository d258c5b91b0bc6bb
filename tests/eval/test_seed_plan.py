"""Seed plans: the same for any workers, safe from kills, fresh or refused, shipped or one's own."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import fake_simulator
import numpy as np
import pytest

from twin_env import environment_fingerprint, load_env_config
from twin_env.expert_attributes import restore
from twin_env.instructions import SPLITS
from twin_env.workers import Done, Outcome, Raised
from twin_eval import seed_plan
from twin_eval.environments import EnvironmentSpec
from twin_eval.seed_plan import (
    BrokenMachineError,
    SeedPlan,
    SeedPlanError,
    complete_plan,
    first_seed,
    load_plan,
    plan_path,
    save_plan,
)
from twin_eval.seed_verification import verify_seed

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "task_configs" / "plans"
ENVIRONMENT = EnvironmentSpec(
    task="reach_number",
    config_name="demo_clean",
    config={"save_freq": 15},
    provider="fake_simulator",
)


def with_config(**config: Any) -> EnvironmentSpec:
    return dataclasses.replace(ENVIRONMENT, config={"save_freq": 15, **config})


class InlinePool:
    """A pool of one worker that is this process: starting one takes most of a test's time."""

    def __init__(self, n_workers: int, target: Callable[[int], Any], **options: Any) -> None:
        self._target = target
        self._jobs: list[int] = []

    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    @property
    def busy(self) -> int:
        return len(self._jobs)

    @property
    def idle(self) -> int:
        return 1 - self.busy

    def submit(self, job: int) -> None:
        self._jobs.append(job)

    def next_outcome(self) -> tuple[int, Outcome]:
        job = self._jobs.pop()
        try:
            return job, Done(self._target(job))
        except Exception as error:  # noqa: BLE001 - as in a worker
            return job, Raised(f"{type(error).__name__}: {error}", "")


def plan_in(
    folder: Path,
    n: int,
    environment: EnvironmentSpec = ENVIRONMENT,
    *,
    workers: int | None = None,
    **options: Any,
) -> SeedPlan:
    """With `folder` for outputs/plans and `folder/shipped` for the shipped plans, by so many
    processes, else in this one."""
    inline = mock.patch.object(seed_plan, "WorkerPool", InlinePool)
    with nullcontext() if workers else inline:
        return complete_plan(
            environment,
            0,
            n,
            workers=workers or 1,
            root=folder,
            shipped_root=folder / "shipped",
            **options,
        )


def file_in(folder: Path) -> Path:
    return plan_path(ENVIRONMENT, 0, folder)


def seeds(plan: SeedPlan) -> list[int]:
    return [entry.seed - 100_000 for entry in plan.usable()]


def refuse_to_verify() -> None:
    raise AssertionError("a seed was to be verified")


# What the expert makes of a scene ------------------------------------------------------------


def test_verdicts_have_reasons() -> None:
    failed = verify_seed(ENVIRONMENT, 100_003)
    assert (failed.verdict, failed.reason) == ("expert_failed", "the expert found no motion")
    unstable = verify_seed(ENVIRONMENT, 100_007)
    assert (unstable.verdict, unstable.reason) == ("unstable", "the number rolls")
    assert failed.instructions == failed.attributes == unstable.attributes == {}


def test_an_ok_scene_has_instructions_by_its_seed_and_the_experts_steps() -> None:
    entries = [verify_seed(ENVIRONMENT, seed) for seed in (100_000, 100_001, 100_002, 100_000)]
    assert [entry.verdict for entry in entries] == ["ok"] * 4
    assert entries[0] == entries[3]
    assert {entry.instructions["seen"] for entry in entries} == {"reach it"}
    assert len({entry.instructions["unseen"] for entry in entries}) > 1
    assert {entry.expert_steps for entry in entries} == {6}


def test_a_simulator_without_the_extras_has_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(fake_simulator.FakeEnv):
        instructions = property()  # type: ignore[assignment]
        expert_steps = property(fset=lambda self, value: None)  # type: ignore[assignment]

    monkeypatch.setattr(fake_simulator, "FakeEnv", Plain)
    entry = verify_seed(ENVIRONMENT, 100_000)
    assert (entry.verdict, entry.expert_steps) == ("ok", None)
    assert entry.instructions == {"seen": "", "unseen": ""}


def test_what_the_expert_set_comes_back_from_the_file(tmp_path: Path) -> None:
    lift = dataclasses.replace(ENVIRONMENT, task="lift_number")
    plan = plan_in(tmp_path, 2, lift)
    assert plan.path is not None
    entry = load_plan(plan.path).usable()[1]

    def succeeds(attributes: Mapping[str, Any]) -> bool:
        env = lift.make()
        env.setup_demo(seed=entry.seed)
        restore(env, attributes)
        for _ in range(5):
            env.take_action(np.full(14, env.target))
        return bool(env.eval_success)

    assert succeeds(entry.attributes)
    with pytest.raises(AttributeError, match="origin_z"):
        succeeds({})


# Which scenes a plan holds -------------------------------------------------------------------


def test_plan_is_the_shortest_list_in_seed_order_that_suffices(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, 10)
    assert [entry.seed for entry in plan.entries] == list(range(100_000, 100_012))
    assert seeds(plan) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert plan.counts() == {"ok": 10, "expert_failed": 1, "unstable": 1, "error": 0}


def test_plan_is_the_same_to_the_bit_for_any_number_of_workers(tmp_path: Path) -> None:
    slow = with_config(delay_s=0.05, raise_on=100_005)
    for workers in (1, 4):
        plan_in(tmp_path / str(workers), 14, slow, workers=workers)
    one, four = (file_in(tmp_path / str(workers)).read_bytes() for workers in (1, 4))
    assert one == four
    assert json.loads(one)["entries"][5]["verdict"] == "error"


def test_more_episodes_only_append(tmp_path: Path) -> None:
    small = plan_in(tmp_path / "grown", 4)
    large = plan_in(tmp_path / "grown", 9)
    assert large.entries[: len(small.entries)] == small.entries
    plan_in(tmp_path / "at once", 9)
    assert file_in(tmp_path / "grown").read_bytes() == file_in(tmp_path / "at once").read_bytes()


def test_seed_groups_are_robotwins() -> None:
    assert [first_seed(group) for group in (0, 1, 2)] == [100_000, 200_000, 300_000]
    names = [plan_path(ENVIRONMENT, group, Path("plans")).as_posix() for group in (0, 1)]
    assert names == [
        "plans/embedded/reach_number-demo_clean.json",
        "plans/embedded/reach_number-demo_clean-seed1.json",
    ]


# What breaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "reason"), [("raise_on", "RuntimeError: no Vulkan device"), ("die_on", "SIGKILL")]
)
def test_a_seed_that_breaks_the_simulator_twice_is_an_error_and_the_plan_goes_on(
    tmp_path: Path, trouble: str, reason: str
) -> None:
    plan = plan_in(tmp_path, 4, with_config(**{trouble: 100_002}), workers=2)
    assert plan.entries[2].verdict == "error"
    assert reason in plan.entries[2].reason
    assert seeds(plan) == [0, 1, 4, 5]
    assert load_plan(file_in(tmp_path)) == plan


def test_a_death_is_retried_once(tmp_path: Path) -> None:
    once = with_config(die_on=100_001, marker=str(tmp_path / "died"))
    assert seeds(plan_in(tmp_path, 3, once, workers=1)) == [0, 1, 2]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("workers", [None, 2])
def test_errors_in_a_row_are_the_machines_and_leave_no_trace(
    tmp_path: Path, workers: int | None
) -> None:
    broken = with_config(raise_from=100_004)
    message = r"100004 to 100006 .*no Vulkan device.*twinbench doctor.* 4 seeds before"
    with pytest.raises(BrokenMachineError, match=message):
        plan_in(tmp_path / "mended", 9, broken, workers=workers)
    kept = load_plan(file_in(tmp_path / "mended"))
    assert seeds(kept) == [0, 1, 2]
    assert kept.next_seed == 100_004
    plan_in(tmp_path / "mended", 9)
    plan_in(tmp_path / "sound", 9)
    assert file_in(tmp_path / "mended").read_bytes() == file_in(tmp_path / "sound").read_bytes()


def test_a_broken_machine_does_not_touch_the_plan_that_it_was_to_refresh(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, 3)
    with pytest.raises(BrokenMachineError):
        plan_in(tmp_path, 3, with_config(raise_from=100_000), refresh=True)
    assert load_plan(file_in(tmp_path)) == plan


def test_an_expert_that_never_succeeds_ends_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(SeedPlanError, match=r"only 0 of 31 seeds.*28 x the expert found no motion"):
        plan_in(tmp_path, 5, with_config(hopeless=True))
    assert len(load_plan(file_in(tmp_path)).entries) == 31


# The file ------------------------------------------------------------------------------------


def test_file_has_an_entry_a_line(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, 4)
    lines = file_in(tmp_path).read_text().splitlines()
    assert [json.loads(line.rstrip(","))["seed"] for line in lines if line.startswith("  {")] == [
        entry.seed for entry in plan.entries
    ]
    empty = dataclasses.replace(plan, entries=())
    save_plan(empty, tmp_path / "empty.json")
    assert load_plan(tmp_path / "empty.json") == empty


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"format": 1}', '{"format": 2}'])
def test_damaged_plan_is_refused_or_refreshed(tmp_path: Path, content: str) -> None:
    plan = plan_in(tmp_path, 2)
    file_in(tmp_path).write_text(content)
    with pytest.raises(SeedPlanError, match=r"twinbench plan reach_number .*--refresh"):
        plan_in(tmp_path, 2)
    assert plan_in(tmp_path, 2, if_stale="refresh") == plan


def test_plan_with_a_gap_or_an_unknown_verdict_is_refused(tmp_path: Path) -> None:
    path = file_in(tmp_path)
    plan_in(tmp_path, 3)
    values = json.loads(path.read_text())
    for damage, complaint in (
        (values["entries"][:1] + values["entries"][2:], "not consecutive"),
        ([{**values["entries"][0], "verdict": "okay"}], "did you mean 'ok'"),
    ):
        path.write_text(json.dumps({**values, "entries": damage}))
        with pytest.raises(SeedPlanError, match=complaint):
            load_plan(path)


STALE = r"(?s)save_freq: 15 then, 10 now"


def test_stale_plan_is_refused_with_difference_and_remedy_or_rebuilt(tmp_path: Path) -> None:
    plan_in(tmp_path, 3)
    changed = with_config(save_freq=10)
    remedy = rf"twinbench plan reach_number --config demo_clean --out {tmp_path} --refresh"
    with pytest.raises(SeedPlanError, match=f"{STALE}.*{remedy}"):
        plan_in(tmp_path, 2, changed, before_verifying=refuse_to_verify)
    rebuilt = plan_in(tmp_path, 2, changed, if_stale="refresh")
    assert rebuilt.fingerprint["save_freq"] == "10"
    assert plan_in(tmp_path, 2, changed, before_verifying=refuse_to_verify) == rebuilt


def test_refresh_verifies_anew_though_the_plan_fits(tmp_path: Path) -> None:
    plan_in(tmp_path, 3, with_config(raise_on=100_001))
    assert seeds(plan_in(tmp_path, 3, refresh=True)) == [0, 1, 2]


# One's own plans and shipped ones ------------------------------------------------------------


def ship(folder: Path, n: int, environment: EnvironmentSpec = ENVIRONMENT) -> bytes:
    plan_in(folder / "shipped", n, environment)
    return file_in(folder / "shipped").read_bytes()


def test_shipped_plan_is_used_where_it_lies(tmp_path: Path) -> None:
    ship(tmp_path, 5)
    plan = plan_in(tmp_path, 4, before_verifying=refuse_to_verify)
    assert seeds(plan) == [0, 1, 2, 4, 5]
    assert plan.path == file_in(tmp_path / "shipped")
    assert not file_in(tmp_path).parent.exists()


def test_shipped_plan_that_is_too_short_is_extended_in_ones_own(tmp_path: Path) -> None:
    shipped = ship(tmp_path, 3, with_config(raise_on=100_001))
    plan = plan_in(tmp_path, 6)
    assert seeds(plan) == [0, 2, 4, 5, 6, 8]  # So the shipped verdicts were taken over.
    assert load_plan(file_in(tmp_path)) == plan
    assert file_in(tmp_path / "shipped").read_bytes() == shipped


def test_stale_shipped_plan_is_told_and_verified_anew_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = ship(tmp_path, 3)
    changed = with_config(save_freq=10)
    plan = plan_in(tmp_path, 2, changed)
    assert "save_freq: 15 then, 10 now" in caplog.text
    assert f"verified anew, into {file_in(tmp_path)}" in caplog.text
    assert load_plan(file_in(tmp_path)) == plan
    assert file_in(tmp_path / "shipped").read_bytes() == shipped
    caplog.clear()
    assert plan_in(tmp_path, 2, changed, before_verifying=refuse_to_verify) == plan
    assert not caplog.text


def test_ones_own_plan_comes_before_the_shipped_one(tmp_path: Path) -> None:
    plan_in(tmp_path, 2, with_config(raise_on=100_001))
    ship(tmp_path, 3)
    assert seeds(plan_in(tmp_path, 2)) == [0, 2]
    with pytest.raises(SeedPlanError, match=STALE):
        plan_in(tmp_path, 2, with_config(save_freq=10))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/*.json")), ids=lambda path: path.stem)
def test_plan_that_we_ship_is_fresh_and_long_enough(path: Path) -> None:
    plan = load_plan(path)
    now = environment_fingerprint(plan.task, load_env_config(plan.config), path.parent.name)
    then = dict(plan.fingerprint)
    then.pop("sapien")  # The user may have another one; then the plan is verified anew.
    now.pop("sapien")
    assert then == now, "the simulator has changed: run `make plans`"
    group = plan.first_seed // 100_000 - 1
    assert plan.first_seed == first_seed(group)
    suffix = f"-seed{group}" if group else ""
    assert path.stem == f"{plan.task}-{plan.config}{suffix}"
    assert len(plan.usable()) >= 100
    for entry in plan.usable():
        assert entry.expert_steps
        assert all(entry.instructions[split] for split in SPLITS)


def test_we_ship_plans() -> None:
    assert list(SHIPPED.glob("embedded/*.json"))


# Several processes ---------------------------------------------------------------------------


def test_kill_9_leaves_a_sound_plan_that_is_completed_to_the_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = (
        "from pathlib import Path; import test_seed_plan as t; t.seed_plan.SAVE_EVERY_S = 0.0; "
        f"t.plan_in(Path({str(killed)!r}), 60, t.with_config(delay_s=0.5), workers=2)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(file_in(killed).exists)
        process.send_signal(signal.SIGKILL)
    left = load_plan(file_in(killed))
    assert 0 < len(left.usable()) < 60
    assert plan_in(whole, 60).entries[: len(left.entries)] == left.entries
    plan_in(killed, 60)
    assert file_in(killed).read_bytes() == file_in(whole).read_bytes()


def test_who_comes_second_waits_and_verifies_nothing_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plans: list[SeedPlan] = []
    plan = plan_in(tmp_path / "elsewhere", 5)
    second = threading.Thread(
        target=lambda: plans.append(plan_in(tmp_path, 5, before_verifying=refuse_to_verify))
    )
    with seed_plan._locked(file_in(tmp_path)):
        second.start()
        wait_until(lambda: "waiting for it" in caplog.text)
        save_plan(plan, file_in(tmp_path))
    second.join(timeout=60)
    assert plans == [plan]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
