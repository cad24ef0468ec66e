"""The run of a confirmation: what it measures, what a second one adds, what it refuses."""

import itertools
import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.helpers import made_study, making
from tests.helpers.searched_study import begin, design_of, put_outcome, put_teacher
from tune_kd import files
from tune_kd.errors import UsageError
from tune_kd.execution import runner, worker
from tune_kd.space import loader
from tune_kd.study import results, selection
from tune_kd.study.proposal import dump
from tune_kd.study.study import Study
from tune_kd.study.trial_names import refit_trial, search_trial
from tune_kd.training import trial
from tune_kd.workflows import confirm, confirm_plan, create_study, driver
from tune_kd.workflows.confirm_plan import COMMON_SEEDS, REEVALUATION_SEEDS

OPTIONS = driver.RunOptions(resources=made_study.Resources(), resume_command="made", quiet=True)


def _attempt(study: Study, proposal):
    """What Ray would run, without Ray; the verdict as the driver writes it."""
    from tune_kd.execution.resources import Resources

    if proposal.trial not in study.proposals:
        study.add(proposal)
    config = {"proposal": dump(proposal), **create_study.base_config(study, None, Resources())}
    rows = [results.parse_row(report["row"]) for report in worker.attempt(config)]
    for row in rows:
        study.on_report(row)
    study.end(proposal.trial, "finished")
    return rows


def test_confirming_runs_measure_the_test_split_once_at_their_end(study):
    proposals = confirm_plan.confirmations(study, design_of(study, seeds=1))
    recommended = next(p for p in proposals if p.origin == "recommended" and p.method == "response")
    for proposal in (proposals[0], proposals[1], recommended):
        rows = _attempt(study, proposal)
        assert ["test_accuracy" in row for row in rows] == [row["last"] for row in rows]
        (verdict,) = study.outcomes[proposal.trial]
        assert verdict["status"] == "finished"
        assert (verdict["phase"], verdict["repeat"]) == ("confirm", proposal.repeat)
        assert (verdict["source"], verdict["origin"]) == (proposal.source, proposal.origin)
        assert verdict["test_accuracy"] == rows[-1]["test_accuracy"]
        assert ("val_accuracy" in rows[-1]) == (not proposal.method)
        # the same as the recipe run by hand
        ctx = making.context_in(files.cache_folder())
        model = study.storage.local / "models" / f"{study.manifest.teacher_model}.safetensors"
        ctx = replace(ctx, model=lambda model_id, model=model: model)
        teacher = study.manifest.teacher, study.manifest.teacher_model
        access = trial.TestAccess(reference=teacher)
        result = making.run(proposal.recipe, ctx, seed=proposal.seed, access=access)
        columns = sorted(name for name in result.rows[-1] if name.startswith("test_"))
        assert columns == [
            "test_accuracy",
            "test_agreement",
            "test_confusion",
            "test_correct",
            "test_ece",
            "test_loss",
        ]
        assert {c: verdict[c] for c in columns} == {c: result.rows[-1][c] for c in columns}
        assert sum(verdict["test_confusion"]) == 540
        bits = np.unpackbits(np.frombuffer(verdict["test_correct"], np.uint8), count=540)
        assert bits.mean() == pytest.approx(verdict["test_accuracy"], abs=1e-12)
        # the teacher agrees with itself
        assert (verdict["test_agreement"] == 1.0) == (not proposal.method)
    assert study.counts("confirm") == {"finished": 3}
    # weights stay of the recommended student alone
    weights = study.storage.names("students", ".safetensors")
    assert weights == [f"{recommended.trial}.safetensors"]
    # what has its row is planned again under the same name, and so is not trained again
    fresh = made_study.reopen(study)
    again = confirm_plan.confirmations(fresh, design_of(fresh, seeds=1))
    assert [p.trial for p in again] == [p.trial for p in proposals]
    assert len(confirm.find_missing(fresh, again)) == len(proposals) - 3


@pytest.fixture
def local_runs(monkeypatch):
    """Runs in this process in place of Ray's: the trials of each call in their order."""
    calls: list[list[str]] = []

    def run(study, plan, *, ray_session, base, progress):
        fixed_plan, trials = plan(), []
        while (proposal := fixed_plan.next()) is not None:
            _attempt(study, proposal)
            trials.append(proposal.trial)
        calls.append(trials)

    monkeypatch.setattr(runner, "run", run)
    return calls


def _confirm(study, local_runs, **options) -> list[list[str]]:
    """One confirmation; the trials that it ran, phase by phase."""
    local_runs.clear()
    confirm.run(
        study,
        design_of(study, **options),
        session=made_study.FakeSession(),
        driver=driver.Driver(OPTIONS),
        folder=None,
    )
    return list(local_runs)


def _test_access(study):
    names = study.storage.names("test_access", ".json")
    return [json.loads(study.storage.read(f"test_access/{name}")) for name in names]


def test_a_whole_confirmation_and_what_a_second_one_adds(tmp_path, local_runs):
    """Really trained: two methods in three repeats, then more seeds, then more repeats."""
    methods = {name: loader.load("digits_kd")[0].methods[name] for name in ("no_kd", "response")}
    request = made_study.request(
        tmp_path / "runs" / "x", epochs=1, trials=30, repeats=3, limit_train=60, methods=methods
    )
    study = begin(request)
    scores = {0: 0.7, 1: 0.6, 2: 0.5, 3: 0.4}

    def score_by_repeat(proposal, step):
        return scores[proposal.repeat] + proposal.number / 100

    made_study.play(study, request, score_by_repeat)
    put_teacher(study, request)
    study = made_study.reopen(study)
    assert not confirm.is_done(study, design_of(study, seeds=1))

    again, confirm_trials = _confirm(study, local_runs, seeds=1)
    assert len(again) == 2 * 3 * 2
    assert len(confirm_trials) == 1 + 2 * 3 * 2 + 2 * 5
    assert all(name.startswith("reevaluate-") for name in again)
    # what was fitted on train alone has validation, and no word of the test split
    for name in again:
        (row,) = study.outcomes[name]
        assert row["val_accuracy"] is not None
        assert (row.get("test_accuracy"), row.get("test_correct")) == (None, None)
    # the mean of the two fresh values chose, by hand
    for method in methods:
        fresh = {
            search_trial(method, r, 4): statistics.fmean(
                study.outcomes[
                    refit_trial("reevaluate", source=search_trial(method, r, 4), seed=seed)
                ][-1]["val_accuracy"]
                for seed in REEVALUATION_SEEDS
            )
            for r in range(3)
        }
        best = max(fresh, key=lambda name: fresh[name])  # ties: the order of the repeats
        assert study.recommendation(method)["trial"] == best
        assert [n for n in confirm_trials if n.startswith(f"confirm-{best}-s80")] == [
            refit_trial("confirm", source=best, seed=seed) for seed in COMMON_SEEDS
        ]
    # weights of recommended students and of nothing else that was confirmed
    weights = {n.removesuffix(".safetensors") for n in study.storage.names("students")}
    assert weights == {n for n in confirm_trials if study.proposals[n].seed in COMMON_SEEDS}
    (first,) = _test_access(study)
    assert first["design"] == {"repeats": [0, 1, 2], "seeds": 1, "defaults": True}
    assert first["trials"] == confirm_trials

    # the same again trains nothing and opens nothing
    study = made_study.reopen(study)
    assert confirm.is_done(study, design_of(study, seeds=1))
    assert _confirm(study, local_runs, seeds=1) == []
    assert _test_access(study) == [first]

    # more seeds are a second look: only what is new runs
    (more,) = _confirm(study, local_runs, seeds=2)
    assert sorted(int(name.rpartition("-s")[2]) for name in more) == sorted([1001, 2001, 3001] * 4)
    _, second = _test_access(study)
    assert second["design"] == {"repeats": [0, 1, 2], "seeds": 2, "defaults": True}
    assert second["trials"] == more

    # so are more repeats; fewer runs than before are no look
    assert _confirm(study, local_runs, seeds=1, defaults=False) == []
    made_study.play(study, replace(request, repeats=4), score_by_repeat)
    (later,) = _confirm(study, local_runs, seeds=2)  # the fourth winner is not among the best three
    assert {study.proposals[name].repeat for name in later} == {3}
    assert sorted(study.proposals[name].seed for name in later) == sorted([4000, 4001] * 4)
    assert _test_access(study)[-1]["design"]["repeats"] == [0, 1, 2, 3]
    assert len(_test_access(study)) == 3
    assert study.counts("confirm") == {"finished": 1 + 12 + 10 + 12 + 8}
    # rows of earlier looks are as they were
    values = {m: selection.reevaluations(study.all_rows, m, metric=study.metric) for m in methods}
    assert all(len(rows) == 3 for rows in values.values())


def test_an_interrupted_confirmation_opens_for_what_is_left_with_the_same_design(study, local_runs):
    design = design_of(study, seeds=1)
    for proposal in confirm_plan.reevaluations(study, design):
        put_outcome(study, proposal, val_accuracy=0.5)
    proposals = confirm_plan.confirmations(study, design)
    confirm_plan.log_test_access(study, proposals, design, command="made")  # and killed
    for proposal in proposals[:-2]:
        study.add(proposal)
        put_outcome(study, proposal, test_accuracy=0.5)
    (run,) = _confirm(study, local_runs, seeds=1)
    assert run == [p.trial for p in proposals[-2:]]
    one, two = _test_access(study)
    assert one["design"] == two["design"]  # one look
    assert two["trials"] == run


# What is no study, other images


def test_a_search_that_has_not_ended_is_not_looked_at_by_accident(tmp_path):
    request = made_study.request(tmp_path / "s", trials=8)
    study = made_study.begin(request)
    made_study.play(study, request, made_study.uneven_score, trials=1)
    study = made_study.reopen(study)
    with pytest.raises(UsageError, match=r"1 of 8 trials of the search have ended.*--unfinished"):
        confirm.confirm(confirm.ConfirmOptions(study=study.storage.uri), OPTIONS)
    assert study.storage.names("test_access", ".json") == []
    made_study.play(study, request, made_study.uneven_score)
    confirm.check_finished(made_study.reopen(study))


def test_what_is_no_study_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"is not a study folder \(no manifest\.json"):
        confirm.open_study(str(tmp_path))


def test_images_that_are_not_the_studys_are_refused(study, tmp_path):
    for split, label, number in itertools.product(("train", "test"), "ab", range(4)):
        file = tmp_path / "other" / split / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    with pytest.raises(UsageError, match=r"are not the study's.*--data"):
        confirm.data_folder(study, tmp_path / "other")
    assert confirm.data_folder(study, None) is None
