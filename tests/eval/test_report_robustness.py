"""One policy in several configs: what a change of scene costs it, on the same scenes."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_fixtures import make_record, write_run

from twin_eval.records import EpisodeRecord
from twin_eval.report import write_report
from twin_eval.report.robustness import compare_configs, robustness_csv, robustness_text
from twin_eval.report.runs import Evidence

OUTCOMES: dict[str, Any] = {"s": "success", "f": "failure", "e": "error"}


def play(config: str, outcomes: str, **changes: Any) -> list[EpisodeRecord]:
    return [
        make_record(i, OUTCOMES[letter], config=config, **changes)
        for i, letter in enumerate(outcomes)
    ]


def evidence_of(*episodes: list[EpisodeRecord], **environments: dict[str, str]) -> Evidence:
    records = tuple(record for group in episodes for record in group)
    known = {("reach_number", name, "scripted"): values for name, values in environments.items()}
    return Evidence((), records, (), known, ())


CLEAN = play("demo_clean", "ssssssssssff")
DARK = play("dark", "ffffffffssfs")


def test_what_was_lost_and_gained_is_counted_scene_by_scene() -> None:
    (change,) = compare_configs(evidence_of(CLEAN, DARK))
    one = change.comparison
    assert (change.policy, one.task, one.a, one.b) == (
        "scripted",
        "reach_number",
        "dark",
        "demo_clean",
    )
    assert (one.n, one.only_b, one.only_a) == (12, 8, 1)
    assert one.difference == pytest.approx(-7 / 12)
    assert one.p == pytest.approx(20 / 512)
    assert (one.p_holm, one.verdict) == (one.p, "worse")


def test_configs_are_adjusted_together_and_scenes_of_one_of_them_are_left_out() -> None:
    changes = compare_configs(evidence_of(CLEAN, DARK, play("bright", "sssssssss")))
    assert [change.comparison.a for change in changes] == ["bright", "dark"]
    bright, dark = (change.comparison for change in changes)
    assert (bright.n, bright.unmatched, bright.verdict) == (9, 3, "not told apart")
    assert dark.p is not None
    assert dark.p_holm == pytest.approx(2 * dark.p)
    assert dark.verdict == "not told apart"
    table = robustness_text(changes)
    assert "−58.3" in table
    (_, row) = csv.DictReader(io.StringIO(robustness_csv(changes)))
    assert (row["config"], row["reference"], row["lost"], row["gained"]) == (
        "dark",
        "demo_clean",
        "8",
        "1",
    )


def test_without_the_clean_scene_there_is_nothing_to_compare_with() -> None:
    assert compare_configs(evidence_of(DARK, play("bright", "sss"))) == []


def test_another_checkpoint_or_simulator_is_not_comparable() -> None:
    others = [replace(record, checkpoint="another") for record in DARK]
    (change,) = compare_configs(evidence_of(CLEAN, others))
    one = change.comparison
    assert (one.verdict, one.p) == ("not comparable", None)
    assert one.remark == "the checkpoints differ"
    known = {name: {"sapien": version, "config": name} for name, version in (("demo_clean", "3"),)}
    same = {"dark": {"sapien": "3", "config": "dark"}}
    (change,) = compare_configs(evidence_of(CLEAN, DARK, **known, **same))
    assert change.comparison.verdict == "worse"
    same["dark"]["sapien"] = "4"
    (change,) = compare_configs(evidence_of(CLEAN, DARK, **known, **same))
    assert change.comparison.remark == "sapien: 4, 3"


def test_the_report_has_the_table_and_loses_it_again(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "c", CLEAN), write_run(tmp_path / "d", DARK)]
    files = write_report(runs, tmp_path / "report")
    assert {"robustness.csv", "robustness.md"} <= set(files.names)
    page = files.page.read_text()
    assert '<section id="robustness">' in page
    assert "Each config beside demo_clean" in page
    write_report(runs[:1], tmp_path / "report")
    assert not (tmp_path / "report" / "robustness.md").exists()
    assert '<section id="robustness">' not in files.page.read_text()
