"""Weights that a study did not train: a file, or an earlier study's student, as teacher and as start."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from tests.helpers import made_study, making
from tests.helpers.made_study import begin, play, request
from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.recipe import Distill, Prune, external_model_id, stages_from_json
from tune_kd.space import methods
from tune_kd.study import recipe_builder, refit
from tune_kd.study.proposal import Proposal
from tune_kd.study.study import Study
from tune_kd.study.trial_names import search_trial, start_trial
from tune_kd.training import external_weights, trial
from tune_kd.workflows import checks, confirm_plan, create_study
from tune_kd.workflows.request import SearchRequest

RECIPE = {"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0}
PRUNE = methods.prune_methods(RECIPE)


def student(seed: int, name: str = "digits_medium") -> dict[str, torch.Tensor]:
    return registry.build(
        name, shape=registry.Shape(num_classes=10, channels=1), seed=seed
    ).state_dict()


@pytest.fixture
def earlier(tmp_path) -> Study:
    """A study of two methods; `response` has its best trial, of `no_kd` no trial has finished."""
    default_methods = request(tmp_path).space.methods
    search_request = request(
        tmp_path / "runs" / "x",
        epochs=2,
        trials=4,
        student="digits_medium",
        scheduler="none",
        methods={name: default_methods[name] for name in ("no_kd", "response")},
    )
    study = begin(search_request)

    def score(proposal, step):
        return None if proposal.method == "no_kd" else 0.5 + 0.1 * proposal.number

    play(study, search_request, score)
    for number in (0, 1):
        data = safetensors.torch.save(student(number))
        study.storage.write(f"students/response-r0-000{number}.safetensors", data)
    return study


def find_student(study: Study, method: str = "") -> external_weights.ExternalCheckpoint:
    return external_weights.find(f"{study.storage.uri}{method}", option="--teacher")


def test_a_file_is_its_bytes_and_nothing_else_is_known(tmp_path):
    for name, save in (("a.safetensors", save_file), ("b.pt", torch.save)):
        save(student(0), tmp_path / name)
        checkpoint = external_weights.find(str(tmp_path / name), option="--teacher")
        assert checkpoint.recipe is None
        assert checkpoint.data == (tmp_path / name).read_bytes()
        state = checkpoint.state()
        assert all(torch.equal(state[key], value) for key, value in student(0).items())
        start = checkpoint.start_weights()
        assert (start.name, start.model) == (str(tmp_path / name), checkpoint.model_id)
        assert start.stages == ""
        assert checkpoint.model_id == external_model_id(checkpoint.file_id)


def test_the_same_bytes_are_the_same_model_wherever_they_lie(tmp_path):
    save_file(student(0), tmp_path / "a")
    save_file(student(1), tmp_path / "b")
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes())
    one, other, same = (external_weights.find(str(tmp_path / n), option="--teacher") for n in "abc")
    assert one.model_id == same.model_id != other.model_id


@pytest.mark.parametrize("method", ["", ":response"])
def test_the_best_student_of_a_study(earlier, method):
    checkpoint = find_student(earlier, method)
    best = earlier.proposals["response-r0-0001"]
    assert checkpoint.recipe == best.recipe
    assert checkpoint.name == f"{earlier.storage.uri}:response"
    assert checkpoint.data == earlier.storage.read("students/response-r0-0001.safetensors")


def test_the_student_of_a_method_is_the_one_that_it_recommends(tmp_path):
    """Of three repeats by their fresh values; evaluating takes its first confirming run."""
    method_space = {"response": request(tmp_path).space.methods["response"]}
    search_request = request(
        tmp_path / "runs" / "x",
        epochs=1,
        trials=15,
        repeats=3,
        student="digits_medium",
        scheduler="none",
        methods=method_space,
    )
    study = begin(search_request)
    play(study, search_request, lambda p, step: 0.5 + 0.1 * p.number - 0.01 * p.repeat)
    winners = [search_trial("response", repeat, 4) for repeat in range(3)]
    for number, trial_ in enumerate(winners):
        data = safetensors.torch.save(student(number))
        study.storage.write(f"students/{trial_}.safetensors", data)

    def find(*, confirmed):
        return external_weights.find(
            f"{study.storage.uri}:response", option="--weights", confirmed=confirmed
        )

    def put(proposal, **values):
        study.add(proposal)
        row = study.describe(proposal, stage=0) | {"stage": 0, "status": "finished", "epochs": 1}
        study.write_outcome(proposal.trial, [row | values])

    # before any fresh value: the best on validation
    assert find(confirmed=False).data == safetensors.torch.save(student(0))
    design = confirm_plan.design(study, seeds=1, defaults=True)
    for proposal in confirm_plan.reevaluations(study, design):
        put(proposal, val_accuracy=0.5 + 0.1 * (proposal.repeat == 1))
    winner = study.proposals[winners[1]]
    for confirmed in (False, True):  # no confirming run has weights yet
        checkpoint = find(confirmed=confirmed)
        assert checkpoint.data == safetensors.torch.save(student(1))
        assert checkpoint.recipe == winner.recipe
    # the seeds of the recommended student, the second first, and the better one
    for proposal in reversed(confirm_plan.confirmations(study, design)):
        if proposal.seed in (800, 801):
            data = safetensors.torch.save(student(proposal.seed))
            study.storage.write(f"students/{proposal.trial}.safetensors", data)
            put(proposal, test_accuracy=0.5 + 0.1 * (proposal.seed == 801))
    # a teacher or a start must not have seen validation images; what is evaluated may
    assert find(confirmed=False).data == safetensors.torch.save(student(1))
    first = find(confirmed=True)
    assert first.data == safetensors.torch.save(student(800))
    assert first.recipe is not None
    assert first.recipe.images.fit_on == "train+val"
    assert first.recipe.stages == winner.recipe.stages


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.pt", ("--teacher nowhere.pt", "no such file and no such study", "runs/NAME")),
        (":respons", ("respons", "did you mean 'response'?")),
        (":no_kd", ("no search trial has finished",)),
    ],
)
def test_what_is_not_there_is_said(earlier, tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    address = f"{earlier.storage.uri}{name}" if name.startswith(":") else name
    with pytest.raises(UsageError) as caught:
        external_weights.find(address, option="--teacher")
    assert [word for word in says if word not in str(caught.value)] == []


def test_another_architecture_is_refused_before_anything_starts(tmp_path):
    save_file(student(0, "digits_student"), tmp_path / "small")
    checkpoint = external_weights.find(str(tmp_path / "small"), option="--teacher")
    search_request = replace(request(tmp_path / "s"), teacher=checkpoint)
    with pytest.raises(UsageError, match="does not fit"):
        checks.check_networks(search_request, made_study.dataset())
    save_file(student(0, "resnet8"), tmp_path / "other")  # a small student could have been pruned
    checkpoint = external_weights.find(str(tmp_path / "other"), option="--set start")
    prune_request = request(
        tmp_path / "s", methods=PRUNE, student="digits_medium", start=checkpoint.name
    )
    with pytest.raises(UsageError, match="does not fit"):
        checks.check_networks(replace(prune_request, start=checkpoint), made_study.dataset())


def test_a_study_knows_its_teacher_by_the_files_hash(tmp_path):
    save_file(student(0, "digits_teacher"), tmp_path / "big")
    checkpoint = external_weights.find(str(tmp_path / "big"), option="--teacher")
    study = begin(replace(request(tmp_path / "s"), teacher=checkpoint))
    assert study.manifest.teacher_hash == checkpoint.file_id
    assert study.manifest.teacher_model == checkpoint.model_id
    assert study.manifest.teacher_source == checkpoint.name
    assert study.manifest.teacher_file == checkpoint.name  # it may have seen validation images


def test_a_student_of_the_same_split_has_seen_no_validation_image(earlier, tmp_path):
    checkpoint = find_student(earlier)
    study = begin(replace(request(tmp_path / "s", teacher="digits_medium"), teacher=checkpoint))
    assert study.manifest.teacher_file == ""
    assert study.manifest.teacher_source == checkpoint.name
    other = replace(made_study.dataset(), images=replace(made_study.IMAGES, split_seed=1))
    search_request = replace(request(tmp_path / "t"), teacher=checkpoint)
    study = create_study.begin(
        search_request,
        other,
        session=made_study.FakeSession(),
        progress=made_study.Progress(quiet=True),
    )
    assert study.manifest.teacher_file == checkpoint.name


# In place of shared stages


def begin_from(
    folder, checkpoint: external_weights.ExternalCheckpoint, *, names=tuple(PRUNE)
) -> tuple[Study, SearchRequest]:
    """A study whose methods prune what was given."""
    search_request = request(
        folder,
        epochs=2,
        trials=4,
        methods={name: PRUNE[name] for name in names},
        student="digits_medium",
        start=checkpoint.name,
    )
    search_request = replace(search_request, start=checkpoint)
    return begin(search_request), search_request


def test_trials_begin_with_what_was_given_instead_of_the_shared_stages(earlier, tmp_path):
    checkpoint = find_student(earlier)
    study, search_request = begin_from(tmp_path / "p", checkpoint)
    assert study.manifest.start_hash == checkpoint.file_id
    assert recipe_builder.shared_recipes(study.manifest, search_request.space) == {}
    plan = made_study.plan(study, search_request)
    for proposal in (plan.next() for _ in range(4)):
        assert proposal.shared == 0
        assert proposal.recipe.start == checkpoint.model_id
        assert [type(s) for s in proposal.recipe.stages[:2]] == [Prune, Distill]


def _end_trial(study, search_request):
    plan = made_study.plan(study, search_request)
    proposal = plan.next()
    for step, (stage, epoch) in enumerate([(0, 0), (1, 1), (1, 2)], 1):
        study.on_report(made_study.row(study, proposal, step, 0.5, stage=stage, epoch=epoch))
    study.end(proposal.trial, "finished")
    return proposal


def test_confirming_trains_the_earlier_student_anew_and_then_what_was_searched(earlier, tmp_path):
    study, search_request = begin_from(tmp_path / "p", find_student(earlier))
    proposal = _end_trial(study, search_request)
    recipe = refit.refit_recipe(study, proposal)
    lead = earlier.proposals["response-r0-0001"].recipe
    assert recipe.start == ""
    assert recipe.stages == (*lead.stages, *proposal.recipe.stages)
    # the first stages listen: to this study's teacher, under the name that its workers know
    assert (recipe.teacher, recipe.teacher_model) == (
        "digits_teacher",
        study.manifest.teacher_model,
    )


def test_a_teacher_is_needed_where_what_is_trained_anew_listened_to_one(earlier, tmp_path):
    study, search_request = begin_from(tmp_path / "p", find_student(earlier), names=("prune",))
    assert not search_request.space.needs_teacher  # no stage of its own listens
    assert study.manifest.needs_teacher
    file = tmp_path / "mine"
    save_file(student(0), file)
    checkpoint = external_weights.find(str(file), option="--set start")
    study, _ = begin_from(tmp_path / "q", checkpoint, names=("prune",))
    assert not study.manifest.needs_teacher


def test_an_earlier_student_is_trained_anew_for_as_long_as_it_was(tmp_path):
    method_space = request(tmp_path).space.methods["response"]
    search_request = request(
        tmp_path / "x",
        epochs=9,
        trials=1,
        methods={"response": method_space},
        patience=2,
        student="digits_medium",
    )
    patient = begin(search_request)
    proposal = made_study.plan(patient, search_request).next()
    for step in (1, 2, 3):
        patient.on_report(made_study.row(patient, proposal, step, 0.5))
    patient.end(proposal.trial, "finished")
    patient.storage.write(
        f"students/{proposal.trial}.safetensors", safetensors.torch.save(student(0))
    )
    study, search_request = begin_from(tmp_path / "p", find_student(patient))
    first = refit.refit_recipe(study, _end_trial(study, search_request)).stages[0]
    assert first == replace(proposal.recipe.stages[0], patience=0, stop_after=3)


def test_what_began_from_a_student_that_began_from_a_student_is_trained_from_the_first_on(
    earlier, tmp_path
):
    middle, search_request = begin_from(tmp_path / "p", find_student(earlier))
    proposal = _end_trial(middle, search_request)
    middle.storage.write(
        f"students/{proposal.trial}.safetensors", safetensors.torch.save(student(0))
    )
    lead = stages_from_json(find_student(middle).start_weights().stages)
    assert lead == (*earlier.proposals["response-r0-0001"].recipe.stages, *proposal.recipe.stages)


def test_confirming_begins_again_from_a_file_of_which_nothing_is_known(tmp_path):
    save_file(student(0), tmp_path / "mine")
    checkpoint = external_weights.find(str(tmp_path / "mine"), option="--set start")
    study, search_request = begin_from(tmp_path / "p", checkpoint)
    proposal = _end_trial(study, search_request)
    assert refit.refit_recipe(study, proposal) == proposal.recipe
    assert study.manifest.start_file == checkpoint.name
    # so does what began from a student that began from a file
    study.storage.write(
        f"students/{proposal.trial}.safetensors", safetensors.torch.save(student(1))
    )
    later, search_request = begin_from(tmp_path / "q", find_student(study))
    assert later.manifest.start.stages == ""
    assert later.manifest.start_file == find_student(study).name
    next_ = _end_trial(later, search_request)
    assert refit.refit_recipe(later, next_) == next_.recipe


def plan_confirmations(study: Study) -> list[Proposal]:
    """What a confirmation of the winners alone consists of."""
    design = confirm_plan.design(study, seeds=2, defaults=False)
    return confirm_plan.confirmations(study, design)


def test_confirming_measures_the_file_that_students_begin_from(earlier, tmp_path):
    """It is what there was before they were cut."""
    save_file(student(0), tmp_path / "mine")
    checkpoint = external_weights.find(str(tmp_path / "mine"), option="--set start")
    study, search_request = begin_from(tmp_path / "p", checkpoint)
    _end_trial(study, search_request)
    start, *students = plan_confirmations(study)
    assert (start.trial, start.method, start.open_test) == ("confirm-start", "", True)
    assert (start.recipe.start, start.recipe.stages) == (checkpoint.model_id, ())
    assert start.recipe.student == "digits_medium"
    assert start.source == start_trial(checkpoint.model_id)
    assert [s.trial for s in students] == [
        f"confirm-prune-r0-0000-s{seed}" for seed in (1000, 1001, 800, 801, 802, 803, 804)
    ]
    assert [s.origin for s in students] == (
        ["best+default, begun from a file"] * 2 + ["recommended, begun from a file"] * 5
    )
    assert [s.keeps_weights for s in students] == [False] * 2 + [True] * 5
    study, search_request = begin_from(tmp_path / "q", find_student(earlier))
    _end_trial(study, search_request)
    proposals = plan_confirmations(study)
    assert [p.trial for p in proposals] == [
        s.trial for s in students
    ]  # trained anew: a stage of its own


def test_a_recipe_that_starts_from_a_pruned_file_has_its_shapes(tmp_path):
    recipe = making.recipe(student="digits_medium", epochs=1)
    prune_recipe = replace(recipe, stages=(*recipe.stages, Prune(method="channel", ratio=0.5)))
    result = making.run(prune_recipe, making.context_in(tmp_path / "first"))
    path = tmp_path / "pruned.safetensors"
    save_file({k[6:]: v for k, v in result.state.items() if k.startswith("model.")}, path)
    ctx = making.context_in(tmp_path / "again", model=lambda model_id: path)
    second = making.run(replace(recipe, start="pruned"), ctx)
    num_params = result.rows[-1]["num_params"]
    assert second.rows[-1]["num_params"] == num_params < result.rows[0]["num_params"]
    # in its second stage as well, where it is built anew from its state
    longer = replace(recipe, start="pruned", stages=recipe.stages * 2)
    complete = making.run(longer, ctx)
    part = making.run_until(longer, ctx, 1)
    resume = trial.Resume(stage=0, epoch=1, step=1, state=part.state)
    making.assert_same_state(making.run(longer, ctx, resume=resume).state, complete.state)
