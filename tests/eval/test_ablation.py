"""The ablation table: nothing dropped, scenes not counted twice, the same verdicts as a report."""

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_fixtures import make_record, write_run

from twin_eval.records import EpisodeRecord
from twin_eval.report import compare, gather, load_runs
from twin_eval.statistics import clustered_p_value, mcnemar_exact, wilson_interval
from twin_eval.sweeps.ablation import read_ablation, write_ablation
from twin_eval.sweeps.ablation_page import make_panels
from twin_eval.sweeps.ablation_tables import Ablation, percent
from twin_eval.sweeps.spec import Sweep, SweepRun, parse_sweep

OUTCOMES = {"s": "success", "f": "failure", "e": "error"}
TASKS = ("beat_block", "click_bell")
RANDOM = "random weights"


def make_sweep(**changes: Any) -> Sweep:
    values = {
        "question": "Which layer?",
        "policy": "clip_dp_small",
        "tasks": list(TASKS),
        "seeds": [0, 1],
        "grid": {"policy.encoder.clip_layer": [1, 2, "final"]},
        "evaluate": {"episodes": 8},
        **changes,
    }
    return parse_sweep(values, name="layers", source="layers.yaml")


def play(outcomes: str, run: SweepRun, **changes: Any) -> list[EpisodeRecord]:
    times = {"setup": [0.2, 0.1], "policy": [0.5, 0.4]}
    usual = {"task": run.task, "policy": "clip_dp", "times": times}
    return [
        make_record(i, OUTCOMES[letter], **{**usual, **changes})  # type: ignore[arg-type]
        for i, letter in enumerate(outcomes)
    ]


def leave(
    folder: Path,
    run: SweepRun,
    records: Sequence[EpisodeRecord],
    *,
    weights: str = "hub:openai",
    planned: int = 8,
    **provenance: Any,
) -> None:
    """What a training and its evaluation leave in the sweep's folder."""
    place = folder / "runs" / run.name
    write_run(place / "eval", records, planned=planned, definition={"policy": "clip_dp"})
    (place / "checkpoint").mkdir()
    values = {
        "steps": 10,
        "train_config": {"num_steps": 10},
        "train_seconds": 60.0,
        "validation": {"mean_abs": 0.02},
        "parameters": {"all": 2000, "learning": 1000},
        "backbone_weights": {"source": weights},
        **provenance,
    }
    (place / "checkpoint" / "provenance.json").write_text(json.dumps(values))


def fill(
    folder: Path, sweep: Sweep, outcomes: Callable[[SweepRun], str], **changes: Any
) -> Ablation:
    """Plays every run for which there are outcomes."""
    for run in sweep.runs:
        if word := outcomes(run):
            leave(folder, run, play(word, run), **changes)
    return read_ablation(sweep, folder)


def by_layer(words: Mapping[str, str]) -> Callable[[SweepRun], str]:
    return lambda run: words[run.variant.values["clip_layer"]]


def lines_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_cell_takes_the_training_seeds_together(tmp_path: Path) -> None:
    sweep = make_sweep(grid={"policy.encoder.clip_layer": [1]})
    words = {0: "ssssffff", 1: "ssssssfe"}
    for run in sweep.runs:
        records = play(words[run.seed], run)
        leave(tmp_path, run, records, train_seconds=60.0 + 20 * run.seed)
    ablation = read_ablation(sweep, tmp_path)
    cell = ablation.cell("clip_layer=1", "beat_block")
    assert (cell.n, cell.successes, cell.errors) == (15, 10, 1)
    assert cell.rate == pytest.approx(10 / 15)
    assert cell.seed_rates == ((0, 0.5), (1, pytest.approx(6 / 7)))
    assert (cell.lowest, cell.highest) == (0.5, pytest.approx(6 / 7))
    assert (cell.train_seconds, cell.learning_parameters, cell.action_error_rad) == (70, 1000, 0.02)
    assert cell.inference_ms == pytest.approx(50)
    independent = wilson_interval(10, 15)
    assert cell.low < independent[0]
    assert cell.high > independent[1]
    every = ablation.cell("clip_layer=1", "all tasks")
    assert (every.n, every.rate) == (30, pytest.approx(10 / 15))


def test_all_tasks_count_the_same_whatever_their_n(tmp_path: Path) -> None:
    sweep = make_sweep(grid={"policy.encoder.clip_layer": [1]}, seeds=[0])
    ablation = fill(
        tmp_path, sweep, lambda run: "ssssssss" if run.task == "beat_block" else "ffeeeeee"
    )
    every = ablation.cell("clip_layer=1", "all tasks")
    assert (every.rate, every.n, every.errors) == (0.5, 10, 6)


def test_with_one_training_it_says_what_a_report_says(tmp_path: Path) -> None:
    sweep = make_sweep(tasks=["reach"], seeds=[0], evaluate={"episodes": 40})
    luck = np.random.default_rng(3)
    for run, rate in zip(sweep.runs, (0.2, 0.5, 0.9), strict=True):
        word = "".join("s" if luck.uniform() < rate else "f" for _ in range(40))
        records = play(word, run, policy=run.variant.label)
        leave(tmp_path, run, records, planned=40)
    ablation = read_ablation(sweep, tmp_path)
    reported = {
        frozenset((one.a, one.b)): one for one in compare(gather(load_runs([tmp_path / "runs"])))
    }
    assert len(ablation.comparisons) == 3
    for one in ablation.comparisons:
        other = reported[frozenset((one.a, one.b))]
        sign = 1 if one.a == other.a else -1
        assert one.difference == pytest.approx(sign * other.difference)  # type: ignore[operator]
        assert (one.n, one.p) == (other.n, pytest.approx(other.p))
        assert (one.p_holm, one.winner) == (pytest.approx(other.p_holm), other.winner)
        if sign == 1:
            assert (one.low, one.high) == pytest.approx((other.low, other.high))
    for cell in ablation.cells:
        assert (cell.low, cell.high) == pytest.approx(wilson_interval(cell.successes, 40))
    assert set(ablation.marks.values()) <= {"a", "ab", "b", "bc", "c"}


def test_trainings_that_agree_are_no_more_evidence_than_one(tmp_path: Path) -> None:
    words = {"1": "ffffffff", "2": "ssssssff", "final": "ssssssff"}
    ablation = fill(tmp_path, make_sweep(seeds=[0, 1, 2]), by_layer(words))
    one = next(one for one in ablation.comparisons if one.task == "beat_block")
    assert (one.a, one.b) == ("clip_layer=1", "clip_layer=2")
    assert one.p == clustered_p_value([-3] * 6 + [0] * 2, 3) >= mcnemar_exact(0, 6)
    assert (one.n, one.trainings, one.agree, one.b_ahead) == (8, 3, 3, 6)
    every = next(one for one in ablation.comparisons if one.task == "all tasks")
    assert every.p == clustered_p_value([-3] * 12 + [0] * 4, 3)
    assert every.winner == "clip_layer=2"
    assert one.verdict == "not told apart"  # though one.p is below 0.05
    assert "not among 6" in one.remark


def test_with_a_baseline_only_it_is_compared(tmp_path: Path) -> None:
    sweep = make_sweep(
        baseline="clip_layer=final", tasks=["reach"], evaluate={"episodes": 20}, seeds=[0]
    )
    words = {"1": "f" * 20, "2": "s" * 10 + "f" * 10, "final": "f" * 10 + "s" * 10}
    ablation = fill(tmp_path, sweep, by_layer(words), planned=20)
    assert [(one.a, one.b) for one in ablation.comparisons] == [
        ("clip_layer=1", "clip_layer=final"),
        ("clip_layer=2", "clip_layer=final"),
    ]
    assert ablation.marks == {("clip_layer=1", "reach"): "↓"}


def test_missing_and_unfinished_runs_are_shown(tmp_path: Path) -> None:
    def outcomes(run: SweepRun) -> str:
        if run.variant.label == "clip_layer=final":
            return ""
        return "sf" if (run.variant.label, run.seed) == ("clip_layer=1", 1) else "ssssffff"

    sweep = make_sweep()
    fill(tmp_path, sweep, outcomes)
    files = write_ablation(sweep, tmp_path, drawn=False)
    rows = lines_of(tmp_path / "ablation.csv")
    assert [(row["clip_layer"], row["task"]) for row in rows] == [
        (layer, task) for layer in ("1", "2", "final") for task in (*TASKS, "all tasks")
    ]
    assert [row["rate"] for row in rows[-3:]] == ["", "", ""]
    assert [row["finished"] for row in rows[::3]] == ["1", "2", "0"]
    assert "missing" in files.text
    assert "n = 10, seeds 50 to 50, unfinished" in files.text
    assert any(note.startswith("Without an episode yet: 4 of 12 runs") for note in files.notes)
    assert any(note.startswith("Unfinished: 2 evaluations") for note in files.notes)
    # The finished training seed is compared; the begun one would leave two scenes.
    one = files.comparisons[0]
    assert (one.trainings, one.n, one.left_out) == (1, 8, 0)
    assert {one.verdict for one in files.comparisons if "final" in one.b} == {"not there yet"}


def test_a_verdict_says_where_training_seeds_disagree(tmp_path: Path) -> None:
    sweep = make_sweep(
        tasks=["reach"], grid={"policy.encoder.clip_layer": [1, 2]}, evaluate={"episodes": 40}
    )
    words = {"1": ("s" * 40, "s" * 4 + "f" * 36), "2": ("f" * 40, "s" * 8 + "f" * 32)}
    ablation = fill(
        tmp_path,
        sweep,
        lambda run: words[run.variant.values["clip_layer"]][run.seed],
        planned=40,
    )
    (one,) = ablation.comparisons
    assert (one.agree, one.trainings) == (1, 2)
    assert one.verdict == "clip_layer=1 better, but not in each training seed"


def fill_half(folder: Path, **changes: Any) -> Ablation:
    """Layer 1 wins with training seed 0, and has but begun those that the others win."""
    others = "ffffffff", "ssssssss", "ssssssss"
    words = {"1": ("ssssssss", "fffffff", "fffffff"), "2": others, "final": others}
    sweep = make_sweep(tasks=["reach"], seeds=[0, 1, 2], **changes)
    return fill(folder, sweep, lambda run: words[run.variant.values["clip_layer"]][run.seed])


def test_a_comparison_on_some_training_seeds_says_so_and_gives_no_letter(tmp_path: Path) -> None:
    """Its winner may have the lower rate in the table, which takes all that was played."""
    ablation = fill_half(tmp_path)
    one = ablation.comparisons[0]
    assert (one.trainings, one.winner) == (1, "clip_layer=1")
    assert one.verdict == "clip_layer=1 better on training seed 0 only"
    assert one.partial == "on training seed 0 only"
    assert ablation.comparisons[2].verdict == "not told apart"
    rates = [cell.rate for cell in ablation.cells]
    assert rates == [pytest.approx(8 / 22), pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert ablation.marks == {}
    assert (
        "no letters are given before" in write_ablation(ablation.sweep, tmp_path, drawn=False).text
    )


def test_a_baseline_with_fewer_training_seeds_gives_no_arrow(tmp_path: Path) -> None:
    ablation = fill_half(tmp_path, baseline="clip_layer=1")
    assert [one.winner for one in ablation.comparisons] == ["clip_layer=1"] * 2
    assert ablation.marks == {}
    text = write_ablation(ablation.sweep, tmp_path, drawn=False).text
    assert "no arrow is given before" in text


def test_what_has_only_begun_is_compared_so_far(tmp_path: Path) -> None:
    sweep = make_sweep(tasks=["reach"])
    words = {"1": "ffffff", "2": "ssssss", "final": "ssssss"}
    ablation = fill(tmp_path, sweep, by_layer(words))
    assert [one.partial for one in ablation.comparisons] == ["so far"] * 3
    assert ablation.comparisons[2].verdict == "not told apart so far"
    assert ablation.marks == {}


def test_all_tasks_have_finished_what_each_task_has(tmp_path: Path) -> None:
    """Seed 0 of one task and seed 1 of the other are no whole training seed."""
    done = {("beat_block", 0), ("click_bell", 1)}
    sweep = make_sweep(grid={"policy.encoder.clip_layer": [1]})
    fill(tmp_path, sweep, lambda run: "ssssffff" if (run.task, run.seed) in done else "s")
    write_ablation(sweep, tmp_path, drawn=False)
    assert [row["finished"] for row in lines_of(tmp_path / "ablation.csv")] == ["1", "1", "0"]


def test_a_sweep_without_any_run_has_its_table(tmp_path: Path) -> None:
    files = write_ablation(make_sweep(), tmp_path)
    assert files.page.exists()
    assert files.text.count("missing") == 9


def test_a_damaged_journal_is_told_and_stops_nothing(tmp_path: Path) -> None:
    sweep = make_sweep(grid={"policy.encoder.clip_layer": [1]})
    fill(tmp_path, sweep, lambda run: "ssssffff")
    journal = tmp_path / "runs" / sweep.runs[0].name / "eval" / "journal.jsonl"
    journal.write_text("no journal\n" + journal.read_text())
    ablation = write_ablation(sweep, tmp_path, drawn=False)
    assert any("cannot be read" in note and "line 1" in note for note in ablation.notes)
    assert ablation.cells[0].n == 8


def test_other_environments_are_not_compared(tmp_path: Path) -> None:
    sweep = make_sweep(tasks=["reach"], seeds=[0], grid={"policy.encoder.clip_layer": [1, 2]})
    ablation = fill(tmp_path, sweep, lambda run: "ssssffff")
    assert ablation.comparisons[0].verdict == "not told apart"
    description = tmp_path / "runs" / sweep.runs[1].name / "eval" / "run.json"
    values = json.loads(description.read_text())
    values["definition"]["environment"]["sapien"] = "4"
    description.write_text(json.dumps(values))
    (one,) = read_ablation(sweep, tmp_path).comparisons
    assert (one.verdict, one.p) == ("not comparable", None)
    assert "sapien: 3, 4" in one.remark


def test_random_weights_of_all_stand_in_the_title(tmp_path: Path) -> None:
    fill(tmp_path, make_sweep(), lambda run: "ssssffff", weights=RANDOM)
    files = write_ablation(make_sweep(), tmp_path)
    assert "<h1>Which layer? (random weights)</h1>" in files.page.read_text()
    assert f"Which layer? ({RANDOM})" in (tmp_path / "figures" / "heatmap.svg").read_text()
    assert {row["weights"] for row in lines_of(tmp_path / "ablation.csv")} == {RANDOM}
    assert any(note.startswith("All variants: ") for note in files.notes)


def test_random_weights_of_some_stand_with_them(tmp_path: Path) -> None:
    sweep = make_sweep()
    for run in sweep.runs:
        random = run.variant.label == "clip_layer=2"
        leave(tmp_path, run, play("ssssffff", run), weights=RANDOM if random else "hub:openai")
    ablation = read_ablation(sweep, tmp_path)
    (panel,) = make_panels(ablation)
    assert panel.rows == ("1", "2 (random weights)", "final")
    assert ablation.title == "Which layer?"
    assert "| 2          | random weights | 50.0%" in write_ablation(sweep, tmp_path).text


def test_two_axes_make_a_grid_for_each_task(tmp_path: Path) -> None:
    sweep = make_sweep(
        grid={"policy.encoder.clip_layer": [1, 2], "policy.encoder.feature_dim": [64, 128, 512]},
        seeds=[0],
    )
    ablation = fill(tmp_path, sweep, lambda run: "ssssffff" if run.task == "click_bell" else "")
    panels = make_panels(ablation)
    assert [panel.title for panel in panels] == [*TASKS, "all tasks"]
    assert (panels[1].rows, panels[1].columns) == (("1", "2"), ("64", "128", "512"))
    assert [len(panel.cells) for panel in panels] == [6, 6, 6]
    assert {cell.rate for cell in panels[0].cells.values()} == {None}
    assert panels[1].cells[1, 2].lines == ("21.5 to 78.5", "n = 8")


def test_a_field_of_the_heat_map_leaves_nothing_out(tmp_path: Path) -> None:
    """Random weights, range of the training seeds and errors stand beside each other."""
    grid = {"policy.encoder.clip_layer": [1, 2], "policy.encoder.feature_dim": [64, 128]}
    sweep = make_sweep(grid=grid, tasks=["reach"])
    for run in sweep.runs:
        layer, width = run.variant.values.values()
        word = "eeeeeeee" if (layer, width) == ("2", "128") else "ssssffe" + "sf"[run.seed]
        leave(tmp_path, run, play(word, run), weights=RANDOM if layer == "1" else "hub:openai")
    ablation = read_ablation(sweep, tmp_path)
    (panel,) = make_panels(ablation)
    seeds = "seeds 57.1 to 71.4"
    assert panel.cells[0, 0].lines[1:] == ("n = 14", "2 errors", seeds, RANDOM)
    assert panel.cells[1, 0].lines[1:] == ("n = 14", "2 errors", seeds)
    assert panel.cells[1, 1].lines == ("16 errors",)
    files = write_ablation(sweep, tmp_path)
    drawn = (tmp_path / "figures" / "heatmap.svg").read_text()
    assert all(words in drawn for words in (RANDOM, seeds, "2 errors", "16 errors"))
    assert "missing, 16 errors" in files.text
    assert "leaves out the pass over the pictures" in files.text


def test_an_axis_called_like_a_column_gets_a_name_of_its_own(tmp_path: Path) -> None:
    sweep = make_sweep(grid={"policy.encoder.weights": ["random", "hub:openai"]})
    write_ablation(sweep, tmp_path, drawn=False)
    rows = lines_of(tmp_path / "ablation.csv")
    assert {row["axis weights"] for row in rows} == {"random", "hub:openai"}
    assert {row["weights"] for row in rows} == {""}


def test_episodes_say_variant_and_training_seed(tmp_path: Path) -> None:
    sweep = make_sweep()
    fill(tmp_path, sweep, lambda run: "sf")
    write_ablation(sweep, tmp_path, drawn=False)
    rows = lines_of(tmp_path / "episodes.csv")
    assert len(rows) == 24
    assert [rows[-1][name] for name in ("variant", "training_seed", "task", "outcome")] == [
        "clip_layer=final",
        "1",
        "click_bell",
        "failure",
    ]


def test_the_same_folder_gives_the_same_bytes_and_names_all_files(tmp_path: Path) -> None:
    sweep = make_sweep()
    fill(tmp_path, sweep, lambda run: "ssssffff")
    written = []
    for _ in range(2):
        files = write_ablation(sweep, tmp_path)
        written.append([(tmp_path / name).read_bytes() for name in files.names])
    assert written[0] == written[1]
    page = files.page.read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("n = 16") == 12  # six cells, in the map and in the table
    assert str(files).startswith("ablation.html, ablation.csv")


def test_latex_escapes_names_and_marks(tmp_path: Path) -> None:
    sweep = make_sweep(baseline="clip_layer=1")
    words = {"1": "ffffffff", "2": "ssssssss", "final": "ffffffff"}
    fill(tmp_path, sweep, by_layer(words))
    write_ablation(sweep, tmp_path, drawn=False)
    text = (tmp_path / "ablation.tex").read_text()
    assert r"beat\_block" in text
    assert r"100.0\% $\uparrow$" in text
    if latex := shutil.which("pdflatex"):
        document = (
            r"\documentclass{article}\usepackage[T1]{fontenc}\begin{document}"
            + text
            + r"\end{document}"
        )
        (tmp_path / "page.tex").write_text(document)
        command = [latex, "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(("share", "words"), [(0.6, "60"), (0.625, "62.5"), (1.0, "100")])
def test_percent_drops_a_zero(share: float, words: str) -> None:
    assert percent(share) == words
