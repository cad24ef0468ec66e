"""A study's part of the page: warnings, verdict, tables, pictures and advice in Markdown."""

from collections import Counter
from collections.abc import Sequence

from analysis import escaping, selection
from analysis.advice import advice, warnings
from analysis.comparison.verdicts import is_confirmed, verdict
from analysis.formatting import count_text, markdown
from analysis.study import Study
from analysis.tables.common import TABLES
from analysis.tables.custom import CustomTable
from tune_kd.errors import unknown
from tune_kd.metrics import SHARES

NOTE = """Test split, mean ± sd over n repeats, which are independent searches of a method{seeds}.
Differences are method minus baseline repeat by repeat, in percentage points, with a 95 % interval.
Parameters and latency are those of the recommended student; latency ± sd at batch 1{device}, measured
alone before the first trial{later}."""


def section(
    study: Study,
    *,
    pictures: Sequence[str],
    tables: Sequence[CustomTable] = (),
    level: int = 2,
) -> str:
    """Return a study's part of the page; `pictures` are the names of the files that were drawn."""

    def links(*kinds: str) -> list[str]:
        names = [name for wanted_kind in kinds for name in pictures if kind(name) == wanted_kind]
        return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in names]

    def with_heading(title: str, *kinds: str) -> list[str]:
        pictures_below = links(*kinds)
        return [heading(title, level), *pictures_below] if pictures_below else []

    parts = [f"> **{escaping.sentence(text)}**" for text in warnings(study)]
    parts += [heading("Verdict", level), *map(_paragraph, verdict(study))]
    parts += [*_table(study, "main", level), note(study), *links("differences")]
    for name in (*_common_tables(study), *extra(study)):
        parts += _table(study, name, level)
    for custom in tables:
        parts += [heading(custom.title, level), markdown(custom.table)]
    parts += with_heading("Predictions on the test split", *PREDICTED)
    parts += [*_table(study, "search", level), _rung_note(study), *_table(study, "curse", level)]
    parts += [*_table(study, "importance", level), *_table(study, "robust", level)]
    parts += links("history", "front", "learning_curves")
    parts += with_heading("Training of the recommended trials", *TRAINED)
    parts += _table(study, "teacher", level)
    advice_items = [f"- {escaping.sentence(text)}" for text in advice(study)] or [
        "Nothing stands out."
    ]
    parts += [heading("Advice", level), "\n".join(advice_items)]
    parts += [*_table(study, "failures", level), *_table(study, "provenance", level)]
    return "\n\n".join(part for part in parts if part)


PREDICTED = ("confusion", "iou_distribution", "predictions")
TRAINED = (
    *(f"kd_validation_{name}" for name in SHARES),
    "kd_loss_components",
    "kd_all_losses",
    "kd_learning_rate",
)
SHOWN = (
    "main",
    "configuration",
    "tuning",
    "use",
    "curse",
    "importance",
    "robust",
    "search",
    "teacher",
    "failures",
    "provenance",
)


def _common_tables(study: Study) -> list[str]:
    """Return the tables between the results and the search: validation only where there is no test."""
    return [*([] if is_confirmed(study) else ["validation"]), "tuning", "use", "configuration"]


def extra(study: Study) -> list[str]:
    """Return the tables that the space asks for beside the common ones; UsageError names an unknown one."""
    names = study.manifest.tables
    if unknown_names := [name for name in names if name not in TABLES]:
        raise unknown("table", unknown_names[0], TABLES)
    return [name for name in names if name not in SHOWN]


def note(study: Study) -> str:
    """How the main table's numbers came about."""
    rows = [r for r in selection.trials(study.rows, "confirm") if "best" in selection.roles(r)]
    each = Counter((row["method"], row["repeat"]) for row in rows if row["method"])
    count = count_text(max(each.values(), default=0), "seed")
    seeds = f" (each the mean of {count}, trained on train + validation)"
    device = (selection.student_footprint(study.rows) or {}).get("device")
    has_own_sizes = any(row["method"] for row in selection.trials(study.rows, "measure"))
    note = NOTE.format(
        seeds=seeds if each else "; none is confirmed yet",
        device=f" on {device}" if device else "",
        later=", students of another shape after the search" if has_own_sizes else "",
    )
    return escaping.sentence(note)


def _paragraph(text: str) -> str:
    """Return a paragraph or a list, a line for each of its points."""
    return "\n".join(map(escaping.sentence, text.split("\n")))


def _rung_note(study: Study) -> str:
    rungs = study.manifest.rungs
    if not rungs:
        return ""
    return (
        f"First rung and end: Spearman's correlation of validation after epoch {rungs[0]}, where trials are "
        "first compared, with validation at the end, over the n finished trials; near 0 the stopping was luck."
    )


def kind(picture: str) -> str:
    """Return the key in PLOTS that a picture's file is named by."""
    return picture.removesuffix(".png").split("-")[0]


def heading(text: str, level: int) -> str:
    """Return a heading in Markdown."""
    return f"{'#' * level} {escaping.markdown(text)}"


def _table(study: Study, name: str, level: int) -> list[str]:
    """Heading and table; nothing where the table is empty."""
    title, table = TABLES[name](study)
    return [heading(title, level), markdown(table)] if len(table) else []
