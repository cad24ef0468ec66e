"""What is proposed next, and which trials stop."""

import math

import pytest

from tests import made_study
from tests.made_study import begin, heard, play, reopened, request, row
from tune_kd import methods, opening, space, spaces
from tune_kd.asha import Judge, rungs
from tune_kd.options import SAMPLERS
from tune_kd.plans import FixedPlan
from tune_kd.proposals import Proposal
from tune_kd.samplers import origin, random_start


def score(proposal: Proposal, step: int) -> float | None:
    """Better with every epoch; what a trial reaches depends on its lr; two trials break."""
    if proposal.number in (2, 4) and proposal.method == "response" and step == 2:
        return None
    return 0.9 - 0.05 * abs(math.log(proposal.config["lr"] / 0.1)) - 0.1 / step


def settings(study) -> dict[str, dict]:
    return {name: dict(p.config) for name, p in sorted(study.proposals.items())}


# Origins


@pytest.mark.parametrize("known", [1, 2, 4, 30])
def test_at_most_a_quarter_comes_from_the_literature_and_the_first_is_the_textbook(known):
    for each in range(1, 61):
        found = [origin(n, settings=known, start=random_start(each)) for n in range(each)]
        assert found[0] == "textbook"
        assert found.count("textbook") == 1
        taken = found.count("textbook") + found.count("literature")
        assert taken <= max(1, each / 4)
        assert taken == min(known, max(1, each // 4))
        assert found.count("random") + taken >= random_start(each)


@pytest.mark.parametrize(("each", "start"), [(1, 1), (3, 1), (4, 2), (8, 3), (27, 9), (60, 10)])
def test_a_third_at_most_ten_starts_at_random(each, start):
    assert random_start(each) == start
    found = [origin(n, settings=1, start=start) for n in range(each)]
    assert found[1:start] == ["random"] * (start - 1)
    assert "random" not in found[start:]


def test_literature_settings_come_in_their_order(tmp_path):
    asked = request(tmp_path / "s", trials=64, epochs=1)
    study = begin(asked)
    play(study, asked, score)
    known = asked.space.methods["response"].settings()
    proposed = study.of("search", "response")
    assert [dict(p.config) for p in proposed if p.origin in ("textbook", "literature")] == known
    assert [p.number for p in proposed if p.origin in ("textbook", "literature")] == [0, 7, 11, 15]


# Plans


def test_methods_take_turns_and_get_equal_counts(tmp_path):
    asked = request(tmp_path / "s", trials=10, epochs=1)
    study = begin(asked)
    play(study, asked, score)
    names = list(asked.space.methods)
    assert asked.each == 3
    assert list(study.proposals) == [f"{m}-{n:04d}" for n in range(3) for m in names]
    assert study.counts("search").total() == 12


def test_more_trials_go_on_with_the_numbers(tmp_path):
    first = request(tmp_path / "s", trials=8, epochs=1)
    study = begin(first)
    play(study, first, score)
    before = settings(study)
    more = request(tmp_path / "s", trials=12, epochs=1)
    again = reopened(study)
    play(again, more, score)
    after = settings(again)
    assert {k: after[k] for k in before} == before
    assert [p.number for p in again.of("search", "no_kd")] == [0, 1, 2]


def test_an_unfinished_trial_is_proposed_again_before_new_ones(tmp_path):
    asked = request(tmp_path / "s")
    study = begin(asked)
    play(study, asked, score, trials=5)
    plan = made_study.plan(study, asked)
    lost = [plan.next(), plan.next()]
    again = made_study.plan(reopened(study), asked)
    assert {p.trial: p for p in (again.next(), again.next())} == {p.trial: p for p in lost}
    assert again.next().trial not in {p.trial for p in lost}


def test_a_fixed_plan_leaves_out_what_has_its_verdict(tmp_path):
    asked = request(tmp_path / "s", epochs=1, trials=8)
    study = begin(asked)
    play(study, asked, score, trials=2)
    listed = [study.proposals["no_kd-r0-0000"], study.proposals["response-r0-0000"]]
    fresh = Proposal(
        trial="confirm-x", phase="confirm", method="no_kd", number=0, seed=1000, origin="best",
        recipe=listed[0].recipe,
    )  # fmt: skip
    plan = FixedPlan(study, [*listed, fresh])
    assert plan.next().trial == "confirm-x"
    assert plan.next() is None
    assert "confirm-x" in reopened(study).proposals


# Proposals are a pure function of the record


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_same_record_gives_the_same_proposals_whenever_it_is_opened(tmp_path, kind):
    count = 16 if kind == "gp" else 24  # it takes its time
    whole = request(tmp_path / "whole", trials=count, sampler=kind, scheduler="none", epochs=2)
    one = begin(whole)
    play(one, whole, score)
    parts = request(tmp_path / "parts", trials=count, sampler=kind, scheduler="none", epochs=2)
    other = begin(parts)
    for _ in range(8):
        play(other, parts, score, trials=3)
        other = reopened(other)
    assert len(one.proposals) == count
    assert settings(other) == settings(one)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_samplers_stay_inside_the_ranges_and_repeat_nothing(tmp_path, kind):
    asked = request(tmp_path / "s", trials=32, sampler=kind, epochs=2)
    study = begin(asked)
    play(study, asked, score)
    for name, method in asked.space.methods.items():
        drawn = [p.config for p in study.of("search", name)]
        assert len(drawn) == 8
        assert len({tuple(sorted(config.items())) for config in drawn}) == 8
        for config in drawn:
            assert config.keys() == method.ranges.keys()
            for key, (low, high, _) in space.bounds(method.ranges).items():
                assert low <= config[key] <= high
    assert any(p.origin == "sampled" for p in study.of("search"))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_choices_and_whole_numbers_are_sampled_as_what_they_are(tmp_path, kind):
    ranges = {"kind": space.choice("a", "b"), "depth": space.integer(1, 3), "on": space.choice(True, False)}  # fmt: skip

    def stages(chosen, *, kind, depth, on, **training):
        return methods.no_kd(chosen, **training)

    base = spaces.load("digits_kd")[0].methods["no_kd"]
    method = space.Method(
        stages=stages,
        ranges={**base.ranges, **ranges},
        textbook={**base.textbook, "kind": "a", "depth": 2, "on": True},
    )
    asked = request(tmp_path / "s", methods={"m": method}, trials=7, epochs=1, sampler=kind)
    study = begin(asked)
    play(study, asked, lambda p, step: 0.1 * p.config["depth"] + 0.5 * (p.config["kind"] == "b"))
    for proposal in reopened(study).of("search"):
        assert proposal.config["kind"] in ("a", "b")
        assert proposal.config["depth"] in (1, 2, 3)
        assert type(proposal.config["depth"]) is int
        assert type(proposal.config["on"]) is bool
    rows = study.ranked("m")
    assert {type(r["config.depth"]) for r in rows} == {int}
    assert {type(r["config.on"]) for r in rows} == {bool}


def test_another_seed_proposes_other_values_and_methods_do_not_share_theirs(tmp_path):
    drawn = {}
    for seed in (0, 1):
        asked = request(tmp_path / str(seed), trials=12, epochs=1, seed=seed, sampler="random")
        study = begin(asked)
        play(study, asked, score)
        drawn |= {(seed, n): p.config["lr"] for n, p in study.proposals.items() if p.number}
    assert len(set(drawn.values())) == len(drawn) == 16


def test_the_sampler_hears_how_the_others_ended(tmp_path):
    study_of = {}
    for name, worse in (("up", 1), ("down", -1)):
        asked = request(tmp_path / name, trials=40, epochs=1, scheduler="none")
        study_of[name] = begin(asked)
        play(study_of[name], asked, lambda p, s, sign=worse: 0.5 + sign * 0.1 * p.config["dropout"])

    def mean(name):
        found = [p.config["dropout"] for p in study_of[name].of("search") if p.origin == "sampled"]
        return sum(found) / len(found)

    assert mean("up") > 0.15 > mean("down")


# Rungs and the judge


def test_rungs():
    assert rungs(9) == [3]
    assert rungs(10) == [4]
    assert rungs(100) == [34]
    assert rungs(2) == [1]
    assert rungs(1) == []
    assert rungs(9, first=9) == []


def test_with_step_decay_no_rung_comes_before_the_first_decay(tmp_path):
    step = {"schedule": "step", "decay_at": (0.5, 0.75), "epochs": 20}
    assert opening.study_rungs(request(tmp_path, **step).space, "asha") == [11]
    assert opening.study_rungs(request(tmp_path, **step).space, "none") == []
    early = {"schedule": "step", "decay_at": (0.2,), "epochs": 20}
    assert opening.study_rungs(request(tmp_path, **early).space, "asha") == [7]
    cosine = {"schedule": "cosine", "decay_at": (0.5,), "epochs": 20}
    assert opening.study_rungs(request(tmp_path, **cosine).space, "asha") == [7]


def judged(tmp_path, **changes):
    asked = request(tmp_path / "s", **changes)
    study = begin(asked)
    plan = made_study.plan(study, asked)
    return study, plan, Judge(study, at=study.manifest["rungs"])


def run(study, judge, proposal, score, *, upto=3):
    """Its epochs one by one; whether it was stopped."""
    for step in range(1, upto + 1):
        if judge.hear(proposal.trial, heard(row(study, proposal, step, score))):
            return True
    return False


def test_the_best_third_of_a_method_goes_on(tmp_path):
    study, plan, judge = judged(tmp_path, trials=40)
    scores = [0.5, 0.4, 0.6, 0.5, 0.55, 0.9, 0.56]  # textbook first
    # the cutoff is the 67th percentile of those that came to the rung before:
    # -, .5, .4667, .5333, .5, .5333, .5667
    stopped = [False, True, False, True, False, False, True]
    found = []
    while len(found) < len(scores):
        proposal = plan.next()
        if proposal.method == "response":
            found.append(run(study, judge, proposal, scores[len(found)]))
    assert found == stopped
    reasons = {t: v[-1]["reason"] for t, v in study.verdicts.items() if "response" in t}
    assert reasons["response-r0-0001"] == "rung 3: 0.4000 is below 0.5000, of 1 trials"
    assert reasons["response-r0-0006"] == "rung 3: 0.5600 is below 0.5667, of 6 trials"
    assert study.counts("search") == {"stopped": 3}


def test_rungs_belong_to_one_method(tmp_path):
    study, plan, judge = judged(tmp_path, trials=12)
    proposals = [plan.next() for _ in range(8)]
    for proposal in proposals[:4]:
        high = proposal.method == "no_kd"
        assert not run(study, judge, proposal, 0.9 if high else 0.1)
    assert {p.method: run(study, judge, p, 0.5) for p in proposals[4:]} == {
        "no_kd": True, "response": False, "feature": False, "combined": False,
    }  # fmt: skip


def test_the_textbook_is_never_stopped_even_when_it_comes_last_and_is_worst(tmp_path):
    study, plan, judge = judged(tmp_path, methods={"no_kd": request(tmp_path).space.methods["no_kd"]})  # fmt: skip
    proposals = [plan.next() for _ in range(4)]
    for proposal in proposals[1:]:
        run(study, judge, proposal, 0.8)
    assert not run(study, judge, proposals[0], 0.1, upto=9)
    assert proposals[0].trial not in study.verdicts


def test_no_trial_is_stopped_in_its_last_epoch(tmp_path):
    study, plan, _ = judged(tmp_path, trials=8, epochs=3)
    judge = Judge(study, at=[3])
    proposals = [plan.next() for _ in range(8)]
    assert not any(run(study, judge, p, 0.9 - 0.1 * p.number) for p in proposals)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_score_that_is_no_number_fails_the_trial(tmp_path, bad):
    study, plan, judge = judged(tmp_path)
    proposal = plan.next()
    assert not run(study, judge, proposal, 0.5, upto=1)
    assert judge.hear(proposal.trial, heard(row(study, proposal, 2, bad)))
    (verdict,) = study.verdicts[proposal.trial]
    assert (verdict["status"], verdict["epochs"]) == ("failed", 2)
    assert verdict["reason"] == f"val_accuracy is {bad}"
    assert [t.state.name for t in study.optuna_trials(proposal.method)] == ["FAIL"]
    assert reopened(study).verdicts[proposal.trial][0]["status"] == "failed"


def test_an_exception_is_a_failed_row_and_a_lost_marker_ends_the_run(tmp_path):
    study, plan, judge = judged(tmp_path)
    one, other = plan.next(), plan.next()
    assert judge.hear(one.trial, {"error": "ValueError: no", "fatal": False})
    assert study.verdicts[one.trial][0]["reason"] == "ValueError: no"
    assert not judge.fatal
    assert judge.hear(other.trial, {"error": "name --out", "fatal": True})
    assert judge.fatal == "name --out"
    assert other.trial not in study.verdicts


def test_a_repeated_row_is_not_judged_twice(tmp_path):
    study, plan, judge = judged(tmp_path, trials=12)
    first, second = [plan.next() for _ in range(5)][::4]
    assert (first.method, second.method) == ("no_kd", "no_kd")
    assert not run(study, judge, second, 0.5)  # alone in its rung
    assert not run(study, judge, first, 0.9)  # now it would be below the cutoff
    assert not judge.hear(second.trial, heard(row(study, second, 3, 0.5)))
    assert judge._rungs["no_kd", 3] == {second.trial: 0.5, first.trial: 0.9}
    assert len(study.rows[second.trial]) == 3
    assert not judge.hear(second.trial, heard(row(study, second, 4, 0.5)))


def test_the_last_row_before_a_kill_is_judged_by_the_next_driver(tmp_path):
    study, plan, judge = judged(tmp_path, trials=12)
    first, second = [plan.next() for _ in range(5)][::4]
    made_study.commit(study, [row(study, first, n, 0.9) for n in range(1, 5)])
    made_study.commit(study, [row(study, second, n, 0.1) for n in range(1, 4)])
    again = reopened(study)  # neither was heard of
    assert (again.judged[first.trial], again.judged[second.trial]) == (3, 2)
    judge = Judge(again, at=[3])
    assert judge._rungs["no_kd", 3] == {first.trial: 0.9}
    assert judge.hear(second.trial, heard(row(again, second, 3, 0.1)))
    assert again.verdicts[second.trial][0]["status"] == "stopped"


def test_rows_that_the_driver_missed_are_read_from_disk(tmp_path):
    study, plan, judge = judged(tmp_path)
    proposal = plan.next()
    rows = [row(study, proposal, n, 0.1 * n) for n in range(1, 5)]
    made_study.commit(study, rows)
    assert not judge.hear(proposal.trial, heard(rows[3]))
    assert [r["step"] for r in study.rows[proposal.trial]] == [1, 2, 3, 4]
    assert judge._rungs[proposal.method, 3] == {proposal.trial: pytest.approx(0.3)}


def test_rungs_rebuilt_from_disk_equal_those_in_memory(tmp_path):
    asked = request(tmp_path / "s", trials=40)
    study = begin(asked)
    judge = play(study, asked, score)
    again = reopened(study)
    assert dict(Judge(again, at=study.manifest["rungs"])._rungs) == dict(judge._rungs)
    assert {t.state.name for t in study.optuna_trials("response")} >= {"PRUNED", "COMPLETE"}
    study.merge()
    assert dict(Judge(reopened(study), at=[3])._rungs) == dict(judge._rungs)


def test_a_worker_that_died_three_times_is_a_failed_trial_with_its_last_words(tmp_path):
    from tune_kd.ray_hooks import PlanSearcher

    asked = request(tmp_path / "s")
    study = begin(asked)
    searcher = PlanSearcher(study, made_study.plan(study, asked), base={"x": 1})
    configs = [searcher.suggest(str(n)) for n in range(2)]
    assert configs[0]["x"] == 1
    study.storage.write(f"checkpoints/{configs[0]['trial']}/error.txt", b"OSError: disk full")
    for n in range(2):
        searcher.on_trial_complete(str(n), error=True)
    reasons = [study.verdicts[c["trial"]][0]["reason"] for c in configs]
    assert reasons == [
        "OSError: disk full; tried three times",
        "its worker or its node died; tried three times",
    ]
    assert not study.storage.exists(f"checkpoints/{configs[0]['trial']}")
