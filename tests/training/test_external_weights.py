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
    known = request(tmp_path).space.methods
    asked = request(
        tmp_path / "runs" / "x", epochs=2, trials=4, student="digits_medium", scheduler="none",
        methods={name: known[name] for name in ("no_kd", "response")},
    )  # fmt: skip
    begun = begin(asked)

    def score(proposal, step):
        return None if proposal.method == "no_kd" else 0.5 + 0.1 * proposal.number

    play(begun, asked, score)
    for number in (0, 1):
        data = safetensors.torch.save(student(number))
        begun.storage.write(f"students/response-r0-000{number}.safetensors", data)
    return begun


def found(study: Study, method: str = "") -> external_weights.ExternalCheckpoint:
    return external_weights.find(f"{study.storage.uri}{method}", what="--teacher")


def test_a_file_is_its_bytes_and_nothing_else_is_known(tmp_path):
    for name, save in (("a.safetensors", save_file), ("b.pt", torch.save)):
        save(student(0), tmp_path / name)
        given = external_weights.find(str(tmp_path / name), what="--teacher")
        assert given.recipe is None
        assert given.data == (tmp_path / name).read_bytes()
        state = given.state()
        assert all(torch.equal(state[key], value) for key, value in student(0).items())
        described = given.described()
        assert (described.name, described.model) == (str(tmp_path / name), given.model_id)
        assert described.stages == ""
        assert given.model_id == external_model_id(given.file_id)


def test_the_same_bytes_are_the_same_model_wherever_they_lie(tmp_path):
    save_file(student(0), tmp_path / "a")
    save_file(student(1), tmp_path / "b")
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes())
    one, other, same = (external_weights.find(str(tmp_path / n), what="--teacher") for n in "abc")
    assert one.model_id == same.model_id != other.model_id


@pytest.mark.parametrize("method", ["", ":response"])
def test_the_best_student_of_a_study(earlier, method):
    given = found(earlier, method)
    best = earlier.proposals["response-r0-0001"]
    assert given.recipe == best.recipe
    assert given.name == f"{earlier.storage.uri}:response"
    assert given.data == earlier.storage.read("students/response-r0-0001.safetensors")


def test_the_student_of_a_method_is_the_one_that_it_recommends(tmp_path):
    """Of three repeats by their fresh values; evaluating takes its first confirming run."""
    known = {"response": request(tmp_path).space.methods["response"]}
    asked = request(
        tmp_path / "runs" / "x", epochs=1, trials=15, repeats=3, student="digits_medium",
        scheduler="none", methods=known,
    )  # fmt: skip
    begun = begin(asked)
    play(begun, asked, lambda p, step: 0.5 + 0.1 * p.number - 0.01 * p.repeat)
    winners = [search_trial("response", repeat, 4) for repeat in range(3)]
    for number, trial_ in enumerate(winners):
        data = safetensors.torch.save(student(number))
        begun.storage.write(f"students/{trial_}.safetensors", data)

    def given(*, confirmed):
        return external_weights.find(
            f"{begun.storage.uri}:response", what="--weights", confirmed=confirmed
        )

    def put(proposal, **values):
        begun.add(proposal)
        row = begun.describe(proposal, stage=0) | {"stage": 0, "status": "finished", "epochs": 1}
        begun.write_outcome(proposal.trial, [row | values])

    # before any fresh value: the best on validation
    assert given(confirmed=False).data == safetensors.torch.save(student(0))
    design = confirm_plan.design(begun, seeds=1, defaults=True)
    for proposal in confirm_plan.reevaluations(begun, design):
        put(proposal, val_accuracy=0.5 + 0.1 * (proposal.repeat == 1))
    chosen = begun.proposals[winners[1]]
    for confirmed in (False, True):  # no confirming run has weights yet
        found_ = given(confirmed=confirmed)
        assert found_.data == safetensors.torch.save(student(1))
        assert found_.recipe == chosen.recipe
    # the seeds of the recommended student, the second first, and the better one
    for proposal in reversed(confirm_plan.confirmations(begun, design)):
        if proposal.seed in (800, 801):
            data = safetensors.torch.save(student(proposal.seed))
            begun.storage.write(f"students/{proposal.trial}.safetensors", data)
            put(proposal, test_accuracy=0.5 + 0.1 * (proposal.seed == 801))
    # a teacher or a start must not have seen validation images; what is evaluated may
    assert given(confirmed=False).data == safetensors.torch.save(student(1))
    first = given(confirmed=True)
    assert first.data == safetensors.torch.save(student(800))
    assert first.recipe is not None
    assert first.recipe.images.fit_on == "train+val"
    assert first.recipe.stages == chosen.recipe.stages


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere.pt", ("--teacher nowhere.pt", "no such file and no such study", "runs/NAME")),
        (":respons", ("respons", "did you mean 'response'?")),
        (":no_kd", ("no search trial has finished",)),
    ],
)
def test_what_is_not_there_is_said(earlier, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    where = f"{earlier.storage.uri}{given}" if given.startswith(":") else given
    with pytest.raises(UsageError) as caught:
        external_weights.find(where, what="--teacher")
    assert [word for word in says if word not in str(caught.value)] == []


def test_another_architecture_is_refused_before_anything_starts(tmp_path):
    save_file(student(0, "digits_student"), tmp_path / "small")
    given = external_weights.find(str(tmp_path / "small"), what="--teacher")
    asked = replace(request(tmp_path / "s"), teacher=given)
    with pytest.raises(UsageError, match="does not fit"):
        checks.check_networks(asked, made_study.material())
    save_file(student(0, "resnet8"), tmp_path / "other")  # a small student could have been pruned
    given = external_weights.find(str(tmp_path / "other"), what="--set start")
    pruned = request(tmp_path / "s", methods=PRUNE, student="digits_medium", start=given.name)
    with pytest.raises(UsageError, match="does not fit"):
        checks.check_networks(replace(pruned, start=given), made_study.material())


def test_a_study_knows_its_teacher_by_the_files_hash(tmp_path):
    save_file(student(0, "digits_teacher"), tmp_path / "big")
    given = external_weights.find(str(tmp_path / "big"), what="--teacher")
    begun = begin(replace(request(tmp_path / "s"), teacher=given))
    assert begun.manifest.teacher_hash == given.file_id
    assert begun.manifest.teacher_model == given.model_id
    assert begun.manifest.teacher_source == given.name
    assert begun.manifest.teacher_file == given.name  # it may have seen validation images


def test_a_student_of_the_same_split_has_seen_no_validation_image(earlier, tmp_path):
    given = found(earlier)
    begun = begin(replace(request(tmp_path / "s", teacher="digits_medium"), teacher=given))
    assert begun.manifest.teacher_file == ""
    assert begun.manifest.teacher_source == given.name
    other = replace(made_study.material(), images=replace(made_study.IMAGES, split_seed=1))
    asked = replace(request(tmp_path / "t"), teacher=given)
    begun = create_study.begin(
        asked, other, session=made_study.FakeSession(), progress=made_study.Progress(quiet=True)
    )
    assert begun.manifest.teacher_file == given.name


# In place of shared stages


def starting(
    folder, given: external_weights.ExternalCheckpoint, *, names=tuple(PRUNE)
) -> tuple[Study, SearchRequest]:
    """A study whose methods prune what was given."""
    asked = request(
        folder, epochs=2, trials=4, methods={name: PRUNE[name] for name in names},
        student="digits_medium", start=given.name,
    )  # fmt: skip
    asked = replace(asked, start=given)
    return begin(asked), asked


def test_trials_begin_with_what_was_given_instead_of_the_shared_stages(earlier, tmp_path):
    given = found(earlier)
    begun, asked = starting(tmp_path / "p", given)
    assert begun.manifest.start_hash == given.file_id
    assert recipe_builder.shared_recipes(begun.manifest, asked.space) == {}
    plan = made_study.plan(begun, asked)
    for proposal in (plan.next() for _ in range(4)):
        assert proposal.shared == 0
        assert proposal.recipe.start == given.model_id
        assert [type(s) for s in proposal.recipe.stages[:2]] == [Prune, Distill]


def _ended(begun, asked):
    plan = made_study.plan(begun, asked)
    proposal = plan.next()
    for step, (stage, epoch) in enumerate([(0, 0), (1, 1), (1, 2)], 1):
        begun.hear(made_study.row(begun, proposal, step, 0.5, stage=stage, epoch=epoch))
    begun.end(proposal.trial, "finished")
    return proposal


def test_confirming_trains_the_earlier_student_anew_and_then_what_was_searched(earlier, tmp_path):
    begun, asked = starting(tmp_path / "p", found(earlier))
    proposal = _ended(begun, asked)
    anew = refit.refit_recipe(begun, proposal)
    lead = earlier.proposals["response-r0-0001"].recipe
    assert anew.start == ""
    assert anew.stages == (*lead.stages, *proposal.recipe.stages)
    # the first stages listen: to this study's teacher, under the name that its workers know
    assert (anew.teacher, anew.teacher_model) == ("digits_teacher", begun.manifest.teacher_model)


def test_a_teacher_is_needed_where_what_is_trained_anew_listened_to_one(earlier, tmp_path):
    begun, asked = starting(tmp_path / "p", found(earlier), names=("prune",))
    assert not asked.space.needs_teacher  # no stage of its own listens
    assert begun.manifest.needs_teacher
    file = tmp_path / "mine"
    save_file(student(0), file)
    given = external_weights.find(str(file), what="--set start")
    begun, _ = starting(tmp_path / "q", given, names=("prune",))
    assert not begun.manifest.needs_teacher


def test_an_earlier_student_is_trained_anew_for_as_long_as_it_was(tmp_path):
    known = request(tmp_path).space.methods["response"]
    asked = request(
        tmp_path / "x", epochs=9, trials=1, methods={"response": known}, patience=2, student="digits_medium"
    )  # fmt: skip
    patient = begin(asked)
    proposal = made_study.plan(patient, asked).next()
    for step in (1, 2, 3):
        patient.hear(made_study.row(patient, proposal, step, 0.5))
    patient.end(proposal.trial, "finished")
    patient.storage.write(
        f"students/{proposal.trial}.safetensors", safetensors.torch.save(student(0))
    )
    begun, asked = starting(tmp_path / "p", found(patient))
    first = refit.refit_recipe(begun, _ended(begun, asked)).stages[0]
    assert first == replace(proposal.recipe.stages[0], patience=0, stop_after=3)


def test_what_began_from_a_student_that_began_from_a_student_is_trained_from_the_first_on(
    earlier, tmp_path
):
    middle, asked = starting(tmp_path / "p", found(earlier))
    pruned = _ended(middle, asked)
    middle.storage.write(f"students/{pruned.trial}.safetensors", safetensors.torch.save(student(0)))
    lead = stages_from_json(found(middle).described().stages)
    assert lead == (*earlier.proposals["response-r0-0001"].recipe.stages, *pruned.recipe.stages)


def test_confirming_begins_again_from_a_file_of_which_nothing_is_known(tmp_path):
    save_file(student(0), tmp_path / "mine")
    given = external_weights.find(str(tmp_path / "mine"), what="--set start")
    begun, asked = starting(tmp_path / "p", given)
    proposal = _ended(begun, asked)
    assert refit.refit_recipe(begun, proposal) == proposal.recipe
    assert begun.manifest.start_file == given.name
    # so does what began from a student that began from a file
    begun.storage.write(
        f"students/{proposal.trial}.safetensors", safetensors.torch.save(student(1))
    )
    later, asked = starting(tmp_path / "q", found(begun))
    assert later.manifest.start.stages == ""
    assert later.manifest.start_file == found(begun).name
    next_ = _ended(later, asked)
    assert refit.refit_recipe(later, next_) == next_.recipe


def confirmed(known: Study) -> list[Proposal]:
    """What a confirmation of the winners alone consists of."""
    design = confirm_plan.design(known, seeds=2, defaults=False)
    return confirm_plan.confirmations(known, design)


def test_confirming_measures_the_file_that_students_begin_from(earlier, tmp_path):
    """It is what there was before they were cut."""
    save_file(student(0), tmp_path / "mine")
    given = external_weights.find(str(tmp_path / "mine"), what="--set start")
    begun, request_ = starting(tmp_path / "p", given)
    _ended(begun, request_)
    start, *students = confirmed(begun)
    assert (start.trial, start.method, start.open_test) == ("confirm-start", "", True)
    assert (start.recipe.start, start.recipe.stages) == (given.model_id, ())
    assert start.recipe.student == "digits_medium"
    assert start.source == start_trial(given.model_id)
    assert [s.trial for s in students] == [
        f"confirm-prune-r0-0000-s{seed}" for seed in (1000, 1001, 800, 801, 802, 803, 804)
    ]
    assert [s.origin for s in students] == (
        ["best+default, begun from a file"] * 2 + ["recommended, begun from a file"] * 5
    )
    assert [s.keeps_weights for s in students] == [False] * 2 + [True] * 5
    known, request_ = starting(tmp_path / "q", found(earlier))
    _ended(known, request_)
    planned = confirmed(known)
    assert [p.trial for p in planned] == [
        s.trial for s in students
    ]  # trained anew: a stage of its own


def test_a_recipe_that_starts_from_a_pruned_file_has_its_shapes(tmp_path):
    made = making.recipe(student="digits_medium", epochs=1)
    cut = replace(made, stages=(*made.stages, Prune(method="channel", ratio=0.5)))
    ran = making.run(cut, making.context_in(tmp_path / "first"))
    kept = tmp_path / "pruned.safetensors"
    save_file({k[6:]: v for k, v in ran.state.items() if k.startswith("model.")}, kept)
    ctx = making.context_in(tmp_path / "again", model=lambda model_id: kept)
    again = making.run(replace(made, start="pruned"), ctx)
    assert again.rows[-1]["num_params"] == ran.rows[-1]["num_params"] < ran.rows[0]["num_params"]
    # in its second stage as well, where it is built anew from its state
    longer = replace(made, start="pruned", stages=made.stages * 2)
    whole = making.run(longer, ctx)
    killed = making.run_until(longer, ctx, 1)
    resume = trial.Resume(stage=0, epoch=1, step=1, state=killed.state)
    making.assert_same_state(making.run(longer, ctx, resume=resume).state, whole.state)
