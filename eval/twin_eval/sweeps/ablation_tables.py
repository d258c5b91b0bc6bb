"""The ablation as Markdown and LaTeX, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from twin_eval.policies import RANDOM_WEIGHTS
from twin_eval.report.comparison import ALL_TASKS, NOT_TOLD_APART
from twin_eval.report.comparison_tables import (
    LATEX_RULES,
    format_p,
    latex,
    latex_table,
    points,
)
from twin_eval.report.runs import weights_notes
from twin_eval.report.tables import markdown_table
from twin_eval.sweeps.ablation_cells import AblationCell
from twin_eval.sweeps.ablation_comparisons import AblationComparison
from twin_eval.sweeps.ablation_runs import Result
from twin_eval.sweeps.spec import Sweep

COST_HEADER = (
    "training, s",
    "policy, ms an action",
    "learning parameters",
    "action error, rad",
)
HEADER = ("task", "A", "B", "scenes", "A ahead", "B ahead", "A − B", "seeds", "p (Holm)", "verdict")
NUMERIC = {3, 4, 5, 6, 7, 8}
COMPARISONS_AT_MOST = 40
"""In Markdown and LaTeX; beyond, only what was told apart and all tasks together."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """All that the tables and the page show."""

    sweep: Sweep
    results: tuple[Result, ...]
    cells: tuple[AblationCell, ...]
    comparisons: tuple[AblationComparison, ...]
    marks: Mapping[tuple[str, str], str]
    """What stands behind the rate of (variant, task)."""
    confidence: float

    @property
    def tasks(self) -> tuple[str, ...]:
        """With all of them together at the end, where there are several."""
        tasks = self.sweep.tasks
        return (*tasks, ALL_TASKS) if len(tasks) > 1 else tasks

    def cell(self, variant: str, task: str) -> AblationCell:
        """That of a variant's label on a task."""
        return self._table[variant, task]

    @cached_property
    def _table(self) -> dict[tuple[str, str], AblationCell]:
        return {(cell.variant.label, cell.task): cell for cell in self.cells}

    @property
    def random(self) -> set[str]:
        """Labels of the variants whose pretrained network has random weights."""
        return {c.variant.label for c in self.cells if c.weights == RANDOM_WEIGHTS}

    @property
    def title(self) -> str:
        """The question, and whether it was put to random weights."""
        everywhere = len(self.random) == len(self.sweep.variants)
        return self.sweep.question + (f" ({RANDOM_WEIGHTS})" if everywhere else "")

    def name(self, label: str) -> str:
        """What a variant is called; random weights show, unless the title says it of all."""
        everywhere = len(self.random) == len(self.sweep.variants)
        return f"{label} ({RANDOM_WEIGHTS})" if label in self.random and not everywhere else label


def percent(share: float) -> str:
    """E.g. `62.5`, or `60` where nothing follows."""
    return f"{100 * share:.1f}".removesuffix(".0")


def format_cell(cell: AblationCell, mark: str) -> str:
    """E.g. `62.5% b [52.0, 71.9], n = 100, seeds 60 to 65`."""
    if cell.rate is None:
        return "missing" + (f", {count(cell.errors, 'error')}" if cell.errors else "")
    parts = [
        f"{100 * cell.rate:.1f}% {mark}".strip()
        + f" [{100 * cell.low:.1f}, {100 * cell.high:.1f}], n = {cell.n}",
        seed_words(cell),
        count(cell.errors, "error") if cell.errors else "",
        "" if cell.complete else "unfinished",
    ]
    return ", ".join(filter(None, parts))


def count(number: int, noun: str) -> str:
    """E.g. `1 error`, `2 errors`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def seed_words(cell: AblationCell) -> str:
    """The range over training seeds; empty where there is but one."""
    if len(cell.seed_rates) < 2:
        return ""
    assert cell.lowest is not None  # there are rates
    assert cell.highest is not None
    return f"seeds {percent(cell.lowest)} to {percent(cell.highest)}"


def rate_rows(ablation: Ablation) -> tuple[list[str], list[list[str]]]:
    """Header and body: a line for each variant, a column for each axis and each task."""
    header = [*ablation.sweep.axes, *_weights_header(ablation), *ablation.tasks]
    body = [
        [
            *variant.values.values(),
            *_weights_column(ablation, variant.label),
            *(
                format_cell(
                    ablation.cell(variant.label, task),
                    ablation.marks.get((variant.label, task), ""),
                )
                for task in ablation.tasks
            ),
        ]
        for variant in ablation.sweep.variants
    ]
    return header, body


def cost_rows(ablation: Ablation) -> tuple[list[str], list[list[str]]]:
    """Header and body: a line for each variant, means over its tasks and trainings."""
    body = []
    for variant in ablation.sweep.variants:
        cell = ablation.cell(variant.label, ablation.tasks[-1])
        figures = (
            (cell.train_seconds, ",.0f"),
            (cell.inference_ms, ".1f"),
            (cell.learning_parameters, ",d"),
            (cell.action_error_rad, ".4f"),
        )
        words = ["-" if value is None else format(value, form) for value, form in figures]
        body.append([*variant.values.values(), *_weights_column(ablation, variant.label), *words])
    return [*ablation.sweep.axes, *_weights_header(ablation), *COST_HEADER], body


def _weights_header(ablation: Ablation) -> list[str]:
    """Of a column that is there where some variants have random weights and some have not."""
    return ["weights"] if 0 < len(ablation.random) < len(ablation.sweep.variants) else []


def _weights_column(ablation: Ablation, label: str) -> list[str]:
    if not _weights_header(ablation):
        return []
    return [ablation.cell(label, ablation.tasks[-1]).weights or "-"]


def comparison_rows(
    ablation: Ablation, comparisons: Iterable[AblationComparison]
) -> list[tuple[str, ...]]:
    """The fields under `HEADER`."""
    return [
        (
            one.task,
            ablation.name(one.a),
            ablation.name(one.b),
            f"{one.n}" + (f" ({one.left_out} left out)" if one.left_out else ""),
            str(one.a_ahead),
            str(one.b_ahead),
            "-"
            if one.difference is None
            else f"{points(one.difference)} [{points(one.low)}, {points(one.high)}]",
            f"{one.agree} of {one.trainings}" if one.trainings else "-",
            format_p(one.p_holm),
            one.verdict,
        )
        for one in comparisons
    ]


def shown_comparisons(comparisons: Sequence[AblationComparison]) -> list[AblationComparison]:
    """All of them, or those that matter most where they are too many for a page of paper."""
    if len(comparisons) <= COMPARISONS_AT_MOST:
        return list(comparisons)
    return [one for one in comparisons if one.winner or one.task == ALL_TASKS]


def facts(ablation: Ablation) -> str:
    """The line under the title."""
    sweep = ablation.sweep
    parts = (
        f"{len(sweep.variants)} variants",
        ", ".join(sweep.tasks),
        sweep.config,
        sweep.learnt_from,
        f"training seeds {', '.join(map(str, sweep.seeds))}",
        f"{sweep.episodes} episodes of evaluation each, scenes of seed {sweep.evaluation_seed}",
    )
    return " · ".join(parts)


def notes(ablation: Ablation) -> list[str]:
    """What a reader must know beside the numbers: what is missing, random weights, errors."""
    results, sweep = ablation.results, ablation.sweep
    none = [result for result in results if not (result.records or result.changes)]
    part = [result for result in results if result.records and not result.finished]
    errors = sum(cell.errors for cell in ablation.cells if cell.task != ALL_TASKS)
    told = []
    if none:
        told.append(
            _list(f"Without an episode yet: {len(none)} of {count(len(results), 'run')}", none)
        )
    if part:
        told.append(_list(f"Unfinished: {count(len(part), 'evaluation')}", part))
    told += _changed(results)
    told += [
        f"{r.run.name}: the evaluation cannot be read: {r.problem}" for r in results if r.problem
    ]
    untrained = [result for result in results if result.training and result.records]
    if untrained:
        told.append(_list(f"Not finished: {count(len(untrained), 'training')}", untrained))
    random = [v.label for v in sweep.variants if v.label in ablation.random]
    told += weights_notes(["All variants"] if len(random) == len(sweep.variants) else random)
    if errors:
        told.append(f"{count(errors, 'episode')} ended in an error, and are in no rate.")
    return told


def _changed(results: Sequence[Result]) -> list[str]:
    """Runs that are left out, those of one reason together."""
    by_changes: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if result.changes:
            by_changes.setdefault(result.changes, []).append(result)
    return [
        _list(
            "Left out, made by other settings than the sweep has now "
            f"({'; '.join(changes)}): {count(len(several), 'run')}",
            several,
        )
        for changes, several in by_changes.items()
    ]


def _list(words: str, results: Sequence[Result]) -> str:
    names = [result.run.name for result in results[:6]]
    return f"{words} ({', '.join(names)}{', …' if len(results) > 6 else ''})."


def footnotes(ablation: Ablation) -> list[str]:
    """How to read the tables."""
    sweep, level = ablation.sweep, f"{100 * ablation.confidence:g}%"
    alpha = f"{1 - ablation.confidence:.3g}"
    several = len(sweep.seeds) > 1
    told = [
        f"Each cell: success rate and its {level} interval; n: scored episodes of all training "
        "seeds; errors are not in n."
        + (
            " The interval is for these networks, on scenes like these: Wilson's, with the number "
            "of independent episodes that the spread between scenes speaks for, from one a scene "
            "to all that were played. How much the training seeds differ is not in it, but "
            "beside it; seeds: the lowest and the highest rate of a training seed."
            if several
            else " (Wilson.)"
        ),
        '"Told apart" is about the networks that were trained, on scenes like these. '
        + (
            f"How much another training seed moves a rate is what the range over the "
            f"{len(sweep.seeds)} seeds shows"
            + ("; fewer than 3 tell little of it." if len(sweep.seeds) < 3 else ".")
            if several
            else "How much another training seed would move a rate is not known from one: "
            "give the sweep several `seeds`."
        ),
    ]
    if ablation.comparisons:
        told += [
            "A − B: difference of the rates in points with its interval, on scenes on which all "
            "compared trainings were scored; ahead: scenes on which more trainings of one "
            "succeeded; seeds: in how many training seeds the difference has this sign. p (Holm): "
            + (
                "exact sign-flip test over scenes, or a t-test over them if its p is larger, "
                if several
                else "exact McNemar test, "
            )
            + 'adjusted over all comparisons on single tasks; "better" wants at most '
            f"{alpha}.",
            f'"{NOT_TOLD_APART}" does not mean equal: the interval says what the data leave open.',
        ]
        told += [_mark_note(ablation), _partial_note(ablation)]
    if len(sweep.tasks) > 1:
        told.append(
            "All tasks: the mean of the tasks' rates; its comparisons are adjusted among "
            "themselves."
        )
    told.append(
        "Policy, ms an action: wall time of the policy's own work over the actions taken, on the "
        "machine of the evaluation and with its other workers beside it. Action error: of sampled "
        "actions on the validation windows. Both, and the training's time, are means over "
        "trainings and tasks. The training's time of a variant on stored features leaves out the "
        "pass over the pictures that made them, which all such variants share."
    )
    told += [
        f"{one.task}, {one.a} and {one.b}: {one.remark}."
        for one in shown_comparisons(ablation.comparisons)
        if one.remark
    ]
    return list(filter(None, told))


def _mark_note(ablation: Ablation) -> str:
    if not ablation.marks:
        return ""
    if ablation.sweep.baseline is None:
        return "Variants that share a letter were not told apart on that task."
    return f"↑, ↓: told apart from {ablation.sweep.baseline}, and better or worse than it."


def _partial_note(ablation: Ablation) -> str:
    if not any(one.partial for one in ablation.comparisons):
        return ""
    return (
        '"On training seed … only", "so far": a comparison takes the training seeds that both '
        "variants have finished, or else what has begun, while a rate takes all episodes "
        "played. So the two may point different ways until all is finished, and no "
        + ("letters are" if ablation.sweep.baseline is None else "arrow is")
        + " given before."
    )


def ablation_markdown(ablation: Ablation) -> str:
    """Rates, costs, comparisons, and how to read them."""
    shown = shown_comparisons(ablation.comparisons)
    left = len(ablation.comparisons) - len(shown)
    axes = len(ablation.sweep.axes)
    header, body = rate_rows(ablation)
    cost_header, costs = cost_rows(ablation)
    first = axes + len(_weights_header(ablation))
    parts = [
        f"# {ablation.title}",
        facts(ablation),
        "\n".join(f"- **{note}**" for note in notes(ablation)),
        markdown_table(header, body),
        markdown_table(cost_header, costs, numeric=range(first, len(cost_header))),
    ]
    if shown:
        parts.append(markdown_table(HEADER, comparison_rows(ablation, shown), numeric=NUMERIC))
    if left:
        parts.append(f"{left} more on single tasks, not told apart, are in comparisons.csv.")
    parts.append("\n".join(f"- {note}" for note in footnotes(ablation)))
    return "\n\n".join(filter(None, parts)) + "\n"


def ablation_latex(ablation: Ablation) -> str:
    """Three `table` environments for any document class, without a package."""
    header, body = rate_rows(ablation)
    cost_header, costs = cost_rows(ablation)
    shown = shown_comparisons(ablation.comparisons)
    below = r" \\ ".join(map(latex, [*notes(ablation), *footnotes(ablation)]))
    rates = f"{ablation.title}: success rates with {100 * ablation.confidence:g}% intervals."
    tables = [
        LATEX_RULES,
        latex_table(header, body, "l" * len(header), rates, below),
        latex_table(cost_header, costs, "l" * (len(cost_header) - 4) + "rrrr", "What each costs."),
    ]
    if shown:
        words = "Comparisons, scene by scene, with differences in percentage points."
        rows = comparison_rows(ablation, shown)
        tables.append(latex_table(HEADER, rows, "lllrrrrrrl", words))
    return "\n".join(tables)
