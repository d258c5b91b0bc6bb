"""Writes the ablation table of a sweep from its run folders: a pure function of what lies there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twin_env.files import write_text
from twin_eval.sweeps.ablation_cells import AblationCell, make_cells
from twin_eval.sweeps.ablation_comparisons import AblationComparison, compare_variants, marks
from twin_eval.sweeps.ablation_csv import ablation_csv, comparisons_csv, sweep_episodes_csv
from twin_eval.sweeps.ablation_runs import read_results
from twin_eval.sweeps.ablation_tables import (
    Ablation,
    ablation_latex,
    ablation_markdown,
    notes,
)
from twin_eval.sweeps.spec import Sweep

PAGE_NAME = "ablation.html"
HEATMAP = Path("figures/heatmap")


@dataclass(frozen=True)
class AblationFiles:
    """What was written."""

    folder: Path
    names: tuple[str, ...]
    """Paths relative to `folder`."""
    cells: tuple[AblationCell, ...]
    comparisons: tuple[AblationComparison, ...]
    notes: tuple[str, ...]
    """What a reader must know beside the numbers."""
    text: str
    """The tables as Markdown, which also reads well in a terminal."""

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / PAGE_NAME

    def __str__(self) -> str:
        return ", ".join(self.names)


def read_ablation(sweep: Sweep, folder: Path, *, confidence: float = 0.95) -> Ablation:
    """What the run folders below a sweep's folder say so far."""
    results = read_results(sweep, folder)
    cells = make_cells(sweep, results, confidence=confidence)
    comparisons = compare_variants(sweep, results, confidence=confidence)
    return Ablation(
        sweep=sweep,
        results=tuple(results),
        cells=tuple(cells),
        comparisons=tuple(comparisons),
        marks=marks(sweep, cells, comparisons),
        confidence=confidence,
    )


def write_ablation(
    sweep: Sweep, folder: Path, *, confidence: float = 0.95, drawn: bool = True
) -> AblationFiles:
    """Writes tables, heat map and page into the sweep's folder.

    Runs that have not begun or not finished are shown as such, so it can be called at any time.

    Args:
        confidence: of all intervals; 1 minus it is the alpha of all verdicts.
        drawn: make the heat map and the page too, which take seconds.
    """
    ablation = read_ablation(sweep, folder, confidence=confidence)
    markdown = ablation_markdown(ablation)
    texts = {
        "ablation.csv": ablation_csv(ablation),
        "ablation.md": markdown,
        "ablation.tex": ablation_latex(ablation),
        "comparisons.csv": comparisons_csv(ablation.comparisons),
        "episodes.csv": sweep_episodes_csv(ablation.results),
    }
    pictures = []
    if drawn:
        from twin_eval.figures import inline_svg, save_figure
        from twin_eval.sweeps.ablation_page import draw_heatmap, render_ablation

        figure = draw_heatmap(ablation)
        pictures = [HEATMAP.with_suffix(suffix) for suffix in (".png", ".svg")]
        for picture in pictures:
            save_figure(figure, folder / picture)
        svg = (folder / HEATMAP).with_suffix(".svg").read_text(encoding="utf-8")
        texts[PAGE_NAME] = render_ablation(ablation, inline_svg(svg, ablation.title))
    for name, text in texts.items():
        write_text(folder / name, text)
    return AblationFiles(
        folder=folder,
        names=(*sorted(texts, key=lambda name: name != PAGE_NAME), *map(str, pictures)),
        cells=ablation.cells,
        comparisons=ablation.comparisons,
        notes=tuple(notes(ablation)),
        text=markdown,
    )
