"""The main job: search a space for the best student of every method.

    python -m tune_kd.search --space cifar10_kd

Ray Tune runs the trials, Optuna proposes them, rows are written to OUT/NAME. Exit code 0: every
planned trial has its row, or the time budget is over; 1: no trial finished, or Ray cannot go on; 2:
wrong usage; 130: interrupted. Any interrupted search goes on with the same command and --resume.
"""

import sys

from tune_kd import cli
from tune_kd.errors import unknown
from tune_kd.workflows import options

MODULE = "tune_kd.search"


def main(arguments: list[str]) -> int:
    """Run a search; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    for add in (options.add_study, options.add_search, options.add_resources):
        add(parser)
    args = parser.parse(arguments)
    search_options = options.read(options.SearchOptions, args)
    resources = options.read(options.ResourceOptions, args)
    for value, kind, names in (
        (search_options.sampler, "sampler", options.SAMPLERS),
        (search_options.scheduler, "scheduler", options.SCHEDULERS),
    ):
        if value not in names:
            raise unknown(kind, value, names)
    resources.prepare()
    request = options.request(search_options, command=cli.command_line(MODULE, arguments))
    if args.dry_run:
        from tune_kd.workflows import dry_run

        print(dry_run.plan(request, resources.allocate()))
        return 0
    from tune_kd.workflows import search

    command = cli.command_line(MODULE, arguments, "--resume")
    outcome = search.search(request, resources.run_options(resume_command=command, is_command=True))
    code = 130 if outcome.is_interrupted else 0
    if outcome.study is None:
        print(f"interrupted before the first trial; resume with: {command}", file=sys.stderr)
        return code
    print(*search.summary(outcome.study, request, command), sep="\n")
    return code or (0 if outcome.has_result or outcome.is_out_of_time else 1)


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
