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
    answer = benchmark.prepare(config, ctx)
    assert answer["precision"] in ("float32", "bfloat16")
    assert answer["layout"] in ("contiguous", "channels_last")
    assert answer["device"] == profile.device_name("cpu")
    assert answer["measured"].keys() == {"teacher", "student"}
    shape = registry.Shape(num_classes=10, channels=1)
    for role in ("teacher", "student"):
        values = answer["measured"][role]
        expected = profile.footprint(registry.build(config[role], shape=shape))
        assert {name: values[name] for name in expected} == expected
        assert min(values["latency_ms"], values["throughput_per_s"], values["flops"]) > 0
    assert json.loads(json.dumps(answer)) == answer  # it travels from a worker to the driver

    def never(*args, **kwargs):
        raise AssertionError("timed again")

    monkeypatch.setattr(training_step, "step_seconds", never)
    monkeypatch.setattr(profile, "measure", never)
    assert benchmark.prepare(config, ctx) == answer
    with pytest.raises(AssertionError, match="timed again"):
        benchmark.prepare({**config, "batch_size": 9}, ctx)


def test_an_edited_file_is_timed_anew(config, tmp_path, monkeypatch):
    """Another source under the same name is another network."""
    ctx = making.context_in(tmp_path / "cache")
    networks = []
    seconds = training_step.step_seconds

    def count(build, *, step):
        networks.append(step.network)
        return seconds(build, step=step)

    monkeypatch.setattr(training_step, "step_seconds", count)
    for sources in (["one"], ["one"], ["two"]):
        benchmark.prepare({**config, "sources": sources}, ctx)
    assert len(networks) == len(set(networks)) == 2


def test_a_preparation_draws_nothing_from_the_global_generators(config, tmp_path):
    import torch

    before = torch.get_rng_state()
    benchmark.prepare(config, making.context_in(tmp_path / "cache"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_network_is_said(config, tmp_path):
    with pytest.raises(UsageError, match="digits_teacher"):
        benchmark.prepare({**config, "teacher": "digits_teacherr"}, making.context_in(tmp_path))


def test_students_of_one_architecture_are_timed_once(tmp_path, monkeypatch):
    recipe = making.recipe(student="digits_medium", epochs=1)
    ctx = making.context_in(tmp_path)
    calls = []
    seconds = profile.measure
    monkeypatch.setattr(profile, "measure", lambda *a, **k: calls.append(1) or seconds(*a, **k))
    profiles = {}
    for method, ratio in (
        ("channel", 0.5),
        ("magnitude", 0.5),
        ("magnitude", 0.7),
        ("channel", 0.5),
    ):
        cut = replace(recipe, stages=(*recipe.stages, Prune(method=method, ratio=ratio)))
        state = making.run(cut, ctx, seed=len(profiles)).state
        file = tmp_path / "student.safetensors"
        save_file({k[6:]: v for k, v in state.items() if k.startswith("model.")}, file)
        values = benchmark.measure_student(cut, file, ctx)
        assert profiles.setdefault((method, ratio), values)["latency_ms"] == values["latency_ms"]
    assert len(calls) == 2  # one of half the channels, one whole
    zeros = [profiles["magnitude", ratio]["nonzero_params"] for ratio in (0.5, 0.7)]
    assert zeros[0] > zeros[1]


class Beside:
    """In place of a Ray session: the worker's function, called here."""

    resources = made_study.Resources()

    def call(self, function, *arguments, progress):
        return function(*arguments)


def test_a_study_begins_with_what_was_prepared(cache, tmp_path):
    making.context_in(cache)
    request = made_study.request(
        tmp_path / "runs" / "x", epochs=1, teacher_epochs=1, limit_train=making.LIMIT
    )
    study = made_study.create_study.begin(
        request,
        made_study.checks.prepare_data(request),
        session=Beside(),
        progress=made_study.Progress(quiet=True),
    )
    compute = study.manifest.compute
    probe = json.loads((cache / "probe.json").read_text())
    ((_, values),) = probe.items()
    assert compute == recipe.Compute(precision=values["precision"], layout=values["layout"])
    assert study.manifest.device == profile.device_name("cpu")
    rows_by_trial = {name: rows[0] for name, rows in study.outcomes.items()}
    assert rows_by_trial.keys() == {"measure-teacher", "measure-student"}
    assert rows_by_trial["measure-student"]["num_params"] == 1030
    assert rows_by_trial["measure-teacher"]["latency_ms"] > 0
    teacher = recipe_builder.teacher_recipe(
        study.manifest, request.space, compute=study.manifest.compute
    )
    assert teacher.compute == compute
    assert len(making.run(teacher, making.context_in(cache)).rows) == teacher.epochs
