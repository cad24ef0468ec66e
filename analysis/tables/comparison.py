"""The comparison of methods in the labs' own form: on the page and as a text file of fixed width."""

from dataclasses import dataclass

import pandas as pd

from analysis import selection
from analysis.comparison import stats
from analysis.formatting import NONE, Table, mean_sd, metric, metric_name, ratio, times, with_notes
from analysis.selection import BASELINE
from analysis.study import Study
from analysis.summary import Line, kd_winner, lines
from tune_kd.metrics import number
from tune_kd.study.results import Row

NAMES = {
    BASELINE: "Without KD (Baseline)",
    "response": "Response-Based",
    "feature": "Feature-Based",
    "combined": "Combined",
}
IMPROVEMENTS = "IMPROVEMENTS OVER BASELINE"
WIDTHS = (32, 13, 19)  # of all columns but the last; wider where a cell needs it
RULE = 90


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cells of the table, and each method's improvement over the baseline as text."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    improvements: list[tuple[str, str]]


def compare(study: Study) -> Comparison | None:
    """Every method on the test split; None where nothing is confirmed."""
    method_lines = [line for line in lines(study) if line.method != "teacher"]
    if not any(line.test for line in method_lines):
        return None
    columns = ("Knowledge Distillation", metric_name(study.test_metric))
    return Comparison(
        columns=(*columns, "# Parameters", "Inference Speed (ms)"),
        rows=[_cells(line) for line in method_lines],
        improvements=[
            (name(line.method), _improvement(study, line))
            for line in method_lines
            if line.difference
        ],
    )


def name(method: str) -> str:
    """Return a method as the labs call it; others by their own name."""
    return NAMES.get(method, method)


def _cells(line: Line) -> tuple[str, ...]:
    return name(line.method), fraction(line.test), millions(line.footprint), speed(line.footprint)


def fraction(summary: stats.Summary | None) -> str:
    """Four decimals of a fraction; spread and n where there are several repeats.

    >>> fraction(stats.Summary(mean=0.6245, sd=None, n=1))
    '0.6245'
    >>> fraction(stats.Summary(mean=0.6245, sd=0.0021, n=3))
    '0.6245 ± 0.0021 (n = 3)'
    """
    if summary is None:
        return NONE
    spread = "" if summary.sd is None else f" ± {summary.sd:.4f} (n = {summary.n})"
    return f"{summary.mean:.4f}{spread}"


def millions(row: Row | None) -> str:
    """Parameters in millions, with more digits below ten thousand.

    >>> millions({"num_params": 2_812_345.0}), millions({"num_params": 1030.0})
    ('2.81M', '0.0010M')
    """
    value = number(row, "num_params")
    if value is None:
        return NONE
    return f"{value / 1e6:.{2 if value >= 1e4 else 4}f}M"


def speed(row: Row | None) -> str:
    """Milliseconds for one image: the median of timed blocks ± their standard deviation."""
    median, spread = number(row, "latency_ms"), number(row, "latency_ms_sd")
    if median is None:
        return NONE
    return f"{median:.2f}" if spread is None else f"{median:.2f} ± {spread:.2f}"


def _improvement(study: Study, line: Line) -> str:
    """Absolute, in percent of the baseline's value in the same repeats, and the interval if any."""
    change = line.difference
    assert change is not None
    baseline = study.tuned_values(BASELINE)
    common = baseline.keys() & study.tuned_values(line.method).keys()
    level = sum(baseline[repeat] for repeat in common) / len(common)
    share = f" ({change.mean / level * 100:+.2f}%)" if level else ""
    text = f"{change.mean:+.4f}{share}"
    if change.low is None or change.high is None:
        return text
    return f"{text} [{change.low:+.4f}, {change.high:+.4f}] (n = {change.n})"


def comparison(study: Study) -> Table:
    """Methods side by side with their improvements over the baseline, on the test split."""
    content = compare(study)
    title = "Knowledge distillation compared (test split)"
    if content is None:
        return title, ""
    frame = pd.DataFrame(content.rows, columns=list(content.columns))
    items = [f"{method}: {text}" for method, text in content.improvements]
    return title, with_notes(frame, *([f"{IMPROVEMENTS}:"] if items else []), items=items)


def text(study: Study) -> bytes | None:
    """kd_comparison_results.txt: the same in columns of fixed width; None where nothing is confirmed."""
    content = compare(study)
    if content is None:
        return None
    table = [content.columns, *content.rows]
    longest = [max(len(row[at]) for row in table) for at in range(len(content.columns))]
    widths = [max(width, longest[at] + 2) for at, width in enumerate(WIDTHS)]
    text_rows = [
        "".join(c.ljust(w) for c, w in zip(row, [*widths, 0], strict=True)) for row in table
    ]
    rule = "-" * max(RULE, sum(widths) + longest[-1])
    items = [f"  {method.ljust(widths[0])}{change}" for method, change in content.improvements]
    block = ["", f"{IMPROVEMENTS}:", *items] if items else []
    return "\n".join([text_rows[0], rule, *text_rows[1:], *block, ""]).encode()


def results(study: Study) -> Table:
    """Teacher, student on labels, student with distillation: accuracy and compression."""
    title = "Results (test split)"
    by_method = {line.method: line for line in lines(study)}
    if not any(line.test for line in by_method.values()):
        return title, pd.DataFrame()
    best = kd_winner(study)
    names = {
        "teacher": f"Teacher ({study.manifest.teacher})",
        BASELINE: "Student baseline",
        **({best: f"Student + KD ({best})"} if best else {}),
    }
    teacher_params = number(selection.teacher(study.rows, "measure"), "num_params")
    cells = [
        {
            "Model": model_name,
            f"{metric_name(study.test_metric)}": mean_sd(by_method[method].test),
            "Parameters": metric(by_method[method].footprint, "num_params"),
            "Compression": times(
                ratio(teacher_params, number(by_method[method].footprint, "num_params"))
            ),
        }
        for method, model_name in names.items()
        if method in by_method
    ]
    return title, pd.DataFrame(cells)
