"""A study is what lies on disk: proposals, rows and verdicts, and what Optuna is told of them."""

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from tests.helpers import made_images, made_study, making
from tests.helpers.made_study import begin, play, reopen, request, row
from tune_kd.data import tasks
from tune_kd.errors import UsageError
from tune_kd.recipe import Compute
from tune_kd.space import Method, distributions, loader, methods, overrides
from tune_kd.study import manifest, results
from tune_kd.study.manifest import differences
from tune_kd.study.proposal import dump, parse
from tune_kd.study.storage import Storage, lock_study
from tune_kd.study.study import Study
from tune_kd.training import context
from tune_kd.workflows import checks


def score(proposal, step):
    """response-r0-0001 breaks in epoch 2; other trials get better, by their number."""
    if proposal.trial == "response-r0-0001" and step == 2:
        return None
    return 0.5 + 0.1 * (step - 9) / 9 - (0.01 * proposal.number if proposal.number < 5 else -0.1)


@pytest.fixture
def search_request(tmp_path):
    return request(tmp_path / "s")


@pytest.fixture(scope="module")
def module_study(tmp_path_factory) -> Study:
    """A study of 24 trials that all have their verdict, played once for all tests."""
    search_request = request(tmp_path_factory.mktemp("played") / "s")
    study = begin(search_request)
    play(study, search_request, score)
    return study


@pytest.fixture
def study(module_study, tmp_path) -> Study:
    """All 24 trials have their verdict: a copy of the folder, and of what its driver remembers."""
    shutil.copytree(module_study.storage.local, tmp_path / "s")
    study = copy.deepcopy(module_study)
    study.storage = Storage(tmp_path / "s")
    return study


def verdicts(study: Study) -> dict[str, tuple]:
    columns = ("status", "reason", "epochs", "val_accuracy")
    return {
        trial: tuple(rows[-1][name] for name in columns)
        for trial, rows in study.outcomes.items()
        if rows[-1]["phase"] == "search"
    }


def known_rows(study: Study) -> dict[str, list[dict]]:
    """Rows without nulls: those heard of name only what they have."""
    return {
        t: [{k: v for k, v in r.items() if v is not None} for r in rows]
        for t, rows in study.rows.items()
    }


# What a search begins with


def test_the_manifest_says_what_was_asked_for(search_request):
    spec = begin(search_request).manifest
    assert spec.schema == results.SCHEMA_VERSION
    assert (spec.study, spec.space, spec.seed) == ("s", "digits_kd", 0)
    assert (spec.epochs, spec.trials, spec.rungs) == (9, 24, (5,))
    assert (spec.repeats, spec.trials_per_repeat) == (1, 6)
    assert (spec.margin, spec.random_start) == (0.005, 2)
    assert (
        spec.methods["response"].defaults == search_request.space.methods["response"].settings()[0]
    )
    assert spec.methods["response"].bounds["temperature"] == (1.0, 20.0, True)
    assert spec.methods["no_kd"].ranges["lr"] == "0.01 .. 0.5 log"
    assert spec.compute == Compute(precision="float32", layout="contiguous")
    assert search_request.storage.read("marker").decode() == spec.marker
    assert set(spec.config_types) == {
        "lr",
        "weight_decay",
        "dropout",
        "alpha",
        "beta",
        "gamma",
        "temperature",
    }
    assert reopen(begin(search_request)).outcomes.keys() == {"measure-teacher", "measure-student"}


def test_the_manifest_says_how_many_repeats_of_how_many_trials_there_are(tmp_path):
    existing = begin(request(tmp_path / "s", trials=97, margin=0.01)).manifest
    assert (existing.repeats, existing.trials_per_repeat, existing.trials) == (5, 5, 100)
    assert (existing.margin, existing.random_start) == (0.01, 2)
    requested = checks.specify(
        request(tmp_path / "s", trials=400, margin=0.02), made_study.dataset()
    )
    assert differences(existing, requested) == []  # neither changes a trial


@pytest.mark.parametrize(
    ("share", "own_validation", "rule", "held_out"),
    [
        (0.0, False, "max(n / 10, min(2,000, 3 n / 10)) of n training images", 377),
        (0.1, False, "0.1 of the training images", 126),
        (0.0, True, "the data set's own validation images", 100),
    ],
)
def test_the_manifest_says_which_images_validate(tmp_path, share, own_validation, rule, held_out):
    search_request = request(tmp_path / "s", val_share=share)
    images = replace(made_study.dataset(), own_validation=True)
    if not own_validation:
        images = checks.prepare_data(search_request)
        assert images.images.val_share == share
        split = context.device_split(images.images, making.context_in(tmp_path), "contiguous")
        assert len(split.validation) == held_out
    existing = begin(search_request, images).manifest
    assert existing.validation_rule == rule
    assert existing.num_val == held_out
    # another share is another study
    requested = checks.specify(request(tmp_path / "s", val_share=0.25), images)
    assert any("val_share" in line for line in differences(existing, requested))


def test_a_share_is_not_taken_where_the_data_set_says_which_images_validate(tmp_path):
    space, file = loader.load("camvid_seg_kd")
    folder = made_images.of_task(tasks.find("camvid"), tmp_path / "set")
    search_request = request(tmp_path / "s", space=space, file=file, data=folder)
    images = checks.prepare_data(search_request)
    assert images.own_validation
    assert (
        begin(search_request, images).manifest.validation_rule
        == "the data set's own validation images"
    )
    search_request = replace(search_request, space=replace(space, val_share=0.2))
    with pytest.raises(UsageError, match=r"val_share=0.2: task camvid .* of its own.* val_share=0"):
        checks.prepare_data(search_request)


def test_ranges_survive_the_manifest(search_request):
    study = reopen(begin(search_request))
    for name, method in search_request.space.methods.items():
        assert study.distributions(name) == dict(method.ranges)


def test_a_study_of_another_schema_is_refused(search_request):
    study = begin(search_request)
    manifest.write(search_request.storage, replace(study.manifest, schema=1))
    with pytest.raises(UsageError, match="schema 1, this program writes 4"):
        reopen(study)


def test_differences_are_none_of_the_same_request_and_named_of_others(search_request, tmp_path):
    existing = reopen(begin(search_request)).manifest
    requested = made_study.checks.specify(search_request, made_study.dataset())
    assert differences(existing, requested) == []
    for changes, line in [
        ({"seed": 1}, "seed is 0 in the existing study, 1 requested"),
        ({"epochs": 8}, "settings.student.epochs is 9 in the existing study, 8 requested"),
        ({"sampler": "gp"}, "sampler is 'tpe' in the existing study, 'gp' requested"),
        ({"space": overrides.change(search_request.space, ["temperature=4"])}, "methods.combined"),
    ]:
        if "space" in changes:
            other_request = replace(search_request, **changes)
        else:
            other_request = request(tmp_path, **changes)
        other = made_study.checks.specify(other_request, made_study.dataset())
        lines = differences(existing, other)
        assert lines
        assert lines[0].startswith(line)
    change = replace(
        search_request,
        space=replace(search_request.space, trials=80, tables=("x",)),
        command="other",
    )
    assert differences(existing, made_study.checks.specify(change, made_study.dataset())) == []
    images = replace(made_study.dataset(), images=replace(made_study.IMAGES, train_hash="other"))
    assert differences(existing, made_study.checks.specify(search_request, images)) == [
        "images.train_hash is 'made' in the existing study, 'other' requested"
    ]


# Proposals


def test_proposals_survive_the_disk(search_request):
    study = begin(search_request)
    plan = made_study.plan(study, search_request)
    proposals = [plan.next() for _ in range(6)]
    reopened_study = reopen(study)
    assert list(reopened_study.proposals.values()) == sorted(proposals, key=lambda p: p.trial)
    assert [parse(dump(p)) for p in proposals] == proposals
    assert {p.trial: p.recipe_id for p in proposals} == {
        t: p.recipe_id for t, p in reopened_study.proposals.items()
    }
    assert reopened_study.open_trials("search") == reopened_study.of("search")
    assert [p.number for p in reopened_study.of("search", "no_kd")] == [0, 1]
    assert reopened_study.of("confirm") == []


def test_a_trial_that_listens_to_no_teacher_does_not_name_it(search_request):
    study = begin(search_request)
    plan = made_study.plan(study, search_request)
    recipes = {p.method: p.recipe for p in (plan.next() for _ in range(4))}
    assert (recipes["no_kd"].teacher, recipes["no_kd"].teacher_model) == ("", "")
    for name in ("response", "feature", "combined"):
        assert recipes[name].teacher == "digits_teacher"
        assert recipes[name].teacher_model == study.manifest.teacher_model


# Verdicts


def test_everything_is_read_again_from_disk(study):
    reopened_study = reopen(study)
    assert verdicts(reopened_study) == verdicts(study)
    assert known_rows(reopened_study) == known_rows(study)
    assert reopened_study.counts("search") == study.counts("search")
    assert reopened_study.counts("search").total() == 24
    assert reopened_study.judged_epochs == study.judged_epochs
    for method in study.manifest.methods:
        assert reopened_study.best(method)["trial"] == study.best(method)["trial"]


def test_a_verdict_says_who_how_and_what(study):
    (row,) = reopen(study).outcomes["combined-r0-0000"]
    assert (row["status"], row["reason"], row["epochs"]) == ("finished", "", 9)
    assert (row["phase"], row["method"], row["number"]) == ("search", "combined", 0)
    assert (row["origin"], row["seed"], row["attempts"]) == ("default", 0, 1)
    assert (row["alpha"], row["beta"], row["gamma"], row["temperature"]) == (1.0, 0.7, 0.5, 4.0)
    assert row["seconds"] == 9.0
    assert row["config.temperature"] == 4.0
    assert row["val_accuracy"] == pytest.approx(0.5)
    assert row["test_accuracy"] is None
    assert row["fingerprint"] == study.proposals["combined-r0-0000"].recipe_id
    assert json.loads(row["recipe"])["student"] == "digits_student"
    assert json.loads(row["versions"]).keys() >= {"python", "torch", "ray", "optuna", "tune_kd"}
    assert row["started"]
    assert row["ended"]
    (plain,) = study.outcomes["no_kd-r0-0000"]
    assert (plain["alpha"], plain["beta"], plain["gamma"]) == (1.0, 0.0, 0.0)
    assert plain["temperature"] is None
    assert plain.get("config.temperature") is None


def test_a_failed_trial_keeps_what_it_reached(study):
    assert verdicts(study)["response-r0-0001"] == (
        "failed",
        "ValueError: made",
        1,
        pytest.approx(score(study.proposals["response-r0-0001"], 1)),
    )


def test_a_trial_that_failed_before_its_first_epoch_has_a_row(search_request):
    study = begin(search_request)
    made_study.plan(study, search_request).next()
    study.end("no_kd-r0-0000", "failed", "MemoryError: made")
    (row,) = reopen(study).outcomes["no_kd-r0-0000"]
    assert (row["status"], row["epochs"], row["stage"], row["attempts"]) == ("failed", 0, 0, 0)
    assert row["val_accuracy"] is None


def test_a_verdict_is_given_once(study):
    outcomes = dict(study.outcomes)
    study.end("combined-r0-0000", "failed", "no")
    assert study.outcomes == outcomes
    assert verdicts(reopen(study))["combined-r0-0000"][0] == "finished"


def test_a_stopped_trial_counts_what_was_judged(search_request):
    study = begin(search_request)
    proposal = made_study.plan(study, search_request).next()
    rows = [row(study, proposal, n, 0.1 * n) for n in (1, 2, 3)]
    made_study.commit(study, rows)
    for epoch_row in rows:
        study.on_report(epoch_row)
    study.judged_epochs[proposal.trial] = 2
    study.end(proposal.trial, "stopped", "made")
    assert verdicts(study)[proposal.trial] == ("stopped", "made", 2, 0.2)


def test_only_the_best_student_of_a_method_is_kept(search_request):
    study = begin(search_request)
    plan = made_study.plan(study, search_request)
    proposals = [p for p in (plan.next() for _ in range(12)) if p.method == "feature"]
    for proposal, value in zip(proposals, (0.5, 0.9, 0.7), strict=True):
        study.storage.write(f"students/{proposal.trial}.safetensors", b"x")
        study.storage.write(f"checkpoints/{proposal.trial}/00001.safetensors", b"x")
        study.on_report(row(study, proposal, 1, value))
        study.end(proposal.trial, "finished")
    assert study.storage.names("students") == ["feature-r0-0001.safetensors"]
    assert study.storage.names("checkpoints") == []
    assert [r["trial"] for r in study.ranking("feature")] == [
        "feature-r0-0001",
        "feature-r0-0002",
        "feature-r0-0000",
    ]


def test_a_recipe_of_two_stages_has_a_row_each(search_request):
    study = begin(search_request)
    proposal = made_study.plan(study, search_request).next()
    for step in (1, 2, 3):
        stage = int(step == 3)
        study.on_report(
            row(study, proposal, step, 0.1 * step, stage=stage, stage_name=f"Stage{stage}")
        )
    study.end(proposal.trial, "failed", "made")
    rows = reopen(study).outcomes[proposal.trial]
    assert [(r["stage"], r["stage_name"], r["status"], r["reason"]) for r in rows] == [
        (0, "Stage0", "finished", ""),
        (1, "Stage1", "failed", "made"),
    ]
    assert [(r["epochs"], r["seconds"]) for r in rows] == [(2, 2.0), (3, 3.0)]


# Optuna's view


def test_optuna_hears_of_stopped_failed_and_open_trials(search_request):
    study = begin(search_request)
    play(study, search_request, score, trials=23)
    open_trial = made_study.plan(study, search_request).next()
    assert open_trial.trial == "combined-r0-0005"
    states = {}
    for method in search_request.space.methods:
        trials = study.optuna_trials(method, repeat=0)
        proposals = study.of("search", method)
        assert [t.params for t in trials] == [dict(p.config) for p in proposals]
        states |= {p.trial: t for p, t in zip(proposals, trials, strict=True)}
    expected = {
        "finished": TrialState.COMPLETE,
        "stopped": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    for trial, (status, _, epochs, value) in verdicts(study).items():
        trials = states[trial]
        assert trials.state == expected[status]
        assert trials.value == (value if status == "finished" else None)
        assert list(trials.intermediate_values) == list(range(1, epochs + 1))
        assert trials.intermediate_values[epochs] == value
    assert states["combined-r0-0005"].state == TrialState.RUNNING
    assert {t.state for t in states.values()} == {*expected.values(), TrialState.RUNNING}
    reopened_study = reopen(study)
    for method in search_request.space.methods:
        trials = [each.optuna_trials(method, repeat=0) for each in (study, reopened_study)]
        for ours, theirs in zip(*trials, strict=True):
            # those of one trial are made at different times
            assert (ours.state, ours.value, ours.params, ours.intermediate_values) == (
                theirs.state,
                theirs.value,
                theirs.params,
                theirs.intermediate_values,
            )


@pytest.mark.parametrize("values", [(1, "a"), (0, 0.5)])
def test_a_mixed_choice_is_written_and_proposed_again(tmp_path, values):
    def stages(space, *, kind, **training):
        return methods.no_kd(space, **training)

    base = loader.load("digits_kd")[0].methods["no_kd"]
    method = Method(
        stages=stages,
        ranges={**base.ranges, "kind": distributions.choice(*values)},
        defaults={**base.defaults, "kind": values[0]},
    )
    search_request = request(tmp_path / "s", methods={"m": method}, trials=4, epochs=1)
    study = begin(search_request)
    play(study, search_request, lambda *_: 0.5)
    assert reopen(study).counts("search") == {"finished": 4}
    assert study.of("search", "m")[0].config["kind"] == values[0]


# Few files


def test_merging_a_study_changes_nothing_that_is_read(study):
    contents = verdicts(study), known_rows(study)
    study.merge()
    assert study.storage.names("trials") == ["merged-00001.parquet"]
    assert study.storage.names("epochs") == ["merged-00001.parquet"]
    reopened_study = reopen(study)
    assert (verdicts(reopened_study), known_rows(reopened_study)) == contents
    reopened_study.merge()
    assert reopened_study.storage.names("trials") == ["merged-00001.parquet"]


def test_epochs_of_open_trials_stay_in_their_files(search_request):
    study = begin(search_request)
    play(study, search_request, score, trials=4)
    open_trial = made_study.plan(study, search_request).next()
    made_study.commit(study, [row(study, open_trial, 1, 0.5)])
    study = reopen(study)
    study.merge()
    assert study.storage.names("epochs") == [
        "merged-00001.parquet",
        f"{open_trial.trial}.1-made.parquet",
    ]
    reopened_study = reopen(study)
    assert len(reopened_study.rows[open_trial.trial]) == 1
    play(reopened_study, search_request, score)
    reopened_study.merge()
    last_study = reopen(reopened_study)
    assert last_study.counts("search").total() == 24
    assert {t: len(rows) for t, rows in last_study.rows.items()} == {
        t: rows[-1]["epochs"] for t, rows in last_study.outcomes.items() if t in last_study.rows
    }


def test_merging_keeps_the_row_of_a_measurement(search_request):
    study = begin(search_request)
    play(study, search_request, score, trials=4)
    first = study.proposals["no_kd-r0-0000"]
    proposal = study.add(
        replace(
            first,
            trial="confirm-teacher",
            phase="confirm",
            method="",
            recipe=replace(first.recipe, stages=()),
        )
    )
    epoch_row = row(study, proposal, 0, 0.9, last=True, stage_name="Measure")
    made_study.commit(study, [epoch_row])
    study.on_report(epoch_row)
    study.end(proposal.trial, "finished")
    assert len(reopen(study).rows[proposal.trial]) == 1
    study.merge()
    assert len(reopen(study).rows.get(proposal.trial, [])) == 1


def test_merging_happens_now_and_then(search_request, monkeypatch):
    monkeypatch.setattr("tune_kd.study.study.MERGE_AT", 6)
    study = begin(search_request)
    play(study, search_request, score)
    assert len(study.storage.names("trials")) == 1
    assert study.storage.names("trials") == ["merged-00004.parquet"]
    assert verdicts(reopen(study)) == verdicts(study)


def test_cleaning_finishes_an_interrupted_merge_and_forgets_checkpoints(study, monkeypatch):
    contents = verdicts(study), known_rows(study)
    study.storage.write("checkpoints/no_kd-r0-0001/00003.x.safetensors", b"x")
    study.storage.write("checkpoints/combined-r0-0009/00003.x.safetensors", b"x")  # no verdict
    monkeypatch.setattr(Storage, "remove", lambda *_: None)  # killed before anything is deleted
    study.merge()
    monkeypatch.undo()
    assert len(study.storage.names("trials")) == 27  # 24, two measurements, and the merged one
    reopened_study = reopen(study)
    assert (verdicts(reopened_study), known_rows(reopened_study)) == contents
    reopened_study.clean()
    assert reopened_study.storage.names("trials") == ["merged-00001.parquet"]
    assert reopened_study.storage.names("epochs") == ["merged-00001.parquet"]
    assert reopened_study.storage.names("checkpoints") == ["combined-r0-0009"]
    assert (verdicts(reopen(reopened_study)), known_rows(reopen(reopened_study))) == contents


# One driver


def test_a_study_has_one_driver(tmp_path):
    with lock_study(Storage(tmp_path / "s")):
        with pytest.raises(UsageError, match="another search"), lock_study(Storage(tmp_path / "s")):
            pass
        with lock_study(Storage(tmp_path / "other")):
            pass
    with lock_study(Storage(tmp_path / "s")):
        pass


def test_scores_that_are_no_numbers_are_none(study):
    values = [(0.5, 0.5), (None, None), (math.nan, None), (-math.inf, None)]
    assert [study.score({"val_accuracy": value}) for value, _ in values] == [w for _, w in values]
