"""Several objectives, constraints, and stages that trials share: what is proposed, kept and ranked."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from tests.helpers import made_manifest, made_study
from tests.helpers.made_study import as_report, begin, play, reopen, row
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


def study_with_scores(folder, scores, **changes) -> Study:
    """Trials of one method that prunes, each with a single row: what its accuracy and its size were."""
    fields = {"methods": {"prune": PRUNE["prune"]}, "objectives": BOTH, "trials": 8, **changes}
    request = made_study.request(folder / "s", epochs=1, finetune_epochs=1, **fields)
    study = begin(request)
    plan = made_study.plan(study, request)
    for accuracy, size in scores:
        proposal = plan.next()
        study.storage.write(f"students/{proposal.trial}.safetensors", b"x")
        measured = {"val_loss": 1 - accuracy, "size_mb": size}
        epoch_row = row(study, proposal, 1, accuracy, **measured, last=True, stage=2)
        made_study.commit(study, [epoch_row])
        study.on_report(epoch_row)
        study.end(proposal.trial, "finished")
    return study


def numbers(rows) -> list[int]:
    return [row["number"] for row in rows]


SCORES = [(0.9, 3.0), (0.8, 1.0), (0.7, 2.0), (0.9, 4.0)]


def test_optuna_hears_every_objective_in_its_direction(tmp_path):
    study = study_with_scores(tmp_path, [*SCORES, (0.95, None)])
    assert study.directions == ["maximize", "minimize"]
    for each in (study, reopen(study)):
        trials = each.optuna_trials("prune", repeat=0)
        assert [t.values for t in trials] == [*map(list, SCORES), None]
        assert [t.state for t in trials] == [TrialState.COMPLETE] * 4 + [TrialState.FAIL]
        # Optuna cannot compare steps of several objectives
        assert not any(t.intermediate_values for t in trials)


def test_the_front_is_what_no_other_beats_and_its_students_are_kept(tmp_path):
    study = study_with_scores(tmp_path, SCORES)
    assert sorted(numbers(study.front("prune"))) == [0, 1]
    assert study.storage.names("students") == [
        "prune-r0-0000.safetensors",
        "prune-r0-0001.safetensors",
    ]
    assert numbers(study.ranking("prune"))[-2:] == [1, 2]  # the first objective ranks


def test_with_one_objective_the_best_student_alone_is_kept(tmp_path):
    study = study_with_scores(tmp_path, SCORES[:3], objectives=("val_accuracy",))
    assert study.storage.names("students") == ["prune-r0-0000.safetensors"]


def test_the_front_takes_what_was_measured_once_of_the_plain_student(tmp_path):
    """Rows of an uncut student have no FLOPs of their own."""
    request = made_study.request(
        tmp_path / "s", epochs=1, trials=4, objectives=("val_accuracy", "val_loss", "flops")
    )
    study = begin(request)
    (plain,) = study.outcomes["measure-student"]
    study.write_outcome("measure-student", [{**plain, "flops": 5.0}])
    play(study, request, lambda proposal, step: 0.5)
    assert [row["trial"] for row in study.front("no_kd")] == ["no_kd-r0-0000"]
    assert study.optuna_trials("no_kd", repeat=0)[0].values == [0.5, 0.5, 5.0]


@pytest.mark.parametrize("name", ["test_accuracy", "compiled_latency_ms", "latency_ms_sd", "speed"])
def test_what_a_search_does_not_measure_is_no_objective(tmp_path, name):
    with pytest.raises(ValueError, match=f"objective '{name}' is not measured in a search"):
        made_study.request(tmp_path, objectives=("val_accuracy", name))


def test_what_is_made_small_may_be_any_but_the_first_objective(tmp_path):
    """The first ranks, stops and is compared: there more is better."""
    study = study_with_scores(tmp_path, SCORES, objectives=("val_accuracy", "val_loss"))
    assert numbers(study.ranking("prune")) == [0, 3, 1, 2]
    assert study.directions == ["maximize", "minimize"]
    assert [t.values[1] for t in study.optuna_trials("prune", repeat=0)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.1]
    )
    with pytest.raises(ValueError, match="must be val_accuracy or val_miou; got val_loss"):
        made_study.request(tmp_path, objectives=("val_loss", "size_mb"))


def test_trials_that_keep_the_constraints_come_first(tmp_path):
    study = study_with_scores(tmp_path, SCORES, constraints=("size_mb <= 2",))
    assert numbers(study.ranking("prune"))[:2] == [1, 2]
    assert set(numbers(study.ranking("prune"))[2:]) == {0, 3}
    assert study.best("prune")["number"] == 1
    assert numbers(study.front("prune")) == [1]
    excess = [t.system_attrs["constraints"] for t in study.optuna_trials("prune", repeat=0)]
    assert excess == [[1.0], [-1.0], [0.0], [2.0]]


def test_what_is_the_same_for_all_trials_was_measured_before_the_first(tmp_path):
    """Students of one architecture have one size, which no row of theirs has to repeat."""
    request = made_study.request(tmp_path / "s", epochs=1, trials=4, objectives=BOTH)
    study = begin(request)
    play(study, request, lambda proposal, step: 0.5 + proposal.number / 10)
    size = study.outcomes["measure-student"][0]["size_mb"]
    assert [t.values for t in study.optuna_trials("response", repeat=0)] == [[0.5, size]]


@pytest.mark.parametrize("constraints", [(), ("size_mb <= 2",)], ids=["free", "constrained"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_proposals_of_several_objectives_are_a_pure_function_of_the_record(
    tmp_path, kind, constraints
):
    proposals = []
    for name in ("one", "other"):
        scores = [*SCORES, (0.6, 1.5)]
        study = study_with_scores(
            tmp_path / name, scores, sampler=kind, constraints=constraints, trials=12
        )
        request = made_study.request(
            tmp_path / name / "s",
            epochs=1,
            finetune_epochs=1,
            trials=12,
            sampler=kind,
            methods={"prune": PRUNE["prune"]},
            objectives=BOTH,
            constraints=constraints,
        )
        study = study if name == "one" else reopen(study)
        proposals.append(made_study.plan(study, request).next())
    first, second = proposals
    assert (first.trial, first.origin) == ("prune-r0-0005", "sampled")
    assert first.config == second.config
    ranges = PRUNE["prune"].ranges
    assert first.config.keys() == ranges.keys()
    for key, (low, high, _) in distributions.bounds(ranges).items():
        assert low <= first.config[key] <= high
    assert first.config["prune_method"] in ("channel", "magnitude")


def test_shared_stages_are_one_recipe_for_all_trials_of_a_method(tmp_path):
    request = made_study.request(tmp_path / "s", trials=12, methods=PRUNE)
    study = begin(request)
    shared = recipe_builder.shared_recipes(study.manifest, request.space)
    assert shared.keys() == {"prune", "kd+prune"}
    assert [r.needs_teacher for r in shared.values()] == [False, True]
    assert [r.teacher_model for r in shared.values()] == ["", study.manifest.teacher_model]
    plan = made_study.plan(study, request)
    for proposal in (plan.next() for _ in range(12)):
        assert proposal.shared == 1
        assert isinstance(proposal.recipe.stages[0], Distill)
        assert isinstance(proposal.recipe.stages[1], Prune)
        # found by workers under the name that the driver trained it by
        name = proposal.recipe.first(1).recipe_id(proposal.seed)
        assert name == shared[proposal.method].recipe_id(study.manifest.seed)


def test_trials_are_compared_in_their_main_stage_alone(tmp_path):
    """Rungs are epochs of the first stage; those of a later one are other epochs."""
    request = made_study.request(
        tmp_path / "s",
        trials=9,
        methods={
            "no_kd": made_study.request(tmp_path).space.methods["no_kd"],
            "prune": PRUNE["prune"],
        },
    )
    study = begin(request)
    assert study.manifest.rungs == (5,)
    rule = AshaRule(study, at=[3])
    plan = made_study.plan(study, request)
    proposals = [p for p in (plan.next() for _ in range(8)) if p.method == "prune"]
    for proposal, value in zip(proposals, (0.9, 0.8, 0.1, 0.05), strict=True):
        for step, (stage, epoch) in enumerate([(1, 0), (2, 1), (2, 2), (2, 3)], 1):
            epoch_row = row(study, proposal, step, value, stage=stage, epoch=epoch, last=False)
            assert not rule.on_report(proposal.trial, as_report(epoch_row))
    assert not rule._rungs


def stages_of_recovery(space_, *, recover):
    """Labels first; then a stage that listens or does not."""
    weights = LossWeights(beta=1.0) if recover == "teacher" else LossWeights()
    (main,) = methods.no_kd(space_, **RECIPE)
    return (main, space_.finetune(weights, lr=0.1, epochs=1))


RECOVERY = Method(
    stages=stages_of_recovery,
    ranges={"recover": distributions.choice("labels", "teacher")},
    defaults={"recover": "labels"},
    shared=1,
    needs=("logits",),
)


def test_what_trials_share_has_one_name_whatever_the_rest_of_them_listens_to(tmp_path):
    """With a teacher in a file of its own, too."""
    (tmp_path / "nets.py").write_text("def big(): ...")
    request = made_study.request(
        tmp_path / "s", trials=1, methods={"lightly": RECOVERY}, teacher="nets.py:big"
    )
    manifest = made_manifest.manifest(sources={"nets.py": "h"})
    (shared,) = recipe_builder.shared_recipes(manifest, request.space).values()
    for value in ("labels", "teacher"):
        recipe = recipe_builder.student_recipe(
            manifest, request.space, method="lightly", config={"recover": value}
        )
        assert recipe.needs_teacher == (value == "teacher")
        assert recipe.first(1).recipe_id(0) == shared.recipe_id(0)


def test_a_teacher_is_needed_where_only_a_sampled_choice_listens(tmp_path):
    request = made_study.request(tmp_path / "s", trials=1, methods={"lightly": RECOVERY})
    assert request.space.needs_teacher
    undeclared = {"lightly": replace(RECOVERY, needs=())}
    with pytest.raises(UsageError, match=r"method lightly: .*logits.*Method\(needs=\('logits',\)"):
        made_study.request(tmp_path / "s", trials=1, methods=undeclared).space.check()


def test_each_repeat_begins_with_a_shared_stage_of_its_own(tmp_path):
    request = made_study.request(
        tmp_path / "s", methods={"prune": PRUNE["prune"]}, trials=15, repeats=3
    )
    study = begin(request)
    shared = prerequisites._shared(study, request)
    assert [stage.repeat for stage in shared] == [0, 1, 2]
    assert len({stage.model_id for stage in shared}) == 3
    plan = made_study.plan(study, request)
    for proposal in [plan.next() for _ in range(15)]:
        model_id = proposal.recipe.first(proposal.shared).recipe_id(proposal.seed)
        (match,) = [stage for stage in shared if stage.model_id == model_id]
        assert (match.repeat, match.seed) == (proposal.repeat, proposal.seed)


@pytest.mark.parametrize("repeat", [0, 1])
def test_confirming_trains_a_shared_stage_as_long_as_it_was_trained(tmp_path, repeat):
    """Its patience was over before its time, and the trials that share it have no row of it."""
    request = made_study.request(
        tmp_path / "s", methods={"prune": PRUNE["prune"]}, trials=10, patience=2
    )
    study = begin(request)
    (shared,) = recipe_builder.shared_recipes(study.manifest, request.space).values()
    plan, seed = made_study.plan(study, request), repeat_seed(study.manifest.seed, repeat)
    name = refit.producing_trial(study, shared_trial(shared.recipe_id(seed)))
    study.add(
        Proposal(
            trial=name,
            phase="teacher",
            method="prune",
            number=0,
            seed=seed,
            origin="shared",
            recipe=shared,
        )
    )
    proposal = next(p for p in iter(plan.next, None) if p.repeat == repeat)
    epochs = proposal.recipe.stages[2].epochs
    rows = [(name, (0, epoch)) for epoch in (1, 2, 3)]
    rows += [(proposal.trial, (1, 0)), *((proposal.trial, (2, e)) for e in range(1, epochs + 1))]
    for step, (trial, (stage, epoch)) in enumerate(rows, 1):
        epoch_row = row(
            study, study.proposals[trial], step, 0.5, stage=stage, epoch=epoch, last=False
        )
        made_study.commit(study, [*study.rows.get(trial, []), epoch_row])
        study.on_report(epoch_row)
    for trial in (name, proposal.trial):
        study.end(trial, "finished")
    recipe = refit.refit_recipe(study, proposal)
    assert recipe.stages[0] == replace(shared.stages[0], patience=0, stop_after=3)
    assert recipe.stages[1:] == proposal.recipe.stages[1:]
