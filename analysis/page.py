"""A study's part of the page: warnings, verdict, tables, pictures and advice in Markdown."""

from collections.abc import Sequence

from analysis import escaping, select
from analysis.advice import advice, confirm_command, is_confirmed, verdicts, warnings
from analysis.cells import markdown
from analysis.load import Study
from analysis.tables import TABLES
from tune_kd.errors import unknown

NOTE = """Test split, mean ± sd over n training seeds; {seeds}. Differences are paired by seed, in
percentage points, with a 95 % Student t interval: it covers training seeds, not the choice of test
images, and is not corrected for comparing several methods. Latency ± sd at batch 1{device},
measured alone before the first trial{later}."""


def section(study: Study, *, pictures: Sequence[str], level: int = 2) -> str:
    """A study's part of the page; `pictures` are the names of the files that were drawn."""

    def shown(*kinds: str) -> list[str]:
        named = [name for wanted in kinds for name in pictures if kind(name) == wanted]
        return [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in named]

    def headed(title: str, *kinds: str) -> list[str]:
        found = shown(*kinds)
        return [heading(title, level), *found] if found else []

    parts = [f"> **{escaping.sentence(text)}**" for text in warnings(study)]
    parts += [heading("Verdict", level), *_verdict(study)]
    parts += [*_table(study, "main", level), note(study), *shown("differences")]
    parts += [
        part for name in (*_often(study), *extra(study)) for part in _table(study, name, level)
    ]
    parts += headed("Predictions on the test split", *PREDICTED)
    parts += [*_table(study, "search", level), *shown("history", "front", "learning_curves")]
    parts += headed("Training of the best trials", *TRAINED)
    parts += _table(study, "teacher", level)
    said = [f"- {escaping.sentence(text)}" for text in advice(study)] or ["Nothing stands out."]
    parts += [heading("Advice", level), "\n".join(said)]
    parts += [*_table(study, "failures", level), *_table(study, "provenance", level)]
    return "\n\n".join(part for part in parts if part)


PREDICTED = ("confusion", "iou_distribution", "predictions")
TRAINED = (
    "kd_validation_accuracy", "kd_validation_miou", "kd_loss_components", "kd_all_losses",
    "kd_learning_rate",
)  # fmt: skip
SHOWN = ("main", "configuration", "tuning", "search", "teacher", "failures", "provenance")


def _often(study: Study) -> list[str]:
    """The tables between the results and the search: validation only where there is no test."""
    return [*([] if is_confirmed(study) else ["validation"]), "configuration", "tuning"]


def extra(study: Study) -> list[str]:
    """The tables that the space asks for beside the common ones; UsageError names an unknown one."""
    asked = study.manifest.get("tables", [])
    if strangers := [name for name in asked if name not in TABLES]:
        raise unknown("table", strangers[0], TABLES)
    return [name for name in asked if name not in SHOWN]


def _verdict(study: Study) -> list[str]:
    if not is_confirmed(study):
        return [
            "**No verdict yet**: nothing has been confirmed on the test split. Type "
            f"`{confirm_command(study)}`.\nUntil then there are validation values only, of one "
            "seed and chosen on that very split: they are too good."
        ]
    return ["\n".join(f"- {escaping.sentence(text)}" for text in verdicts(study))]


def note(study: Study) -> str:
    """What the numbers of the main table are, in words."""
    confirming = [r for r in select.trials(study.rows, "confirm") if r["method"]]
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in confirming}))
    device = (select.student_footprint(study.rows) or {}).get("device")
    own = any(row["method"] for row in select.trials(study.rows, "measure"))
    note = NOTE.format(
        seeds=f"seeds {seeds}, trained on train + validation" if seeds else "none confirmed yet",
        device=f" on {device}" if device else "",
        later=", students of another shape after the search" if own else "",
    )
    return escaping.sentence(note)


def kind(picture: str) -> str:
    """The key in PLOTS that a picture's file is named by."""
    return picture.removesuffix(".png").split("-")[0]


def heading(text: str, level: int) -> str:
    """A heading in Markdown."""
    return f"{'#' * level} {escaping.markdown(text)}"


def _table(study: Study, name: str, level: int) -> list[str]:
    """Heading and table; nothing where the table is empty."""
    title, table = TABLES[name](study)
    return [heading(title, level), markdown(table)] if len(table) else []
