"""Which trial runs next, and that it follows from the record alone."""

from dataclasses import replace

import pytest

from tests.helpers import made_study
from tests.helpers.made_study import begin, play, reopen, uneven_score
from tune_kd.space import loader
from tune_kd.study.proposal import Proposal
from tune_kd.study.trial_names import search_trial
from tune_kd.tuning.search_plan import FixedPlan
from tune_kd.workflows.options import SAMPLERS


def settings(study) -> dict[str, dict]:
    return {name: dict(p.config) for name, p in sorted(study.proposals.items())}


# Plans


def test_methods_take_turns_and_get_equal_counts(tmp_path):
    request = made_study.request(tmp_path / "s", trials=10, epochs=1)
    study = begin(request)
    play(study, request, uneven_score)
    names = list(request.space.methods)
    assert list(study.proposals) == [search_trial(m, 0, n) for n in range(3) for m in names]
    assert study.counts("search").total() == 12


def two_methods():
    return {name: loader.load("digits_kd")[0].methods[name] for name in ("no_kd", "response")}


def two_method_request(folder, *, repeats, **changes):
    """Searches of two methods, five trials each."""
    fields = {"methods": two_methods(), "trials": 10 * repeats, "epochs": 1, **changes}
    return made_study.request(folder, repeats=repeats, **fields)


def test_repeats_are_searched_in_order(tmp_path):
    request = two_method_request(tmp_path / "s", repeats=3)
    study = begin(request)
    play(study, request, uneven_score)
    assert list(study.proposals) == [
        search_trial(method, repeat, number)
        for repeat in range(3)
        for number in range(5)
        for method in request.space.methods
    ]
    assert study.counts("search").total() == study.manifest.trials == 30


def test_a_search_that_waits_for_two_trials_is_passed_over_and_no_slot_is_idle(tmp_path):
    request = two_method_request(tmp_path / "s", repeats=3)
    study = begin(request)
    plan = made_study.plan(study, request)
    proposals = [plan.next() for _ in range(12)]  # of a machine with twelve slots
    assert [(p.repeat, p.number, p.method) for p in proposals] == [
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
    count = 0
    while plan.next() is not None:
        count += 1
    assert len(study.proposals) == 30 == 16 + count


def test_a_machine_with_few_slots_ends_a_repeat_before_it_starts_the_next(tmp_path):
    request = two_method_request(tmp_path / "s", repeats=3)
    study = begin(request)
    plan = made_study.plan(study, request)
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
    return tuple(
        {
            trial: [{k: v for k, v in row.items() if k not in aside} for row in rows]
            for trial, rows in by_trial.items()
        }
        for by_trial in (study.outcomes, study.rows)
    )


def test_more_repeats_change_no_earlier_row_or_proposal(tmp_path):
    request = two_method_request(tmp_path / "s", repeats=3, epochs=3)
    study = begin(request)
    play(study, request, uneven_score)
    study = reopen(study)
    proposals, rows = dict(study.proposals), plain_rows(study)
    longer_request = replace(request, repeats=5)  # as --resume --repeats 5
    reopened_study = reopen(study)
    play(reopened_study, longer_request, uneven_score)
    reopened_study = reopen(reopened_study)
    assert reopened_study.repeats == 5
    assert {t: reopened_study.proposals[t] for t in proposals} == proposals
    for before, after in zip(rows, plain_rows(reopened_study), strict=True):
        assert {t: after[t] for t in before} == before
    later_proposals = [p for p in reopened_study.of("search") if p.trial not in proposals]
    assert [(p.repeat, p.number) for p in later_proposals] == [
        (repeat, number) for repeat in (3, 4) for number in range(5) for _ in range(2)
    ]
    # and it is the study that was asked for five times at first
    whole_request = two_method_request(tmp_path / "whole", repeats=5, epochs=3)
    whole_study = begin(whole_request)
    play(whole_study, whole_request, uneven_score)
    assert plain_rows(reopen(whole_study)) == plain_rows(reopened_study)
    # the command that began the study goes on with what it has become
    play(reopened_study, request, uneven_score)
    assert reopened_study.counts("search").total() == 50


def test_a_total_of_more_trials_is_more_repeats(tmp_path):
    request = two_method_request(tmp_path / "s", repeats=3)
    study = begin(request)
    play(study, request, uneven_score, trials=7)
    longer_request = two_method_request(tmp_path / "s", repeats=3, trials=41)
    reopened_study = reopen(study)
    play(reopened_study, replace(longer_request, trials=41), uneven_score)
    assert reopened_study.counts("search").total() == 50  # rounded up to whole repeats
    assert reopened_study.repeats == 5


@pytest.mark.parametrize("stop", [1, 24])
def test_a_search_that_is_broken_off_in_any_repeat_goes_on_as_if_it_had_not(tmp_path, stop):
    request = two_method_request(tmp_path / "s", repeats=3, epochs=3)
    study = begin(request)
    play(study, request, uneven_score, trials=stop)
    lost_proposal = made_study.plan(study, request).next()  # proposed, then killed
    reopened_study = reopen(study)
    play(reopened_study, request, uneven_score)
    whole_request = two_method_request(tmp_path / "whole", repeats=3, epochs=3)
    whole_study = begin(whole_request)
    play(whole_study, whole_request, uneven_score)
    assert lost_proposal.trial in reopened_study.outcomes
    resumed_rows, whole_rows = plain_rows(reopen(reopened_study)), plain_rows(reopen(whole_study))
    assert resumed_rows == whole_rows


def test_repeats_propose_other_values_and_begin_with_other_weights(tmp_path):
    # eight trials of each method and repeat
    request = two_method_request(tmp_path / "s", repeats=3, trials=48, scheduler="none")
    study = begin(request)
    play(study, request, uneven_score)
    proposals = study.of("search", "response")
    by_origin = {
        kind: [p for p in proposals if p.origin == kind]
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
    request = made_study.request(tmp_path / "s")
    study = begin(request)
    play(study, request, uneven_score, trials=5)
    plan = made_study.plan(study, request)
    lost_proposals = [plan.next(), plan.next()]
    reopened_plan = made_study.plan(reopen(study), request)
    assert {p.trial: p for p in (reopened_plan.next(), reopened_plan.next())} == {
        p.trial: p for p in lost_proposals
    }
    assert reopened_plan.next().trial not in {p.trial for p in lost_proposals}


def test_a_fixed_plan_leaves_out_what_has_its_verdict(tmp_path):
    request = made_study.request(tmp_path / "s", epochs=1, trials=8)
    study = begin(request)
    play(study, request, uneven_score, trials=2)
    proposals = [study.proposals["no_kd-r0-0000"], study.proposals["response-r0-0000"]]
    new_proposal = Proposal(
        trial="confirm-x",
        phase="confirm",
        method="no_kd",
        number=0,
        seed=1000,
        origin="best",
        recipe=proposals[0].recipe,
    )
    plan = FixedPlan(study, [*proposals, new_proposal])
    assert plan.next().trial == "confirm-x"
    assert plan.next() is None
    assert "confirm-x" in reopen(study).proposals


# Proposals are a pure function of the record


@pytest.mark.parametrize("kind", SAMPLERS)
def test_the_same_record_gives_the_same_proposals_whenever_it_is_opened(tmp_path, kind):
    count = 16 if kind == "gp" else 24  # it takes its time
    whole_request = made_study.request(
        tmp_path / "whole", trials=count, sampler=kind, scheduler="none", epochs=2
    )
    whole_study = begin(whole_request)
    play(whole_study, whole_request, uneven_score)
    parts_request = made_study.request(
        tmp_path / "parts", trials=count, sampler=kind, scheduler="none", epochs=2
    )
    parts_study = begin(parts_request)
    for _ in range(8):
        play(parts_study, parts_request, uneven_score, trials=3)
        parts_study = reopen(parts_study)
    assert len(whole_study.proposals) == count
    assert settings(parts_study) == settings(whole_study)


def test_another_seed_proposes_other_values_and_methods_share_random_ones(tmp_path):
    rates = {}
    for seed in (0, 1):
        request = made_study.request(
            tmp_path / str(seed), trials=12, epochs=1, seed=seed, sampler="random"
        )
        study = begin(request)
        play(study, request, uneven_score)
        proposals = [p for p in study.proposals.values() if p.number]
        rates |= {(seed, p.number, p.method): p.config["lr"] for p in proposals}
    assert len(rates) == 16
    by_number = {key[:2]: value for key, value in rates.items()}
    assert {key: by_number[key[:2]] for key in rates} == rates  # whatever the method
    assert len(set(by_number.values())) == len(by_number) == 4


def test_a_worker_that_died_three_times_is_a_failed_trial_with_its_last_words(tmp_path):
    from tune_kd.execution.ray_adapters import PlanSearcher

    request = made_study.request(tmp_path / "s")
    study = begin(request)
    searcher = PlanSearcher(study, made_study.plan(study, request), base={"x": 1})
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
