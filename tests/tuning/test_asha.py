"""Which trials stop: rungs, and every misfortune."""

import math

import pytest

from tests.helpers import made_study
from tests.helpers.made_study import as_report, begin, play, reopen, row, uneven_score
from tune_kd.tuning.asha import AshaRule, rungs
from tune_kd.workflows import create_study


def test_rungs():
    assert rungs(9) == [5]
    assert rungs(10) == [5]
    assert rungs(101) == [51]
    assert rungs(2) == [1]
    assert rungs(1) == []
    assert rungs(9, first=8) == [8]
    assert rungs(9, first=9) == []


def test_with_step_decay_no_rung_comes_before_the_first_decay(tmp_path):
    step = {"schedule": "step", "decay_at": (0.5, 0.75), "epochs": 20}
    assert create_study.study_rungs(made_study.request(tmp_path, **step).space, "asha") == [11]
    assert create_study.study_rungs(made_study.request(tmp_path, **step).space, "none") == []
    early = {"schedule": "step", "decay_at": (0.2,), "epochs": 20}
    assert create_study.study_rungs(made_study.request(tmp_path, **early).space, "asha") == [10]
    cosine = {"schedule": "cosine", "decay_at": (0.5,), "epochs": 20}
    assert create_study.study_rungs(made_study.request(tmp_path, **cosine).space, "asha") == [10]


def begin_search(tmp_path, **changes):
    """One search of every method that has begun, compared after three of six epochs."""
    request = made_study.request(tmp_path / "s", **{"repeats": 1, "epochs": 6, **changes})
    study = begin(request)
    plan = made_study.plan(study, request)
    return study, plan, AshaRule(study, at=study.manifest.rungs)


def run(study, rule, proposal, score, *, upto=3):
    """Its epochs one by one; whether it was stopped."""
    for step in range(1, upto + 1):
        if rule.on_report(proposal.trial, as_report(row(study, proposal, step, score))):
            return True
    return False


def test_the_best_third_of_a_method_goes_on(tmp_path):
    study, plan, rule = begin_search(tmp_path, trials=40)
    scores = [0.5, 0.4, 0.6, 0.5, 0.55, 0.9, 0.56]  # the default settings first
    # the cutoff is the 67th percentile of those that came to the rung before:
    # -, .5, .4667, .5333, .5, .5333, .5667
    expected = [False, True, False, True, False, False, True]
    results = []
    while len(results) < len(scores):
        proposal = plan.next()
        if proposal.method == "response":
            results.append(run(study, rule, proposal, scores[len(results)]))
    assert results == expected
    reasons = {t: v[-1]["reason"] for t, v in study.outcomes.items() if "response" in t}
    assert reasons["response-r0-0001"] == "rung 3: 0.4000 is below 0.5000, of 1 trials"
    assert reasons["response-r0-0006"] == "rung 3: 0.5600 is below 0.5667, of 6 trials"
    assert study.counts("search") == {"stopped": 3}


def test_rungs_belong_to_one_method(tmp_path):
    study, plan, rule = begin_search(tmp_path, trials=12)
    proposals = [plan.next() for _ in range(8)]
    for proposal in proposals[:4]:
        high = proposal.method == "no_kd"
        assert not run(study, rule, proposal, 0.9 if high else 0.1)
    assert {p.method: run(study, rule, p, 0.5) for p in proposals[4:]} == {
        "no_kd": True,
        "response": False,
        "feature": False,
        "combined": False,
    }


def test_rungs_belong_to_one_repeat(tmp_path):
    study, plan, rule = begin_search(tmp_path, trials=60, repeats=3)
    first = {}
    for _ in range(24):  # two trials of each search
        proposal = plan.next()
        first[proposal.method, proposal.repeat, proposal.number] = proposal
    assert not run(study, rule, first["response", 0, 0], 0.9)
    # the first of its own search to come to the rung, whatever another search has reached
    assert not run(study, rule, first["response", 1, 1], 0.5)
    assert not run(study, rule, first["response", 2, 1], 0.4)
    assert run(study, rule, first["response", 0, 1], 0.5)
    reason = study.outcomes["response-r0-0001"][-1]["reason"]
    assert reason == "rung 3: 0.5000 is below 0.9000, of 1 trials"
    assert rule._rungs.keys() == {("response", repeat, 3) for repeat in range(3)}


def test_the_default_settings_are_never_stopped_even_when_they_come_last_and_are_worst(tmp_path):
    study, plan, rule = begin_search(
        tmp_path, methods={"no_kd": made_study.request(tmp_path).space.methods["no_kd"]}
    )
    proposals = [plan.next() for _ in range(4)]
    for proposal in proposals[1:]:
        run(study, rule, proposal, 0.8)
    assert not run(study, rule, proposals[0], 0.1, upto=6)
    assert proposals[0].trial not in study.outcomes


def test_no_trial_is_stopped_in_its_last_epoch(tmp_path):
    study, plan, _ = begin_search(tmp_path, trials=8, epochs=3)
    rule = AshaRule(study, at=[3])
    proposals = [plan.next() for _ in range(8)]
    assert not any(run(study, rule, p, 0.9 - 0.1 * p.number) for p in proposals)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_score_that_is_no_number_fails_the_trial(tmp_path, bad):
    study, plan, rule = begin_search(tmp_path)
    proposal = plan.next()
    assert not run(study, rule, proposal, 0.5, upto=1)
    assert rule.on_report(proposal.trial, as_report(row(study, proposal, 2, bad)))
    (verdict,) = study.outcomes[proposal.trial]
    assert (verdict["status"], verdict["epochs"]) == ("failed", 2)
    assert verdict["reason"] == f"val_accuracy is {bad}"
    assert [t.state.name for t in study.optuna_trials(proposal.method, repeat=0)] == ["FAIL"]
    assert reopen(study).outcomes[proposal.trial][0]["status"] == "failed"


def test_an_exception_is_a_failed_row_and_a_lost_marker_ends_the_run(tmp_path):
    study, plan, rule = begin_search(tmp_path)
    first, second = plan.next(), plan.next()
    assert rule.on_report(first.trial, {"error": "ValueError: no", "fatal": False})
    assert study.outcomes[first.trial][0]["reason"] == "ValueError: no"
    assert not rule.fatal
    assert rule.on_report(second.trial, {"error": "name --out", "fatal": True})
    assert rule.fatal == "name --out"
    assert second.trial not in study.outcomes


def test_a_repeated_row_is_not_judged_twice(tmp_path):
    study, plan, rule = begin_search(tmp_path, trials=12)
    first, second = [plan.next() for _ in range(5)][::4]
    assert (first.method, second.method) == ("no_kd", "no_kd")
    assert not run(study, rule, second, 0.5)  # alone in its rung
    assert not run(study, rule, first, 0.9)  # now it would be below the cutoff
    assert not rule.on_report(second.trial, as_report(row(study, second, 3, 0.5)))
    assert rule._rungs["no_kd", 0, 3] == {second.trial: 0.5, first.trial: 0.9}
    assert len(study.rows[second.trial]) == 3
    assert not rule.on_report(second.trial, as_report(row(study, second, 4, 0.5)))


def test_the_last_row_before_a_kill_is_judged_by_the_next_driver(tmp_path):
    study, plan, rule = begin_search(tmp_path, trials=12)
    first, second = [plan.next() for _ in range(5)][::4]
    made_study.commit(study, [row(study, first, n, 0.9) for n in range(1, 5)])
    made_study.commit(study, [row(study, second, n, 0.1) for n in range(1, 4)])
    reopened_study = reopen(study)  # neither was heard of
    assert (
        reopened_study.judged_epochs[first.trial],
        reopened_study.judged_epochs[second.trial],
    ) == (3, 2)
    rule = AshaRule(reopened_study, at=[3])
    assert rule._rungs["no_kd", 0, 3] == {first.trial: 0.9}
    assert rule.on_report(second.trial, as_report(row(reopened_study, second, 3, 0.1)))
    assert reopened_study.outcomes[second.trial][0]["status"] == "stopped"


def test_rows_that_the_driver_missed_are_read_from_disk(tmp_path):
    study, plan, rule = begin_search(tmp_path)
    proposal = plan.next()
    rows = [row(study, proposal, n, 0.1 * n) for n in range(1, 5)]
    made_study.commit(study, rows)
    assert not rule.on_report(proposal.trial, as_report(rows[3]))
    assert [r["step"] for r in study.rows[proposal.trial]] == [1, 2, 3, 4]
    assert rule._rungs[proposal.method, 0, 3] == {proposal.trial: pytest.approx(0.3)}


def test_rungs_rebuilt_from_disk_equal_those_in_memory(tmp_path):
    request = made_study.request(tmp_path / "s", trials=80, repeats=2)
    study = begin(request)
    rule = play(study, request, uneven_score)
    reopened_study = reopen(study)
    assert dict(AshaRule(reopened_study, at=study.manifest.rungs)._rungs) == dict(rule._rungs)
    assert {repeat for _, repeat, _ in rule._rungs} == {0, 1}
    states = {t.state.name for t in study.optuna_trials("response", repeat=1)}
    assert states == {"PRUNED", "COMPLETE", "FAIL"}
    study.merge()
    assert dict(AshaRule(reopen(study), at=study.manifest.rungs)._rungs) == dict(rule._rungs)
