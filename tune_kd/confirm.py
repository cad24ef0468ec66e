"""Train what a search chose again with fresh seeds, and measure each once on the test split.

    python -m tune_kd.confirm runs/X --seeds 2

It confirms the winner of each method in each repeat, each method's default settings, so that the
report can say what tuning bought, and the student that each method recommends. Students are fitted
on train and validation images together, for as many epochs as in the search; all methods get the
same seeds. The same command again goes on after any kill, and trains nothing that has its row.
"""

import sys
from pathlib import Path

from tune_kd import cli
from tune_kd.workflows import options

MODULE = "tune_kd.confirm"


def main(arguments: list[str]) -> int:
    """Confirm a study; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("study", metavar="STUDY", help="a study's folder, such as runs/cifar10_kd, or s3://...")
    add(
        "--seeds",
        type=cli.positive_int,
        default=2,
        help="fresh seeds of each repeat; more at a later time are counted as another look at the "
        "test split [2]",
    )
    add("--no-defaults", action="store_true", help="leave the default settings out")
    add(
        "--unfinished",
        action="store_true",
        help="confirm a search that has not ended; the look at the test split counts",
    )
    add("--data", type=Path, metavar="DIR", help="where the study's images lie now [as searched]")
    options.add_resources(parser)
    args = parser.parse(arguments)
    resources = options.read(options.ResourceOptions, args)
    resources.prepare()
    from tune_kd.workflows import confirm

    command = cli.command_line(MODULE, arguments)
    outcome = confirm.confirm(
        confirm.ConfirmOptions(
            study=args.study,
            seeds=args.seeds,
            defaults=not args.no_defaults,
            data=args.data,
            unfinished=args.unfinished,
        ),
        resources.run_options(resume_command=command, is_command=True),
    )
    print(*confirm.summary(outcome, command), sep="\n")
    if outcome.is_interrupted:
        return 130
    return 0 if outcome.is_out_of_time or outcome.has_result else 1


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
