"""Several objectives, constraints, and stages that trials share: what is proposed, kept and ranked."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from tests.helpers import made_manifest, made_study
from tests.helpers.made_study import begin, heard, play, reopened, request, row
from tune_kd.errors import UsageError
from tune_kd.recipe import Distill, LossWeights, Prune
from tune_kd.space import Method, distributions, methods
from tune_kd.study import recipe_builder, refit
from tune_kd.study.proposal import Proposal, repeat_seed
from tune_kd.study.study import Study
from tune_kd.study.trial_names import shared_trial
from tune_kd.tuning.asha import AshaRule
from tune_kd.workflows import prerequisites
from tune_kd.workflows.options import SAMPLERS

RECIPE = {"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0}
PRUNE = methods.prune_methods(RECIPE)
BOTH = ("val_accuracy", "size_mb")


def searched(folder, scores, **changes) -> Study:
    """Trials of one method that prunes, each with a single row: what its accuracy and its size were."""
    fields = {"methods": {"prune": PRUNE["prune"]}, "objectives": BOTH, "trials": 8, **changes}
    asked = request(folder / "s", epochs=1, finetune_epochs=1, **fields)
    begun = begin(asked)
    plan = made_study.plan(begun, asked)
    for accuracy, size in scores:
        proposal = plan.next()
        begun.storage.write(f"students/{proposal.trial}.safetensors", b"x")
        measured = {"val_loss": 1 - accuracy, "size_mb": size}
        one = row(begun, proposal, 1, accuracy, **measured, last=True, stage=2)
        made_study.commit(begun, [one])
        begun.hear(one)
        begun.end(proposal.trial, "finished")
    return begun


def numbers(rows) -> list[int]:
    return [row["number"] for row in rows]


SCORES = [(0.9, 3.0), (0.8, 1.0), (0.7, 2.0), (0.9, 4.0)]


def test_optuna_hears_every_objective_in_its_direction(tmp_path):
    begun = searched(tmp_path, [*SCORES, (0.95, None)])
    assert begun.directions == ["maximize", "minimize"]
    for study in (begun, reopened(begun)):
        told = study.optuna_trials("prune", repeat=0)
        assert [t.values for t in told] == [*map(list, SCORES), None]
        assert [t.state for t in told] == [TrialState.COMPLETE] * 4 + [TrialState.FAIL]
        # Optuna cannot compare steps of several objectives
        assert not any(t.intermediate_values for t in told)


def test_the_front_is_what_no_other_beats_and_its_students_are_kept(tmp_path):
    begun = searched(tmp_path, SCORES)
    assert sorted(numbers(begun.front("prune"))) == [0, 1]
    assert begun.storage.names("students") == [
        "prune-r0-0000.safetensors", "prune-r0-0001.safetensors",
    ]  # fmt: skip
    assert numbers(begun.ranked("prune"))[-2:] == [1, 2]  # the first objective ranks


def test_with_one_objective_the_best_student_alone_is_kept(tmp_path):
    begun = searched(tmp_path, SCORES[:3], objectives=("val_accuracy",))
    assert begun.storage.names("students") == ["prune-r0-0000.safetensors"]


def test_the_front_takes_what_was_measured_once_of_the_plain_student(tmp_path):
    """Rows of an uncut student have no FLOPs of their own."""
    asked = request(
        tmp_path / "s", epochs=1, trials=4, objectives=("val_accuracy", "val_loss", "flops")
    )
    begun = begin(asked)
    (plain,) = begun.outcomes["measure-student"]
    begun.write_outcome("measure-student", [{**plain, "flops": 5.0}])
    play(begun, asked, lambda proposal, step: 0.5)
    assert [row["trial"] for row in begun.front("no_kd")] == ["no_kd-r0-0000"]
    assert begun.optuna_trials("no_kd", repeat=0)[0].values == [0.5, 0.5, 5.0]


@pytest.mark.parametrize("name", ["test_accuracy", "compiled_latency_ms", "latency_ms_sd", "speed"])
def test_what_a_search_does_not_measure_is_no_objective(tmp_path, name):
    with pytest.raises(ValueError, match=f"objective '{name}' is not measured in a search"):
        request(tmp_path, objectives=("val_accuracy", name))


def test_what_is_made_small_may_be_any_but_the_first_objective(tmp_path):
    """The first ranks, stops and is compared: there more is better."""
    begun = searched(tmp_path, SCORES, objectives=("val_accuracy", "val_loss"))
    assert numbers(begun.ranked("prune")) == [0, 3, 1, 2]
    assert begun.directions == ["maximize", "minimize"]
    assert [t.values[1] for t in begun.optuna_trials("prune", repeat=0)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.1]
    )
    with pytest.raises(ValueError, match="must be val_accuracy or val_miou; got val_loss"):
        request(tmp_path, objectives=("val_loss", "size_mb"))


def test_trials_that_keep_the_constraints_come_first(tmp_path):
    begun = searched(tmp_path, SCORES, constraints=("size_mb <= 2",))
    assert numbers(begun.ranked("prune"))[:2] == [1, 2]
    assert set(numbers(begun.ranked("prune"))[2:]) == {0, 3}
    assert begun.best("prune")["number"] == 1
    assert numbers(begun.front("prune")) == [1]
    excess = [t.system_attrs["constraints"] for t in begun.optuna_trials("prune", repeat=0)]
    assert excess == [[1.0], [-1.0], [0.0], [2.0]]


def test_what_is_the_same_for_all_trials_was_measured_before_the_first(tmp_path):
    """Students of one architecture have one size, which no row of theirs has to repeat."""
    asked = request(tmp_path / "s", epochs=1, trials=4, objectives=BOTH)
    begun = begin(asked)
    play(begun, asked, lambda proposal, step: 0.5 + proposal.number / 10)
    size = begun.outcomes["measure-student"][0]["size_mb"]
    assert [t.values for t in begun.optuna_trials("response", repeat=0)] == [[0.5, size]]


@pytest.mark.parametrize("constraints", [(), ("size_mb <= 2",)], ids=["free", "constrained"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_proposals_of_several_objectives_are_a_pure_function_of_the_record(
    tmp_path, kind, constraints
):
    found = []
    for name in ("one", "other"):
        scores = [*SCORES, (0.6, 1.5)]
        begun = searched(tmp_path / name, scores, sampler=kind, constraints=constraints, trials=12)
        asked = request(
            tmp_path / name / "s", epochs=1, finetune_epochs=1, trials=12, sampler=kind,
            methods={"prune": PRUNE["prune"]}, objectives=BOTH, constraints=constraints,
        )  # fmt: skip
        study = begun if name == "one" else reopened(begun)
        found.append(made_study.plan(study, asked).next())
    one, other = found
    assert (one.trial, one.origin) == ("prune-r0-0005", "sampled")
    assert one.config == other.config
    ranges = PRUNE["prune"].ranges
    assert one.config.keys() == ranges.keys()
    for key, (low, high, _) in distributions.bounds(ranges).items():
        assert low <= one.config[key] <= high
    assert one.config["prune_method"] in ("channel", "magnitude")


def test_shared_stages_are_one_recipe_for_all_trials_of_a_method(tmp_path):
    asked = request(tmp_path / "s", trials=12, methods=PRUNE)
    begun = begin(asked)
    shared = recipe_builder.shared_recipes(begun.manifest, asked.space)
    assert shared.keys() == {"prune", "kd+prune"}
    assert [r.needs_teacher for r in shared.values()] == [False, True]
    assert [r.teacher_model for r in shared.values()] == ["", begun.manifest.teacher_model]
    plan = made_study.plan(begun, asked)
    for proposal in (plan.next() for _ in range(12)):
        assert proposal.shared == 1
        assert isinstance(proposal.recipe.stages[0], Distill)
        assert isinstance(proposal.recipe.stages[1], Prune)
        # found by workers under the name that the driver trained it by
        name = proposal.recipe.first(1).recipe_id(proposal.seed)
        assert name == shared[proposal.method].recipe_id(begun.manifest.seed)


def test_trials_are_compared_in_their_main_stage_alone(tmp_path):
    """Rungs are epochs of the first stage; those of a later one are other epochs."""
    asked = request(tmp_path / "s", trials=9, methods={"no_kd": request(tmp_path).space.methods["no_kd"], "prune": PRUNE["prune"]})  # fmt: skip
    begun = begin(asked)
    assert begun.manifest.rungs == (5,)
    rule = AshaRule(begun, at=[3])
    plan = made_study.plan(begun, asked)
    proposals = [p for p in (plan.next() for _ in range(8)) if p.method == "prune"]
    for proposal, value in zip(proposals, (0.9, 0.8, 0.1, 0.05), strict=True):
        for step, (stage, epoch) in enumerate([(1, 0), (2, 1), (2, 2), (2, 3)], 1):
            one = row(begun, proposal, step, value, stage=stage, epoch=epoch, last=False)
            assert not rule.hear(proposal.trial, heard(one))
    assert not rule._rungs


def lightly(space_, *, recover):
    """Labels first; then a stage that listens or does not."""
    weights = LossWeights(beta=1.0) if recover == "teacher" else LossWeights()
    (main,) = methods.no_kd(space_, **RECIPE)
    return (main, space_.finetune(weights, lr=0.1, epochs=1))


LIGHTLY = Method(
    stages=lightly,
    ranges={"recover": distributions.choice("labels", "teacher")},
    defaults={"recover": "labels"},
    shared=1,
    needs=("logits",),
)


def test_what_trials_share_has_one_name_whatever_the_rest_of_them_listens_to(tmp_path):
    """With a teacher in a file of its own, too."""
    (tmp_path / "nets.py").write_text("def big(): ...")
    asked = request(tmp_path / "s", trials=1, methods={"lightly": LIGHTLY}, teacher="nets.py:big")
    known = made_manifest.manifest(sources={"nets.py": "h"})
    (shared,) = recipe_builder.shared_recipes(known, asked.space).values()
    for value in ("labels", "teacher"):
        whole = recipe_builder.student_recipe(
            known, asked.space, method="lightly", config={"recover": value}
        )
        assert whole.needs_teacher == (value == "teacher")
        assert whole.first(1).recipe_id(0) == shared.recipe_id(0)


def test_a_teacher_is_needed_where_only_a_sampled_choice_listens(tmp_path):
    asked = request(tmp_path / "s", trials=1, methods={"lightly": LIGHTLY})
    assert asked.space.needs_teacher
    undeclared = {"lightly": replace(LIGHTLY, needs=())}
    with pytest.raises(UsageError, match=r"method lightly: .*logits.*Method\(needs=\('logits',\)"):
        request(tmp_path / "s", trials=1, methods=undeclared).space.check()


def test_each_repeat_begins_with_a_shared_stage_of_its_own(tmp_path):
    asked = request(tmp_path / "s", methods={"prune": PRUNE["prune"]}, trials=15, repeats=3)
    begun = begin(asked)
    shared = prerequisites._shared(begun, asked)
    assert [made.repeat for made in shared] == [0, 1, 2]
    assert len({made.model_id for made in shared}) == 3
    plan = made_study.plan(begun, asked)
    for proposal in [plan.next() for _ in range(15)]:
        wanted = proposal.recipe.first(proposal.shared).recipe_id(proposal.seed)
        (mine,) = [made for made in shared if made.model_id == wanted]
        assert (mine.repeat, mine.seed) == (proposal.repeat, proposal.seed)


@pytest.mark.parametrize("repeat", [0, 1])
def test_confirming_trains_a_shared_stage_as_long_as_it_was_trained(tmp_path, repeat):
    """Its patience was over before its time, and the trials that share it have no row of it."""
    asked = request(tmp_path / "s", methods={"prune": PRUNE["prune"]}, trials=10, patience=2)
    begun = begin(asked)
    (shared,) = recipe_builder.shared_recipes(begun.manifest, asked.space).values()
    plan, seed = made_study.plan(begun, asked), repeat_seed(begun.manifest.seed, repeat)
    name = refit.producing_trial(begun, shared_trial(shared.recipe_id(seed)))
    begun.add(
        Proposal(
            trial=name, phase="teacher", method="prune", number=0, seed=seed,
            origin="shared", recipe=shared,
        )
    )  # fmt: skip
    proposal = next(p for p in iter(plan.next, None) if p.repeat == repeat)
    mended = proposal.recipe.stages[2].epochs
    rows = [(name, (0, epoch)) for epoch in (1, 2, 3)]
    rows += [(proposal.trial, (1, 0)), *((proposal.trial, (2, e)) for e in range(1, mended + 1))]
    for step, (trial, (stage, epoch)) in enumerate(rows, 1):
        one = row(begun, begun.proposals[trial], step, 0.5, stage=stage, epoch=epoch, last=False)
        made_study.commit(begun, [*begun.rows.get(trial, []), one])
        begun.hear(one)
    for trial in (name, proposal.trial):
        begun.end(trial, "finished")
    anew = refit.refit_recipe(begun, proposal)
    assert anew.stages[0] == replace(shared.stages[0], patience=0, stop_after=3)
    assert anew.stages[1:] == proposal.recipe.stages[1:]
