"""A page with every kind of figure and block, of made data."""

import math

import numpy as np

from analysis.web.content import (
    Axis,
    Bar,
    Chart,
    Effect,
    Figure,
    Fold,
    Forest,
    Graded,
    Importance,
    Importances,
    Items,
    Key,
    Level,
    Mark,
    Page,
    Pair,
    Pairs,
    Panel,
    Parallel,
    Plot,
    Point,
    Row,
    Scale,
    Section,
    Series,
    Slice,
    Slices,
    StudySection,
    Table,
    Text,
    Verdict,
)

DICE = np.random.default_rng(0)
RATES = [float(f"{x:.4g}") for x in 10 ** DICE.uniform(-2, 0, 30)]
VALUES = [90 - 8 * (math.log10(x) + 1) ** 2 for x in RATES]
TRIALS = [f"response, trial {at}\nlr {rate}" for at, rate in enumerate(RATES)]
ACCURACY = Axis(title="validation accuracy, %")


def dots(*, colour: str = "c1") -> Series:
    """Thirty trials over the learning rate."""
    points = zip(RATES, VALUES, TRIALS, strict=True)
    return Series(points=tuple(Point(x, y, text) for x, y, text in points), colour=colour)


PLOTS: dict[str, Plot] = {
    "forest": Forest(
        effects=(
            Effect(
                name="response",
                mean=1.2,
                low=0.4,
                high=2.0,
                numbers="+1.20 [+0.40, +2.00] (n = 5)",
                label="helps",
                tone="good",
                marks=tuple(
                    Mark(v, f"repeat {at}") for at, v in enumerate((0.6, 1.0, 1.2, 1.4, 1.8))
                ),
            ),
            Effect(
                name="combined",
                mean=-0.1,
                low=-0.3,
                high=0.1,
                numbers="-0.10 [-0.30, +0.10] (n = 5)",
                label="no difference larger than 0.5 points",
                marks=(Mark(-0.1),),
            ),
            Effect(
                name="feature", mean=-2.0, low=None, high=None, numbers="-2.00 (n = 1)", tone="bad"
            ),
        ),
        axis="test accuracy minus the tuned baseline's, percentage points",
        margin=0.5,
        key=(Key(label="no difference", look="band", colour="base"),),
    ),
    "chart": Chart(
        panels=(
            Panel(
                title="response",
                series=(dots(),),
                colour="c1",
                levels=(Level(value=88.0, hover="teacher"), Level(value=0.1, upright=True)),
            ),
            Panel(title="no trial yet", series=()),
        ),
        x=Axis(title="lr", log=True, low=0.01, high=1.0),
        y=ACCURACY,
    ),
    "front": Chart(
        panels=(
            Panel(title="", series=(Series(points=(Point(1, 3.0), Point(2, None)), look="step"),)),
        ),
        x=Axis(title="size, MB"),
        y=ACCURACY,
    ),
    "importances": Importances(
        methods=(
            Importance(
                method="response",
                basis="30 finished trials",
                colour="c1",
                bars=(
                    Bar(parameter="lr", mean=0.7, low=0.5, high=0.8),
                    Bar(parameter="temperature", mean=0.2, low=0.1, high=0.4),
                    Bar(parameter="alpha", mean=0.1),
                ),
            ),
            Importance(method="feature", bars=(Bar(parameter="gamma", mean=1.0),)),
        )
    ),
    "slices": Slices(
        slices=(
            Slice(
                parameter=Axis(title="lr", log=True, low=0.009, high=1.1),
                series=(dots(),),
                region=(0.05, 0.3),
                robust=0.12,
            ),
            Slice(
                parameter=Axis(title="mix"),
                series=(Series(points=(Point("none", 80.0, "trial 1"), Point("<mixup>", 85.0))),),
            ),
        ),
        y=Axis(title="validation accuracy, %", low=84.0, high=91.0),
        key=(Key(label="flat region", look="band", colour="good"),),
    ),
    "pairs": Pairs(
        pairs=(
            Pair(
                title="response",
                x=Axis(title="lr", log=True, low=0.01, high=1.0),
                y=Axis(title="alpha"),
                value="accuracy, %",
                points=tuple(
                    Graded(x, x / 2, y, t) for x, y, t in zip(RATES, VALUES, TRIALS, strict=True)
                ),
            ),
        )
    ),
    "parallel": Parallel(
        scales=(
            Scale(title="lr", low=0.01, high=1.0, log=True),
            Scale(title="mix", choices=("none", "mixup")),
            Scale(title="accuracy, %", low=80.0, high=90.0),
        ),
        rows=tuple(
            Row(
                values=(x, "none" if at % 2 else None, y),
                hover=t,
                rank="best" if at == 3 else "good" if at < 9 else "other",
            )
            for at, (x, y, t) in enumerate(zip(RATES, VALUES, TRIALS, strict=True))
        ),
        key=(Key(label="best", look="line"),),
    ),
}
TABLE = Table(
    columns=("Method", "Accuracy, %", "Parameters", "Remark"),
    rows=(
        ("teacher", "98.15 (n = 1)", "56,554", "-"),
        ("no_kd", "90.12 ± 3.00 (n = 3)", "1,030", "plain"),
        ("response", "-", "1,030", "soft"),
        ("feature", "8.64 ± 3.11 (n = 3)", "999", "maps"),
    ),
    caption="Test accuracy",
    notes=("Means over **n** seeds.",),
    strong=(1,),
)


def page() -> Page:
    """Everything there is, once."""
    figures = [
        Section(title=name, blocks=(Figure(plot=plot, alt=f"the {name}", caption=f"A `{name}`."),))
        for name, plot in PLOTS.items()
    ]
    other_blocks = (
        Text(text="A warning.", kind="warning"),
        Items(texts=("one", "**two**")),
        TABLE,
        Fold(title="Folded", blocks=(Figure(plot=PLOTS["parallel"], alt="folded"),)),
    )
    study = StudySection(
        name="made",
        answer="**response** helps.",
        status="12 of 20 trials have ended, still running or interrupted",
        verdicts=(Verdict(method="response", text="**response helps**: +1.2.", tone="good"),),
        sections=(
            *figures,
            Section(title="Rest", blocks=other_blocks),
            Section(title="Empty", blocks=()),
        ),
    )
    return Page(title="Does distillation help? made", studies=(study,), files=("table.csv",))
