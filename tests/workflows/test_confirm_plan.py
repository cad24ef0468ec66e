"""What is trained again after a search, with which seeds and on which images."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.helpers import made_study, making
from tests.helpers.searched_study import (
    BEST,
    METHODS,
    ORDER,
    REPEATS,
    begin,
    design_of,
    make_request,
    put_outcome,
    score,
    students_of,
)
from tune_kd import files
from tune_kd.errors import UsageError
from tune_kd.recipe import stream
from tune_kd.study.trial_names import refit_trial, search_trial
from tune_kd.training import context as places
from tune_kd.workflows import confirm_plan
from tune_kd.workflows.confirm_plan import Design


def _roles(proposal) -> set[str]:
    return set(proposal.origin.split("+"))


# Which repeats


def test_whole_repeats_are_confirmed(study):
    assert design_of(study) == Design(repeats=(0, 1, 2, 3), seeds=2, defaults=True)
    # whatever became of their trials: of no_kd one in five has failed
    assert {v[-1]["status"] for v in study.outcomes.values()} == {"finished", "failed"}


@pytest.mark.parametrize(
    ("trials", "repeats"),
    [
        (3, (0,)),  # none is whole: what there is
        (14, (0,)),
        (15, (0,)),  # the first is whole
        (29, (0,)),  # the second is not yet
        (30, (0, 1)),
        (44, (0, 1)),
    ],
)
def test_a_repeat_that_is_not_whole_is_left_out(tmp_path, trials, repeats):
    request = make_request(tmp_path / "s")
    study = made_study.begin(request)
    made_study.play(study, request, score, trials=trials)
    assert design_of(study).repeats == repeats
    assert {p.repeat for p in confirm_plan.confirmations(study, design_of(study))} == set(repeats)
    assert {p.repeat for p in confirm_plan.reevaluations(study, design_of(study))} <= set(repeats)


def test_while_none_is_whole_all_that_have_begun_are_confirmed(tmp_path):
    request = make_request(tmp_path / "s")
    study = made_study.begin(request)
    plan = made_study.plan(study, request)
    proposals = [
        plan.next() for _ in range(12)
    ]  # two trials of each of three methods, in two repeats
    assert {p.repeat for p in proposals} == {0, 1}
    for proposal in proposals:
        put_outcome(study, proposal, val_accuracy=0.5)
    assert design_of(study).repeats == (0, 1)


def test_a_trial_that_still_runs_keeps_its_repeat_out(study):
    open_ = study.outcomes.pop("feature-r1-0003")
    assert design_of(study).repeats == (0, 2, 3)
    study.outcomes["feature-r1-0003"] = open_
    assert design_of(study).repeats == (0, 1, 2, 3)


def test_a_repeat_in_which_a_method_has_finished_nothing_has_no_run_of_it(study):
    for number in range(5):
        row = study.outcomes[search_trial("response", 2, number)][-1]
        study.write_outcome(row["trial"], [{**row, "status": "failed"}])
    proposals = students_of(study)
    assert design_of(study).repeats == (0, 1, 2, 3)
    assert {p.repeat for p in proposals if p.method == "response"} == {0, 1, 3}
    assert {p.repeat for p in proposals if p.method == "feature"} == {0, 1, 2, 3}


def test_a_study_without_a_finished_trial_cannot_be_confirmed(tmp_path):
    study = made_study.begin(make_request(tmp_path / "s"))
    with pytest.raises(
        UsageError, match=r"no finished trial to confirm; run the search first \(or resume it\)"
    ):
        design_of(study)


# Which trials, in which role, with which seeds


def test_each_repeat_confirms_its_winner_and_its_default_settings(study):
    counts = Counter((p.source, p.origin) for p in students_of(study) if p.origin != "recommended")
    expected = {}
    for repeat in range(REPEATS):
        for method, best in BEST.items():
            if best:
                expected[search_trial(method, repeat, best), "best"] = 2
                expected[search_trial(method, repeat, 0), "default"] = 2
            else:  # once, not twice
                expected[search_trial(method, repeat, 0), "best+default"] = 2
    assert counts == expected


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_all_methods_of_a_repeat_have_its_seeds(study, seeds):
    proposals = [p for p in students_of(study, seeds=seeds) if p.origin != "recommended"]
    for repeat in range(REPEATS):
        expected = [1000 * (repeat + 1) + at for at in range(seeds)]
        for method in METHODS:
            for role in ("best", "default"):
                runs = [p for p in proposals if (p.method, p.repeat) == (method, repeat)]
                assert [p.seed for p in runs if role in _roles(p)] == expected
    for method in METHODS:  # n = K m
        defaults = [p for p in proposals if p.method == method and "default" in _roles(p)]
        assert len({p.seed for p in defaults}) == len(defaults) == REPEATS * seeds
        (config,) = {tuple(p.config.items()) for p in defaults}
        assert dict(config) == study.manifest.methods[method].defaults


def test_recommended_students_have_seeds_in_common(study):
    proposals = [p for p in students_of(study) if p.origin == "recommended"]
    expected = list(itertools.product(range(800, 805), METHODS))
    assert [(p.seed, p.method) for p in proposals] == expected
    for method, row in confirm_plan.recommend(study, design_of(study)).items():
        assert {p.source for p in proposals if p.method == method} == {row["trial"]}


def test_a_budget_of_time_cuts_all_methods_and_repeats_alike(study):
    """Seed by seed over all repeats; recommended students last."""
    proposals = students_of(study)
    first = [p for p in proposals if p.origin != "recommended"]
    assert proposals[: len(first)] == first
    assert [p.seed % 1000 for p in first] == sorted(p.seed % 1000 for p in first)
    half = first[: len(first) // 2]
    assert {(p.source, p.origin) for p in half} == {(p.source, p.origin) for p in first}


def test_every_run_has_a_name_of_its_own_that_says_what_it_is(study):
    proposals = confirm_plan.confirmations(study, design_of(study))
    again = confirm_plan.reevaluations(study, design_of(study))
    names = [p.trial for p in (*proposals, *again)]
    assert len(set(names)) == len(names)
    assert "confirm-response-r2-0004-s3001" in names
    assert "confirm-response-r2-0004-s800" in names
    assert "reevaluate-response-r2-0004-s701" in names
    for proposal in (*proposals[1:], *again):
        assert proposal.trial == refit_trial(
            proposal.phase, source=proposal.source, seed=proposal.seed
        )
        source = study.proposals[proposal.source]
        assert (proposal.method, proposal.repeat) == (source.method, source.repeat)
        assert proposal.config == source.config


def test_no_defaults_leaves_their_runs_out(study):
    proposals = [p for p in students_of(study, defaults=False) if p.origin != "recommended"]
    assert {p.source for p in proposals} == {
        search_trial(method, repeat, best)
        for method, best in BEST.items()
        for repeat in range(REPEATS)
    }


def test_the_role_of_a_run_does_not_depend_on_what_else_is_confirmed(study):
    """A winner that has the default settings stands for both when the others are added later."""
    few, all_ = students_of(study, defaults=False), students_of(study)
    roles = {p.trial: p.origin for p in all_}
    assert {p.trial: p.origin for p in few} == {p.trial: roles[p.trial] for p in few}


def test_a_stopped_trial_is_never_confirmed(study):
    for repeat in range(REPEATS):
        row = study.outcomes[search_trial("response", repeat, 4)][-1]
        study.write_outcome(row["trial"], [{**row, "status": "stopped"}])
    best = {p.source for p in students_of(study) if p.method == "response" and "best" in _roles(p)}
    assert best == {search_trial("response", repeat, 3) for repeat in range(REPEATS)}


def test_the_design_counts_its_runs(study):
    for seeds, defaults in itertools.product((1, 2), (True, False)):
        design = design_of(study, seeds=seeds, defaults=defaults)
        proposals = Counter(p.method for p in confirm_plan.confirmations(study, design))
        assert proposals["response"] == proposals["no_kd"] == design.runs_of_method
        again = Counter(p.method for p in confirm_plan.reevaluations(study, design))
        assert set(again.values()) == {design.reevaluations_of_method}


# Which images


def test_a_confirmed_recipe_is_the_searched_one_on_train_and_validation(study):
    for proposal in students_of(study):
        source = study.proposals[proposal.source]
        assert proposal.open_test
        assert not source.open_test
        assert proposal.recipe.images.fit_on == "train+val"
        assert source.recipe.images.fit_on == "train"
        assert proposal.recipe.images.view_seed == proposal.seed  # views of its own
        images = replace(
            proposal.recipe.images, fit_on="train", view_seed=source.recipe.images.view_seed
        )
        assert replace(proposal.recipe, images=images) == source.recipe
        assert proposal.recipe.epochs == study.manifest.epochs == 2


def test_all_methods_see_the_same_with_one_seed(study):
    by_seed: dict[int, set] = {}
    for proposal in students_of(study):
        by_seed.setdefault(proposal.seed, set()).add(proposal.recipe.images)
    assert all(len(images) == 1 for images in by_seed.values())
    assert len(set.union(*by_seed.values())) == len(by_seed) == 2 * REPEATS + 5


def test_seeds_draw_other_views_and_weights_and_the_search_none_of_them(study):
    source = study.proposals["response-r0-0004"].recipe
    ctx = making.context_in(files.cache_folder())
    split = places.device_split(source.images, ctx, "contiguous")
    seeds = [study.manifest.seed, 700, 701, 800, 1000, 1001, 2000]
    views = [split.augmenter(seed, 1)(split.fit).images.tolist() for seed in seeds]
    weights = [stream(seed, "weights") for seed in seeds]
    for values in (views, weights):
        assert all(one != other for one, other in itertools.combinations(values, 2))


def test_the_teacher_is_the_searchs_and_is_measured_as_it_is(study):
    teacher, *students = confirm_plan.confirmations(study, design_of(study))
    assert (teacher.trial, teacher.method, teacher.phase) == ("confirm-teacher", "", "confirm")
    assert teacher.recipe.stages == ()
    assert teacher.recipe.start == study.manifest.teacher_model
    assert teacher.recipe.student == "digits_teacher"
    assert teacher.recipe.images == study.manifest.images
    assert teacher.open_test
    assert teacher.seed == study.manifest.seed
    models = {p.method: p.recipe.teacher_model for p in students}
    assert models == {"no_kd": ""} | dict.fromkeys(METHODS[1:], study.manifest.teacher_model)


# Re-evaluations, and what is recommended


def test_the_three_best_winners_are_evaluated_again_on_validation(study):
    again = confirm_plan.reevaluations(study, design_of(study))
    for method, best in BEST.items():
        mine = [p for p in again if p.method == method]
        sources = [search_trial(method, repeat, best) for repeat in ORDER[:3]]
        assert [(p.seed, p.source) for p in mine] == [(s, t) for s in (700, 701) for t in sources]
    for proposal in again:
        assert (proposal.phase, proposal.origin) == ("reevaluate", "best")
        assert not proposal.open_test  # the test split stays sealed
        assert not proposal.keeps_weights
        source = study.proposals[proposal.source].recipe
        images = replace(source.images, view_seed=proposal.seed)
        assert proposal.recipe == replace(source, images=images)  # fitted on train alone


@pytest.mark.parametrize(("repeats", "count"), [(1, 0), (2, 2), (3, 3), (4, 3)])
def test_as_many_winners_are_evaluated_again_as_there_are(study, repeats, count):
    design = Design(repeats=tuple(range(repeats)), seeds=1, defaults=False)
    again = confirm_plan.reevaluations(study, design)
    assert Counter(p.method for p in again) == Counter(dict.fromkeys(METHODS, 2 * count))
    assert {p.repeat for p in again} <= set(range(repeats))


def test_fresh_values_say_what_is_recommended_and_not_the_one_that_chose(study):
    design = design_of(study)
    before = confirm_plan.recommend(study, design)
    assert {m: r["repeat"] for m, r in before.items()} == dict.fromkeys(METHODS, ORDER[0])
    for proposal in confirm_plan.reevaluations(study, design):
        value = {2: 0.5, 0: 0.6, 3: 0.9}[proposal.repeat] - 0.3 * (proposal.seed == 701)
        failed = proposal.method == "feature" and proposal.repeat == 3
        put_outcome(study, proposal, "failed" if failed else "finished", val_accuracy=value)
    after = confirm_plan.recommend(study, design)
    assert {m: r["repeat"] for m, r in after.items()} == {"no_kd": 3, "response": 3, "feature": 0}
    sources = {p.method: p.source for p in students_of(study) if p.origin == "recommended"}
    assert sources == {m: r["trial"] for m, r in after.items()}
    # of a design with fewer repeats the others' trials are none
    few = confirm_plan.recommend(study, replace(design, repeats=(0, 1)))
    assert {m: r["repeat"] for m, r in few.items()} == dict.fromkeys(METHODS, 0)


def test_one_repeat_recommends_its_winner_without_a_second_choice(tmp_path):
    request = make_request(tmp_path / "s", trials=5 * len(METHODS), repeats=1)
    study = begin(request)
    made_study.play(study, request, lambda p, step: 0.5 + p.number / 100)
    design = design_of(study)
    assert confirm_plan.reevaluations(study, design) == []
    proposals = [p for p in confirm_plan.confirmations(study, design) if p.origin == "recommended"]
    assert {p.source for p in proposals} == {search_trial(m, 0, 4) for m in METHODS}
    assert len(proposals) == 5 * len(METHODS)


# Openings of the test split


def test_each_opening_of_the_test_split_leaves_a_file_with_its_design(study):
    first, second = design_of(study, seeds=1), design_of(study, seeds=3, defaults=False)
    proposals = confirm_plan.confirmations(study, first)
    confirm_plan.log_test_access(study, proposals, first, command="first command")
    confirm_plan.log_test_access(study, proposals[:1], second, command="second command")
    names = study.storage.names("test_access", ".json")
    assert names == ["0001.json", "0002.json"]
    one, two = (json.loads(study.storage.read(f"test_access/{name}")) for name in names)
    assert one["trials"] == [p.trial for p in proposals]
    assert two["trials"] == ["confirm-teacher"]
    assert (one["command"], two["command"]) == ("first command", "second command")
    assert one["design"] == {"repeats": [0, 1, 2, 3], "seeds": 1, "defaults": True}
    assert two["design"] == {"repeats": [0, 1, 2, 3], "seeds": 3, "defaults": False}
    assert one["time"] <= two["time"]
