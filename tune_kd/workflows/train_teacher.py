"""Train a space's teacher ahead of time, as a study of its own."""

from tune_kd.metrics import format_value
from tune_kd.study.storage import lock_study
from tune_kd.study.study import Study
from tune_kd.workflows import checks, create_study, prerequisites
from tune_kd.workflows.driver import Driver, RunOptions
from tune_kd.workflows.request import SearchRequest
from tune_kd.workflows.search import SearchOutcome


def train_teacher(request: SearchRequest, options: RunOptions) -> SearchOutcome:
    """Train the teacher of a space, unless the study has it already.

    Raises:
        UsageError: the request fits neither the data nor the networks nor the study that is there.
        SearchAborted: Ray failed again and again, or the teacher could not be trained.
    """
    dataset = checks.prepare_data(request)
    checks.check_networks(request, dataset)
    exists = checks.check_existing_study(request, dataset)
    driver = Driver(options)
    driver.check_cluster()
    with lock_study(request.storage):
        # asked again: another driver may have begun it before this one had the lock
        exists = exists or checks.check_existing_study(request, dataset)
        study = Study(request.storage) if exists else None
        if study is None or not prerequisites.has_teacher(study):
            with driver.ray() as session:
                study = study or create_study.begin(
                    request, dataset, session=session, progress=driver.progress
                )
                study.clean()
                prerequisites.ensure_teacher(
                    study, request, session=session, progress=driver.progress
                )
        if study is not None:
            study.merge()
    return SearchOutcome(
        study=study,
        is_interrupted=bool(driver.interrupt.signals),
        is_out_of_time=driver.interrupt.out_of_time,
    )


def summary(study: Study) -> str:
    """Say in a line what the teacher reached and where it lies."""
    row = study.outcomes[prerequisites.teacher_trial_of(study)][-1]
    score = study.score(row)
    score_text = (
        f"{study.metric} {format_value(study.metric, score)} %, " if score is not None else ""
    )
    model = study.manifest.teacher_model
    return f"teacher {study.manifest.teacher}: {score_text}{row['epochs']} epochs, {study.storage.uri}/models/{model}.safetensors"
