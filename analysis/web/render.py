"""A page as one HTML file that needs nothing else: styles, scripts, plots and pictures are inside.

The template escapes whatever it is given. It runs twice: what is left of `BUDGET` after the first
time is for pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from analysis import escaping
from analysis.web import figures, library, pictures, plots
from analysis.web.columns import is_numeric, keep_together, leading_number
from analysis.web.content import (
    Block,
    Figure,
    Fold,
    Page,
    Picture,
    StudySection,
    Table,
)

BUDGET = 5_000_000  # characters of the whole file


def render(page: Page) -> str:
    """Return the HTML file's text."""
    plots_by_figure = {
        id(figure): _numbered_plots(figure, at) for at, figure in enumerate(_figures(page))
    }
    drawings = [
        {"id": name, "data": plot.data, "layout": plot.layout | {"height": plot.height}}
        for figure_plots in plots_by_figure.values()
        for name, plot in figure_plots
    ]
    script = library.read_file("page.js")
    template = _environment().from_string(library.read_file("page.html"))
    context: dict[str, Any] = {
        "page": page,
        "drawn": plots_by_figure,
        "css": Markup(library.read_file("page.css")),
        "script": Markup(script),
        "plots": library.pack_json(drawings) if drawings else "",
        "plotly": library.pack_plotly_js() if drawings else "",
        "policy": library.policy([script, library.plotly_js()] if drawings else [script]),
    }
    sources: dict[str, str] = {}
    text = template.render(context, sources=sources)
    sources |= pictures.data_uris(_pictures(page), budget=BUDGET - len(text.encode()))
    return template.render(context, sources=sources)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell as it is shown and what it sorts by: a number, or its text."""

    text: str
    value: float | None


def cells(table: Table) -> list[list[Cell]]:
    """Return the table's rows; see `leading_number`."""
    return [[Cell(text=cell, value=leading_number(cell)) for cell in row] for row in table.rows]


def markup(text: str) -> Markup:
    """Return a text of `content` as HTML: **strong** and code, all else escaped.

    >>> markup("**<b>** and `x`")
    Markup('<strong>&lt;b&gt;</strong> and <code>x</code>')
    """
    parts, strong = [], False
    for span in escaping.spans(text):
        if span.kind == "strong":
            strong = not strong
            parts.append(Markup("<strong>" if strong else "</strong>"))
        elif span.kind == "code":
            parts.append(Markup("<code>{}</code>").format(span.text))
        else:
            parts.append(Markup("{}").format(span.text))
    return Markup("").join([*parts, Markup("</strong>" if strong else "")])


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "markup": markup,
        "keep_together": keep_together,
        "scale": figures.scale,
        "kind": lambda block: type(block).__name__.lower(),
    }
    environment.globals |= {"cells": cells, "is_numeric": is_numeric, "id": id}
    return environment


def _numbered_plots(figure: Figure, at: int) -> list[tuple[str, figures.Drawn]]:
    """Return a figure's plots, each with the id of its place in the page."""
    return [(f"plot-{at}-{part}", plot) for part, plot in enumerate(plots.draw(figure.plot))]


def blocks(parts: Sequence[Block]) -> Iterator[Block]:
    """Blocks in their order, those that are folded away as well."""
    for block in parts:
        yield block
        if isinstance(block, Fold):
            yield from blocks(block.blocks)


def _all(study: StudySection) -> Iterator[Block]:
    for section in study.sections:
        yield from blocks(section.blocks)


def _figures(page: Page) -> list[Figure]:
    return [b for study in page.studies for b in _all(study) if isinstance(b, Figure)]


def _pictures(page: Page) -> list[Picture]:
    """Return what may be embedded: what stands for figures comes first, for the rest is a click away."""
    fallbacks = [figure.fallback for figure in _figures(page) if figure.fallback]
    return [
        *fallbacks,
        *(b for study in page.studies for b in _all(study) if isinstance(b, Picture)),
    ]
