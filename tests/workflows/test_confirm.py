"""What is trained again after a search, with which seeds and on which images; that each opening is recorded."""

import itertools
import json
import shutil
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import made_study, making
from tune_kd import files
from tune_kd.errors import UsageError
from tune_kd.execution import runner, worker
from tune_kd.recipe import stream
from tune_kd.space import loader
from tune_kd.study import recipe_builder, results, selection
from tune_kd.study.proposal import Proposal, dump
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study
from tune_kd.study.trial_names import refit_trial, search_trial
from tune_kd.training import context as places
from tune_kd.training import trial
from tune_kd.workflows import checks, confirm, confirm_plan, create_study, driver, prerequisites
from tune_kd.workflows.confirm_plan import COMMON_SEEDS, REEVALUATION_SEEDS, Design

METHODS = ("no_kd", "response", "feature")
REPEATS = 4
OPTIONS = driver.RunOptions(resources=made_study.Resources(), resume_command="made", quiet=True)
BEST = {"no_kd": 1, "response": 4, "feature": 0}  # the number of the winner in each repeat
ORDER = (2, 0, 3, 1)  # repeats, best on validation first


def _score(proposal, step):
    """Of no_kd trial 2 breaks; of response trial 1 is the best in its first epoch alone."""
    if proposal.method == "no_kd" and proposal.number == 2:
        return None
    if proposal.method == "response" and proposal.number == 1:
        return 0.99 if step == 1 else 0.1
    far = abs(proposal.number - BEST[proposal.method])
    return 0.8 - far / 10 - ORDER.index(proposal.repeat) / 50 + step / 1000


def _asked(folder, **changes):
    known = loader.load("digits_kd")[0].methods
    changes = {"trials": 5 * len(METHODS) * REPEATS, "repeats": REPEATS, **changes}
    methods = {name: known[name] for name in METHODS}
    return made_study.request(
        folder, epochs=2, scheduler="none", limit_train=making.LIMIT, methods=methods, **changes
    )


def _begin(asked) -> Study:
    return made_study.begin(asked, checks.look_at_data(asked))


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """Four searches of three methods over real digits that have ended, five trials each; the teacher."""
    asked = _asked(tmp_path_factory.mktemp("confirm") / "runs" / "x")
    study = _begin(asked)
    made_study.play(study, asked, _score)
    _put_teacher(study, asked)
    study.merge()
    return study.storage.local


@pytest.fixture
def known(searched, tmp_path) -> Study:
    """A copy of it, read anew."""
    shutil.copytree(searched, tmp_path / "runs" / "x")
    return Study(Storage(tmp_path / "runs" / "x"))


def _put_teacher(study, asked):
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
            study.manifest, asked.space, compute=study.manifest.compute
        ),
    )
    study.write_outcome(proposal.trial, [{**study.describe(proposal, stage=0), "stage": 0, "status": "finished", "epochs": 2}])  # fmt: skip


def _design(known, *, seeds=2, defaults=True) -> Design:
    return confirm_plan.design(known, seeds=seeds, defaults=defaults)


def _students(known, **options) -> list[Proposal]:
    """The confirming runs without the teacher's."""
    return [p for p in confirm_plan.confirmations(known, _design(known, **options)) if p.method]


def _roles(proposal) -> set[str]:
    return set(proposal.origin.split("+"))


def _put(known, proposal, status="finished", **values):
    """A verdict without a run."""
    row = {**known.describe(proposal, stage=0), "stage": 0, "status": status, "epochs": 2, **values}
    known.write_outcome(proposal.trial, [row])


# Which repeats


def test_whole_repeats_are_confirmed(known):
    assert _design(known) == Design(repeats=(0, 1, 2, 3), seeds=2, defaults=True)
    # whatever became of their trials: of no_kd one in five has failed
    assert {v[-1]["status"] for v in known.outcomes.values()} == {"finished", "failed"}


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
    asked = _asked(tmp_path / "s")
    study = made_study.begin(asked)
    made_study.play(study, asked, _score, trials=trials)
    assert _design(study).repeats == repeats
    assert {p.repeat for p in confirm_plan.confirmations(study, _design(study))} == set(repeats)
    assert {p.repeat for p in confirm_plan.reevaluations(study, _design(study))} <= set(repeats)


def test_while_none_is_whole_all_that_have_begun_are_confirmed(tmp_path):
    asked = _asked(tmp_path / "s")
    study = made_study.begin(asked)
    plan = made_study.plan(study, asked)
    begun = [plan.next() for _ in range(12)]  # two trials of each of three methods, in two repeats
    assert {p.repeat for p in begun} == {0, 1}
    for proposal in begun:
        _put(study, proposal, val_accuracy=0.5)
    assert _design(study).repeats == (0, 1)


def test_a_trial_that_still_runs_keeps_its_repeat_out(known):
    open_ = known.outcomes.pop("feature-r1-0003")
    assert _design(known).repeats == (0, 2, 3)
    known.outcomes["feature-r1-0003"] = open_
    assert _design(known).repeats == (0, 1, 2, 3)


def test_a_repeat_in_which_a_method_has_finished_nothing_has_no_run_of_it(known):
    for number in range(5):
        row = known.outcomes[search_trial("response", 2, number)][-1]
        known.write_outcome(row["trial"], [{**row, "status": "failed"}])
    planned = _students(known)
    assert _design(known).repeats == (0, 1, 2, 3)
    assert {p.repeat for p in planned if p.method == "response"} == {0, 1, 3}
    assert {p.repeat for p in planned if p.method == "feature"} == {0, 1, 2, 3}


def test_a_study_without_a_finished_trial_cannot_be_confirmed(tmp_path):
    begun = made_study.begin(_asked(tmp_path / "s"))
    with pytest.raises(
        UsageError, match=r"no finished trial to confirm; run the search first \(or resume it\)"
    ):
        _design(begun)


# Which trials, in which role, with which seeds


def test_each_repeat_confirms_its_winner_and_its_default_settings(known):
    found = Counter((p.source, p.origin) for p in _students(known) if p.origin != "recommended")
    expected = {}
    for repeat in range(REPEATS):
        for method, best in BEST.items():
            if best:
                expected[search_trial(method, repeat, best), "best"] = 2
                expected[search_trial(method, repeat, 0), "default"] = 2
            else:  # once, not twice
                expected[search_trial(method, repeat, 0), "best+default"] = 2
    assert found == expected


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_all_methods_of_a_repeat_have_its_seeds(known, seeds):
    planned = [p for p in _students(known, seeds=seeds) if p.origin != "recommended"]
    for repeat in range(REPEATS):
        wanted = [1000 * (repeat + 1) + at for at in range(seeds)]
        for method in METHODS:
            for role in ("best", "default"):
                found = [p.seed for p in planned if (p.method, p.repeat) == (method, repeat) and role in _roles(p)]  # fmt: skip
                assert found == wanted
    for method in METHODS:  # n = K m
        defaults = [p for p in planned if p.method == method and "default" in _roles(p)]
        assert len({p.seed for p in defaults}) == len(defaults) == REPEATS * seeds
        (config,) = {tuple(p.config.items()) for p in defaults}
        assert dict(config) == known.manifest.methods[method].defaults


def test_recommended_students_have_seeds_in_common(known):
    planned = [p for p in _students(known) if p.origin == "recommended"]
    assert [(p.seed, p.method) for p in planned] == [(s, m) for s in range(800, 805) for m in METHODS]  # fmt: skip
    for method, row in confirm_plan.recommend(known, _design(known)).items():
        assert {p.source for p in planned if p.method == method} == {row["trial"]}


def test_a_budget_of_time_cuts_all_methods_and_repeats_alike(known):
    """Seed by seed over all repeats; recommended students last."""
    planned = _students(known)
    first = [p for p in planned if p.origin != "recommended"]
    assert planned[: len(first)] == first
    assert [p.seed % 1000 for p in first] == sorted(p.seed % 1000 for p in first)
    half = first[: len(first) // 2]
    assert {(p.source, p.origin) for p in half} == {(p.source, p.origin) for p in first}


def test_every_run_has_a_name_of_its_own_that_says_what_it_is(known):
    planned = confirm_plan.confirmations(known, _design(known))
    again = confirm_plan.reevaluations(known, _design(known))
    names = [p.trial for p in (*planned, *again)]
    assert len(set(names)) == len(names)
    assert "confirm-response-r2-0004-s3001" in names
    assert "confirm-response-r2-0004-s800" in names
    assert "reevaluate-response-r2-0004-s701" in names
    for proposal in (*planned[1:], *again):
        assert proposal.trial == refit_trial(
            proposal.phase, source=proposal.source, seed=proposal.seed
        )
        source = known.proposals[proposal.source]
        assert (proposal.method, proposal.repeat) == (source.method, source.repeat)
        assert proposal.config == source.config


def test_no_defaults_leaves_their_runs_out(known):
    planned = [p for p in _students(known, defaults=False) if p.origin != "recommended"]
    assert {p.source for p in planned} == {
        search_trial(method, repeat, best)
        for method, best in BEST.items()
        for repeat in range(REPEATS)
    }


def test_the_role_of_a_run_does_not_depend_on_what_else_is_confirmed(known):
    """A winner that has the default settings stands for both when the others are added later."""
    few, all_ = _students(known, defaults=False), _students(known)
    roles = {p.trial: p.origin for p in all_}
    assert {p.trial: p.origin for p in few} == {p.trial: roles[p.trial] for p in few}


def test_a_stopped_trial_is_never_confirmed(known):
    for repeat in range(REPEATS):
        row = known.outcomes[search_trial("response", repeat, 4)][-1]
        known.write_outcome(row["trial"], [{**row, "status": "stopped"}])
    best = {p.source for p in _students(known) if p.method == "response" and "best" in _roles(p)}
    assert best == {search_trial("response", repeat, 3) for repeat in range(REPEATS)}


def test_the_design_counts_its_runs(known):
    for seeds, defaults in itertools.product((1, 2), (True, False)):
        chosen = _design(known, seeds=seeds, defaults=defaults)
        planned = Counter(p.method for p in confirm_plan.confirmations(known, chosen))
        assert planned["response"] == planned["no_kd"] == chosen.runs_of_method
        again = Counter(p.method for p in confirm_plan.reevaluations(known, chosen))
        assert set(again.values()) == {chosen.reevaluations_of_method}


# Which images


def test_a_confirmed_recipe_is_the_searched_one_on_train_and_validation(known):
    for proposal in _students(known):
        source = known.proposals[proposal.source]
        assert proposal.open_test
        assert not source.open_test
        assert (proposal.recipe.images.fit_on, source.recipe.images.fit_on) == ("train+val", "train")  # fmt: skip
        assert proposal.recipe.images.view_seed == proposal.seed  # views of its own
        images = replace(
            proposal.recipe.images, fit_on="train", view_seed=source.recipe.images.view_seed
        )
        assert replace(proposal.recipe, images=images) == source.recipe
        assert proposal.recipe.epochs == known.manifest.epochs == 2


def test_all_methods_see_the_same_with_one_seed(known):
    by_seed: dict[int, set] = {}
    for proposal in _students(known):
        by_seed.setdefault(proposal.seed, set()).add(proposal.recipe.images)
    assert all(len(images) == 1 for images in by_seed.values())
    assert len(set.union(*by_seed.values())) == len(by_seed) == 2 * REPEATS + 5


def test_seeds_draw_other_views_and_weights_and_the_search_none_of_them(known):
    source = known.proposals["response-r0-0004"].recipe
    ctx = making.context_in(files.cache_folder())
    fold = places.fold(source.images, ctx, "contiguous")
    seeds = [known.manifest.seed, 700, 701, 800, 1000, 1001, 2000]
    views = [fold.seen(seed, 1)(fold.fit).images.tolist() for seed in seeds]
    weights = [stream(seed, "weights") for seed in seeds]
    for found in (views, weights):
        assert all(one != other for one, other in itertools.combinations(found, 2))


def test_the_teacher_is_the_searchs_and_is_measured_as_it_is(known):
    teacher, *students = confirm_plan.confirmations(known, _design(known))
    assert (teacher.trial, teacher.method, teacher.phase) == ("confirm-teacher", "", "confirm")
    assert teacher.recipe.stages == ()
    assert teacher.recipe.start == known.manifest.teacher_model
    assert teacher.recipe.student == "digits_teacher"
    assert teacher.recipe.images == known.manifest.images
    assert teacher.open_test
    assert teacher.seed == known.manifest.seed
    models = {p.method: p.recipe.teacher_model for p in students}
    assert models == {"no_kd": ""} | dict.fromkeys(METHODS[1:], known.manifest.teacher_model)


# Re-evaluations, and what is recommended


def test_the_three_best_winners_are_evaluated_again_on_validation(known):
    again = confirm_plan.reevaluations(known, _design(known))
    for method, best in BEST.items():
        mine = [p for p in again if p.method == method]
        sources = [search_trial(method, repeat, best) for repeat in ORDER[:3]]
        assert [(p.seed, p.source) for p in mine] == [(s, t) for s in (700, 701) for t in sources]
    for proposal in again:
        assert (proposal.phase, proposal.origin) == ("reevaluate", "best")
        assert not proposal.open_test  # the test split stays sealed
        assert not proposal.keeps_weights
        source = known.proposals[proposal.source].recipe
        images = replace(source.images, view_seed=proposal.seed)
        assert proposal.recipe == replace(source, images=images)  # fitted on train alone


@pytest.mark.parametrize(("repeats", "count"), [(1, 0), (2, 2), (3, 3), (4, 3)])
def test_as_many_winners_are_evaluated_again_as_there_are(known, repeats, count):
    chosen = Design(repeats=tuple(range(repeats)), seeds=1, defaults=False)
    again = confirm_plan.reevaluations(known, chosen)
    assert Counter(p.method for p in again) == Counter(dict.fromkeys(METHODS, 2 * count))
    assert {p.repeat for p in again} <= set(range(repeats))


def test_fresh_values_say_what_is_recommended_and_not_the_one_that_chose(known):
    chosen = _design(known)
    before = confirm_plan.recommend(known, chosen)
    assert {m: r["repeat"] for m, r in before.items()} == dict.fromkeys(METHODS, ORDER[0])
    for proposal in confirm_plan.reevaluations(known, chosen):
        value = {2: 0.5, 0: 0.6, 3: 0.9}[proposal.repeat] - 0.3 * (proposal.seed == 701)
        failed = proposal.method == "feature" and proposal.repeat == 3
        _put(known, proposal, "failed" if failed else "finished", val_accuracy=value)
    after = confirm_plan.recommend(known, chosen)
    assert {m: r["repeat"] for m, r in after.items()} == {"no_kd": 3, "response": 3, "feature": 0}
    sources = {p.method: p.source for p in _students(known) if p.origin == "recommended"}
    assert sources == {m: r["trial"] for m, r in after.items()}
    # of a design with fewer repeats the others' trials are none
    few = confirm_plan.recommend(known, replace(chosen, repeats=(0, 1)))
    assert {m: r["repeat"] for m, r in few.items()} == dict.fromkeys(METHODS, 0)


# TestAccess


def test_each_opening_of_the_test_split_leaves_a_file_with_its_design(known):
    first, second = _design(known, seeds=1), _design(known, seeds=3, defaults=False)
    planned = confirm_plan.confirmations(known, first)
    confirm_plan.log_test_access(known, planned, first, command="first command")
    confirm_plan.log_test_access(known, planned[:1], second, command="second command")
    names = known.storage.names("test_access", ".json")
    assert names == ["0001.json", "0002.json"]
    one, two = (json.loads(known.storage.read(f"test_access/{name}")) for name in names)
    assert one["trials"] == [p.trial for p in planned]
    assert two["trials"] == ["confirm-teacher"]
    assert (one["command"], two["command"]) == ("first command", "second command")
    assert one["design"] == {"repeats": [0, 1, 2, 3], "seeds": 1, "defaults": True}
    assert two["design"] == {"repeats": [0, 1, 2, 3], "seeds": 3, "defaults": False}
    assert one["time"] <= two["time"]


# Runs


def _attempt(known: Study, proposal):
    """What Ray would run, without Ray; the verdict as the driver writes it."""
    from tune_kd.execution.resources import Resources

    if proposal.trial not in known.proposals:
        known.add(proposal)
    config = {"proposal": dump(proposal), **create_study.base_config(known, None, Resources())}
    rows = [results.parse_row(found["row"]) for found in worker.attempt(config)]
    for row in rows:
        known.hear(row)
    known.end(proposal.trial, "finished")
    return rows


def test_confirming_runs_measure_the_test_split_once_at_their_end(known):
    planned = confirm_plan.confirmations(known, _design(known, seeds=1))
    recommended = next(p for p in planned if p.origin == "recommended" and p.method == "response")
    for proposal in (planned[0], planned[1], recommended):
        rows = _attempt(known, proposal)
        assert ["test_accuracy" in row for row in rows] == [row["last"] for row in rows]
        (verdict,) = known.outcomes[proposal.trial]
        assert verdict["status"] == "finished"
        assert (verdict["phase"], verdict["repeat"]) == ("confirm", proposal.repeat)
        assert (verdict["source"], verdict["origin"]) == (proposal.source, proposal.origin)
        assert verdict["test_accuracy"] == rows[-1]["test_accuracy"]
        assert ("val_accuracy" in rows[-1]) == (not proposal.method)
        # the same as the recipe run by hand
        ctx = making.context_in(files.cache_folder())
        model = known.storage.local / "models" / f"{known.manifest.teacher_model}.safetensors"
        ctx = replace(ctx, model=lambda model_id, model=model: model)
        teacher = known.manifest.teacher, known.manifest.teacher_model
        opened = trial.TestAccess(reference=teacher)
        again = making.run(proposal.recipe, ctx, seed=proposal.seed, access=opened)
        columns = sorted(name for name in again.rows[-1] if name.startswith("test_"))
        assert columns == [
            "test_accuracy", "test_agreement", "test_confusion", "test_correct", "test_ece",
            "test_loss",
        ]  # fmt: skip
        assert {c: verdict[c] for c in columns} == {c: again.rows[-1][c] for c in columns}
        assert sum(verdict["test_confusion"]) == 540
        bits = np.unpackbits(np.frombuffer(verdict["test_correct"], np.uint8), count=540)
        assert bits.mean() == pytest.approx(verdict["test_accuracy"], abs=1e-12)
        # the teacher agrees with itself
        assert (verdict["test_agreement"] == 1.0) == (not proposal.method)
    assert known.counts("confirm") == {"finished": 3}
    # weights stay of the recommended student alone
    kept = known.storage.names("students", ".safetensors")
    assert kept == [f"{recommended.trial}.safetensors"]
    # what has its row is planned again under the same name, and so is not trained again
    fresh = made_study.reopened(known)
    again = confirm_plan.confirmations(fresh, _design(fresh, seeds=1))
    assert [p.trial for p in again] == [p.trial for p in planned]
    assert len(confirm.find_missing(fresh, again)) == len(planned) - 3


@pytest.fixture
def here(monkeypatch):
    """Runs in this process in place of Ray's: the trials of each call in their order."""
    calls: list[list[str]] = []

    def run(study, plan, *, ray_session, base, progress):
        made, calls_of = plan(), []
        while (proposal := made.next()) is not None:
            _attempt(study, proposal)
            calls_of.append(proposal.trial)
        calls.append(calls_of)

    monkeypatch.setattr(runner, "run", run)
    return calls


def _confirm(known, here, **options) -> list[list[str]]:
    """One confirmation; the trials that it ran, phase by phase."""
    here.clear()
    confirm.run(
        known,
        _design(known, **options),
        session=made_study.Here(),
        driver=driver.Driver(OPTIONS),
        folder=None,
    )
    return list(here)


def _openings(known):
    names = known.storage.names("test_access", ".json")
    return [json.loads(known.storage.read(f"test_access/{name}")) for name in names]


def test_a_whole_confirmation_and_what_a_second_one_adds(tmp_path, here):
    """Really trained: two methods in three repeats, then more seeds, then more repeats."""
    methods = {name: loader.load("digits_kd")[0].methods[name] for name in ("no_kd", "response")}
    asked = made_study.request(
        tmp_path / "runs" / "x", epochs=1, trials=30, repeats=3, limit_train=60, methods=methods
    )
    known = _begin(asked)
    reached = {0: 0.7, 1: 0.6, 2: 0.5, 3: 0.4}
    made_study.play(known, asked, lambda p, step: reached[p.repeat] + p.number / 100)
    _put_teacher(known, asked)
    known = made_study.reopened(known)
    assert not confirm.is_done(known, _design(known, seeds=1))

    again, confirmed = _confirm(known, here, seeds=1)
    assert len(again) == 2 * 3 * 2
    assert len(confirmed) == 1 + 2 * 3 * 2 + 2 * 5
    assert all(name.startswith("reevaluate-") for name in again)
    # what was fitted on train alone has validation, and no word of the test split
    for name in again:
        (row,) = known.outcomes[name]
        assert row["val_accuracy"] is not None
        assert (row.get("test_accuracy"), row.get("test_correct")) == (None, None)
    # the mean of the two fresh values chose, by hand
    for method in methods:
        fresh = {
            search_trial(method, r, 4): statistics.fmean(
                known.outcomes[
                    refit_trial("reevaluate", source=search_trial(method, r, 4), seed=seed)
                ][-1]["val_accuracy"]
                for seed in REEVALUATION_SEEDS
            )
            for r in range(3)
        }
        best = max(fresh, key=lambda name: fresh[name])  # ties: the order of the repeats
        assert known.recommended(method)["trial"] == best
        assert [n for n in confirmed if n.startswith(f"confirm-{best}-s80")] == [
            refit_trial("confirm", source=best, seed=seed) for seed in COMMON_SEEDS
        ]
    # weights of recommended students and of nothing else that was confirmed
    kept = {n.removesuffix(".safetensors") for n in known.storage.names("students")}
    assert kept == {n for n in confirmed if int(n.rpartition("-s")[2] if "-s" in n else 0) in COMMON_SEEDS}  # fmt: skip
    (first,) = _openings(known)
    assert first["design"] == {"repeats": [0, 1, 2], "seeds": 1, "defaults": True}
    assert first["trials"] == confirmed

    # the same again trains nothing and opens nothing
    known = made_study.reopened(known)
    assert confirm.is_done(known, _design(known, seeds=1))
    assert _confirm(known, here, seeds=1) == []
    assert _openings(known) == [first]

    # more seeds are a second look: only what is new runs
    (added,) = _confirm(known, here, seeds=2)
    assert sorted(int(name.rpartition("-s")[2]) for name in added) == sorted([1001, 2001, 3001] * 4)
    _, second = _openings(known)
    assert second["design"] == {"repeats": [0, 1, 2], "seeds": 2, "defaults": True}
    assert second["trials"] == added

    # so are more repeats; fewer runs than before are no look
    assert _confirm(known, here, seeds=1, defaults=False) == []
    made_study.play(known, replace(asked, repeats=4), lambda p, step: reached[p.repeat] + p.number / 100)  # fmt: skip
    looked = _confirm(known, here, seeds=2)
    (later,) = looked  # the fourth winner is not among the best three
    assert {known.proposals[name].repeat for name in later} == {3}
    assert sorted(known.proposals[name].seed for name in later) == sorted([4000, 4001] * 4)
    assert _openings(known)[-1]["design"]["repeats"] == [0, 1, 2, 3]
    assert len(_openings(known)) == 3
    assert known.counts("confirm") == {"finished": 1 + 12 + 10 + 12 + 8}
    # rows of earlier looks are as they were
    values = {m: selection.reevaluations(known.all_rows, m, metric=known.metric) for m in methods}
    assert all(len(found) == 3 for found in values.values())


def test_an_interrupted_confirmation_opens_for_what_is_left_with_the_same_design(known, here):
    chosen = _design(known, seeds=1)
    for proposal in confirm_plan.reevaluations(known, chosen):
        _put(known, proposal, val_accuracy=0.5)
    planned = confirm_plan.confirmations(known, chosen)
    confirm_plan.log_test_access(known, planned, chosen, command="made")  # and killed
    for proposal in planned[:-2]:
        known.add(proposal)
        _put(known, proposal, test_accuracy=0.5)
    (run,) = _confirm(known, here, seeds=1)
    assert run == [p.trial for p in planned[-2:]]
    one, two = _openings(known)
    assert one["design"] == two["design"]  # one look
    assert two["trials"] == run


def test_one_repeat_recommends_its_winner_without_a_second_choice(tmp_path, here):
    asked = _asked(tmp_path / "s", trials=5 * len(METHODS), repeats=1)
    study = _begin(asked)
    made_study.play(study, asked, lambda p, step: 0.5 + p.number / 100)
    chosen = _design(study)
    assert confirm_plan.reevaluations(study, chosen) == []
    planned = [p for p in confirm_plan.confirmations(study, chosen) if p.origin == "recommended"]
    assert {p.source for p in planned} == {search_trial(m, 0, 4) for m in METHODS}
    assert len(planned) == 5 * len(METHODS)


# What is no study, other images


def test_a_search_that_has_not_ended_is_not_looked_at_by_accident(tmp_path):
    asked = made_study.request(tmp_path / "s", trials=8)
    begun = made_study.begin(asked)
    made_study.play(begun, asked, made_study.uneven_score, trials=1)
    known = made_study.reopened(begun)
    with pytest.raises(UsageError, match=r"1 of 8 trials of the search have ended.*--unfinished"):
        confirm.confirm(confirm.ConfirmOptions(study=known.storage.uri), OPTIONS)
    assert known.storage.names("test_access", ".json") == []
    made_study.play(known, asked, made_study.uneven_score)
    confirm.check_finished(made_study.reopened(known))


def test_what_is_no_study_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"is not a study folder \(no manifest\.json"):
        confirm.open_study(str(tmp_path))


def test_images_that_are_not_the_studys_are_refused(known, tmp_path):
    for split, label, number in itertools.product(("train", "test"), "ab", range(4)):
        file = tmp_path / "other" / split / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    with pytest.raises(UsageError, match=r"are not the study's.*--data"):
        confirm.data_folder(known, tmp_path / "other")
    assert confirm.data_folder(known, None) is None
