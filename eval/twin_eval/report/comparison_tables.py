"""Comparisons as CSV, Markdown and LaTeX, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from twin_eval.report.comparison import ALL_TASKS, NOT_TOLD_APART, Comparison, letters
from twin_eval.report.tables import (
    SummaryRow,
    csv_text,
    format_rate,
    markdown_table,
    name_tasks,
)

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\n": " ",
}
LATEX_RULES = r"""% Rules as in booktabs; plain lines where that package is not loaded.
\providecommand{\toprule}{\hline}
\providecommand{\midrule}{\hline}
\providecommand{\bottomrule}{\hline}
"""
HEADER = (
    "task",
    "A",
    "B",
    "n",
    "left out",
    "only A",
    "only B",
    "A − B",
    "p",
    "p (Holm)",
    "verdict",
)
NUMERIC = {3, 4, 5, 6, 7, 8, 9}
LATEX_HEADER = ("task", "A", "B", "n (left out)", "only A : B", "A − B", "p (Holm)", "better")


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """One line a comparison, all fields."""
    columns = [field.name for field in fields(Comparison)]
    rows = [
        {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in map(asdict, comparisons)
    ]
    return csv_text(columns, rows)


def format_difference(one: Comparison) -> str:
    """In percentage points, e.g. `+12.0 [−3.1, +20.9]`."""
    if one.difference is None:
        return "-"
    return f"{points(one.difference)} [{points(one.low)}, {points(one.high)}]"


def points(share: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def format_p(p: float | None) -> str:
    """Two digits or more; `-` if there is none."""
    if p is None:
        return "-"
    digits = 4 if p < 0.01 else 3 if p < 0.1 else 2
    return "< 0.0001" if p < 0.0001 else f"{p:.{digits}f}"


def rows_of(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """The cells under `HEADER`."""
    names = name_tasks((one.task, one.config) for one in comparisons if one.task != ALL_TASKS)
    return [
        (
            names.get((one.task, one.config), one.task),
            one.a,
            one.b,
            str(one.n),
            str(one.errors + one.unmatched),
            str(one.only_a),
            str(one.only_b),
            format_difference(one),
            format_p(one.p),
            format_p(one.p_holm),
            one.verdict,
        )
        for one in comparisons
    ]


def footnotes(comparisons: Sequence[Comparison], *, confidence: float) -> list[str]:
    """What the columns mean, and what is special about single comparisons."""
    alpha = f"{1 - confidence:.3g}"
    names = name_tasks((one.task, one.config) for one in comparisons if one.task != ALL_TASKS)
    notes = [
        "n: scenes on which both were scored, with the same noise; left out: scenes with an error, "
        "or that only one of them played.",
        f"A − B: difference of success rates in percentage points with its paired "
        f"{100 * confidence:g}% interval (bootstrap), for one comparison each.",
    ]
    if any(one.test == "mcnemar" for one in comparisons):
        notes += [
            "p: exact McNemar test, from the scenes on which only one of them succeeded. p (Holm): "
            'adjusted over all comparisons on single tasks, whatever the pair; "better" wants at '
            f"most {alpha}, so that the probability that any of them is wrong is at most {alpha}.",
            f'"{NOT_TOLD_APART}" does not mean equal: the interval says what the data leave open.',
        ]
    if any(one.task == ALL_TASKS for one in comparisons):
        notes.append("All tasks: their scenes pooled, each counting once; adjusted over the pairs.")
    if any(one.test == "sequential" for one in comparisons):
        notes.append(
            "Watched comparisons, which may stop early: p is that of a sequential test on the same "
            "scenes, valid at any stop; each has its own alpha, and none is adjusted."
        )
    notes += [
        f"{names.get((one.task, one.config), one.task)}, {one.a} and {one.b}: {one.remark}."
        for one in comparisons
        if one.remark
    ]
    return notes


def say(one: Comparison) -> str:
    """The comparison as a sentence, without its task."""
    counted = f"{one.n} common scenes" if one.n != 1 else "1 common scene"
    alone = f"only one succeeded on {one.only_a + one.only_b}: {one.only_a} to {one.only_b}"
    if one.difference is None:
        return f"{one.a} and {one.b}: {one.verdict}."
    evidence = f"{counted}; {alone}"
    if one.winner:
        sign = 1 if one.winner == one.a else -1
        low, high = sorted((sign * one.low, sign * one.high))
        other = one.b if one.winner == one.a else one.a
        return (
            f"{one.winner} is better than {other} by {100 * sign * one.difference:.1f} points "
            f"[{points(low)}, {points(high)}] ({evidence})."
        )
    return (
        f"{one.a} and {one.b}: {one.verdict}; the difference may lie anywhere between "
        f"{points(one.low)} and {points(one.high)} points ({evidence})."
    )


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a Markdown table that also reads well in a terminal."""
    return markdown_table(HEADER, rows_of(comparisons), numeric=NUMERIC)


def success_table(
    rows: Sequence[SummaryRow], comparisons: Sequence[Comparison]
) -> tuple[list[str], list[list[str]]]:
    """Header and body: a line a task, a column a policy; letters where policies were compared."""
    names = name_tasks((row.task, row.config) for row in rows)
    policies = list(dict.fromkeys(row.policy for row in rows))
    shown = letters(comparisons)
    by_cell = {(row.task, row.config, row.policy): row for row in rows}
    body = []
    for (task, config), name in names.items():
        line = [name]
        for policy in policies:
            row = by_cell.get((task, config, policy))
            letter = shown.get((task, config), {}).get(policy, "")
            line.append(f"{format_rate(row)} {letter}".strip() if row else "-")
        body.append(line)
    return ["task", *policies], body


def comparison_markdown(
    rows: Sequence[SummaryRow], comparisons: Sequence[Comparison], *, confidence: float
) -> str:
    """Success rates, comparisons and what they mean."""
    header, body = success_table(rows, comparisons)
    parts = [
        f"Success rates with {100 * confidence:g}% Wilson intervals{_letters_note(comparisons)}.",
        markdown_table(header, body),
        "Comparisons.",
        comparison_text(comparisons),
        "\n".join(f"- {note}" for note in footnotes(comparisons, confidence=confidence)),
    ]
    return "\n\n".join(parts) + "\n"


def comparison_latex(
    rows: Sequence[SummaryRow], comparisons: Sequence[Comparison], *, confidence: float
) -> str:
    """Two `table` environments for any document class, without a package."""
    header, body = success_table(rows, comparisons)
    level = f"{100 * confidence:g}%"
    rates = f"Success rates with {level} Wilson intervals{_letters_note(comparisons)}."
    differences = (
        f"Paired comparisons: differences in percentage points with {level} bootstrap intervals, "
        "exact McNemar tests with Holm's adjustment; better: which of the two is, where they were "
        "told apart."
    )
    lines = [
        [
            *row[:3],
            f"{row[3]} ({row[4]})",
            f"{one.only_a} : {one.only_b}",
            format_difference(one),
            row[-2],
            _better(one),
        ]
        for row, one in zip(rows_of(comparisons), comparisons, strict=True)
    ]
    notes = r" \\ ".join(map(latex, footnotes(comparisons, confidence=confidence)))
    tables = [
        latex_table(header, body, "l" * len(header), rates),
        latex_table(LATEX_HEADER, lines, "lllrcrrl", differences, notes),
    ]
    return "\n".join([LATEX_RULES, *tables])


def _better(one: Comparison) -> str:
    return {one.a: "A", one.b: "B"}.get(one.winner, "-")


def latex(words: str) -> str:
    """`words` with all that LaTeX would take for itself escaped."""
    return "".join(LATEX.get(character, character) for character in words)


def latex_table(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    columns: str,
    caption: str,
    notes: str = "",
) -> str:
    """A `table` environment; `columns` are those of its `tabular`, `notes` are LaTeX already."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(latex, cells)) + r" \\"

    size = "scriptsize" if len(header) > 6 else "footnotesize"
    below = rf"\par\medskip\parbox{{\linewidth}}{{\scriptsize {notes}}}" if notes else ""
    lines = [
        r"\begin{table}[htbp]",
        rf"\centering\{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        line(header),
        r"\midrule",
        *map(line, body),
        r"\bottomrule",
        r"\end{tabular}",
        below,
        r"\end{table}",
    ]
    return "\n".join(filter(None, lines)) + "\n"


def _letters_note(comparisons: Sequence[Comparison]) -> str:
    if not letters(comparisons):
        return ""
    return "; policies that share a letter were not told apart on that task"
