"""Seed plans: verified in seed order, extended, refused when stale, the same for any workers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from twin_eval.environments import EnvironmentSpec
from twin_eval.seed_plan import (
    SeedPlan,
    SeedPlanError,
    extend_plan,
    first_seed,
    load_plan,
    open_plan,
    plan_path,
    save_plan,
    verify_seed,
)

ENVIRONMENT = EnvironmentSpec(
    task="reach_number",
    config_name="demo_clean",
    config={"save_freq": 15},
    provider="fake_simulator",
)


def grow(path: Path, n: int, workers: int = 1) -> SeedPlan:
    plan = open_plan(path, ENVIRONMENT, 0)
    return extend_plan(
        plan, ENVIRONMENT, n, workers=workers, save=lambda grown: save_plan(grown, path)
    )


def test_verdicts_have_reasons() -> None:
    assert verify_seed(ENVIRONMENT, 100_000).verdict == "ok"
    failed = verify_seed(ENVIRONMENT, 100_003)
    assert (failed.verdict, failed.reason) == ("expert_failed", "the expert found no motion")
    unstable = verify_seed(ENVIRONMENT, 100_007)
    assert (unstable.verdict, unstable.reason) == ("unstable", "the number rolls")


def with_config(**config: Any) -> EnvironmentSpec:
    return dataclasses.replace(ENVIRONMENT, config={"save_freq": 15, **config})


@pytest.mark.parametrize(
    ("trouble", "reason"), [("raise_on", "RuntimeError: no Vulkan device"), ("die_on", "SIGKILL")]
)
def test_a_crash_is_no_verdict_and_keeps_the_seeds_before(
    tmp_path: Path, trouble: str, reason: str
) -> None:
    path = tmp_path / "plan.json"
    broken = with_config(**{trouble: 100_002})
    with pytest.raises(SeedPlanError, match=rf"seed 100002 .*{reason}.*twinbench doctor.*2 seeds"):
        extend_plan(
            open_plan(path, broken, 0), broken, 4, workers=1, save=lambda p: save_plan(p, path)
        )
    assert load_plan(path).usable() == [100_000, 100_001]
    assert grow(path, 4).usable() == [100_000, 100_001, 100_002, 100_004]


def test_a_death_is_retried_once(tmp_path: Path) -> None:
    once = with_config(die_on=100_001, marker=str(tmp_path / "died"))
    plan = open_plan(tmp_path / "plan.json", once, 0)
    plan = extend_plan(plan, once, 3, workers=1, save=lambda grown: None)
    assert plan.usable() == [100_000, 100_001, 100_002]
    assert (tmp_path / "died").exists()


def test_errors_of_an_old_plan_are_verified_again(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    whole = grow(path, 4)
    values = json.loads(path.read_text())
    values["entries"][1] = {"seed": 100_001, "verdict": "error", "reason": "no Vulkan"}
    path.write_text(json.dumps(values))
    assert open_plan(path, ENVIRONMENT, 0).entries == whole.entries[:1]
    assert grow(path, 4) == whole


def test_plan_keeps_seed_order_and_skips_what_the_expert_cannot_do(tmp_path: Path) -> None:
    plan = grow(tmp_path / "plan.json", 10)
    assert [e.seed for e in plan.entries] == list(range(100_000, 100_000 + len(plan.entries)))
    usable = [100_000 + i for i in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11)]
    assert plan.usable()[:10] == usable


def test_plan_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    grow(tmp_path / "one.json", 12, workers=1)
    grow(tmp_path / "three.json", 12, workers=3)
    assert (tmp_path / "one.json").read_text() == (tmp_path / "three.json").read_text()


def test_more_episodes_only_append(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    small = grow(path, 4)
    large = grow(path, 9)
    assert large.entries[: len(small.entries)] == small.entries
    assert load_plan(path) == large
    assert len(large.usable()) >= 9


def test_stale_plan_is_refused_with_difference_and_remedy_or_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    grow(path, 3)
    changed = dataclasses.replace(ENVIRONMENT, config={"save_freq": 10})
    with pytest.raises(SeedPlanError, match=r"(?s)save_freq: 15 then, 10 now.*--refresh-plan"):
        open_plan(path, changed, 0)
    assert open_plan(path, changed, 0, replace_stale=True).entries == ()
    assert len(open_plan(path, ENVIRONMENT, 0, replace_stale=True).usable()) == 3


def test_refresh_begins_with_an_empty_plan_though_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    grow(path, 3)
    assert open_plan(path, ENVIRONMENT, 0, refresh=True).entries == ()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_damaged_plan_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(SeedPlanError, match="--refresh-plan"):
        open_plan(path, ENVIRONMENT, 0)
    assert open_plan(path, ENVIRONMENT, 0, refresh=True).entries == ()


def test_plan_with_a_gap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    grow(path, 3)
    values = json.loads(path.read_text())
    del values["entries"][1]
    path.write_text(json.dumps(values))
    with pytest.raises(SeedPlanError, match="not consecutive"):
        load_plan(path)


def test_an_expert_that_never_succeeds_ends_with_the_reasons(tmp_path: Path) -> None:
    hopeless = with_config(hopeless=True)
    plan = open_plan(tmp_path / "plan.json", hopeless, 0)
    with pytest.raises(SeedPlanError, match=r"only 0 of \d+ seeds.*found no motion"):
        extend_plan(plan, hopeless, 5, workers=1, save=lambda grown: None)


def test_seed_groups_are_robotwins() -> None:
    assert [first_seed(group) for group in (0, 1, 2)] == [100_000, 200_000, 300_000]
    names = [plan_path(ENVIRONMENT, group, Path("plans")).as_posix() for group in (0, 1)]
    assert names == [
        "plans/embedded/reach_number-demo_clean.json",
        "plans/embedded/reach_number-demo_clean-seed1.json",
    ]
