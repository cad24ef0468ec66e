"""A/A studies of the product: how often does it say anything of methods that are the baseline?

    python -m benchmarks.aa --studies 20 --out runs/aa

Each study is searched and confirmed by the commands that users type, on the digits that come with
scikit-learn, with a seed of its own: another split, teacher, proposals and students. The second
method is the baseline under another name, so that every verdict but *not settled* and *no
difference* is wrong. Killed and run again it goes on. Exit code 1 where more than the allowed
number of verdicts is wrong.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import binom

from analysis.comparison import methods, stats
from analysis.study import load
from tune_kd import cli
from tune_kd.errors import UsageError

SPACE = Path(__file__).with_name("twins_kd.py")
TWIN = "twin"
CLAIMS = (stats.HELPS, stats.HURTS, stats.SMALL_HELP, stats.SMALL_HURT)  # wrong, all of them
ERROR = 0.05  # of one verdict
RARE = 0.02  # more wrong verdicts than chance gives so rarely are a failure


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one study said of the twin; differences are fractions."""

    seed: int
    label: str
    mean: float
    low: float | None
    high: float | None
    repeats: int
    by_repeat: dict[int, float]
    default: float | None  # mean difference of the default settings


def allowed(studies: int) -> int:
    """Wrong verdicts that so many studies may have: beyond it chance has less than RARE.

    >>> allowed(20), allowed(100)
    (3, 10)
    """
    return int(binom.isf(RARE, studies, ERROR))


def run_study(seed: int, out: Path, *, options: list[str], seeds: int) -> Outcome:
    """Search, confirm and rule one study; what is there already is not trained again."""
    name = f"twins_{seed:04d}"
    search = ["--space", str(SPACE), "--out", str(out), "--name", name, "--seed", str(seed)]
    _command("tune_kd.search", *search, "--resume", "--quiet", *options)
    # the default settings of twins are the same students to the last bit: nothing to see
    confirm = [str(out / name), "--seeds", str(seeds), "--no-defaults", "--quiet"]
    _command("tune_kd.confirm", *confirm)
    return outcome(out / name, seed)


def _command(module: str, *arguments: str) -> None:
    """One of the product's commands; UsageError with its words where it fails."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        words = (process.stderr or process.stdout).strip().splitlines()[-3:]
        raise UsageError(f"{module} {' '.join(arguments)} ended with {process.returncode}: {words}")


def outcome(folder: Path, seed: int) -> Outcome:
    """Return what the report says of the twin."""
    result = methods.results(load(str(folder)))[TWIN]
    if result.difference is None or result.verdict is None:
        raise UsageError(f"{folder}: nothing was confirmed that could be compared")
    default = result.default_difference
    return Outcome(
        seed=seed,
        label=result.verdict.label,
        mean=result.difference.mean,
        low=result.difference.low,
        high=result.difference.high,
        repeats=result.difference.n,
        by_repeat=dict(result.by_repeat),
        default=default.mean if default else None,
    )


def count_claims(outcomes: list[Outcome]) -> int:
    """How many studies say that the twin helps or hurts."""
    return sum(result.label in CLAIMS for result in outcomes)


def summary(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the counts, then a line a study, as Markdown."""
    wrong = count_claims(outcomes)
    counts = Counter(result.label for result in outcomes)
    yield f"{len(outcomes)} A/A studies: {wrong} say something, {allowed(len(outcomes))} may"
    yield ", ".join(f"{label}: {count}" for label, count in counts.most_common())
    num_zero = sum(
        o.low is not None and o.high is not None and o.low <= 0 <= o.high for o in outcomes
    )
    yield f"the 95 % interval holds 0 in {num_zero} of {len(outcomes)}"
    yield ""
    yield "| Seed | Verdict | Twin minus baseline, pp [95 %] | Repeats |"
    yield "|-----:|:--------|-------------------------------:|--------:|"
    for result in outcomes:
        low, high = result.low or 0.0, result.high or 0.0
        gap = f"{100 * result.mean:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
        yield f"| {result.seed} | {result.label} | {gap} | {result.repeats} |"


def main(arguments: list[str]) -> int:
    """Return the command line; 1 where too many verdicts are wrong."""
    parser = cli.Parser(prog="python -m benchmarks.aa", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--studies", type=cli.positive_int, default=20, help="how many [20]")
    add("--first-seed", type=cli.non_negative_int, default=1, help="of the first study [1]")
    add("--seeds", type=cli.positive_int, default=2, help="confirming seeds of a repeat [2]")
    add("--out", type=Path, default=Path("runs/aa"), help="where the studies lie [runs/aa]")
    add("--option", action="append", default=[], metavar="WORD", help="for the search; repeatable")
    options = parser.parse(arguments)
    outcomes = []
    for seed in range(options.first_seed, options.first_seed + options.studies):
        outcomes.append(run_study(seed, options.out, options=options.option, seeds=options.seeds))
        text = json.dumps([asdict(result) for result in outcomes], indent=1)
        (options.out / "outcomes.json").write_text(text + "\n")
        last = outcomes[-1]
        print(
            f"{len(outcomes)}/{options.studies} seed {seed}: {last.label}",
            file=sys.stderr,
            flush=True,
        )
    print("\n".join(summary(outcomes)))
    return int(count_claims(outcomes) > allowed(len(outcomes)))


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
