"""From a study to what is on its page: the one module that knows both.

Sentences and tables are those of the Markdown page; figures are made in `study_figures`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis import page, selection
from analysis.advice import advice, warnings
from analysis.commands import confirm_command
from analysis.comparison import stats
from analysis.comparison.methods import results
from analysis.comparison.verdicts import basis, is_confirmed, summary, to_settle, verdicts
from analysis.formatting import NotedTable, label
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import kd_winner
from analysis.tables import common, methods
from analysis.tables.custom import CustomTable
from analysis.web import study_figures, study_parameters
from analysis.web.content import (
    Block,
    Figure,
    Fold,
    Items,
    Page,
    Picture,
    Plot,
    Section,
    StudySection,
    Table,
    Text,
    Verdict,
)
from analysis.wording import margin_words

Pictures = Mapping[str, bytes]  # PNG files that lie beside the page, by name
# A verdict's methods within the answer: one, several.
ANSWERS = {
    stats.HELPS: ("{names} helps", "{names} help"),
    stats.SMALL_HELP: (
        "{names} helps, by less than {margin}",
        "{names} help, by less than {margin}",
    ),
    stats.HURTS: ("{names} hurts", "{names} hurt"),
    stats.SMALL_HURT: (
        "{names} hurts, by less than {margin}",
        "{names} hurt, by less than {margin}",
    ),
    stats.NO_DIFFERENCE: ("no difference larger than {margin} for {names}",) * 2,
    stats.NOT_SETTLED: ("not settled for {names}",) * 2,
    stats.TOO_FEW: ("too few repeats to say anything of {names}",) * 2,
}


def build(
    studies: Sequence[Study],
    *,
    pictures: Sequence[Pictures],
    files: Iterable[str],
    tables: Sequence[Sequence[CustomTable]] = (),
) -> Page:
    """Return the page of one or more studies, each with its pictures and a user's tables.

    `files` lie beside the page.
    """
    names = " and ".join(study.name for study in studies)
    return Page(
        title=f"Does distillation help? {names}",
        studies=tuple(map(section, studies, pictures, tables or [()] * len(studies))),
        files=tuple(files),
        footer="Made by tune_kd; figures drawn by plotly.js (MIT licence).",
    )


def section(study: Study, pictures: Pictures, tables: Sequence[CustomTable] = ()) -> StudySection:
    """Return a study's part."""
    return StudySection(
        name=study.name,
        status=status(study),
        answer=answer(study),
        verdicts=tuple(_verdicts(study)),
        notes=tuple(_notes(study)),
        warnings=tuple(warnings(study)),
        sections=(
            Section(title="Differences to the baseline", blocks=_differences(study, pictures)),
            _main(study),
            Section(title="Out of the box and tuned", blocks=_tuning(study)),
            Section(title="What to use", blocks=_use(study)),
            Section(title="Hyperparameters", blocks=_hyperparameters(study)),
            Section(title="Search", blocks=_search(study, pictures)),
            _section(study, "curse"),
            Section(title="Trade-offs", blocks=_front(study, pictures)),
            *(_section(study, name) for name in page.extra(study) if name != "front"),
            *(Section(title=custom.title, blocks=(table(custom.table),)) for custom in tables),
            Section(title="Predictions on the test split", blocks=_predictions(study, pictures)),
            Section(title="Training of the chosen trials", blocks=_training(study, pictures)),
            _section(study, "teacher"),
            Section(title="What to do next", blocks=_advice(study)),
            _section(study, "failures"),
            Section(title="How it was made", blocks=_provenance(study)),
        ),
    )


def paper_tables(
    study: Study, *, with_study: bool = False, tables: Sequence[CustomTable] = ()
) -> list[Table]:
    """Return the tables that belong into a paper, with their notes; `with_study`: its name is in the captions."""
    about = f" ({study.name})" if with_study else ""
    main_title, main = methods.main_table(study)
    title, gain = methods.tuning(study)
    note = page.note(study)
    return [
        replace(table(main, caption=f"{main_title}{about}"), notes=(note,)),
        *([table(gain, caption=f"{title}{about}")] if len(gain) else []),
        *(table(custom.table, caption=f"{custom.title}{about}") for custom in tables),
    ]


# ---------------------------------------------------------------- the answer


def status(study: Study) -> str:
    """How far the search is, where it is not complete; "" where nothing is open."""
    trial_count = len(selection.trials(study.rows, "search"))
    proposals = {name.removesuffix(".json") for name in study.storage.names("proposals", ".json")}
    open_trials = len(proposals - study.stages.keys())
    total = study.trials_per_repeat * study.repeats * len(study.methods)
    if trial_count and trial_count < total:
        return f"{trial_count} of {total} trials have ended, still running or interrupted"
    if open_trials:
        return f"{trial_count} trials have ended, {open_trials} still running or interrupted"
    return "" if trial_count else "no trial has ended yet"


def answer(study: Study) -> str:
    """All verdicts in one sentence."""
    if not any(study.recommended_trial(method) for method in study.methods):
        return "**Nothing to say yet**: no trial has finished."
    if not study.kd_methods:
        return "**Nothing to compare**: the study has the baseline alone."
    if not is_confirmed(study):
        return (
            "**No verdict yet**: nothing has been confirmed on the test split. Type "
            f"`{confirm_command(study)}`."
        )
    groups: dict[str, list[str]] = {}
    for method in study.kd_methods:
        verdict = results(study)[method].verdict
        groups.setdefault(verdict.label if verdict else "", []).append(f"**{method}**")
    parts = []
    for label_ in (*ANSWERS, ""):
        names = groups.get(label_, [])
        one, several = ANSWERS.get(label_, ("nothing to compare for {names}",) * 2)
        if names:
            text = several if len(names) > 1 else one
            parts.append(text.format(names=_join(names), margin=margin_words(study.margin)))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _join(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> _join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def _verdicts(study: Study) -> Iterable[Verdict]:
    if not is_confirmed(study):
        return
    for method, text in zip(study.kd_methods, verdicts(study), strict=True):
        verdict = results(study)[method].verdict
        tone = study_figures.TONES.get(verdict.label, "none") if verdict else "none"
        yield Verdict(method=method, text=text, tone=tone)


def _notes(study: Study) -> Iterable[str]:
    """Out of the box and tuned, what the sentences rest on, and what to type to know more."""
    if is_confirmed(study) and study.kd_methods:
        yield from (text for text in (summary(study), basis(study), to_settle(study)) if text)


# ---------------------------------------------------------------- sections


def _differences(study: Study, pictures: Pictures) -> tuple[Block, ...]:
    plot = study_figures.differences(study)
    caption = (
        "Each open circle is one repeat: the test result of what the method's search chose minus that of the "
        "baseline's search, means over the repeat's seeds. The filled circle is the mean over repeats, the line "
        "its 95 % interval. Right of 0 the method is better."
    )
    alt = "Differences of the methods to the tuned baseline with 95 % intervals; the table below has the numbers"
    return _figure(plot, alt, caption, _picture(pictures, "differences"))


def _main(study: Study) -> Section:
    title, frame = methods.main_table(study)
    main = table(frame)
    base = tuple(at for at, row in enumerate(main.rows) if row[0] == label(BASELINE))
    blocks: list[Block] = [replace(main, strong=base), Text(text=page.note(study), kind="note")]
    if not is_confirmed(study):
        caption, winners = common.validation(study)
        blocks.append(table(winners, caption=caption))
    return Section(title=title, blocks=tuple(blocks))


def _tuning(study: Study) -> tuple[Block, ...]:
    alt = "Gain from tuning each method on the test split, with 95 % intervals"
    caption = "What each repeat's search chose minus the default settings of the same method, with the same seeds."
    plot = study_figures.tuning(study)
    return (*_figure(plot, alt, caption), *_section(study, "tuning").blocks)


def _use(study: Study) -> tuple[Block, ...]:
    """Return the recommended students, what is said of them, and their configurations."""
    blocks = list(_section(study, "use").blocks)
    caption, best = common.configuration(study)
    return (*blocks, *([table(best, caption=caption)] if len(best) else []))


def _hyperparameters(study: Study) -> tuple[Block, ...]:
    alt = "The validation metric over each hyperparameter, a dot a trial"
    caption = (
        "A dot is one search trial (validation, n = 1); rest on it to read its configuration. Trials that "
        "were stopped early have their last value."
    )
    matter = "How much each hyperparameter matters, with 95 % intervals"
    pairs = "The two hyperparameters of each method that matter most, the metric as colour"
    figures: list[Block] = [
        *_figure(study_parameters.importance(study), matter),
        *_section(study, "importance").blocks,
        *_figure(study_parameters.slices(study), alt, caption),
        *_figure(study_parameters.pairs(study), pairs),
        *_section(study, "robust").blocks,
    ]
    plots = {m: plot for m in study.methods if (plot := study_parameters.parallel(study, m))}
    first = kd_winner(study)
    lines = [
        Fold(
            title=f"Parallel coordinates of {label(method)}",
            blocks=_figure(plot, f"Finished trials of {method} over their hyperparameters"),
            open=method == first,
        )
        for method, plot in plots.items()
    ]
    return (*figures, *lines)


def _search(study: Study, pictures: Pictures) -> tuple[Block, ...]:
    return (
        *_figure(
            study_figures.history(study),
            "Validation metric by trial number",
            "A dot is one trial; the line is the best finished one so far.",
            _picture(pictures, "history"),
        ),
        *_figure(
            study_figures.learning_curves(study),
            "Validation metric by epoch",
            "Trials of one method each; a short line was stopped early.",
            _picture(pictures, "learning_curves"),
        ),
        table(common.search_summary(study)[1]),
    )


def _front(study: Study, pictures: Pictures) -> tuple[Block, ...]:
    title, content = common.TABLES["front"](study)
    alt = "Finished trials by the first two objectives; the table below has those on the front"
    caption = "Large marks: no other finished trial is at least as good in every objective."
    tables = [table(content, caption=title)] if len(content) else []
    return (
        *_figure(study_parameters.front(study), alt, caption, _picture(pictures, "front")),
        *tables,
    )


def _predictions(study: Study, pictures: Pictures) -> tuple[Block, ...]:
    names = [name for kind in page.PREDICTED for name in pictures if page.kind(name) == kind]
    by_name = {
        name: Picture(name=name, data=pictures[name], alt=_alt(study, name)) for name in names
    }
    return tuple(
        Fold(title=picture.alt, blocks=(picture,)) if page.kind(name) == "predictions" else picture
        for name, picture in by_name.items()
    )


def _training(study: Study, pictures: Pictures) -> tuple[Block, ...]:
    alt = "Training loss and its parts by epoch"
    caption = "The weighted sum that was trained, and its parts before they are weighted."
    return _figure(
        study_figures.losses(study), alt, caption, _picture(pictures, "kd_loss_components")
    )


def _advice(study: Study) -> tuple[Block, ...]:
    return (Items(texts=tuple(advice(study)) or ("Nothing stands out.",)),)


def _provenance(study: Study) -> tuple[Block, ...]:
    content = common.provenance(study)[1]
    return (Fold(title="Command, seeds, data, hardware, software", blocks=(table(content),)),)


def _section(study: Study, name: str) -> Section:
    """One of the registered tables with its own title; empty where the study has no data for it."""
    title, content = common.TABLES[name](study)
    return Section(title=title, blocks=(table(content),) if len(content) else ())


# ---------------------------------------------------------------- blocks


def table(content: pd.DataFrame | str, *, caption: str = "") -> Table:
    """Return a table of strings as the report makes them, with its notes."""
    assert not isinstance(content, str) or isinstance(content, NotedTable), (
        "a table without its data"
    )
    frame = content.frame if isinstance(content, NotedTable) else content
    notes = (*content.notes, *content.items) if isinstance(content, NotedTable) else ()
    return Table(
        columns=tuple(map(str, frame.columns)),
        rows=tuple(tuple(map(str, row)) for row in frame.itertuples(index=False)),
        caption=caption,
        notes=notes,
    )


def _figure(
    plot: Plot | None, alt: str, caption: str = "", fallback: Picture | None = None
) -> tuple[Figure, ...]:
    """Return a figure, or nothing where there is nothing to draw."""
    return (Figure(plot=plot, alt=alt, caption=caption, fallback=fallback),) if plot else ()


def _picture(pictures: Pictures, kind: str) -> Picture | None:
    names = [name for name in pictures if page.kind(name) == kind]
    if not names:
        return None
    return Picture(name=names[0], data=pictures[names[0]], alt=kind.replace("_", " "))


def _alt(study: Study, name: str) -> str:
    return f"{study.name}: {name.removesuffix('.png').replace('_', ' ')}"
