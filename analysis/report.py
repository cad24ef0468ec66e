"""Tables, plots and one page from the rows of one or more studies.

    python -m analysis.report runs/digits_kd [runs/other ...] [--out DIR]

writes index.html, report.md, table.csv, table.tex, report.json, details.json, pictures and training logs
below the first study, and kd_comparison_results.txt and pruning_comparison.csv where there is something to
say; prints the main table and, as the last line, where the page is. Imports neither torch nor Ray.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd import cli, metrics
from tune_kd.errors import UsageError

# What is heavy (pandas, scipy, matplotlib) is imported by the functions that need it: --help and
# usage errors come at once.
if TYPE_CHECKING:
    from analysis.study import Study
    from tune_kd.study.storage import Storage


def accuracies(studies: Sequence["Study"]) -> dict[str, dict[str, float | None]]:
    """Return what report.json holds: three test accuracies (fractions, null where not confirmed) a family.

    Students' are means over repeats of the tuned methods. Where mIoU is the study's metric they are
    mIoU. The method with distillation is the one whose winners are best on validation in the search, of
    those that neither prune nor quantize where there are such.
    Studies that share a family have the key `family:study`.
    """
    count = Counter(study.family for study in studies)
    found = {}
    for study in studies:
        key = study.family if count[study.family] == 1 else f"{study.family}:{study.name}"
        key = f"{study.family}:{study.address}" if key in found else key
        found[key] = _accuracies(study)
    return found


def _accuracies(study: "Study") -> dict[str, float | None]:
    from analysis import selection
    from analysis.comparison import stats
    from analysis.summary import kd_winner

    def mean(method: str | None) -> float | None:
        summary = stats.summarise(study.tuned(method).values()) if method else None
        return summary.mean if summary else None

    taught = selection.teacher(study.rows, "confirm")
    return {
        "teacher_accuracy": metrics.number(taught, study.test_metric),
        "student_accuracy_without_kd": mean(selection.BASELINE),
        "student_accuracy_with_kd": mean(kd_winner(study)),
    }


def details(study: "Study") -> dict[str, Any]:
    """Return what details.json holds of a study: the numbers behind the page, fractions throughout."""
    from analysis import summary as lines
    from analysis.advice import advice, warnings
    from analysis.comparison import methods
    from analysis.comparison.verdicts import verdicts
    from analysis.tables import common
    from tune_kd.study import manifest

    chosen = {method: study.chosen(method) for method in study.methods}
    return {
        "study": study.name,
        "address": study.address,
        "table": json.loads(lines.raw(study).to_json(orient="records", double_precision=15)),
        "configurations": {
            method: {
                name: row[name]
                for name in row
                if name.startswith("config.")
                or name in (*common.WEIGHTS, "trial", "repeat", "number")
            }
            for method, row in chosen.items()
            if row
        },
        "repeats": study.repeats,
        "test_access": {"looks": study.looks, "evaluations": study.evaluations},
        "methods": {name: asdict(found) for name, found in methods.results(study).items()},
        f"tuned_{study.test_metric}_by_seed": {
            method: study.by_seed(method, "best") for method in study.methods
        },
        "warnings": warnings(study),
        "verdicts": verdicts(study),
        "advice": advice(study),
        "failures": [
            {name: row[name] for name in ("phase", "method", "trial", "epochs", "reason")}
            for row in study.rows
            if row["status"] == "failed"
        ],
        "manifest": manifest.to_json(study.manifest),
    }


def write(studies: Sequence["Study"], out: "Storage") -> None:
    """Everything that the report consists of, into `out`; index.html last."""
    import pandas as pd

    from analysis import escaping, latex
    from analysis import summary as lines
    from analysis.page import heading, section
    from analysis.tables import comparison as tables_comparison
    from analysis.tables import compression
    from analysis.web.build import build, printed
    from analysis.web.render import render

    several = len(studies) > 1
    names = " and ".join(study.name for study in studies)
    page = [f"# Does distillation help? {escaping.markdown(names)}", *_incomparable(studies)]
    drawn: list[dict[str, bytes]] = []
    beside = ["table.csv", "table.tex", "report.json", "details.json"]
    for at, study in enumerate(studies):
        mark = f"-{at + 1}" if several else ""
        pictures = _pictures(study, out, mark)
        drawn.append(pictures)
        beside += _files(out, {
            f"kd_comparison_results{mark}.txt": tables_comparison.text(study),
            f"pruning_comparison{mark}.csv": compression.pruning_csv(study),
        })  # fmt: skip
        beside += _logs(study, out.at(f"logs{mark}"), f"logs{mark}")
        page += [heading(study.name, 2)] if several else []
        page.append(section(study, pictures=list(pictures), level=3 if several else 2))
    _forget(out, [name for pictures in drawn for name in pictures])
    table = pd.concat([lines.raw(study) for study in studies]).map(escaping.csv)
    out.write("table.csv", table.to_csv(index=False).encode())
    found = [table for study in studies for table in printed(study, named=several)]
    out.write("table.tex", latex.document(found).encode())
    out.write("report.json", _json(accuracies(studies)))
    out.write("details.json", _json([details(study) for study in studies]))
    page.append(f"Beside this page: {', '.join(f'[{name}]({name})' for name in beside)}.")
    out.write("report.md", ("\n\n".join(page) + "\n").encode())
    whole = build(studies, pictures=drawn, files=["report.md", *beside])
    out.write("index.html", render(whole).encode())


def _incomparable(studies: Sequence["Study"]) -> list[str]:
    """Return a warning where studies on one page are measured by different metrics."""
    from analysis.formatting import spoken

    metrics = dict.fromkeys(spoken(study.test_metric) for study in studies)
    if len(metrics) < 2:
        return []
    return [
        f"> **The studies are measured by {' and '.join(metrics)}: their numbers cannot be compared.**"
    ]


def _pictures(study: "Study", out: "Storage", mark: str) -> dict[str, bytes]:
    """Draw what a study has data for and write it; the files by name."""
    import matplotlib

    from analysis import escaping
    from analysis.plots import results, style

    found = {}
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a name is a dollar
        for kind, draw in results.PLOTS.items():
            drawn = draw(study)
            several = drawn if isinstance(drawn, Mapping) else {"": drawn} if drawn else {}
            for which, figure in several.items():
                part = f"-{escaping.file_name(which)}" if which else ""
                name = f"{kind}{part}{mark}.png"
                found[name] = style.png(figure)
                out.write(name, found[name])
    return found


def _files(out: "Storage", files: Mapping[str, bytes | None]) -> list[str]:
    """Write the files that there are, remove those of an earlier report; the names of the written."""
    for name, data in files.items():
        if data is None:
            out.remove(name)
        else:
            out.write(name, data)
    return [name for name, data in files.items() if data is not None]


def _logs(study: "Study", folder: "Storage", name: str) -> list[str]:
    """Write the training logs in place of those of an earlier report."""
    from analysis.training_logs import logs

    found = logs(study)
    for old in folder.names(""):
        if old not in found and old.endswith((".csv", ".json")):
            folder.remove(old)
    return [f"{name}/{log}" for log in _files(folder, found) if log.endswith(".csv")]


def _forget(out: "Storage", drawn: Sequence[str]) -> None:
    """Remove pictures of an earlier report that no longer hold."""
    from analysis.page import kind
    from analysis.plots.results import PLOTS

    for name in out.names("", ".png"):
        if name not in drawn and kind(name) in PLOTS:
            out.remove(name)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def run(addresses: Sequence[str], out: str | None) -> None:
    """Load, write, print: the main tables and where the page is on stdout, warnings on stderr."""
    from analysis.advice import warnings
    from analysis.commands import confirm_command
    from analysis.comparison.verdicts import is_confirmed
    from analysis.formatting import markdown
    from analysis.page import extra
    from analysis.study import load
    from analysis.tables.methods import main_table
    from tune_kd.study.storage import Storage

    if len(set(addresses)) < len(addresses):
        raise UsageError(f"a study is named twice: {' '.join(addresses)}; name each once")
    studies = [load(address) for address in addresses]
    folder = Storage(out) if out else studies[0].storage.at("report")
    for study in studies:
        extra(study), study.constraints  # wrong ones are refused before anything is written
    folder.check_writable()
    write(studies, folder)
    for study in studies:
        for text in warnings(study):
            print(f"warning: {study.name}: {text}", file=sys.stderr)
        if not is_confirmed(study):
            print(f"not confirmed yet; type: {confirm_command(study)}", file=sys.stderr)
        if len(studies) > 1:
            print(f"{study.name}\n")
        print(markdown(main_table(study)[1]), end="\n\n")
    print(f"report: {_shown(folder)}")


def _shown(folder: "Storage") -> str:
    """Return the page's path, relative where it lies below the working directory."""
    if folder.local is None:
        return folder.at("index.html").uri
    path, here = folder.local / "index.html", Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def main(argv: list[str]) -> int:
    """Return the command line; the exit code is 0. UsageError for what can be mended."""
    parser = cli.Parser(
        prog="python -m analysis.report",
        description="Tables, plots and one page from the rows of one or more studies.",
    )
    parser.add_argument("study", nargs="+", help="a study: runs/NAME or s3://bucket/runs/NAME")
    parser.add_argument("--out", help="where to write (default: report/ below the first study)")
    given = parser.parse(argv)
    run(given.study, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
