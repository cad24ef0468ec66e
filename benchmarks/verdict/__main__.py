"""Simulates studies whose truth is known, and counts how often the report is right about them.

    python -m benchmarks.verdict
    python -m benchmarks.verdict --studies 100 --sampler random

The exit code is 1 where a sentence is wrong more often than it may be: in studies with nothing to find
"helps" or "hurts" of any method at most 5 % (and two standard errors), as much "no difference" where it is
m, and 93 to 99 % of the intervals hold the truth. A hundred studies take about two minutes on one core.
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
from benchmarks.verdict.studies import Asked, Simulation
from tune_kd import cli
from tune_kd.errors import UsageError
from tune_kd.study.storage import Storage

TOLD_EVERY = 50  # studies
SAMPLER, STOPPED = "tpe", "ASHA half, 3"  # the product's own policy


def main(arguments: list[str]) -> int:
    """Simulate, print the tables, and say which bounds are broken."""
    given = _parser().parse(arguments)
    if given.repeats < stats.MIN_REPEATS:
        raise UsageError(
            f"--repeats {given.repeats}: a verdict needs at least {stats.MIN_REPEATS}; type --repeats 5"
        )
    rows, about = curves.read(curves.RECORDINGS.get(given.recording, Path(given.recording)))
    asked = Asked(
        repeats=given.repeats,
        trials=given.trials,
        seeds=given.seeds,
        sampler=given.sampler,
        stopping=given.stopping,
        val_images=given.val_images or about["images"]["validation"],
        test_images=given.test_images or about["images"]["test"],
    )
    known = world.build(rows, about, stopping=asked.stopping)
    print(f"{given.studies} studies; {asked}")
    print(f"{about['space']}, {known.noise}\n")
    found = tally.scored(_simulated(known, asked, given.studies))
    for table in (tally.what_is_said, tally.beside_the_old_way, tally.beside_the_verdict):
        print(f"{markdown(table(found))}\n")
    wrong = list(tally.broken(found))
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


def _simulated(known: world.World, asked: Asked, studies: int) -> pd.DataFrame:
    """Return the outcomes of all studies."""
    found: list[dict[str, object]] = []
    began = time.monotonic()
    gc.freeze()  # statsmodels' multipletests collects garbage at each call: of what came after
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        access = json.dumps({"design": asdict(asked.design)})
        storage.write("test_access/0001.json", access.encode())
        for number in range(studies):
            searched = Simulation(known, asked, number=number).searched()
            found += outcomes.outcomes(searched, number=number, storage=storage)
            if (number + 1) % TOLD_EVERY == 0:
                left = (time.monotonic() - began) / (number + 1) * (studies - number - 1)
                print(f"{number + 1}/{studies} studies, {left / 60:.0f} min left", file=sys.stderr)
    gc.unfreeze()
    return pd.DataFrame(found)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
