"""The runner: one worker or many, a policy in each or one for all, and whatever dies meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness_process import BATCHED, SCRIPTED

from twin_eval.cells import Limits, PolicyLoadError, Work
from twin_eval.environments import EnvironmentSpec
from twin_eval.evaluation import Settings, make_cell, open_works
from twin_eval.inference import load_model
from twin_eval.journal import read_journal
from twin_eval.records import EpisodeRecord
from twin_eval.runner import run_works
from twin_eval.seed_plan import PlanEntry
from twin_eval.suites import PolicyChoice

pytestmark = pytest.mark.processes

ENVIRONMENT = EnvironmentSpec(
    task="reach_number",
    config_name="demo_clean",
    config={"embodiment": ["twin-arm6"]},
    provider="fake_simulator",
)
SEEDS = [seed for seed in range(100_000, 100_040) if seed % 10 not in (3, 7)]
ENTRIES = [
    PlanEntry(seed, "ok", instructions={"seen": "reach it", "unseen": f"reach {seed}"})
    for seed in SEEDS
]


@contextmanager
def opened(
    folder: Path, policy: str, episodes: int = 12, noise_seed: int = 0, **settings: Any
) -> Iterator[list[Work]]:
    common = Settings(episodes=episodes, noise_seed=noise_seed)
    choice = PolicyChoice(label="it", policy=policy, settings=settings)
    cell = make_cell(ENVIRONMENT, choice, folder, common)
    with open_works([cell], lambda environment: ENTRIES, common) as works:
        yield works


def run(
    folder: Path,
    policy: str,
    *,
    workers: int = 1,
    inference: Any = "worker",
    limits: Limits | None = None,
    **settings: Any,
) -> list[EpisodeRecord]:
    with opened(folder, policy, **settings) as works:
        run_works(works, workers=workers, inference=inference, limits=limits)
    return read_sorted(folder)


@pytest.mark.parametrize(
    ("embodiment", "joints"),
    [(["twin-arm7"], (7, 7)), (["twin-arm6", "twin-arm7", 0.6], (6, 7))],
)
def test_a_policy_is_told_the_arms_of_the_config(
    tmp_path: Path, embodiment: list[Any], joints: tuple[int, int]
) -> None:
    environment = replace(ENVIRONMENT, config={"embodiment": embodiment})
    choice = PolicyChoice(label="it", policy="expert_replay")
    told = make_cell(environment, choice, tmp_path, Settings(episodes=1)).policy.usr_args
    assert (told["left_arm_dim"], told["right_arm_dim"]) == joints


def read_sorted(folder: Path) -> list[EpisodeRecord]:
    return sorted(read_journal(folder), key=lambda record: record.index)


def results(records: list[EpisodeRecord]) -> list[tuple[Any, ...]]:
    return [(r.index, r.seed, r.outcome, r.reason, r.steps, r.actions_digest) for r in records]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeRecord]:
    return run(tmp_path_factory.mktemp("alone"), BATCHED)


def test_a_shared_policy_does_what_a_copy_in_each_worker_does(
    tmp_path: Path, alone: list[EpisodeRecord]
) -> None:
    assert {record.outcome for record in alone} == {"success", "failure"}
    assert len({record.actions_digest for record in alone}) == len(alone)
    for workers, inference in ((3, "worker"), (1, "shared"), (4, "shared")):
        folder = tmp_path / f"{inference}{workers}"
        assert results(run(folder, BATCHED, workers=workers, inference=inference)) == results(alone)


def test_questions_of_several_simulators_are_answered_together(tmp_path: Path) -> None:
    log = tmp_path / "batches"
    run(tmp_path / "run", BATCHED, workers=4, inference="shared", log=str(log), delay_s=0.05)
    batches = [int(line) for line in log.read_text().split()]
    assert max(batches) > 1
    assert max(batches) <= 4


def test_many_policies_share_one_process_and_none_forgets_its_episodes(tmp_path: Path) -> None:
    """A policy that is dropped while its episodes are under way would go on from nothing."""
    tables = []
    for inference, workers in (("worker", 1), ("shared", 5)):
        common = Settings(episodes=6)
        cells = [
            make_cell(
                ENVIRONMENT,
                PolicyChoice(label=f"p{n}", policy=BATCHED, settings={"chunk": n}),
                tmp_path / inference / f"p{n}",
                common,
            )
            for n in (1, 2, 3, 4, 5)
        ]
        with open_works(cells, lambda environment: ENTRIES, common) as works:
            run_works(
                works,
                workers=workers,
                inference=inference,  # type: ignore[arg-type]
                order=lambda todo: sorted(todo, key=lambda item: item[1].index),
            )
        tables.append([results(read_sorted(cell.folder)) for cell in cells])
    assert tables[0] == tables[1]
    assert all(row[2] != "error" for table in tables[1] for row in table)


def test_a_checkpoint_that_changes_during_the_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights"
    checkpoint.mkdir()
    (checkpoint / "model").write_text("old")
    choice = PolicyChoice(label="it", policy=SCRIPTED, checkpoint=str(checkpoint))
    cell = make_cell(ENVIRONMENT, choice, tmp_path / "run", Settings(episodes=2))
    load_model(cell.policy)
    (checkpoint / "model").write_text("new")
    load_model.__globals__["_load_model"].cache_clear()
    with pytest.raises(ValueError, match=r"changed during the run .*evaluate a copy of it"):
        load_model(cell.policy)


def test_errors_are_played_again_on_request_and_count_as_they_end_last(tmp_path: Path) -> None:
    bad = {"mode": "raise", "on_seeds": [100_001, 100_002]}
    first = run(tmp_path / "run", SCRIPTED, **bad)
    assert [r.seed for r in first if r.outcome == "error"] == [100_001, 100_002]
    with opened(tmp_path / "run", SCRIPTED, **bad) as works:
        run_works(works, workers=1)
        assert len(lines(tmp_path / "run")) == 12
        run_works(works, workers=1, retry_errors=True)
    assert len(lines(tmp_path / "run")) == 14
    assert results(read_sorted(tmp_path / "run")) == results(first)


def lines(folder: Path) -> list[str]:
    text = (folder / "journal.jsonl").read_text()
    return [line for line in text.splitlines() if '"kind": "episode"' in line]


def test_the_policy_s_error_ends_its_own_episode_alone(
    tmp_path: Path, alone: list[EpisodeRecord]
) -> None:
    bad = {"mode": "raise", "on_seeds": [100_001, 100_006]}
    local = run(tmp_path / "local", BATCHED, **bad)
    shared = run(tmp_path / "shared", BATCHED, workers=4, inference="shared", **bad)
    assert results(shared) == results(local)
    for record, whole in zip(shared, alone, strict=True):
        if record.seed in bad["on_seeds"]:
            assert record.outcome == "error"
            assert record.reason.startswith("ZeroDivisionError: a bug of the policy (deploy_policy")
        else:
            assert record == _same_but_session(whole, record)


def _same_but_session(record: EpisodeRecord, like: EpisodeRecord) -> EpisodeRecord:
    values = {**vars(record), "session": like.session, "times": like.times}
    return EpisodeRecord(**values)


@pytest.mark.parametrize("mode", ["die", "hang"])
def test_a_shared_policy_that_dies_once_costs_nothing(
    tmp_path: Path, alone: list[EpisodeRecord], mode: str
) -> None:
    records = run(
        tmp_path / "run",
        BATCHED,
        workers=3,
        inference="shared",
        limits=Limits(step_s=1.0),
        mode=mode,
        on_seeds=[100_004],
        marker=str(tmp_path / "once"),
    )
    assert results(records) == results(alone)


def test_a_shared_policy_that_always_dies_on_a_scene_loses_that_episode_alone(
    tmp_path: Path, alone: list[EpisodeRecord]
) -> None:
    bad = {"mode": "die", "on_seeds": [100_004, 100_005]}
    records = run(tmp_path / "run", BATCHED, workers=4, inference="shared", **bad)
    for record, whole in zip(records, alone, strict=True):
        if record.seed in bad["on_seeds"]:
            assert record.outcome == "error"
            assert "the policy's process died" in record.reason
            assert "SIGKILL" in record.reason
            assert "(attempt 2 of 2)" in record.reason
        else:
            assert results([record]) == results([whole])


def test_a_policy_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyLoadError, match=r"'it' cannot serve several.*--inference worker"):
        run(tmp_path / "run", SCRIPTED, workers=2, inference="shared")


def test_where_sharing_is_only_preferred_a_policy_that_cannot_is_loaded_in_each_worker(
    tmp_path: Path,
) -> None:
    preferred = run(tmp_path / "a", SCRIPTED, workers=2, inference="shared_if_possible")
    assert results(preferred) == results(run(tmp_path / "b", SCRIPTED))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("segfault", ["SIGSEGV", "string_at"]),
        ("hang", ["no progress within 1 s", "deploy_policy.py", "hang"]),
        ("die", ["SIGKILL"]),
    ],
)
def test_a_lost_worker_is_replaced_and_its_episode_an_error_with_the_place(
    tmp_path: Path, mode: str, words: list[str]
) -> None:
    sound = run(tmp_path / "sound", SCRIPTED)
    settings = {"mode": mode, "on_seeds": [100_004]}
    limits = Limits(step_s=1.0)
    records = run(tmp_path / "run", SCRIPTED, workers=2, limits=limits, **settings)
    for record, whole in zip(records, sound, strict=True):
        if record.seed == 100_004:
            assert record.outcome == "error"
            assert record.attempts == 2
            assert all(word in record.reason for word in words), record.reason
        else:
            assert results([record]) == results([whole])


def test_an_episode_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    settings = {"mode": "hang", "on_seeds": [100_004]}
    records = run(
        tmp_path / "run", SCRIPTED, workers=2, limits=Limits(episode_s=4.0), episodes=4, **settings
    )
    (error,) = [record for record in records if record.outcome == "error"]
    assert error.seed == 100_004
    assert "no result within 4 s" in error.reason


def test_workers_that_hoard_memory_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    sound = run(tmp_path / "sound", SCRIPTED)
    settings = {"mode": "hoard", "on_seeds": SEEDS}
    limits = Limits(worker_mb=300.0)
    records = run(tmp_path / "run", SCRIPTED, limits=limits, **settings)
    assert results(records) == results(sound)


def test_another_noise_seed_is_another_draw_on_the_same_scenes(
    tmp_path: Path, alone: list[EpisodeRecord]
) -> None:
    other = run(tmp_path / "other", BATCHED, noise_seed=1)
    assert [record.seed for record in other] == [record.seed for record in alone]
    assert not {r.actions_digest for r in other} & {r.actions_digest for r in alone}
    assert all(record.noise_seed != record.seed for record in other)


def test_what_is_not_wanted_is_not_played(tmp_path: Path) -> None:
    with opened(tmp_path / "run", SCRIPTED) as works:
        run_works(works, workers=2, wanted=lambda work, request: request.index < 3)
    assert sorted(record.index for record in read_journal(tmp_path / "run")) == [0, 1, 2]
