"""Which trials are confirmed, how often, on which images; that each opening of the test split is recorded."""

import itertools
import json
from argparse import Namespace
from dataclasses import replace

import pytest

from tests import made_study, making
from tune_kd import asking, confirm, opening, recipes, teaching, trial, worker
from tune_kd import site as places
from tune_kd.errors import UsageError
from tune_kd.proposals import Proposal
from tune_kd.recipe import stream
from tune_kd.study import Study

METHODS = ["no_kd", "response", "feature", "combined"]


def _score(proposal, step):
    """The last trial of each method is its best, of `feature` the textbook; one trial fails."""
    if proposal.method == "no_kd" and proposal.number == 2:
        return None
    rank = -proposal.number if proposal.method == "feature" else proposal.number
    return 0.5 + rank / 10 + step / 1000


@pytest.fixture
def asked(tmp_path):
    return made_study.request(
        tmp_path / "runs" / "x", epochs=2, trials=12, scheduler="none", limit_train=making.LIMIT
    )


@pytest.fixture
def known(asked):
    """A search over real digits that has ended, three trials of each method, with its teacher."""
    study = opening.begin(
        asked,
        asking.look_at_data(asked),
        session=made_study.Here(),
        progress=made_study.Progress(quiet=True),
    )
    made_study.play(study, asked, _score)
    _put_teacher(study, asked)
    return made_study.reopened(study)


def _put_teacher(study, asked):
    fingerprint = study.manifest["teacher_model"]
    study.storage.write(f"models/{fingerprint}.safetensors", making.teacher_file().read_bytes())
    proposal = Proposal(
        trial=teaching.teacher_trial(study),
        phase="teach",
        method="",
        number=0,
        seed=0,
        origin="textbook",
        recipe=recipes.teacher_recipe(study.manifest, asked.space),
    )
    study.put_verdict(proposal.trial, [{**study.describe(proposal, stage=0), "stage": 0, "status": "finished", "epochs": 2}])  # fmt: skip


def _given(**changes):
    return Namespace(**{"top": 1, "seeds": 3, "no_textbook": False, **changes})


def _of(planned, method):
    return [p for p in planned if p.method == method]


def test_the_best_and_the_textbook_of_each_method_are_confirmed(known):
    found = {
        method: [
            (row["number"], origin)
            for row, origin in confirm.sources(known, method, top=1, textbook=True)
        ]
        for method in METHODS
    }
    assert found == {
        "no_kd": [(1, "best"), (0, "textbook")],  # its trial 2 failed
        "response": [(2, "best"), (0, "textbook")],
        "feature": [(0, "best+textbook")],  # once, not twice
        "combined": [(2, "best"), (0, "textbook")],
    }


@pytest.mark.parametrize(
    ("method", "top", "textbook", "expected"),
    [
        ("response", 1, False, [(2, "best")]),
        ("response", 2, True, [(2, "best"), (1, "best"), (0, "textbook")]),
        ("response", 3, True, [(2, "best"), (1, "best"), (0, "best+textbook")]),
        ("response", 9, False, [(2, "best"), (1, "best"), (0, "best")]),
        ("feature", 1, False, [(0, "best")]),
        ("no_kd", 9, False, [(1, "best"), (0, "best")]),
    ],
)
def test_top_and_textbook(known, method, top, textbook, expected):
    found = confirm.sources(known, method, top=top, textbook=textbook)
    assert [(row["number"], origin) for row, origin in found] == expected


def test_every_method_gets_the_same_fresh_seeds(known):
    planned = confirm.proposals(known, _given())
    students = [p for p in planned if p.method]
    sources = {p.source for p in students}
    assert len(sources) == 7
    for source in sources:
        assert [p.seed for p in students if p.source == source] == [1000, 1001, 1002]
    assert len(planned) == 1 + 7 * 3
    assert len({p.trial for p in planned}) == len(planned)
    # seed by seed, so that a time budget cuts all methods alike
    assert [p.seed for p in students] == sorted(p.seed for p in students)


def test_a_confirmed_recipe_is_the_searched_one_on_train_and_validation(known):
    for proposal in confirm.proposals(known, _given()):
        if not proposal.method:
            continue
        source = known.proposals[proposal.source]
        assert proposal.open_test
        assert not source.open_test
        assert proposal.recipe.images.fit_on == "train+val"
        assert source.recipe.images.fit_on == "train"
        images = replace(proposal.recipe.images, fit_on="train")
        assert replace(proposal.recipe, images=images) == source.recipe
        assert proposal.recipe.epochs == known.manifest["epochs"] == 2
        assert proposal.config == source.config
        assert (proposal.phase, proposal.method) == ("confirm", source.method)


def test_the_teacher_is_the_searchs_and_is_measured_as_it_is(known):
    planned = confirm.proposals(known, _given())
    teacher, *students = planned
    assert teacher.recipe.stages == ()
    assert teacher.recipe.start == known.manifest["teacher_model"]
    assert teacher.recipe.student == "digits_teacher"
    assert teacher.recipe.images.fit_on == "train"
    assert teacher.open_test
    assert teacher.seed == known.manifest["seed"]
    models = {p.method: p.recipe.teacher_model for p in students}
    assert models == {"no_kd": ""} | dict.fromkeys(METHODS[1:], known.manifest["teacher_model"])


def test_no_textbook_leaves_it_out(known):
    planned = confirm.proposals(known, _given(no_textbook=True, seeds=1))
    assert [(p.method, p.origin) for p in planned if p.method] == [(m, "best") for m in METHODS]


def test_a_stopped_trial_is_never_confirmed(known):
    best = confirm.sources(known, "response", top=1, textbook=False)[0][0]
    known.put_verdict(best["trial"], [{**best, "status": "stopped"}])
    found = confirm.sources(known, "response", top=9, textbook=False)
    assert [row["number"] for row, _ in found] == [1, 0]


def test_a_study_without_a_finished_trial_cannot_be_confirmed(tmp_path, asked):
    begun = made_study.begin(asked)
    with pytest.raises(UsageError, match="no finished trial to confirm"):
        confirm.proposals(begun, _given())


def test_what_is_no_study_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"is no study.*manifest\.json"):
        confirm.open_study(str(tmp_path))


def test_each_opening_of_the_test_split_leaves_a_file(known):
    planned = confirm.proposals(known, _given(seeds=1))
    confirm.record_opening(known, planned, "first command")
    confirm.record_opening(known, planned[:1], "second command")
    names = known.storage.names("openings", ".json")
    assert names == ["0001.json", "0002.json"]
    first, second = (json.loads(known.storage.read(f"openings/{name}")) for name in names)
    assert first["trials"] == [p.trial for p in planned]
    assert second["trials"] == ["confirm-teacher"]
    assert (first["command"], second["command"]) == ("first command", "second command")
    assert first["time"] <= second["time"]


def _attempt(known: Study, proposal):
    """What Ray would run, without Ray; the verdict as the driver writes it."""
    from tune_kd.proposals import dump
    from tune_kd.session import Resources

    known.add(proposal)
    config = {"proposal": dump(proposal), **opening.base_config(known, None, Resources())}
    rows = [json.loads(found["row"]) for found in worker.attempt(config)]
    for row in rows:
        known.hear(row)
    known.end(proposal.trial, "finished")
    return rows


def test_confirming_runs_measure_the_test_split_once_at_their_end(known):
    planned = confirm.proposals(known, _given(seeds=1))
    for proposal in (planned[0], _of(planned, "combined")[0], _of(planned, "no_kd")[0]):
        rows = _attempt(known, proposal)
        assert ["test_accuracy" in row for row in rows] == [row["last"] for row in rows]
        (verdict,) = known.verdicts[proposal.trial]
        assert verdict["status"] == "finished"
        assert verdict["phase"] == "confirm"
        assert verdict["source"] == proposal.source
        assert verdict["test_accuracy"] == rows[-1]["test_accuracy"]
        assert ("val_accuracy" in rows[-1]) == (not proposal.method)
        # the same as the recipe run by hand
        site = making.site_in(worker.cache_folder())
        model = known.storage.local / "models" / f"{known.manifest['teacher_model']}.safetensors"
        site = replace(site, model=lambda fingerprint, model=model: model)
        teacher = known.manifest["teacher"], known.manifest["teacher_model"]
        opened = trial.Opening(reference=teacher)
        again = making.run(proposal.recipe, site, seed=proposal.seed, opening=opened)
        columns = sorted(name for name in again.rows[-1] if name.startswith("test_"))
        assert columns == sorted(
            ["test_accuracy", "test_loss", "test_ece", "test_confusion", "test_agreement"]
        )
        assert {c: verdict[c] for c in columns} == {c: again.rows[-1][c] for c in columns}
        assert sum(verdict["test_confusion"]) == 540
        # the teacher agrees with itself
        assert (verdict["test_agreement"] == 1.0) == (not proposal.method)
    assert known.counts("confirm") == {"finished": 3}
    # what has its row is planned again under the same name, and so is not trained again
    names = [p.trial for p in confirm.proposals(made_study.reopened(known), _given(seeds=1))]
    assert names == [p.trial for p in planned]


def test_seeds_draw_other_views_and_weights_and_the_search_none_of_them(known):
    source = confirm.proposals(known, _given(seeds=1))[1].recipe
    site = making.site_in(worker.cache_folder())
    fold = places.fold(source.images, site, "contiguous")
    views = [
        fold.seen(seed, 1)(fold.fit).images.tolist()
        for seed in (known.manifest["seed"], 1000, 1001)
    ]
    weights = [stream(seed, "weights") for seed in (known.manifest["seed"], 1000, 1001)]
    for found in (views, weights):
        assert all(one != other for one, other in itertools.combinations(found, 2))


def test_images_that_are_not_the_studys_are_refused(known, tmp_path):
    import numpy as np
    from PIL import Image

    for split, label, number in itertools.product(("train", "test"), "ab", range(4)):
        file = tmp_path / "other" / split / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    with pytest.raises(UsageError, match=r"are not the study's.*--data"):
        confirm.data_folder(known, tmp_path / "other")
    assert confirm.data_folder(known, None) is None
