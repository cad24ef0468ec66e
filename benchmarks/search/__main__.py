"""Samplers and ways of stopping, replayed on recorded learning curves: which finds the best student?

    python -m benchmarks.search --out results

Writes `search.md` and `search.json` into a folder: the regret of every policy against the epochs
that it spent, at several numbers of trials a search. Whatever was replayed before is read from
--work; a killed benchmark goes on when the same command is given again.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import common
from benchmarks.search import curves, grid, quality, recorded, summary
from benchmarks.search.policies import STOPPING
from tune_kd import cli
from tune_kd.workflows import create_study

CHECKED_TRIALS = 8  # of the searches among recorded configurations
WRITE_EVERY = 20  # cells


def parser() -> cli.Parser:
    """Return the options."""
    command = cli.Parser(
        prog="python -m benchmarks.search", description=(__doc__ or "").split("\n")[0]
    )
    add = command.add_argument
    add(
        "--recordings",
        nargs="+",
        choices=list(curves.RECORDINGS),
        default=list(curves.RECORDINGS),
        metavar="NAME",
        help="[all]",
    )
    add("--repeats", type=cli.positive_int, default=200, metavar="N", help="of each search [200]")
    add(
        "--gp-repeats",
        type=cli.positive_int,
        default=30,
        metavar="N",
        help="where Optuna's GP proposes [30]",
    )
    add("--samplers", metavar="NAMES", help="only these, separated by commas [all]")
    add(
        "--work",
        type=Path,
        default=Path("runs/benchmark-search"),
        metavar="DIR",
        help="outcomes of single searches [runs/benchmark-search]",
    )
    add(
        "--out",
        type=Path,
        default=Path("runs/benchmark-search"),
        metavar="DIR",
        help="the tables [the same]",
    )
    return command


def main(arguments: list[str]) -> int:
    """Replay what was not replayed yet, and write the tables now and then."""
    options = parser().parse(arguments)
    cells = grid.cells(repeats=options.repeats, slow_repeats=options.gp_repeats)
    if options.samplers:
        cells = [cell for cell in cells if cell.sampler in options.samplers.split(",")]
    about = {
        "command": cli.command_line("benchmarks.search", arguments),
        "commit": create_study.commit(),
        "machine": common.about(),
    }
    results: dict[str, Any] = {"about": about, "recordings": {}}
    for name in options.recordings:
        task = grid.Task(name, curves.RECORDINGS[name])
        part: dict[str, Any] = {"recording": task.about, **_checks(task, options.repeats)}
        results["recordings"][name] = part
        frames: dict[grid.Cell, pd.DataFrame] = {}
        for cell, outcomes in grid.run(task, cells, options.work):
            frames[cell] = outcomes
            if len(frames) % WRITE_EVERY == 0 or len(frames) == len(cells):
                part["searches"] = summary.rows(frames)
                _write(results, options.out)
    print(_page(results))
    return 0


def _write(results: dict[str, Any], folder: Path) -> None:
    """Print the tables so far."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    (folder / "search.json").write_text(text + "\n", encoding="utf-8")
    (folder / "search.md").write_text(_page(results), encoding="utf-8")


def _checks(task: grid.Task, repeats: int) -> dict[str, Any]:
    """Return what the recording carries, and searches among its own configurations."""
    images = task.about["images"]
    by_method = dict(iter(task.rows.groupby("method", sort=False)))
    lines = [quality.row(m, by_method[m], s, images) for m, s in task.surfaces.items()]
    tables = {method: recorded.table(rows, images) for method, rows in by_method.items()}
    searches = []
    for stopping in STOPPING:
        outcomes = [
            {"method": method, "repeat": repeat, "optimum": float(table.accuracy.mean(1).max())}
            | vars(
                recorded.search(
                    table, stopping=stopping, trials=CHECKED_TRIALS, seed=(method, repeat)
                )
            )
            for method, table in tables.items()
            for repeat in range(repeats)
        ]
        frame = pd.DataFrame(outcomes)
        cell = grid.Cell(
            sampler="random", stopping=stopping, trials=CHECKED_TRIALS, repeats=repeats
        )
        searches += summary.rows({cell: frame})
    first = next(iter(task.surfaces.values()))
    return {"quality": lines, "headings": quality.columns(first), "recorded": searches}


def _page(results: dict[str, Any]) -> str:
    """All tables as Markdown."""
    about = results["about"]
    lines = [
        "# Searches replayed",
        "",
        f"`{about['command']}`, commit {about['commit'][:7]}; {about['machine']}.",
    ]
    for name, part in results["recordings"].items():
        lines += ["", f"## {name}", "", summary.markdown(part["quality"], part["headings"])]
        lines += ["", "Random searches among the recorded configurations:", ""]
        lines += [summary.markdown(part["recorded"])]
        for trials in sorted({row["trials"] for row in part["searches"]}):
            rows = [row for row in part["searches"] if row["trials"] == trials]
            rows.sort(key=lambda row: row["regret"])
            lines += ["", f"### {trials} trials a search", "", summary.markdown(rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
