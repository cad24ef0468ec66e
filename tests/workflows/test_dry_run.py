"""The plan of a search: from the space and what is cached, without data, Ray or anything made."""

import json
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import ray

from tests.helpers import made_study
from tune_kd import cli, search
from tune_kd.execution.resources import Resources
from tune_kd.measure import timing_cache
from tune_kd.space.overrides import with_fields
from tune_kd.study import manifest
from tune_kd.training.external_weights import ExternalCheckpoint
from tune_kd.workflows import dry_run


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch, cache):
    """An empty folder and cache; Ray must not start, data must not be opened."""

    def never(*_, **__):
        raise AssertionError("a dry run touches neither Ray nor data")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr("tune_kd.data.tasks.decode", never)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with mock.patch.dict(os.environ):
        yield


def plan(capsys, *arguments: object) -> dict[str, str]:
    """The plan's lines by their first word; the exit code is 0 and nothing is made."""
    before = sorted(Path().rglob("*"))
    words = ["--space", "digits_kd", "--dry-run", "--gpus-per-trial", 0, *arguments]
    code = cli.run_command(search.main, [str(a) for a in words])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert sorted(Path().rglob("*")) == before
    return {line.split()[0]: line.strip().partition(" ")[2].strip() for line in out.splitlines()}


def test_everything_that_is_planned_is_said(capsys):
    texts = plan(capsys, "--max-concurrent", 2, "--trials", 32)
    assert texts["study"] == f"{Path('runs/digits_kd').absolute()} (new)"
    assert texts["student"] == "digits_student, 15 epochs, batch 64"
    assert texts["teacher"] == "digits_teacher, to be trained for 12 epochs"
    assert texts["task"] == "digits, images from the task itself, all training images"
    assert texts["device"] == f"{timing_cache.cpu_name()}, 1 CPU a trial, 2 at once"
    # 8 a method: default, 2 random, sampled; one published where there is any
    assert texts["trials"] == (
        "32: 1 repeat of 8 for each of 4 methods; 4 default, 8 random, 2 published, "
        "18 proposed by tpe"
    )
    assert texts["verdict"].startswith("recommends students; too few repeats for a statement")
    assert texts["stopping"] == "asha: after epoch 8 the best third of a search's trials goes on"
    assert texts["search"] == "at most 32 runs, 480 epochs: not measured"
    # a method's winner and default settings twice each, its recommended student five times
    assert texts["confirm"] == "at most 36 runs, 540 epochs: not measured"
    assert texts["lr"] == "0.01 .. 0.5 log (default 0.1)"
    assert texts["temperature"] == "1 .. 20 log (default 4)"
    assert {"no_kd:", "response:", "feature:", "combined:"} <= set(texts)


@pytest.mark.parametrize(
    ("arguments", "trials", "search_runs", "confirm_runs", "enough"),
    [
        # of each method 5 winners and 5 trials with default settings twice, 5 recommended, 3 winners twice before
        (["--trials", 160], "160: 5 repeats of 8", 160, 4 * (10 + 10 + 5 + 6), True),
        (["--trials", 64, "--repeats", 3], "72: 3 repeats of 6", 72, 4 * (6 + 6 + 5 + 6), True),
        (["--trials", 40], "40: 2 repeats of 5", 40, 4 * (4 + 4 + 5 + 4), False),
        (["--trials", 160, "--repeats", 1], "160: 1 repeat of 40", 160, 4 * (2 + 2 + 5), False),
    ],
)
def test_searching_and_confirming_cost_apart(
    capsys, arguments, trials, search_runs, confirm_runs, enough
):
    texts = plan(capsys, *arguments, "--epochs", 10)
    assert texts["trials"].startswith(f"{trials} for each of 4 methods; ")
    assert texts["search"].startswith(f"at most {search_runs} runs, {10 * search_runs:,} epochs: ")
    assert texts["confirm"].startswith(
        f"at most {confirm_runs} runs, {10 * confirm_runs:,} epochs: "
    )
    words = "enough repeats" if enough else "recommends students; too few repeats"
    assert texts["verdict"] == f"{words} for a statement about a method (at least 3)"


def test_proposals_of_all_repeats_are_counted(capsys):
    text = plan(capsys, "--trials", 160)["trials"]
    # of each search of 8: one with default settings, two random, one published for two methods
    assert text.endswith("; 20 default, 40 random, 10 published, 90 proposed by tpe")


def test_what_options_change(capsys, tmp_path):
    texts = plan(
        capsys,
        "--methods",
        "no_kd",
        "response",
        "--trials",
        5,
        "--epochs",
        6,
        "--scheduler",
        "none",
        "--sampler",
        "random",
        "--set",
        "temperature=4",
        "--limit-train",
        500,
        "--data",
        "nowhere",
        "--name",
        "x",
        "--out",
        "other",
    )
    assert texts["study"] == f"{tmp_path / 'other' / 'x'} (new)"
    assert texts["task"] == f"digits, images from {tmp_path / 'nowhere'}, 500 training images"
    assert texts["student"].startswith("digits_student, 6 epochs")
    assert texts["teacher"] == "digits_teacher, to be trained for 5 epochs"
    assert (
        texts["trials"] == "6: 1 repeat of 3 for each of 2 methods; 2 default, 4 proposed by random"
    )
    assert texts["stopping"] == "none: every trial runs to the end"
    assert texts["temperature"] == "4.0 (pinned)"
    assert "feature:" not in texts


def test_no_teacher_where_none_is_listened_to(capsys):
    assert plan(capsys, "--methods", "no_kd")["teacher"] == "none: no method needs one"


def test_nothing_to_search(capsys):
    pins = [word for name in ("lr", "weight_decay", "dropout") for word in ("--set", f"{name}=0.1")]
    texts = plan(capsys, "--methods", "no_kd", *pins)
    assert texts["nothing"] == "to search: every trial of this method is the same"


def test_spaces_with_choices_and_whole_numbers(capsys):
    Path("mine.py").write_text(
        "from tune_kd.space.methods import no_kd\n"
        "from tune_kd.space import *\n"
        "def stages(space, *, kind, depth, **training):\n"
        "    return no_kd(space, **training)\n"
        "TRAINING = {'lr': log_uniform(0.01, 1), 'weight_decay': uniform(0, 1), 'dropout': uniform(0, 0.5)}\n"
        "M = Method(stages=stages, ranges={**TRAINING, 'kind': choice('a', 'b'), 'depth': integer(1, 3)},\n"
        "           defaults={'lr': 0.1, 'weight_decay': 0.0, 'dropout': 0.0, 'kind': 'a', 'depth': 2})\n"
        "SPACE = SearchSpace(name='mine', task='digits', teacher='t', student='s', methods={'m': M})\n"
    )
    texts = plan(capsys, "--space", "mine.py")
    assert texts["kind"] == "a | b (default a)"
    assert texts["depth"] == "1 .. 3 (default 2)"


def make_request(tmp_path, **changes):
    return made_study.request(tmp_path / "runs" / "digits_kd", **changes)


def lines(request, resources=Resources(max_concurrent=2)) -> dict[str, str]:  # noqa: B008 - frozen
    return {
        line.split()[0]: line.strip().partition(" ")[2].strip()
        for line in dry_run.plan(request, resources).splitlines()
    }


def times(request, resources=Resources(max_concurrent=2)) -> tuple[str, str]:  # noqa: B008
    """What searching and confirming take."""
    texts = lines(request, resources)
    search, confirm = (texts[name].partition(": ")[2] for name in ("search", "confirm"))
    return search.partition(" for the")[0], confirm.partition(" for the")[0]


def put_probe(cache: Path, step: float, *, batch: int = 64, threads: int = 1) -> None:
    """What an earlier study's probe of digits_student left in the cache."""
    key = timing_cache.timing_key(
        "digits_student, 10 classes",
        shape=(1, 8, 8),
        device=timing_cache.cpu_name(),
        threads=threads,
        detail=f"batch {batch}",
    )
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "probe.json").write_text(json.dumps({key: {"train_step_s": step}}))


def test_the_time_comes_from_the_cached_probe(tmp_path, cache):
    request = make_request(tmp_path, epochs=10, trials=24)
    assert times(request) == ("not measured", "not measured")
    put_probe(cache, 0.5)
    # 1257 images without 377, 64 a batch: 13 steps an epoch; 24 and 36 runs of 10 epochs, 2 at once
    assert times(request) == ("about 13 min 00 s", "about 19 min 30 s")
    fewer = replace(request, limit_train=640)  # 448 are fitted: 7 steps
    assert times(fewer) == ("about 7 min 00 s", "about 10 min 30 s")
    assert times(fewer, Resources(max_concurrent=1)) == ("about 14 min 00 s", "about 21 min 00 s")
    shared = replace(request, space=replace(request.space, val_share=0.1))  # 1131: 17 steps
    assert times(shared)[0] == "about 17 min 00 s"


def test_no_time_where_the_probe_was_of_something_else(tmp_path, cache):
    put_probe(cache, 0.5)
    request = make_request(tmp_path)
    assert "not measured" not in times(request)
    for other in (
        replace(request, space=with_fields(request.space, {"student.batch_size": 32})),
        replace(request, space=with_fields(request.space, {"student": "digits_teacher"})),
        replace(request, data=tmp_path),  # how many images it has is not known
    ):
        assert times(other) == ("not measured", "not measured")
    assert times(request, Resources(cpus=2)) == ("not measured", "not measured")
    assert times(request, Resources(address="x:1")) == ("not measured", "not measured")


def test_a_probe_that_search_wrote_is_found(tmp_path, cache):
    """The two sides of the cache agree about its keys."""
    from tests.helpers.made_study import dataset
    from tune_kd.execution import benchmark
    from tune_kd.training import trial

    request = make_request(tmp_path)
    config = {
        "images": made_study.create_study.asdict(dataset().images),
        "teacher": "digits_teacher",
        "student": "digits_student",
        "batch_size": 64,
        "sources": [],
        "compiled": False,
    }
    cache.mkdir()
    benchmark.prepare(config, trial.NodeContext(cache=cache))
    import torch

    threads = torch.get_num_threads()
    resources = Resources(cpus=threads, max_concurrent=1)
    assert all(time.startswith("about ") for time in times(request, resources))


def test_an_existing_study_is_said(tmp_path):
    request = make_request(tmp_path)
    made_study.begin(request)
    assert lines(request)["study"].endswith("(will be resumed)")
    again = replace(request, resume=False)
    assert "add --resume or use a new --name" in lines(again)["study"]
    model = manifest.read(request.storage).teacher_model
    assert lines(request)["teacher"] == "digits_teacher, to be trained for 12 epochs"
    request.storage.write(f"models/{model}.safetensors", b"x")
    assert lines(request)["teacher"] == f"digits_teacher, found: {model}"
    file = replace(request, teacher=ExternalCheckpoint(name="big.pt", data=b"x"))
    assert lines(file)["teacher"] == "digits_teacher from big.pt"


def test_a_cluster_is_named_not_asked(tmp_path):
    resources = Resources(address="head:6379", gpus=0.25, max_concurrent=0)
    texts = lines(make_request(tmp_path), resources)
    assert texts["device"] == "the cluster at head:6379, 1 CPU and 0.25 GPU a trial"


def test_more_repeats_of_an_existing_study(tmp_path):
    request = make_request(tmp_path, trials=60)  # 3 repeats of 5
    made_study.begin(request)
    assert lines(request)["trials"].startswith("60: 3 repeats of 5 for each of 4 methods")
    texts = lines(replace(request, repeats=5))
    assert texts["trials"].startswith("100: 5 repeats of 5 for each of 4 methods")
    assert texts["search"].startswith("at most 100 runs")
