"""Train a space's teacher ahead of time; every later search of the same images and seed finds it.

    python -m tune_kd.teach --space cifar10_kd

It is a study of its own, OUT/<space>_teacher. The same command again goes on after any kill.
"""

import sys
import time
from typing import TYPE_CHECKING

from tune_kd import cli
from tune_kd.workflows import options

if TYPE_CHECKING:
    from tune_kd.study.study import Study

MODULE = "tune_kd.teach"


def main(arguments: list[str]) -> int:
    """Train a teacher; the exit code."""
    parser = cli.Parser(prog=f"python -m {MODULE}", description=(__doc__ or "").split("\n")[0])
    options.add_study(parser)
    options.add_resources(parser)
    given = parser.parse(arguments)

    from tune_kd.execution import environment

    environment.prepare(options.address_of(given))
    from tune_kd.execution import progress, session
    from tune_kd.study import study
    from tune_kd.study.storage import locked
    from tune_kd.workflows import checks, create_study, prerequisites

    again = cli.command_line(MODULE, arguments)
    name = f"{options.chosen_space(given)[0].name}_teacher"
    request = options.request(given, command=again, name=name)
    resources = options.wanted_resources(given)
    material = checks.look_at_data(request)
    checks.check_networks(request, material)
    there = checks.exists(request, material)
    session.check_address(resources.address)
    shown = progress.Progress(quiet=given.quiet)
    budget = given.time_budget or float("inf")
    interrupt = session.Interrupt(deadline=time.monotonic() + budget, resume_command=again)
    with locked(request.storage):
        # asked again: another driver may have begun it before this one had the lock
        there = there or checks.exists(request, material)
        known = study.Study(request.storage) if there else None
        if known is None or not prerequisites.has_teacher(known):
            try:
                with session.session(resources, interrupt) as started:
                    known = known or create_study.begin(
                        request, material, session=started, progress=shown
                    )
                    known.clean()
                    prerequisites.ensure_teacher(known, request, session=started, progress=shown)
            except session.CannotGoOnError as error:
                print(f"error: {error}; go on with: {again}", file=sys.stderr)
                return 1
            except session.StoppedError:
                print(f"stopped; go on with: {again}", file=sys.stderr)
                return 130 if interrupt.signals else 0
        known.merge()
    print(told(known))
    return 0


def told(known: "Study") -> str:
    """What the teacher reached and where it lies."""
    from tune_kd.metrics import shown
    from tune_kd.workflows import prerequisites

    row = known.verdicts[prerequisites.teacher_trial(known)][-1]
    score = known.score(row)
    reached = f"{known.metric} {shown(known.metric, score)} %, " if score is not None else ""
    model = known.manifest["teacher_model"]
    return f"teacher {known.manifest['teacher']}: {reached}{row['epochs']} epochs, {known.storage.uri}/models/{model}.safetensors"


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
