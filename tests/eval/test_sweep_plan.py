"""Jobs of a sweep: what needs what, what is shared, what is done, how long the rest takes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_fixtures import make_record
from sweep_fixtures import SMALL, make_sweep

from twin_eval import cli
from twin_eval.sweeps.executor import Ended
from twin_eval.sweeps.jobs import (
    JOURNAL,
    Job,
    JobEnd,
    Rates,
    RunEnd,
    append_end,
    failures,
    rates_below,
    read_ends,
)
from twin_eval.sweeps.outcomes import Outcomes, last_complaint, read_report
from twin_eval.sweeps.plan import Means, Standing, cut_chunks, is_evaluated, make_jobs
from twin_eval.sweeps.plan_text import plan_text
from twin_eval.sweeps.schedule import Loss, Schedule, losses_text
from twin_eval.sweeps.spec import Sweep, SweepRun, parse_sweep
from twin_eval.sweeps.trainings import (
    Tower,
    Training,
    TrainingPlan,
    changed_keys,
    define_run,
    describe_run,
    lacks,
)

FOLDER = Path("outputs/sweeps/small")


def trainings(runs: Sequence[SweepRun], **changes: Any) -> TrainingPlan:
    """All runs of a task learn from one tower's features."""
    training = Training("", True, "none", 100, 0, 32, 1000, "clip_vit_b16", None)
    tasks = sorted({run.task for run in runs})
    towers = tuple(
        Tower(
            task,
            "clip_vit_b16",
            ("block0", "block1"),
            ("class_token",),
            tuple(run.name for run in runs if run.task == task),
            pictures=600,
            bytes=2_000_000,
            ready=False,
        )
        for task in tasks
    )
    if not changes.get("features", True):
        towers = ()
    return TrainingPlan(
        towers, {run.name: replace(training, name=run.name, **changes) for run in runs}
    )


def nothing(sweep: Sweep) -> Standing:
    return Standing(demonstrations=dict.fromkeys(sweep.tasks, 0))


def jobs_of(sweep: Sweep, standing: Standing | None = None, **means: Any) -> list[Job]:
    plan = trainings(sweep.runs)
    standing = standing or nothing(sweep)
    return make_jobs(sweep, FOLDER, sweep.runs, plan, standing, Means(**means))


def take_all(jobs: Sequence[Job]) -> list[Job]:
    """The order in which they run one after another."""
    schedule, order = Schedule(jobs), []
    while (job := schedule.next()) is not None:
        order.append(job)
        schedule.arrive([*job.gives, *(f"{job.run_gives} {run}" for run in job.runs)])
    assert not schedule.pending
    return order


def test_one_after_another_the_first_results_come_early() -> None:
    order = [job.name for job in take_all(jobs_of(make_sweep()))]
    assert order[:6] == [
        "collect/beat_block_hammer",
        "scenes/beat_block_hammer",
        "prepare/beat_block_hammer",
        "train/beat_block_hammer/1",
        "evaluate/beat_block_hammer/clip_layer=0/seed0",
        "evaluate/beat_block_hammer/clip_layer=1/seed0",
    ]
    assert order.index("evaluate/click_bell/clip_layer=1/seed0") < order.index(
        "train/beat_block_hammer/2"
    )
    assert len(order) == len(set(order)) == 2 * 3 + 4 + 8


def test_what_is_there_is_not_done_again() -> None:
    sweep = make_sweep()
    names = [run.name for run in sweep.runs]
    standing = Standing(
        demonstrations={"beat_block_hammer": 3, "click_bell": 2},
        trained=set(names[:4]),
        evaluated=set(names[:3]),
        episodes={names[3]: 1},
    )
    jobs = {job.name: job for job in jobs_of(sweep, standing)}
    assert "collect/beat_block_hammer" not in jobs
    assert jobs["collect/click_bell"].units == 1
    assert set(jobs["prepare/click_bell"].runs) == set(names[6:])
    assert jobs["train/click_bell/1"].runs == tuple(names[6:])
    assert jobs[f"evaluate/{names[3]}"].units == 1
    assert f"evaluate/{names[2]}" not in jobs
    whole = Standing(standing.demonstrations, set(names), {}, set(names))
    assert jobs_of(sweep, whole) == []


def test_episodes_of_another_folder_are_not_recorded() -> None:
    """Its `{task}` is the task; all of them are learnt from, unless a number is given."""
    sweep = parse_sweep(
        {**{key: SMALL[key] for key in SMALL if key != "demonstrations"}, "data": "replay/{task}"},
        name="small",
        source="small.yaml",
    )
    assert sweep.demonstrations is None
    assert sweep.learnt_from == "all episodes of replay/{task}"
    entry = describe_run(sweep, Path("out"), sweep.runs[0])
    assert (entry["data"], entry["episodes"]) == ("replay/beat_block_hammer", None)
    there = Standing(demonstrations=dict.fromkeys(sweep.tasks, 7))
    assert "collect" not in {job.kind for job in jobs_of(sweep, there)}
    with pytest.raises(ValueError, match="replay/beat_block_hammer holds 0 episodes"):
        jobs_of(sweep)
    five = make_sweep(data="replay/{task}", demonstrations=5)
    assert describe_run(five, Path("out"), five.runs[0])["episodes"] == 5
    with pytest.raises(ValueError, match="holds 4 episodes"):
        jobs_of(five, Standing(demonstrations=dict.fromkeys(five.tasks, 4)))


@pytest.mark.parametrize("number", range(5))
def test_words_of_a_job_are_words_that_its_command_knows(number: int) -> None:
    import argparse

    kinds = ("collect", "scenes", "prepare", "train", "evaluate")
    job = next(job for job in jobs_of(make_sweep(), workers=2) if job.kind == kinds[number])
    module = __import__(cli.find_command(job.command[0]).module, fromlist=["add_arguments"])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parsed = parser.parse_args(job.command[1:])
    if job.kind in {"prepare", "train"}:
        assert tuple(parsed.only) == job.runs
        assert parsed.report == job.report
    if job.kind == "evaluate":
        assert parsed.checkpoint == str(FOLDER / "runs" / job.runs[0] / "checkpoint")
        assert (parsed.policy, parsed.episodes, parsed.seed) == ("clip_dp", 2, 0)


def test_missing_demonstrations_may_be_refused() -> None:
    with pytest.raises(ValueError, match="3 demonstrations of beat_block_hammer are missing"):
        jobs_of(make_sweep(), collect=False)


@pytest.mark.parametrize(("slots", "sizes"), [(1, [4, 4]), (2, [4, 4]), (4, [2, 2, 2, 2])])
def test_runs_that_share_features_share_a_process(slots: int, sizes: list[int]) -> None:
    sweep = make_sweep(
        tasks=["click_bell"], grid={"policy.encoder.clip_layer": [0, 1, 2, 3]}, seeds=[0, 1]
    )
    chunks = cut_chunks(sweep.runs, trainings(sweep.runs), slots=slots)
    assert [len(chunk) for chunk in chunks] == sizes
    assert all(len({run.seed for run in chunk}) == 1 for chunk in chunks)
    assert sorted(run.name for chunk in chunks for run in chunk) == sorted(
        run.name for run in sweep.runs
    )


def test_runs_with_a_live_backbone_are_alone() -> None:
    runs = make_sweep().runs
    chunks = cut_chunks(runs, trainings(runs, features=False, live_backbone="tuned"), slots=1)
    assert chunks == [[run] for run in runs]


def test_a_run_that_broke_a_process_is_alone() -> None:
    grid = {"policy.encoder.clip_layer": [0, 1, 2, 3]}
    runs = make_sweep(tasks=["click_bell"], grid=grid, seeds=[0]).runs
    chunks = cut_chunks(runs, trainings(runs), slots=1, alone={runs[1].name})
    assert [[run.variant.label[-1] for run in chunk] for chunk in chunks] == [
        ["0", "2", "3"],
        ["1"],
    ]


@pytest.mark.parametrize(
    ("status", "states"),
    [
        (139, ["done", "failed", "interrupted", "failed"]),
        (-9, ["done", "failed", "interrupted", "failed"]),
        # A call that is refused is refused for all.
        (2, ["done", "failed", "failed", "failed"]),
    ],
)
def test_whose_crash_it_was(tmp_path: Path, status: int, states: list[str]) -> None:
    sweep = make_sweep(
        tasks=["click_bell"], grid={"policy.encoder.clip_layer": [0, 1, 2, 3]}, seeds=[0]
    )
    plan = trainings(sweep.runs)
    (job,) = [
        job
        for job in make_jobs(sweep, tmp_path, sweep.runs, plan, nothing(sweep), Means())
        if job.kind == "train"
    ]
    finish(tmp_path / "runs" / job.runs[0] / "checkpoint", 100)
    assert job.report is not None
    job.report.parent.mkdir(parents=True)
    last = {"name": job.runs[3], "state": "failed", "reason": "no such file"}
    job.report.write_text(json.dumps(last) + "\n")
    outcomes = Outcomes(sweep, tmp_path, plan, {})
    end = outcomes.conclude(Ended(job, status, 1.0, "here"), stopping=False)
    assert [end.runs[run].state for run in job.runs] == states
    assert end.state == "failed"
    assert [name for name, run in end.runs.items() if run.crashed] == (
        [job.runs[1]] if status != 2 else []
    )
    append_end(tmp_path, end)
    assert read_ends(tmp_path) == [end]
    stopped = outcomes.conclude(Ended(job, status, 1.0, "here"), stopping=True)
    assert [stopped.runs[run].state for run in job.runs] == [
        "done", "interrupted", "interrupted", "failed",
    ]  # fmt: skip


def finish(checkpoint: Path, steps: int) -> None:
    """A checkpoint as a training of so many steps leaves it."""
    checkpoint.mkdir(parents=True)
    header = json.dumps({"__metadata__": {"steps": str(steps)}}).encode()
    (checkpoint / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (checkpoint / "provenance.json").write_text(json.dumps({"steps": steps}))
    (checkpoint / "card.md").touch()


def test_a_training_is_finished_or_lacks_something(tmp_path: Path) -> None:
    def save(*, provenance: int, weights: int | None) -> None:
        (tmp_path / "provenance.json").write_text(json.dumps({"steps": provenance}))
        metadata = {} if weights is None else {"__metadata__": {"steps": str(weights)}}
        header = json.dumps({**metadata, "w": {"dtype": "F32", "shape": []}}).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(4)
        (tmp_path / "model.safetensors").write_bytes(content)

    assert lacks(tmp_path, 60) == "0 of 60 steps are trained"
    save(provenance=60, weights=60)
    assert lacks(tmp_path, 60) == "card.md is missing, which ends a training"
    (tmp_path / "card.md").touch()
    assert lacks(tmp_path, 60) == ""
    assert lacks(tmp_path, 70) == "60 of 70 steps are trained"
    save(provenance=60, weights=40)
    assert lacks(tmp_path, 60) == "model.safetensors is of step 40, not 60"
    save(provenance=60, weights=None)
    assert lacks(tmp_path, 60) == "model.safetensors is of step unknown, not 60"
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert lacks(tmp_path, 60) == "model.safetensors is of step unknown, not 60"


def test_an_evaluation_is_whole_or_not() -> None:
    sweep = make_sweep()
    good, bad = make_record(0), make_record(1, "error")
    assert is_evaluated(sweep, [good, make_record(1)], planned=2, strict=True)
    assert is_evaluated(sweep, [good, bad], planned=2)
    assert not is_evaluated(sweep, [good, bad], planned=2, strict=True)
    assert not is_evaluated(sweep, [make_record(0, "error"), bad], planned=2)
    assert not is_evaluated(sweep, [good], planned=2)
    assert not is_evaluated(sweep, [good, make_record(5)], planned=6)


# Failures ---------------------------------------------------------------------------------------


def test_a_loss_takes_what_needs_it_and_nothing_else() -> None:
    sweep = make_sweep(tasks=["click_bell"], seeds=[0])
    first, second = (run.name for run in sweep.runs)
    schedule = Schedule(jobs_of(sweep))
    schedule.lose([f"features of {first}"], Loss("prepare", "damaged", "prepare/click_bell"))
    assert set(schedule.lost) == {f"{good} of {first}" for good in _goods()}
    assert str(schedule.lost[f"evaluation of {first}"]) == (
        "blocked: preparing the data failed: damaged"
    )
    (train,) = [job for job in schedule.pending if job.kind == "train"]
    assert train.runs == (second,)
    assert train.units == 100
    schedule.lose(["demonstrations of click_bell"], Loss("collect", "no disk"))
    assert [job.kind for job in schedule.pending] == ["collect", "scenes"]
    assert set(schedule.lost) >= {f"{good} of {second}" for good in _goods()}


def _goods() -> tuple[str, ...]:
    return ("features", "checkpoint", "evaluation")


def test_runs_of_one_reason_are_listed_together() -> None:
    loss = Loss("train", "no weights", foreseen=True)
    text = losses_text({"a": loss, "b": loss, "c": Loss("train", "oops", "train/x/1")})
    assert text.splitlines() == [
        "  a",
        "  b",
        "    cannot be trained: no weights",
        "  c",
        "    training failed: oops",
    ]


def test_the_reason_is_the_last_error_of_the_last_attempt(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("== 1 twinbench x\nerror: old\n== 2 twinbench x\na\nerror: new\n  k: 1\n\n")
    assert last_complaint(log) == "new k: 1"
    log.write_text("== 1 twinbench x\nerror: old\n== 2 twinbench x\nTraceback\nKeyError: 3\n")
    assert last_complaint(log) == "KeyError: 3"
    log.write_text("== 1 twinbench x\n")
    assert last_complaint(log) == last_complaint(tmp_path / "none.log") == ""


def test_torn_lines_of_a_report_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"name": "a", "state": "done"}\n{"name": "b", "sta')
    assert set(read_report(path)) == {"a"}
    assert read_report(None) == read_report(tmp_path / "none") == {}


def test_changed_settings_of_a_trained_run_are_seen(tmp_path: Path) -> None:
    entry = {"task": "t", "policy": "none", "episodes": 3, "env_config": "c", "set": {}}
    before = define_run({**entry, "set": {"train.lr": 0.1, "train.features": "auto"}})
    after = define_run({**entry, "set": {"train.lr": 0.2, "train.wandb": "me"}})
    (tmp_path / "asked.json").write_text(json.dumps(before))
    assert changed_keys(tmp_path, after) == []  # Nothing has been trained.
    (tmp_path / "checkpoint" / "training_state").mkdir(parents=True)
    assert changed_keys(tmp_path, before) == []
    assert changed_keys(tmp_path, after) == ["set.train.lr: 0.1 there, 0.2 now"]


# The journal, and times -------------------------------------------------------------------------


def ended(**changes: Any) -> JobEnd:
    values: dict[str, Any] = {
        "job": "evaluate/r",
        "kind": "evaluate",
        "words": ("eval", "x"),
        "state": "done",
        "reason": "",
        "seconds": 20.0,
        "when": "2026-01-01T00:00:00+00:00",
        "host": "here",
        "units": 10,
        "rate_keys": ("evaluate click_bell clip_dp", "evaluate"),
        "runs": {"r": RunEnd("done", "", "abc")},
    }
    return JobEnd(**{**values, **changes})


def test_the_journal_survives_a_torn_line(tmp_path: Path) -> None:
    append_end(tmp_path, ended())
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"version": 1, "job": "x')
    failed = ended(state="failed", reason="oops", runs={"r": RunEnd("failed", "oops", "abc")})
    append_end(tmp_path, failed)
    assert read_ends(tmp_path) == [ended(), failed]
    assert failures(read_ends(tmp_path)) == {("evaluate", "r"): RunEnd("failed", "oops", "abc")}
    assert failures([failed, ended()]) == {}
    (tmp_path / JOURNAL).write_text('{"version": 9}\n')
    with pytest.raises(ValueError, match="line 1 is of version 9, not 1: delete the file"):
        read_ends(tmp_path)


def test_expected_times_are_those_of_the_most_alike_work(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    append_end(tmp_path / "other", ended())
    append_end(tmp_path / "other", ended(seconds=40.0))
    append_end(tmp_path / "other", ended(seconds=999.0, state="failed"))
    rates = rates_below(tmp_path)
    job = Job(name="x", kind="evaluate", words=(), rank=0, units=50, rate_keys=("evaluate",))
    assert rates.expected_s(job) == pytest.approx(150.0)
    rates.learn(ended(seconds=10.0, rate_keys=("evaluate place",)))
    assert rates.expected_s(replace(job, rate_keys=("evaluate place", "evaluate"))) == 50.0
    assert rates.expected_s(replace(job, rate_keys=("train x",))) is None
    assert rates.expected_s(replace(job, units=0, rate_keys=())) == 0.0


def test_the_plan_says_what_is_shared_and_what_is_not_known() -> None:
    sweep = make_sweep()
    text = plan_text(
        sweep,
        FOLDER,
        sweep.runs,
        trainings(sweep.runs),
        nothing(sweep),
        jobs_of(sweep),
        failed={},
        rates=Rates([ended(rate_keys=("evaluate",), units=1, seconds=60.0)]),
        slots=2,
    )
    assert "2 variants x 2 tasks x 2 training seeds = 8 runs" in text
    assert "one pass over 600 pictures, layers block0, block1 (2 MB), serves 4 trainings" in text
    assert "trainings: 8 from features; what is left of them in 4 processes" in text
    assert "features 4 MB, checkpoints about 192 kB" in text
    rows = {line.split("  ")[0]: line.split()[-3:] for line in text.splitlines() if "  " in line}
    assert rows["demonstrations"] == ["6", "0", "unknown"]
    assert rows["evaluation episodes"] == ["0", "16", "min"]
    assert "time: at least 8 min; unknown where no such work" in text
