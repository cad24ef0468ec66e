"""A study is what lies on disk: proposals, rows and verdicts, and what Optuna is told of them."""

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from tests.helpers import made_images, made_study, making
from tests.helpers.made_study import begin, play, reopened, request, row
from tune_kd.data import tasks
from tune_kd.errors import UsageError
from tune_kd.recipe import Compute
from tune_kd.space import Method, distributions, loader, methods, overrides
from tune_kd.study import manifest, results, study
from tune_kd.study.manifest import differences
from tune_kd.study.proposal import dump, parse
from tune_kd.study.storage import Storage, locked
from tune_kd.study.study import Study
from tune_kd.training import context
from tune_kd.workflows import checks


def score(proposal, step):
    """response-r0-0001 breaks in epoch 2; other trials get better, by their number."""
    if proposal.trial == "response-r0-0001" and step == 2:
        return None
    return 0.5 + 0.1 * (step - 9) / 9 - (0.01 * proposal.number if proposal.number < 5 else -0.1)


@pytest.fixture
def asked(tmp_path):
    return request(tmp_path / "s")


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Study:
    """A study of 24 trials that all have their verdict, played once for all tests."""
    asked = request(tmp_path_factory.mktemp("played") / "s")
    begun = begin(asked)
    play(begun, asked, score)
    return begun


@pytest.fixture
def played(once, tmp_path) -> Study:
    """All 24 trials have their verdict: a copy of the folder, and of what its driver remembers."""
    shutil.copytree(once.storage.local, tmp_path / "s")
    copied = copy.deepcopy(once)
    copied.storage = Storage(tmp_path / "s")
    return copied


def verdicts(found: Study) -> dict[str, tuple]:
    return {t: (v[-1]["status"], v[-1]["reason"], v[-1]["epochs"], v[-1]["val_accuracy"]) for t, v in found.outcomes.items() if v[-1]["phase"] == "search"}  # fmt: skip


def known_rows(found: Study) -> dict[str, list[dict]]:
    """Rows without nulls: those heard of name only what they have."""
    return {
        t: [{k: v for k, v in r.items() if v is not None} for r in rows]
        for t, rows in found.rows.items()
    }


# What a search begins with


def test_the_manifest_says_what_was_asked_for(asked):
    known = begin(asked).manifest
    assert known.schema == results.SCHEMA_VERSION
    assert (known.study, known.space, known.seed) == ("s", "digits_kd", 0)
    assert (known.epochs, known.trials, known.rungs) == (9, 24, (5,))
    assert (known.repeats, known.trials_per_repeat) == (1, 6)
    assert (known.margin, known.random_start) == (0.005, 2)
    assert known.methods["response"].defaults == asked.space.methods["response"].settings()[0]  # fmt: skip
    assert known.methods["response"].bounds["temperature"] == (1.0, 20.0, True)
    assert known.methods["no_kd"].ranges["lr"] == "0.01 .. 0.5 log"
    assert known.compute == Compute(precision="float32", layout="contiguous")
    assert asked.storage.read("marker").decode() == known.marker
    assert set(known.config_types) == {
        "lr", "weight_decay", "dropout", "alpha", "beta", "gamma", "temperature",
    }  # fmt: skip
    assert reopened(begin(asked)).outcomes.keys() == {"measure-teacher", "measure-student"}


def test_the_manifest_says_how_many_repeats_of_how_many_trials_there_are(tmp_path):
    known = begin(request(tmp_path / "s", trials=97, margin=0.01)).manifest
    assert (known.repeats, known.trials_per_repeat, known.trials) == (5, 5, 100)
    assert (known.margin, known.random_start) == (0.01, 2)
    more = checks.specify(request(tmp_path / "s", trials=400, margin=0.02), made_study.material())
    assert differences(known, more) == []  # neither changes a trial


@pytest.mark.parametrize(
    ("share", "own", "rule", "held_out"),
    [
        (0.0, False, "max(n / 10, min(2,000, 3 n / 10)) of n training images", 377),
        (0.1, False, "0.1 of the training images", 126),
        (0.0, True, "the data set's own validation images", 100),
    ],
)
def test_the_manifest_says_which_images_validate(tmp_path, share, own, rule, held_out):
    asked = request(tmp_path / "s", val_share=share)
    images = replace(made_study.material(), own_validation=True)
    if not own:
        images = checks.look_at_data(asked)
        assert images.images.val_share == share
        assert len(context.fold(images.images, making.context_in(tmp_path), "contiguous").validation) == held_out  # fmt: skip
    known = begin(asked, images).manifest
    assert known.validation_rule == rule
    assert known.num_val == held_out
    # another share is another study
    other = checks.specify(request(tmp_path / "s", val_share=0.25), images)
    assert any("val_share" in line for line in differences(known, other))


def test_a_share_is_not_taken_where_the_data_set_says_which_images_validate(tmp_path):
    chosen, file = loader.load("camvid_seg_kd")
    folder = made_images.of_task(tasks.find("camvid"), tmp_path / "set")
    asked = request(tmp_path / "s", space=chosen, file=file, data=folder)
    images = checks.look_at_data(asked)
    assert images.own_validation
    assert begin(asked, images).manifest.validation_rule == "the data set's own validation images"
    asked = replace(asked, space=replace(chosen, val_share=0.2))
    with pytest.raises(UsageError, match=r"val_share=0.2: task camvid .* of its own.* val_share=0"):
        checks.look_at_data(asked)


def test_ranges_survive_the_manifest(asked):
    begun = reopened(begin(asked))
    for name, method in asked.space.methods.items():
        assert begun.distributions(name) == dict(method.ranges)


def test_a_study_of_another_schema_is_refused(asked):
    begun = begin(asked)
    manifest.write(asked.storage, replace(begun.manifest, schema=1))
    with pytest.raises(UsageError, match="schema 1, this program writes 4"):
        reopened(begun)


def test_differences_are_none_of_the_same_request_and_named_of_others(asked, tmp_path):
    known = reopened(begin(asked)).manifest
    described = made_study.checks.specify(asked, made_study.material())
    assert differences(known, described) == []
    for changes, says in [
        ({"seed": 1}, "seed is 0 in the existing study, 1 requested"),
        ({"epochs": 8}, "settings.student.epochs is 9 in the existing study, 8 requested"),
        ({"sampler": "gp"}, "sampler is 'tpe' in the existing study, 'gp' requested"),
        ({"space": overrides.change(asked.space, ["temperature=4"])}, "methods.combined"),
    ]:
        other = made_study.checks.specify(request(tmp_path, **changes), made_study.material()) if "space" not in changes else made_study.checks.specify(replace(asked, **changes), made_study.material())  # fmt: skip
        found = differences(known, other)
        assert found
        assert found[0].startswith(says)
    allowed = replace(asked, space=replace(asked.space, trials=80, tables=("x",)), command="other")
    assert differences(known, made_study.checks.specify(allowed, made_study.material())) == []
    images = replace(made_study.material(), images=replace(made_study.IMAGES, train_hash="other"))
    assert differences(known, made_study.checks.specify(asked, images)) == [
        "images.train_hash is 'made' in the existing study, 'other' requested"
    ]


# Proposals


def test_proposals_survive_the_disk(asked):
    begun = begin(asked)
    plan = made_study.plan(begun, asked)
    added = [plan.next() for _ in range(6)]
    again = reopened(begun)
    assert list(again.proposals.values()) == sorted(added, key=lambda p: p.trial)
    assert [parse(dump(p)) for p in added] == added
    assert {p.trial: p.recipe_id for p in added} == {
        t: p.recipe_id for t, p in again.proposals.items()
    }
    assert again.open_trials("search") == again.of("search")
    assert [p.number for p in again.of("search", "no_kd")] == [0, 1]
    assert again.of("confirm") == []


def test_a_trial_that_listens_to_no_teacher_does_not_name_it(asked):
    begun = begin(asked)
    plan = made_study.plan(begun, asked)
    recipes = {p.method: p.recipe for p in (plan.next() for _ in range(4))}
    assert (recipes["no_kd"].teacher, recipes["no_kd"].teacher_model) == ("", "")
    for name in ("response", "feature", "combined"):
        assert recipes[name].teacher == "digits_teacher"
        assert recipes[name].teacher_model == begun.manifest.teacher_model


# Verdicts


def test_everything_is_read_again_from_disk(played):
    again = reopened(played)
    assert verdicts(again) == verdicts(played)
    assert known_rows(again) == known_rows(played)
    assert again.counts("search") == played.counts("search")
    assert again.counts("search").total() == 24
    assert again.judged == played.judged
    for method in played.manifest.methods:
        assert again.best(method)["trial"] == played.best(method)["trial"]


def test_a_verdict_says_who_how_and_what(played):
    (row,) = reopened(played).outcomes["combined-r0-0000"]
    assert (row["status"], row["reason"], row["epochs"]) == ("finished", "", 9)
    assert (row["phase"], row["method"], row["number"]) == ("search", "combined", 0)
    assert (row["origin"], row["seed"], row["attempts"]) == ("default", 0, 1)
    assert (row["alpha"], row["beta"], row["gamma"], row["temperature"]) == (1.0, 0.7, 0.5, 4.0)
    assert row["seconds"] == 9.0
    assert row["config.temperature"] == 4.0
    assert row["val_accuracy"] == pytest.approx(0.5)
    assert row["test_accuracy"] is None
    assert row["fingerprint"] == played.proposals["combined-r0-0000"].recipe_id
    assert json.loads(row["recipe"])["student"] == "digits_student"
    assert json.loads(row["versions"]).keys() >= {"python", "torch", "ray", "optuna", "tune_kd"}
    assert row["started"]
    assert row["ended"]
    (plain,) = played.outcomes["no_kd-r0-0000"]
    assert (plain["alpha"], plain["beta"], plain["gamma"]) == (1.0, 0.0, 0.0)
    assert plain["temperature"] is None
    assert plain.get("config.temperature") is None


def test_a_failed_trial_keeps_what_it_reached(played):
    assert verdicts(played)["response-r0-0001"] == (
        "failed", "ValueError: made", 1, pytest.approx(score(played.proposals["response-r0-0001"], 1)),
    )  # fmt: skip


def test_a_trial_that_failed_before_its_first_epoch_has_a_row(asked):
    begun = begin(asked)
    made_study.plan(begun, asked).next()
    begun.end("no_kd-r0-0000", "failed", "MemoryError: made")
    (row,) = reopened(begun).outcomes["no_kd-r0-0000"]
    assert (row["status"], row["epochs"], row["stage"], row["attempts"]) == ("failed", 0, 0, 0)
    assert row["val_accuracy"] is None


def test_a_verdict_is_given_once(played):
    before = dict(played.outcomes)
    played.end("combined-r0-0000", "failed", "no")
    assert played.outcomes == before
    assert verdicts(reopened(played))["combined-r0-0000"][0] == "finished"


def test_a_stopped_trial_counts_what_was_judged(asked):
    begun = begin(asked)
    proposal = made_study.plan(begun, asked).next()
    rows = [row(begun, proposal, n, 0.1 * n) for n in (1, 2, 3)]
    made_study.commit(begun, rows)
    for one in rows:
        begun.hear(one)
    begun.judged[proposal.trial] = 2
    begun.end(proposal.trial, "stopped", "made")
    assert verdicts(begun)[proposal.trial] == ("stopped", "made", 2, 0.2)


def test_only_the_best_student_of_a_method_is_kept(asked):
    begun = begin(asked)
    plan = made_study.plan(begun, asked)
    proposals = [p for p in (plan.next() for _ in range(12)) if p.method == "feature"]
    for proposal, value in zip(proposals, (0.5, 0.9, 0.7), strict=True):
        begun.storage.write(f"students/{proposal.trial}.safetensors", b"x")
        begun.storage.write(f"checkpoints/{proposal.trial}/00001.safetensors", b"x")
        begun.hear(row(begun, proposal, 1, value))
        begun.end(proposal.trial, "finished")
    assert begun.storage.names("students") == ["feature-r0-0001.safetensors"]
    assert begun.storage.names("checkpoints") == []
    assert [r["trial"] for r in begun.ranked("feature")] == [
        "feature-r0-0001", "feature-r0-0002", "feature-r0-0000",
    ]  # fmt: skip


def test_a_recipe_of_two_stages_has_a_row_each(asked):
    begun = begin(asked)
    proposal = made_study.plan(begun, asked).next()
    for step in (1, 2, 3):
        stage = int(step == 3)
        begun.hear(row(begun, proposal, step, 0.1 * step, stage=stage, stage_name=f"Stage{stage}"))
    begun.end(proposal.trial, "failed", "made")
    found = reopened(begun).outcomes[proposal.trial]
    assert [(r["stage"], r["stage_name"], r["status"], r["reason"]) for r in found] == [
        (0, "Stage0", "finished", ""), (1, "Stage1", "failed", "made"),
    ]  # fmt: skip
    assert [(r["epochs"], r["seconds"]) for r in found] == [(2, 2.0), (3, 3.0)]


# Optuna's view


def test_optuna_hears_of_stopped_failed_and_open_trials(asked):
    begun = begin(asked)
    play(begun, asked, score, trials=23)
    opened = made_study.plan(begun, asked).next()
    assert opened.trial == "combined-r0-0005"
    states = {}
    for method in asked.space.methods:
        told = begun.optuna_trials(method, repeat=0)
        proposals = begun.of("search", method)
        assert [t.params for t in told] == [dict(p.config) for p in proposals]
        states |= {p.trial: t for p, t in zip(proposals, told, strict=True)}
    expected = {
        "finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL,
    }  # fmt: skip
    for trial, (status, _, epochs, value) in verdicts(begun).items():
        told = states[trial]
        assert told.state == expected[status]
        assert told.value == (value if status == "finished" else None)
        assert list(told.intermediate_values) == list(range(1, epochs + 1))
        assert told.intermediate_values[epochs] == value
    assert states["combined-r0-0005"].state == TrialState.RUNNING
    assert {t.state for t in states.values()} == {*expected.values(), TrialState.RUNNING}
    fresh = reopened(begun)
    for method in asked.space.methods:
        told = [found.optuna_trials(method, repeat=0) for found in (begun, fresh)]
        for ours, theirs in zip(*told, strict=True):
            # those of one trial are made at different times
            assert (ours.state, ours.value, ours.params, ours.intermediate_values) == (
                theirs.state, theirs.value, theirs.params, theirs.intermediate_values,
            )  # fmt: skip


@pytest.mark.parametrize("values", [(1, "a"), (0, 0.5)])
def test_a_mixed_choice_is_written_and_proposed_again(tmp_path, values):
    def stages(chosen, *, kind, **training):
        return methods.no_kd(chosen, **training)

    base = loader.load("digits_kd")[0].methods["no_kd"]
    mixed = Method(
        stages=stages,
        ranges={**base.ranges, "kind": distributions.choice(*values)},
        defaults={**base.defaults, "kind": values[0]},
    )
    asked = request(tmp_path / "s", methods={"m": mixed}, trials=4, epochs=1)
    begun = begin(asked)
    play(begun, asked, lambda *_: 0.5)
    assert reopened(begun).counts("search") == {"finished": 4}
    assert begun.of("search", "m")[0].config["kind"] == values[0]


# Few files


def test_merging_a_study_changes_nothing_that_is_read(played):
    before = verdicts(played), known_rows(played)
    played.merge()
    assert played.storage.names("trials") == ["merged-00001.parquet"]
    assert played.storage.names("epochs") == ["merged-00001.parquet"]
    again = reopened(played)
    assert (verdicts(again), known_rows(again)) == before
    again.merge()
    assert again.storage.names("trials") == ["merged-00001.parquet"]


def test_epochs_of_open_trials_stay_in_their_files(asked):
    begun = begin(asked)
    play(begun, asked, score, trials=4)
    opened = made_study.plan(begun, asked).next()
    made_study.commit(begun, [row(begun, opened, 1, 0.5)])
    begun = reopened(begun)
    begun.merge()
    assert begun.storage.names("epochs") == ["merged-00001.parquet", f"{opened.trial}.1-made.parquet"]  # fmt: skip
    again = reopened(begun)
    assert len(again.rows[opened.trial]) == 1
    play(again, asked, score)
    again.merge()
    whole = reopened(again)
    assert whole.counts("search").total() == 24
    assert {t: len(r) for t, r in whole.rows.items()} == {t: v[-1]["epochs"] for t, v in whole.outcomes.items() if t in whole.rows}  # fmt: skip


def test_merging_keeps_the_row_of_a_measurement(asked):
    begun = begin(asked)
    play(begun, asked, score, trials=4)
    first = begun.proposals["no_kd-r0-0000"]
    measured = begun.add(
        replace(
            first,
            trial="confirm-teacher",
            phase="confirm",
            method="",
            recipe=replace(first.recipe, stages=()),
        )
    )
    one = row(begun, measured, 0, 0.9, last=True, stage_name="Measure")
    made_study.commit(begun, [one])
    begun.hear(one)
    begun.end(measured.trial, "finished")
    assert len(reopened(begun).rows[measured.trial]) == 1
    begun.merge()
    assert len(reopened(begun).rows.get(measured.trial, [])) == 1


def test_merging_happens_now_and_then(asked, monkeypatch):
    monkeypatch.setattr(study, "MERGE_AT", 6)
    begun = begin(asked)
    play(begun, asked, score)
    assert len(begun.storage.names("trials")) == 1
    assert begun.storage.names("trials") == ["merged-00004.parquet"]
    assert verdicts(reopened(begun)) == verdicts(begun)


def test_cleaning_finishes_an_interrupted_merge_and_forgets_checkpoints(played, monkeypatch):
    before = verdicts(played), known_rows(played)
    played.storage.write("checkpoints/no_kd-r0-0001/00003.x.safetensors", b"x")
    played.storage.write("checkpoints/combined-r0-0009/00003.x.safetensors", b"x")  # no verdict
    monkeypatch.setattr(Storage, "remove", lambda *_: None)  # killed before anything is deleted
    played.merge()
    monkeypatch.undo()
    assert len(played.storage.names("trials")) == 27  # 24, two measurements, and the merged one
    again = reopened(played)
    assert (verdicts(again), known_rows(again)) == before
    again.clean()
    assert again.storage.names("trials") == ["merged-00001.parquet"]
    assert again.storage.names("epochs") == ["merged-00001.parquet"]
    assert again.storage.names("checkpoints") == ["combined-r0-0009"]
    assert (verdicts(reopened(again)), known_rows(reopened(again))) == before


# One driver


def test_a_study_has_one_driver(tmp_path):
    with locked(Storage(tmp_path / "s")):
        with pytest.raises(UsageError, match="another search"), locked(Storage(tmp_path / "s")):
            pass
        with locked(Storage(tmp_path / "other")):
            pass
    with locked(Storage(tmp_path / "s")):
        pass


def test_scores_that_are_no_numbers_are_none(played):
    values = [(0.5, 0.5), (None, None), (math.nan, None), (-math.inf, None)]
    assert [played.score({"val_accuracy": given}) for given, _ in values] == [w for _, w in values]
