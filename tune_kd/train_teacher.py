"""Train a space's teacher ahead of time; every later search of the same images and seed finds it.

    python -m tune_kd.train_teacher --space cifar10_kd

It is a study of its own, OUT/<space>_teacher. The same command again goes on after any kill.
"""

import sys

from tune_kd import cli
from tune_kd.workflows import options

MODULE = "tune_kd.train_teacher"


def main(arguments: list[str]) -> int:
    """Train a teacher; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    options.add_study(parser)
    options.add_resources(parser)
    args = parser.parse(arguments)
    search_options = options.read(options.SearchOptions, args)
    resources = options.read(options.ResourceOptions, args)
    resources.prepare()
    from tune_kd.workflows import prerequisites, train_teacher

    command = cli.command_line(MODULE, arguments)
    name = f"{options.chosen_space(search_options)[0].name}_teacher"
    request = options.request(search_options, command=command, name=name)
    outcome = train_teacher.train_teacher(
        request, resources.run_options(resume_command=command, is_command=True)
    )
    if outcome.study is None or not prerequisites.has_teacher(outcome.study):
        print(f"stopped; resume with: {command}", file=sys.stderr)
        return 130 if outcome.is_interrupted else 0
    print(train_teacher.summary(outcome.study))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
