"""Tables, plots and one page from the rows of one or more studies.

    python -m analysis.report runs/digits_kd [runs/other ...] [--out DIR] [--table FILE.py:FUNCTION]

writes index.html, report.md, table.csv, table.tex, report.json, details.json, pictures and training
logs below the first study, kd_comparison_results.txt and pruning_comparison.csv where there is
something to say, and table-FUNCTION.csv for each table of a user's own. It prints the main table
and, as the last line, where the page is. Imports neither torch nor Ray.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_kd import cli, metrics
from tune_kd.errors import UsageError

# What is heavy (pandas, scipy, matplotlib) is imported by the functions that need it: --help and
# usage errors come at once.
if TYPE_CHECKING:
    from analysis.study import Study
    from analysis.tables.custom import CustomTable, TableFunction
    from tune_kd.study.storage import Storage

TABLE_FILE = "table-"  # begins the names of CSV files with a user's tables


def accuracies(studies: Sequence["Study"]) -> dict[str, dict[str, float | None]]:
    """Return what report.json holds: three test accuracies (fractions, null where not confirmed) a family.

    Students' are means over repeats of the tuned methods. Where mIoU is the study's metric they are
    mIoU. The method with distillation is the one whose winners are best on validation in the
    search, of those that neither prune nor quantize where there are such. Studies that share a
    family have the key `family:study`.
    """
    count = Counter(study.family for study in studies)
    families = {}
    for study in studies:
        key = study.family if count[study.family] == 1 else f"{study.family}:{study.name}"
        key = f"{study.family}:{study.address}" if key in families else key
        families[key] = _accuracies(study)
    return families


def _accuracies(study: "Study") -> dict[str, float | None]:
    from analysis import selection
    from analysis.comparison import stats
    from analysis.summary import kd_winner

    def mean(method: str | None) -> float | None:
        summary = stats.summarise(study.tuned_values(method).values()) if method else None
        return summary.mean if summary else None

    teacher_row = selection.teacher(study.rows, "confirm")
    return {
        "teacher_accuracy": metrics.number(teacher_row, study.test_metric),
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

    trials = {method: study.recommended_trial(method) for method in study.methods}
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
            for method, row in trials.items()
            if row
        },
        "repeats": study.repeats,
        "test_access": {"looks": study.looks, "evaluations": study.evaluations},
        "methods": {name: asdict(result) for name, result in methods.results(study).items()},
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


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """What the report has of one study, beside what it has of all."""

    pictures: dict[str, bytes]  # by name
    tables: "list[CustomTable]"  # a user's own
    errors: list[str]  # a sentence for each of a user's tables that failed
    names: list[str]  # of the other files that were written


def write(
    studies: Sequence["Study"],
    out: "Storage",
    functions: "Mapping[str, TableFunction] | None" = None,
) -> list[str]:
    """Write everything that the report consists of into `out`, index.html last.

    `functions` make a user's tables, by name (`tables.custom.load_functions`); what is returned is
    a sentence for each of them that failed.
    """
    import pandas as pd

    from analysis import escaping, latex
    from analysis import summary as lines
    from analysis.web.build import build, paper_tables
    from analysis.web.render import render

    several = len(studies) > 1
    files = [
        _write_study(study, out, functions=functions or {}, mark=f"-{at}" if several else "")
        for at, study in enumerate(studies, 1)
    ]
    _forget(out, [name for part in files for name in (*part.pictures, *part.names)])
    beside = ["table.csv", "table.tex", "report.json", "details.json"]
    beside += [name for part in files for name in part.names]
    main = pd.concat([lines.raw(study) for study in studies]).map(escaping.csv)
    out.write("table.csv", main.to_csv(index=False).encode())
    tables = [part.tables for part in files]
    pairs = list(zip(studies, tables, strict=True))
    paper = [
        table
        for study, custom in pairs
        for table in paper_tables(study, with_study=several, tables=custom)
    ]
    out.write("table.tex", latex.document(paper).encode())
    out.write("report.json", _json(accuracies(studies)))
    out.write("details.json", _json([details(study) for study in studies]))
    out.write("report.md", _markdown_page(studies, files=files, beside=beside))
    pictures = [part.pictures for part in files]
    page = build(studies, pictures=pictures, files=["report.md", *beside], tables=tables)
    out.write("index.html", render(page).encode())
    return [error for part in files for error in part.errors]


def _write_study(
    study: "Study", out: "Storage", *, functions: "Mapping[str, TableFunction]", mark: str
) -> StudyFiles:
    """Write a study's own files; `mark` ends their names where the report has several studies."""
    from analysis import escaping
    from analysis.tables import comparison, compression
    from analysis.tables.custom import custom_tables

    pictures = _pictures(study, out, mark)
    tables, errors = custom_tables(study, functions)
    files: dict[str, bytes | None] = {
        f"kd_comparison_results{mark}.txt": comparison.text(study),
        f"pruning_comparison{mark}.csv": compression.pruning_csv(study),
    }
    for table in tables:
        text = table.values.map(escaping.csv).to_csv(index=False)
        files[f"{TABLE_FILE}{table.name}{mark}.csv"] = text.encode()
    names = _files(out, files) + _logs(study, out.at(f"logs{mark}"), f"logs{mark}")
    return StudyFiles(pictures=pictures, tables=tables, errors=errors, names=names)


def _markdown_page(
    studies: Sequence["Study"], *, files: Sequence[StudyFiles], beside: Sequence[str]
) -> bytes:
    """Return report.md, which links to the files `beside` it."""
    from analysis import escaping
    from analysis.page import heading, section

    several = len(studies) > 1
    names = " and ".join(study.name for study in studies)
    parts = [f"# Does distillation help? {escaping.markdown(names)}", *_incomparable(studies)]
    for study, part in zip(studies, files, strict=True):
        parts += [heading(study.name, 2)] if several else []
        level = 3 if several else 2
        parts.append(section(study, pictures=list(part.pictures), tables=part.tables, level=level))
    parts.append(f"Beside this page: {', '.join(f'[{name}]({name})' for name in beside)}.")
    return ("\n\n".join(parts) + "\n").encode()


def _incomparable(studies: Sequence["Study"]) -> list[str]:
    """Return a warning where studies on one page are measured by different metrics."""
    from analysis.formatting import sentence_name

    metrics = dict.fromkeys(sentence_name(study.test_metric) for study in studies)
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

    pictures = {}
    with matplotlib.rc_context({"text.parse_math": False}):  # a dollar in a name is a dollar
        for kind, draw in results.PLOTS.items():
            result = draw(study)
            figures = result if isinstance(result, Mapping) else {"": result} if result else {}
            for which, figure in figures.items():
                part = f"-{escaping.file_name(which)}" if which else ""
                name = f"{kind}{part}{mark}.png"
                pictures[name] = style.png(figure)
                out.write(name, pictures[name])
    return pictures


def _files(out: "Storage", files: Mapping[str, bytes | None]) -> list[str]:
    """Write the files that there are, remove those of an earlier report; the names of the written."""
    for name, data in files.items():
        if data is None:
            out.remove(name)
        else:
            out.write(name, data)
    return [name for name, data in files.items() if data is not None]


def _logs(study: "Study", folder: "Storage", folder_name: str) -> list[str]:
    """Write the training logs in place of those of an earlier report."""
    from analysis.training_logs import logs

    files = logs(study)
    for name in folder.names(""):
        if name not in files and name.endswith((".csv", ".json")):
            folder.remove(name)
    return [f"{folder_name}/{log}" for log in _files(folder, files) if log.endswith(".csv")]


def _forget(out: "Storage", names: Sequence[str]) -> None:
    """Remove pictures and a user's tables of an earlier report that are not among these files."""
    from analysis.page import kind
    from analysis.plots.results import PLOTS

    pictures = [name for name in out.names("", ".png") if kind(name) in PLOTS]
    tables = [name for name in out.names("", ".csv") if name.startswith(TABLE_FILE)]
    for name in {*pictures, *tables} - set(names):
        out.remove(name)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def run(addresses: Sequence[str], out: str | None, *, tables: Sequence[str] = ()) -> int:
    """Load, write, print: the main tables and where the page is on stdout, warnings on stderr.

    `tables` name a user's tables; the exit code is 1 where one of them failed.
    """
    from analysis.advice import warnings
    from analysis.commands import confirm_command
    from analysis.comparison.verdicts import is_confirmed
    from analysis.formatting import markdown
    from analysis.page import extra
    from analysis.study import load
    from analysis.tables.custom import load_functions
    from analysis.tables.methods import main_table
    from tune_kd.study.storage import Storage

    if len(set(addresses)) < len(addresses):
        raise UsageError(f"a study is named twice: {' '.join(addresses)}; name each once")
    functions = load_functions(tables)
    studies = [load(address) for address in addresses]
    folder = Storage(out) if out else studies[0].storage.at("report")
    for study in studies:
        extra(study), study.constraints  # wrong ones are refused before anything is written
    folder.check_writable()
    errors = write(studies, folder, functions)
    for study in studies:
        for text in warnings(study):
            print(f"warning: {study.name}: {text}", file=sys.stderr)
        if not is_confirmed(study):
            print(f"not confirmed yet; type: {confirm_command(study)}", file=sys.stderr)
        if len(studies) > 1:
            print(f"{study.name}\n")
        print(markdown(main_table(study)[1]), end="\n\n")
    print(f"report: {_page_path(folder)}")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def _page_path(folder: "Storage") -> str:
    """Return the page's path, relative where it lies below the working directory."""
    if folder.local is None:
        return folder.at("index.html").uri
    path, working_folder = folder.local / "index.html", Path.cwd()
    return str(path.relative_to(working_folder) if path.is_relative_to(working_folder) else path)


def main(argv: list[str]) -> int:
    """Return the exit code: 0, or 1 where a user's table failed. UsageError for what can be mended."""
    parser = cli.Parser(
        prog="python -m analysis.report",
        description="Tables, plots and one page from the rows of one or more studies.",
    )
    parser.add_argument("study", nargs="+", help="a study: runs/NAME or s3://bucket/runs/NAME")
    parser.add_argument("--out", help="where to write (default: report/ below the first study)")
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="a table of your own beside ours (repeatable): docs/customizing.md",
    )
    options = parser.parse(argv)
    return run(options.study, options.out, tables=options.table)


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
