"""Which trial runs next, and that it follows from the record alone."""

from dataclasses import replace

import pytest

from tests.helpers import made_study
from tests.helpers.made_study import begin, play, reopened, request, uneven_score
from tune_kd.space import loader
from tune_kd.study.proposal import Proposal
from tune_kd.study.trial_names import search_trial
from tune_kd.tuning.search_plan import FixedPlan
from tune_kd.workflows.options import SAMPLERS


def settings(study) -> dict[str, dict]:
    return {name: dict(p.config) for name, p in sorted(study.proposals.items())}


# Plans


def test_methods_take_turns_and_get_equal_counts(tmp_path):
    asked = request(tmp_path / "s", trials=10, epochs=1)
    study = begin(asked)
    play(study, asked, uneven_score)
    names = list(asked.space.methods)
    assert list(study.proposals) == [search_trial(m, 0, n) for n in range(3) for m in names]
    assert study.counts("search").total() == 12


def two_methods():
    return {name: loader.load("digits_kd")[0].methods[name] for name in ("no_kd", "response")}


def several(folder, *, repeats, **changes):
    """Searches of two methods, five trials each."""
    given = {"methods": two_methods(), "trials": 10 * repeats, "epochs": 1, **changes}
    return request(folder, repeats=repeats, **given)


def test_repeats_are_searched_in_order(tmp_path):
    asked = several(tmp_path / "s", repeats=3)
    study = begin(asked)
    play(study, asked, uneven_score)
    assert list(study.proposals) == [
        search_trial(method, repeat, number)
        for repeat in range(3)
        for number in range(5)
        for method in asked.space.methods
    ]
    assert study.counts("search").total() == study.manifest.trials == 30


def test_a_search_that_waits_for_two_trials_is_passed_over_and_no_slot_is_idle(tmp_path):
    asked = several(tmp_path / "s", repeats=3)
    study = begin(asked)
    plan = made_study.plan(study, asked)
    found = [plan.next() for _ in range(12)]  # of a machine with twelve slots
    assert [(p.repeat, p.number, p.method) for p in found] == [
        (repeat, number, method)
        for repeat in range(3)
        for number in range(2)
        for method in ("no_kd", "response")
    ]
    # all searches wait: the earliest goes on all the same
    assert [plan.next().trial for _ in range(2)] == ["no_kd-r0-0002", "response-r0-0002"]
    study.end("response-r1-0000", "failed", "made")
    assert plan.next().trial == "response-r1-0002"  # it has room now
    study.end("no_kd-r0-0001", "failed", "made")
    assert plan.next().trial == "no_kd-r0-0003"  # it waits for two; still the earliest
    rest = 0
    while plan.next() is not None:
        rest += 1
    assert len(study.proposals) == 30 == 16 + rest


def test_a_machine_with_few_slots_ends_a_repeat_before_it_starts_the_next(tmp_path):
    asked = several(tmp_path / "s", repeats=3)
    study = begin(asked)
    plan = made_study.plan(study, asked)
    running = [plan.next() for _ in range(4)]
    repeats = [p.repeat for p in running]
    while running:
        study.end(running.pop(0).trial, "failed", "made")
        if (proposal := plan.next()) is not None:
            running.append(proposal)
            repeats.append(proposal.repeat)
    assert repeats == sorted(repeats)
    assert len(repeats) == 30


def plain_rows(study):
    """Verdicts and epochs without times."""
    aside = {"started", "ended", "study"}
    verdicts = {t: [{k: v for k, v in r.items() if k not in aside} for r in rows] for t, rows in study.outcomes.items()}  # fmt: skip
    epochs = {t: [{k: v for k, v in r.items() if k not in aside} for r in rows] for t, rows in study.rows.items()}  # fmt: skip
    return verdicts, epochs


def test_more_repeats_change_no_earlier_row_or_proposal(tmp_path):
    asked = several(tmp_path / "s", repeats=3, epochs=3)
    study = begin(asked)
    play(study, asked, uneven_score)
    study = reopened(study)
    proposals, rows = dict(study.proposals), plain_rows(study)
    more = replace(asked, repeats=5)  # as --resume --repeats 5
    again = reopened(study)
    play(again, more, uneven_score)
    again = reopened(again)
    assert again.repeats == 5
    assert {t: again.proposals[t] for t in proposals} == proposals
    for before, after in zip(rows, plain_rows(again), strict=True):
        assert {t: after[t] for t in before} == before
    added = [p for p in again.of("search") if p.trial not in proposals]
    assert [(p.repeat, p.number) for p in added] == [
        (repeat, number) for repeat in (3, 4) for number in range(5) for _ in range(2)
    ]
    # and it is the study that was asked for five times at first
    whole = several(tmp_path / "whole", repeats=5, epochs=3)
    other = begin(whole)
    play(other, whole, uneven_score)
    assert plain_rows(reopened(other)) == plain_rows(again)
    # the command that began the study goes on with what it has become
    play(again, asked, uneven_score)
    assert again.counts("search").total() == 50


def test_a_total_of_more_trials_is_more_repeats(tmp_path):
    asked = several(tmp_path / "s", repeats=3)
    study = begin(asked)
    play(study, asked, uneven_score, trials=7)
    more = several(tmp_path / "s", repeats=3, trials=41)
    again = reopened(study)
    play(again, replace(more, trials=41), uneven_score)
    assert again.counts("search").total() == 50  # rounded up to whole repeats
    assert again.repeats == 5


@pytest.mark.parametrize("stop", [1, 24])
def test_a_search_that_is_broken_off_in_any_repeat_goes_on_as_if_it_had_not(tmp_path, stop):
    asked = several(tmp_path / "s", repeats=3, epochs=3)
    study = begin(asked)
    play(study, asked, uneven_score, trials=stop)
    lost = made_study.plan(study, asked).next()  # proposed, then killed
    again = reopened(study)
    play(again, asked, uneven_score)
    whole = several(tmp_path / "whole", repeats=3, epochs=3)
    other = begin(whole)
    play(other, whole, uneven_score)
    assert lost.trial in again.outcomes
    one, another = plain_rows(reopened(again)), plain_rows(reopened(other))
    assert one == another


def test_repeats_propose_other_values_and_begin_with_other_weights(tmp_path):
    asked = several(tmp_path / "s", repeats=3, trials=48, scheduler="none")  # eight each
    study = begin(asked)
    play(study, asked, uneven_score)
    found = study.of("search", "response")
    by_origin = {
        kind: [p for p in found if p.origin == kind]
        for kind in ("default", "published", "random", "sampled")
    }
    for kind in ("random", "sampled"):
        values = [p.config["lr"] for p in by_origin[kind]]
        assert len(values) >= 6
        assert len(set(values)) == len(values)
    for kind in ("default", "published"):  # the same settings in each repeat
        assert len(by_origin[kind]) == 3
        assert len({tuple(p.config.items()) for p in by_origin[kind]}) == 1
    seeds = {p.repeat: p.seed for p in study.of("search")}
    assert len(set(seeds.values())) == 3
    assert seeds[0] == study.manifest.seed
    assert all(p.seed == seeds[p.repeat] for p in study.of("search"))
    # views and batch order are the study's
    images = {p.recipe.images for p in study.of("search")}
    assert {i.view_seed for i in images} == {study.manifest.seed}
    assert len(images) == 1


def test_an_unfinished_trial_is_proposed_again_before_new_ones(tmp_path):
    asked = request(tmp_path / "s")
    study = begin(asked)
    play(study, asked, uneven_score, trials=5)
    plan = made_study.plan(study, asked)
    lost = [plan.next(), plan.next()]
    again = made_study.plan(reopened(study), asked)
    assert {p.trial: p for p in (again.next(), again.next())} == {p.trial: p for p in lost}
    assert again.next().trial not in {p.trial for p in lost}


def test_a_fixed_plan_leaves_out_what_has_its_verdict(tmp_path):
    asked = request(tmp_path / "s", epochs=1, trials=8)
    study = begin(asked)
    play(study, asked, uneven_score, trials=2)
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
    play(one, whole, uneven_score)
    parts = request(tmp_path / "parts", trials=count, sampler=kind, scheduler="none", epochs=2)
    other = begin(parts)
    for _ in range(8):
        play(other, parts, uneven_score, trials=3)
        other = reopened(other)
    assert len(one.proposals) == count
    assert settings(other) == settings(one)


def test_another_seed_proposes_other_values_and_methods_share_random_ones(tmp_path):
    drawn = {}
    for seed in (0, 1):
        asked = request(tmp_path / str(seed), trials=12, epochs=1, seed=seed, sampler="random")
        study = begin(asked)
        play(study, asked, uneven_score)
        drawn |= {(seed, p.number, p.method): p.config["lr"] for p in study.proposals.values() if p.number}  # fmt: skip
    assert len(drawn) == 16
    by_number = {key[:2]: value for key, value in drawn.items()}
    assert {key: by_number[key[:2]] for key in drawn} == drawn  # whatever the method
    assert len(set(by_number.values())) == len(by_number) == 4


def test_a_worker_that_died_three_times_is_a_failed_trial_with_its_last_words(tmp_path):
    from tune_kd.execution.ray_adapters import PlanSearcher

    asked = request(tmp_path / "s")
    study = begin(asked)
    searcher = PlanSearcher(study, made_study.plan(study, asked), base={"x": 1})
    configs = [searcher.suggest(str(n)) for n in range(2)]
    assert configs[0]["x"] == 1
    study.storage.write(f"checkpoints/{configs[0]['trial']}/error.txt", b"OSError: disk full")
    for n in range(2):
        searcher.on_trial_complete(str(n), error=True)
    reasons = [study.outcomes[c["trial"]][0]["reason"] for c in configs]
    assert reasons == [
        "OSError: disk full; tried three times",
        "its worker or its node died; tried three times",
    ]
    assert not study.storage.exists(f"checkpoints/{configs[0]['trial']}")
