"""Records, tables and figures: outcomes kept apart, n always there."""

import csv
import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twin_eval.commands.eval import EpisodeBar
from twin_eval.figures import save_figure, success_figure
from twin_eval.records import EpisodeRecord, Outcome, record_from_dict, record_to_dict
from twin_eval.report import episodes_csv, summarise, summary_csv, summary_text


def record(index: int = 0, outcome: Outcome = "success", steps: int = 10) -> EpisodeRecord:
    return EpisodeRecord(
        task="reach_number",
        policy="scripted",
        index=index,
        seed=100_000 + index,
        policy_seed=0,
        outcome=outcome,
        reason="" if outcome == "success" else "because, of\nthis",
        steps=steps,
        clamped_actions=2,
        instruction="reach",
        wall_s=0.5,
        attempts=1,
        video="",
    )


def test_record_survives_json() -> None:
    assert record_from_dict(record_to_dict(record())) == record()


def test_record_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 2: got 1"):
        record_from_dict({**record_to_dict(record()), "schema": 1})


def test_record_with_missing_and_unexpected_fields_is_refused() -> None:
    values = record_to_dict(record())
    del values["seed"]
    with pytest.raises(ValueError, match=r"missing: \['seed'\], unexpected: \['sead'\]"):
        record_from_dict({**values, "sead": 1})


def test_record_knows_three_outcomes_only() -> None:
    with pytest.raises(ValueError, match="crashed"):
        dataclasses.replace(record(), outcome="crashed")  # type: ignore[arg-type]


def test_errors_are_neither_successes_nor_failures() -> None:
    outcomes: list[Outcome] = ["success", "success", "failure", "error", "error"]
    steps = [10, 20, 60, 999, 999]
    records = [record(i, o, s) for i, (o, s) in enumerate(zip(outcomes, steps, strict=True))]
    (row,) = summarise(records)
    assert (row.n, row.successes, row.errors) == (3, 2, 2)
    assert row.rate == pytest.approx(2 / 3, abs=1e-4)
    assert row.mean_steps == 30
    assert row.wall_s == 2.5


def test_summary_of_errors_alone_has_no_rate() -> None:
    (row,) = summarise([record(0, "error")])
    assert (row.n, row.rate, row.wilson_low, row.wilson_high) == (0, None, 0.0, 1.0)
    (line,) = csv.DictReader(io.StringIO(summary_csv([row])))
    assert line["rate"] == ""


def test_csv_columns_and_order() -> None:
    text = episodes_csv([record(2, "error"), record(0), record(1, "failure")])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["index"] for line in lines] == ["0", "1", "2"]
    assert [line["outcome"] for line in lines] == ["success", "failure", "error"]
    assert lines[2]["reason"] == "because, of\nthis"
    assert {"task", "policy", "seed", "outcome", "steps", "clamped_actions", "reason"} <= set(
        lines[0]
    )
    header = summary_csv(summarise([record()])).splitlines()[0].split(",")
    wanted = "task policy n successes rate wilson_low wilson_high errors mean_steps wall_s"
    assert header == wanted.split()


def test_table_shows_n_and_interval() -> None:
    text = summary_text(summarise([record(i) for i in range(8)] + [record(8, "failure")]))
    assert "88.9% [56.5, 98.0]" in text
    assert {len(line) for line in text.splitlines()} == {len(text.splitlines()[0])}


def test_figure_shows_rate_and_n(tmp_path: Path) -> None:
    rows = summarise([record(i) for i in range(3)] + [record(3, "failure"), record(4, "error")])
    figure = success_figure(rows, "a title")
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "75%" in words
    assert "3 of n = 4, 1 error" in words
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_the_bar_counts_episodes_of_the_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    journal: Any = SimpleNamespace(records=[record(0), record(7)])
    with EpisodeBar(journal, 5):
        pass
    assert "1/5" in capsys.readouterr().err
