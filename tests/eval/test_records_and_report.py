"""Records and their tables: outcomes kept apart, n always there."""

import csv
import dataclasses
import io
import random
from pathlib import Path

import pytest
from record_fixtures import make_cell, write_run
from record_fixtures import make_record as record

from twin_eval.records import PARTS, record_from_dict, record_to_dict
from twin_eval.report import (
    clamped_note,
    episodes_csv,
    format_rate,
    summarise,
    summary_csv,
    summary_text,
    write_report,
)


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_record_survives_json() -> None:
    full = make_cell("beat_block", "act", 0.5, n=1)[0]
    assert record_from_dict(record_to_dict(full)) == full


def test_record_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 3: got 2"):
        record_from_dict({**record_to_dict(record()), "schema": 2})


def test_record_with_missing_and_unexpected_fields_is_refused() -> None:
    values = record_to_dict(record())
    del values["seed"]
    with pytest.raises(ValueError, match=r"missing: \['seed'\], unexpected: \['sead'\]"):
        record_from_dict({**values, "sead": 1})


def test_record_knows_three_outcomes_only() -> None:
    with pytest.raises(ValueError, match="crashed"):
        dataclasses.replace(record(), outcome="crashed")  # type: ignore[arg-type]


def test_times_add_up_and_the_furthest_stage_has_a_name() -> None:
    one = record(stages=("grasped", "lifted"), stages_reached=1)
    assert (one.wall_s, one.cpu_s, one.stage) == (0.5, 0.3, "grasped")
    assert record(stages=("grasped", "lifted")).stage == ""


def test_errors_are_neither_successes_nor_failures() -> None:
    records = [
        record(0, "success", steps=10, success_step=10),
        record(1, "success", steps=20, success_step=20),
        record(2, "failure", steps=60),
        record(3, "error", steps=999),
        record(4, "error", steps=999),
    ]
    (row,) = summarise(records)
    assert (row.n, row.successes, row.errors) == (3, 2, 2)
    assert row.rate == pytest.approx(2 / 3, abs=1e-6)
    assert row.mean_steps == 30
    assert row.median_success_step == 15
    assert row.wall_s == 2.5


def test_clamped_actions_are_counted_and_told() -> None:
    records = [record(0, clamped_actions=3), record(1, "error", clamped_actions=4)]
    rows = summarise([*records, record(0, policy="careful", clamped_actions=0)])
    assert [row.clamped_actions for row in rows] == [7, 0]
    assert clamped_note(rows) == (
        "Actions beyond the joint limits, clamped: scripted on reach_number 7."
    )
    assert clamped_note(rows[1:]) == ""


def test_intervals_are_the_published_ones_for_8_of_10() -> None:
    """As statsmodels gives them: proportion_confint(8, 10), methods wilson and beta."""
    (row,) = summarise([record(i, "success" if i < 8 else "failure") for i in range(10)])
    assert (row.wilson_low, row.wilson_high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    exact = (row.clopper_pearson_low, row.clopper_pearson_high)
    assert exact == pytest.approx((0.4439, 0.9748), abs=1e-4)
    (narrow,) = summarise([record(i) for i in range(10)], confidence=0.5)
    assert narrow.wilson_low > 0.9


def test_summary_of_errors_alone_has_no_rate() -> None:
    (row,) = summarise([record(0, "error")])
    assert (row.n, row.rate, row.wilson_low, row.wilson_high) == (0, None, 0.0, 1.0)
    (line,) = lines_of(summary_csv([row]))
    assert (line["rate"], line["median_success_step"]) == ("", "")
    assert format_rate(row) == "- [0.0, 100.0]"


def test_configs_are_cells_of_their_own() -> None:
    rows = summarise([record(0, config="demo_clean"), record(0, "failure", config="demo_random")])
    assert [(row.config, row.successes) for row in rows] == [("demo_clean", 1), ("demo_random", 0)]
    assert "reach_number (demo_random)" in summary_text(rows)


def test_episodes_are_in_the_order_of_the_plan_however_they_came() -> None:
    records = [r for policy in ("b", "a") for r in make_cell("t", policy, 0.5, n=6, errors=1)]
    shuffled = random.Random(0).sample(records, len(records))
    assert episodes_csv(shuffled) == episodes_csv(records)
    lines = lines_of(episodes_csv(shuffled))
    assert [(line["policy"], int(line["index"])) for line in lines] == [
        (policy, index) for policy in "ab" for index in range(6)
    ]
    assert lines[3]["outcome"] == "error"


def test_episode_columns_hold_what_was_recorded_and_times_come_last() -> None:
    (line,) = lines_of(episodes_csv([record(0, "failure", layout={"block": [0.1, 0.2, 0.7]})]))
    assert line["reason"] == "because, of\nthis"
    assert line["layout"] == '{"block": [0.1, 0.2, 0.7]}'
    assert (line["wall_s"], line["cpu_s"], line["setup_wall_s"]) == ("0.5", "0.3", "0.2")
    assert (line["success_step"], line["policy_cpu_s"]) == ("", "")
    times = [
        name for name in line if name in ("wall_s", "cpu_s") or name.endswith(("_wall_s", "_cpu_s"))
    ]
    assert times == list(line)[-len(times) :]
    assert len(times) == 2 + 2 * len(PARTS)


def test_summary_keeps_its_columns() -> None:
    header = summary_csv(summarise([record()])).splitlines()[0].split(",")
    wanted = """task config policy n successes rate wilson_low wilson_high clopper_pearson_low
        clopper_pearson_high errors mean_steps median_success_step clamped_actions wall_s weights"""
    assert header == wanted.split()


def test_table_shows_n_and_interval() -> None:
    text = summary_text(summarise([record(i) for i in range(8)] + [record(8, "failure")]))
    assert "88.9% [56.5, 98.0]" in text
    assert {len(line) for line in text.splitlines()} == {len(text.splitlines()[0])}


def test_random_weights_show_in_names_notes_and_tables(tmp_path: Path) -> None:
    """And an older journal, which says nothing of weights, still opens."""
    session = {"weights": "random weights", "checkpoint_path": "weights/clip"}
    write_run(tmp_path / "clip", [record(0, policy="clip")], session=session)
    write_run(tmp_path / "known", [record(0, policy="known")], session={"weights": "hub:openai"})
    write_run(tmp_path / "old", [record(0, policy="old")])
    files = write_report([tmp_path], tmp_path / "out", baseline="clip", drawn=False)
    named = {row.policy: row.weights for row in files.rows}
    assert named == {"clip (random weights)": "random weights", "known": "hub:openai", "old": ""}
    assert {one.b for one in files.comparisons} == {"clip (random weights)"}
    (note,) = [note for note in files.notes if "random ones" in note]
    assert note.startswith("clip (random weights): ")
    lines = lines_of((tmp_path / "out" / "summary.csv").read_text())
    assert {line["policy"]: line["weights"] for line in lines} == named
    (line, *_) = lines_of((tmp_path / "out" / "episodes.csv").read_text())
    assert line["policy"] == "clip (random weights)"
