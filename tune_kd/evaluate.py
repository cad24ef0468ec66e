"""Check one network on the test split: accuracy, classes, confusion, batches, size, speed, alarms.

    python -m tune_kd.evaluate --space digits_kd --weights runs/digits_kd:response

The weights are a file that search, train_teacher or confirm wrote, a checkpoint of the space's
student or teacher, or the best student of a study. Each run opens the test split once and leaves a
file in `test_access/`, so use `search` to choose and this to check what was chosen.
"""

import os
import sys
from pathlib import Path

from tune_kd import cli
from tune_kd.workflows import options

MODULE = "tune_kd.evaluate"


def main(arguments: list[str]) -> int:
    """Evaluate a network; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add(
        "--space",
        required=True,
        metavar="NAME_OR_FILE",
        help="a file of search_spaces/ by name, or your own by path",
    )
    add(
        "--weights",
        required=True,
        metavar="FILE",
        help="safetensors or a state dict, or runs/X[:METHOD]: the best student of a study",
    )
    add(
        "--network",
        metavar="NAME",
        help="what a checkpoint is that does not say it [the space's student, else its teacher]",
    )
    add(
        "--against",
        metavar="FILE",
        help="another network to compare with, given like --weights, such as the float student of "
        "an int8 one",
    )
    add("--data", type=Path, metavar="DIR", help="own images, as for a search [the task's]")
    add(
        "--batch-size",
        type=cli.positive_int,
        default=100,
        metavar="N",
        help="images of a line of the results by batch [%(default)s]",
    )
    add(
        "--out",
        metavar="DIR",
        help="for evaluation.json, confusion.png and test_access/ [runs/<space>_evaluation]",
    )
    add("--quiet", action="store_true", help="results only")
    args = parser.parse(arguments)

    from tune_kd.execution import environment
    from tune_kd.measure import hardware

    os.environ.setdefault("OMP_NUM_THREADS", str(hardware.cores()))  # nothing else runs beside it
    environment.prepare(None)
    from tune_kd.evaluation import summary
    from tune_kd.workflows import evaluate

    evaluate_options = options.read(evaluate.EvaluateOptions, args)
    print(summary.text(evaluate.evaluate(evaluate_options, cli.command_line(MODULE, arguments))))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
