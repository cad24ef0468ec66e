"""Simulates studies whose truth is known, and counts how often the report is right about them.

    python -m benchmarks.verdict
    python -m benchmarks.verdict --studies 100 --sampler random

The exit code is 1 where a sentence is wrong more often than it may be: in studies with nothing to
find "helps" or "hurts" of any method at most 5 % (and two standard errors), as much "no difference"
where it is m, and 93 to 99 % of the intervals hold the truth. A hundred studies take about two
minutes on one core.
"""

import gc
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analysis.comparison import stats
from analysis.formatting import markdown
from benchmarks.search import curves
from benchmarks.search.policies import SAMPLERS, STOPPING
from benchmarks.verdict import outcomes, tally, world
from benchmarks.verdict.studies import Simulation, StudyOptions
from tune_kd import cli
from tune_kd.errors import UsageError
from tune_kd.study.storage import Storage

PRINT_EVERY = 50  # studies
SAMPLER, STOPPED = "tpe", "ASHA half, 3"  # the product's own policy


def main(arguments: list[str]) -> int:
    """Simulate, print the tables, and say which bounds are broken."""
    options = _parser().parse(arguments)
    if options.repeats < stats.MIN_REPEATS:
        raise UsageError(
            f"--repeats {options.repeats}: a verdict needs at least {stats.MIN_REPEATS}; type "
            "--repeats 5"
        )
    rows, about = curves.read(curves.RECORDINGS.get(options.recording, Path(options.recording)))
    study_options = StudyOptions(
        repeats=options.repeats,
        trials=options.trials,
        seeds=options.seeds,
        sampler=options.sampler,
        stopping=options.stopping,
        val_images=options.val_images or about["images"]["validation"],
        test_images=options.test_images or about["images"]["test"],
    )
    model = world.build(rows, about, stopping=study_options.stopping)
    print(f"{options.studies} studies; {study_options}")
    print(f"{about['space']}, {model.noise}\n")
    frame = tally.score(_simulate(model, study_options, options.studies))
    for table in (tally.claims_table, tally.old_way_table, tally.rest_table):
        print(f"{markdown(table(frame))}\n")
    wrong = list(tally.broken_bounds(frame))
    print("\n".join(f"BROKEN: {text}" for text in wrong) or "no bound is broken")
    return 1 if wrong else 0


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m benchmarks.verdict", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--studies", type=cli.positive_int, default=1000, help="of each scenario [1000]")
    add("--repeats", type=cli.positive_int, default=5, help="searches of each method [5]")
    add("--trials", type=cli.positive_int, default=8, help="of each search [8]")
    add("--seeds", type=cli.positive_int, default=2, help="confirming ones of each repeat [2]")
    add("--sampler", choices=SAMPLERS, default=SAMPLER, help=f"[{SAMPLER}]")
    add("--stopping", choices=list(STOPPING), default=STOPPED, help=f"[{STOPPED}]")
    add("--recording", default="digits", metavar="NAME|FILE", help="of learning curves [digits]")
    add("--val-images", type=cli.positive_int, metavar="N", help="[as recorded]")
    add("--test-images", type=cli.positive_int, metavar="N", help="[as recorded]")
    return parser


def _simulate(model: world.World, options: StudyOptions, studies: int) -> pd.DataFrame:
    """Return the outcomes of all studies."""
    rows: list[dict[str, object]] = []
    began = time.monotonic()
    gc.freeze()  # statsmodels' multipletests collects garbage at each call: of what came after
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        access = json.dumps({"design": asdict(options.design)})
        storage.write("test_access/0001.json", access.encode())
        for number in range(studies):
            searched = Simulation(model, options, number=number).run()
            rows += outcomes.outcomes(searched, number=number, storage=storage)
            if (number + 1) % PRINT_EVERY == 0:
                remaining = (time.monotonic() - began) / (number + 1) * (studies - number - 1)
                print(
                    f"{number + 1}/{studies} studies, {remaining / 60:.0f} min left",
                    file=sys.stderr,
                )
    gc.unfreeze()
    return pd.DataFrame(rows)


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
