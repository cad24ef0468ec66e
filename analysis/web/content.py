"""What is on a page, as plain data: neither HTML nor a study. `render.render` makes the file of it.

A text is one line of words in which `**strong**` and code in backticks are marked; anything else
that it holds is shown as it stands, so names that users choose need no care here. Numbers of
figures have the unit of their axis (percent, percentage points), not fractions. Colours are names
of `page.css`: "ink", "base" (grey, the baseline's), "c1" to "c6", "good", "bad".
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Tone = Literal["good", "bad", "none"]
Symbol = Literal["circle", "circle-open", "x", "triangle-down", "line-ns-open", "diamond"]
COLOURS = tuple(f"c{at}" for at in range(1, 7))  # of methods that distil; taken again after six


# ---------------------------------------------------------------- figures


class Point(NamedTuple):
    """A point and what is said where the pointer rests on it; `x` may be the name of a choice."""

    x: float | str
    y: float | None
    hover: str = ""  # lines are parted by "\n"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis; a log axis shows positive numbers only. Points below `low` stand on the axis, marked."""

    title: str = ""
    log: bool = False
    integer_ticks: bool = False  # ticks at whole numbers
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that look alike: dots, a line, or a step line that holds its value to the right."""

    points: tuple[Point, ...]
    look: Literal["dots", "line", "step"] = "dots"
    colour: str = "ink"
    symbol: Symbol = "circle"
    size: float = 7.0  # of dots, px
    width: float = 2.0  # of lines, px
    dashed: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Level:
    """A straight line across a panel: at y, or at x where `upright`."""

    value: float
    hover: str = ""
    upright: bool = False
    colour: str = "ink"
    dashed: bool = True


@dataclass(frozen=True, kw_only=True)
class Band:
    """A shaded stretch of the x axis."""

    low: float
    high: float
    colour: str = "base"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of several small plots side by side; `x` where its x axis is not that of the others."""

    title: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    bands: tuple[Band, ...] = ()
    colour: str = "ink"  # of the title
    x: Axis | None = None


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of a legend."""

    label: str
    colour: str = "ink"
    look: Literal["dots", "line", "band"] = "dots"
    symbol: Symbol = "circle"
    width: float = 2.0
    dashed: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels with one y axis: history, learning curves, front, losses. One panel takes the whole width."""

    panels: tuple[Panel, ...]
    x: Axis
    y: Axis
    key: tuple[Key, ...] = ()


class Mark(NamedTuple):
    """One repeat (or seed, or pair) of an effect."""

    value: float
    hover: str = ""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference: its mean, its interval (None where there is none), and the single differences."""

    name: str
    mean: float
    low: float | None
    high: float | None
    numbers: str  # the numbers as they are printed, with n
    label: str = ""  # the verdict: "helps", "not settled"
    tone: Tone = "none"
    marks: tuple[Mark, ...] = ()
    hover: str = ""


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Effects one below the other around 0; `margin` shades what counts as no difference."""

    effects: tuple[Effect, ...]
    axis: str
    margin: float | None = None
    key: tuple[Key, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bar:
    """How much a hyperparameter matters, a share in [0, 1], with an interval where there is one."""

    parameter: str
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A method's hyperparameters; `basis` says which trials and values they were computed from."""

    method: str
    bars: tuple[Bar, ...]
    basis: str = ""
    colour: str = "ink"


@dataclass(frozen=True, kw_only=True)
class Importances:
    """A panel a method."""

    methods: tuple[Importance, ...]
    key: tuple[Key, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The metric over one hyperparameter: series of dots by method, the flat region, a robust value."""

    parameter: Axis
    series: tuple[Series, ...]
    region: tuple[float, float] | None = None
    robust: float | None = None


@dataclass(frozen=True, kw_only=True)
class Slices:
    """A panel a hyperparameter."""

    slices: tuple[Slice, ...]
    y: Axis
    key: tuple[Key, ...] = ()


class Graded(NamedTuple):
    """A trial in the plane of two hyperparameters, and its metric."""

    x: float
    y: float
    value: float
    hover: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Trials over the two hyperparameters that matter most, the metric as colour."""

    title: str
    x: Axis
    y: Axis
    value: str  # what the colour means
    points: tuple[Graded, ...]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A panel a method."""

    pairs: tuple[Pair, ...]
    key: tuple[Key, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis of parallel coordinates: a range, or `choices` in their order."""

    title: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial: one value an axis (None: it has none), and how it is drawn."""

    values: tuple[float | str | None, ...]
    hover: str = ""
    rank: Literal["best", "good", "other"] = "other"
    colour: str = "c1"


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Parallel coordinates: a line a trial, the good ones in colour, the best bold."""

    scales: tuple[Scale, ...]
    rows: tuple[Row, ...]
    key: tuple[Key, ...] = ()


Plot = Forest | Chart | Importances | Slices | Pairs | Parallel


# ---------------------------------------------------------------- blocks


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that lies beside the page as the file `name`; embedded where the page stays small."""

    name: str
    data: bytes  # PNG
    alt: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An interactive plot. `alt` is read aloud; `fallback` is shown where scripts do not run."""

    plot: Plot
    alt: str
    caption: str = ""
    fallback: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as they are printed; columns of numbers are found by their cells and sort as numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    strong: tuple[int, ...] = ()  # rows that are set off, by number


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; a note is small, a warning is set off."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks that are shown when the reader opens them (and in print)."""

    title: str
    blocks: tuple["Block", ...]
    open: bool = False


Block = Figure | Picture | Table | Text | Items | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it; one without blocks is not shown."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is said of one method, in one or two sentences."""

    method: str
    text: str
    tone: Tone = "none"


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """A study: how far it is, what must be known first, the answer, and the sections."""

    name: str
    answer: str  # all verdicts in one sentence
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()  # what the verdicts rest on
    status: str = ""  # where it is not complete
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page; `files` lie beside it."""

    title: str
    studies: tuple[StudySection, ...]
    files: tuple[str, ...] = ()
    footer: str = ""  # when and by which version, in words
