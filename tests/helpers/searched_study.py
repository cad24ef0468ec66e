"""A study whose search has ended, without Ray and without training: what a confirmation begins with."""

from tests.helpers import made_study, making
from tune_kd.space import loader
from tune_kd.study import recipe_builder
from tune_kd.study.proposal import Proposal
from tune_kd.study.study import Study
from tune_kd.workflows import checks, confirm_plan, prerequisites
from tune_kd.workflows.confirm_plan import Design

METHODS = ("no_kd", "response", "feature")
REPEATS = 4
BEST = {"no_kd": 1, "response": 4, "feature": 0}  # the number of the winner in each repeat
ORDER = (2, 0, 3, 1)  # repeats, best on validation first


def score(proposal, step):
    """Of no_kd trial 2 breaks; of response trial 1 is the best in its first epoch alone."""
    if proposal.method == "no_kd" and proposal.number == 2:
        return None
    if proposal.method == "response" and proposal.number == 1:
        return 0.99 if step == 1 else 0.1
    far = abs(proposal.number - BEST[proposal.method])
    return 0.8 - far / 10 - ORDER.index(proposal.repeat) / 50 + step / 1000


def make_request(folder, **changes):
    methods_by_name = loader.load("digits_kd")[0].methods
    changes = {"trials": 5 * len(METHODS) * REPEATS, "repeats": REPEATS, **changes}
    methods = {name: methods_by_name[name] for name in METHODS}
    return made_study.request(
        folder, epochs=2, scheduler="none", limit_train=making.LIMIT, methods=methods, **changes
    )


def begin(request) -> Study:
    return made_study.begin(request, checks.prepare_data(request))


def put_teacher(study, request):
    model_id = study.manifest.teacher_model
    study.storage.write(f"models/{model_id}.safetensors", making.teacher_file().read_bytes())
    proposal = Proposal(
        trial=prerequisites.teacher_trial_of(study),
        phase="teacher",
        method="",
        number=0,
        seed=0,
        origin="default",
        recipe=recipe_builder.teacher_recipe(
            study.manifest, request.space, compute=study.manifest.compute
        ),
    )
    put_outcome(study, proposal)


def put_outcome(study, proposal, status="finished", **values):
    """A verdict without a run."""
    row = {**study.describe(proposal, stage=0), "stage": 0, "status": status, "epochs": 2, **values}
    study.write_outcome(proposal.trial, [row])


def design_of(study, *, seeds=2, defaults=True) -> Design:
    return confirm_plan.design(study, seeds=seeds, defaults=defaults)


def students_of(study, **options) -> list[Proposal]:
    """The confirming runs without the teacher's."""
    return [p for p in confirm_plan.confirmations(study, design_of(study, **options)) if p.method]
