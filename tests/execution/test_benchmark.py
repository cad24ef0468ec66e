"""What is measured before the first trial: all that beginning a study needs, once a machine."""

import dataclasses
import json
from dataclasses import replace

import pytest
from safetensors.torch import save_file

from tests.helpers import made_study, making
from tune_kd.errors import UsageError
from tune_kd.execution import benchmark
from tune_kd.measure import profile, training_step
from tune_kd.models import registry
from tune_kd.recipe import Prune, recipe
from tune_kd.study import recipe_builder


@pytest.fixture
def config():
    return {
        "images": dataclasses.asdict(making.digits()),
        "teacher": "digits_teacher",
        "student": "digits_student",
        "batch_size": 8,
        "sources": [],
        "compiled": False,
    }


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Timings are not what is tested here: three rounds instead of fifteen, a twentieth of the time."""
    monkeypatch.setattr(
        training_step.step_seconds, "__kwdefaults__", {"rounds": 3, "budget_s": 0.1}
    )
    forward = profile.forward_seconds
    monkeypatch.setattr(
        profile,
        "forward_seconds",
        lambda model, images, at_least: forward(model, images, at_least=at_least / 20),
    )


def test_digits_are_prepared_and_the_answer_is_kept(config, tmp_path, monkeypatch):
    ctx = making.context_in(tmp_path / "cache")
    found = benchmark.prepare(config, ctx)
    assert found["precision"] in ("float32", "bfloat16")
    assert found["layout"] in ("contiguous", "channels_last")
    assert found["device"] == profile.device_name("cpu")
    assert found["measured"].keys() == {"teacher", "student"}
    shape = registry.Shape(num_classes=10, channels=1)
    for role in ("teacher", "student"):
        values = found["measured"][role]
        expected = profile.footprint(registry.build(config[role], shape=shape))
        assert {name: values[name] for name in expected} == expected
        assert min(values["latency_ms"], values["throughput_per_s"], values["flops"]) > 0
    assert json.loads(json.dumps(found)) == found  # it travels from a worker to the driver

    def never(*args, **kwargs):
        raise AssertionError("timed again")

    monkeypatch.setattr(training_step, "step_seconds", never)
    monkeypatch.setattr(profile, "measure", never)
    assert benchmark.prepare(config, ctx) == found
    with pytest.raises(AssertionError, match="timed again"):
        benchmark.prepare({**config, "batch_size": 9}, ctx)


def test_an_edited_file_is_timed_anew(config, tmp_path, monkeypatch):
    """Another source under the same name is another network."""
    ctx = making.context_in(tmp_path / "cache")
    timed = []
    seconds = training_step.step_seconds

    def count(build, *, step):
        timed.append(step.network)
        return seconds(build, step=step)

    monkeypatch.setattr(training_step, "step_seconds", count)
    for sources in (["one"], ["one"], ["two"]):
        benchmark.prepare({**config, "sources": sources}, ctx)
    assert len(timed) == len(set(timed)) == 2


def test_a_preparation_draws_nothing_from_the_global_generators(config, tmp_path):
    import torch

    before = torch.get_rng_state()
    benchmark.prepare(config, making.context_in(tmp_path / "cache"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_network_is_said(config, tmp_path):
    with pytest.raises(UsageError, match="digits_teacher"):
        benchmark.prepare({**config, "teacher": "digits_teacherr"}, making.context_in(tmp_path))


def test_students_of_one_architecture_are_timed_once(tmp_path, monkeypatch):
    made = making.recipe(student="digits_medium", epochs=1)
    ctx = making.context_in(tmp_path)
    timed = []
    seconds = profile.measure
    monkeypatch.setattr(profile, "measure", lambda *a, **k: timed.append(1) or seconds(*a, **k))
    found = {}
    for method, ratio in (
        ("channel", 0.5),
        ("magnitude", 0.5),
        ("magnitude", 0.7),
        ("channel", 0.5),
    ):
        cut = replace(made, stages=(*made.stages, Prune(method=method, ratio=ratio)))
        state = making.run(cut, ctx, seed=len(found)).state
        file = tmp_path / "student.safetensors"
        save_file({k[6:]: v for k, v in state.items() if k.startswith("model.")}, file)
        values = benchmark.measure_student(cut, file, ctx)
        assert found.setdefault((method, ratio), values)["latency_ms"] == values["latency_ms"]
    assert len(timed) == 2  # one of half the channels, one whole
    zeros = [found["magnitude", ratio]["nonzero_params"] for ratio in (0.5, 0.7)]
    assert zeros[0] > zeros[1]


class Beside:
    """In place of a Ray session: the worker's function, called here."""

    resources = made_study.Resources()

    def call(self, function, *arguments, progress):
        return function(*arguments)


def test_a_study_begins_with_what_was_prepared(cache, tmp_path):
    making.context_in(cache)
    asked = made_study.request(
        tmp_path / "runs" / "x", epochs=1, teacher_epochs=1, limit_train=making.LIMIT
    )
    study = made_study.create_study.begin(
        asked,
        made_study.checks.look_at_data(asked),
        session=Beside(),
        progress=made_study.Progress(quiet=True),
    )
    compute = study.manifest.compute
    kept = json.loads((cache / "probe.json").read_text())
    ((_, chosen),) = kept.items()
    assert compute == recipe.Compute(precision=chosen["precision"], layout=chosen["layout"])
    assert study.manifest.device == profile.device_name("cpu")
    measured = {name: rows[0] for name, rows in study.outcomes.items()}
    assert measured.keys() == {"measure-teacher", "measure-student"}
    assert measured["measure-student"]["num_params"] == 1030
    assert measured["measure-teacher"]["latency_ms"] > 0
    made = recipe_builder.teacher_recipe(
        study.manifest, asked.space, compute=study.manifest.compute
    )
    assert made.compute == compute
    assert len(making.run(made, making.context_in(cache)).rows) == made.epochs
