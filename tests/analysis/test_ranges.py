import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.hyperparameters.importance import importances
from analysis.hyperparameters.landscape import landscape
from analysis.hyperparameters.ranges import position, ranges, search_points, value_at
from analysis.study import load
from tests.analysis.surfaces import RANGES, random_rows, row, study
from tune_kd.study import manifest, results
from tune_kd.study.storage import Storage


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(-1.0, 3.0),
        FloatDistribution(1e-5, 1e-2, log=True),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 7),
        IntDistribution(2, 10, step=2),
        IntDistribution(1, 64, log=True),
        CategoricalDistribution([True, False, None]),
    ],
)
def test_a_position_leads_back_to_its_value(distribution):
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        value = value_at(distribution, share)
        assert 0 <= position(distribution, value) <= 1
        assert value_at(distribution, position(distribution, value)) == pytest.approx(value)
    places = [position(distribution, value_at(distribution, k / 20)) for k in range(21)]
    assert places == sorted(places)


def test_the_ends_of_a_log_range_are_exact():
    distribution = FloatDistribution(5e-5, 0.5, log=True)
    assert (value_at(distribution, 0.0), value_at(distribution, 1.0)) == (5e-5, 0.5)


def test_a_value_that_is_no_choice_is_an_error():
    with pytest.raises(ValueError, match="not in"):
        position(CategoricalDistribution(["a", "b"]), "c")


def test_pinned_ranges_and_methods_without_ranges_have_none():
    searched_study = study([], ranges={**RANGES, "alpha": FloatDistribution(0.5, 0.5)})
    assert list(ranges(searched_study, "response")) == list(RANGES)
    assert ranges(study([], methods={"response": {}}), "response") == {}


def test_points_are_a_method_s_search_trials_and_the_last_stage_counts():
    first = row("response", 1, 3, 0.8, lr=0.1, dropout=0.0, temperature=4.0)
    last = first | {"stage": 1, "val_accuracy": 0.9, "epochs": 20}
    confirmation = first | {"phase": "confirm", "trial": "confirm-x"}
    (point,) = search_points(study([last, first, confirmation]), "response")
    assert (point.repeat, point.number, point.value, point.epochs) == (1, 3, 0.9, 20)
    assert dict(point.values) == {"lr": 0.1, "dropout": 0.0, "temperature": 4.0}


def test_choices_of_several_kinds_are_read_from_their_text():
    ranges = {"pool": CategoricalDistribution(["max", 2, None, True])}
    texts = ("2", "null", "max", "true")
    rows = [row("response", 0, n, 0.9, pool=text) for n, text in enumerate(texts)]
    points = search_points(study(rows, ranges=ranges), "response")
    assert [point.values["pool"] for point in points] == [2, None, "max", True]


def test_a_study_on_disk_says_what_its_rows_say(tmp_path):
    study_in_memory = study(random_rows(lambda p: 0.9 - 0.3 * abs(p[0] - 0.5), noise_sd=0.003))
    columns = {"schema": results.SCHEMA_VERSION, "study": "surfaces", "seed": 0}
    types = results.trial_schema(study_in_memory.manifest.config_types)
    storage = Storage(tmp_path)
    manifest.write(storage, study_in_memory.manifest)
    rows = [{**one, **columns} for one in study_in_memory.rows]
    storage.write("trials/all.parquet", results.encode(rows, types))
    study_on_disk = load(str(tmp_path))
    assert len(study_on_disk.rows) == 40
    assert search_points(study_on_disk, "response") == sorted(
        search_points(study_in_memory, "response"), key=lambda p: (p.repeat, p.number)
    )
    assert importances(study_on_disk, "response").top[0] == "lr"
    assert landscape(study_on_disk, "response").region is not None
