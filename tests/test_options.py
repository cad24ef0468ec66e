"""What options ask for, as values."""

from pathlib import Path

import pytest

from tune_kd import cli, machine, options
from tune_kd.errors import UsageError


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def given(*arguments: object):
    parser = cli.Parser()
    for add in (options.add_study, options.add_search, options.add_resources):
        add(parser)
    return parser.parse(["--space", "digits_kd", *map(str, arguments)])


def space(*arguments: object):
    return options.chosen_space(given(*arguments))[0]


def request(*arguments: object):
    return options.request(given(*arguments), command="made")


@pytest.mark.parametrize(
    ("arguments", "epochs", "teacher"),
    [
        ([], 15, 12),
        (["--epochs", 12], 12, 10),
        (["--epochs", 6], 6, 5),
        (["--epochs", 7], 7, 6),  # 5.6
        (["--epochs", 1], 1, 1),
        (["--epochs", 48], 48, 38),
        (["--epochs", 12, "--set", "teacher_epochs=3"], 12, 3),
        (["--set", "teacher_epochs=3", "--epochs", 12], 12, 3),
        (["--set", "teacher_epochs=3"], 15, 3),
        (["--set", "epochs=12"], 12, 12),
    ],
)
def test_the_teachers_epochs_shrink_with_the_students(arguments, epochs, teacher):
    chosen = space(*arguments)
    assert (chosen.epochs, chosen.teacher_epochs) == (epochs, teacher)


@pytest.mark.parametrize(
    ("trials", "methods", "each"),
    [(8, 4, 2), (9, 4, 3), (1, 4, 1), (10, 3, 4), (10, 1, 10), (11, 2, 6)],
)
def test_trials_are_rounded_up_to_equal_counts(trials, methods, each):
    names = ["no_kd", "response", "feature", "combined"][:methods]
    asked = request("--trials", trials, "--methods", *names)
    assert list(asked.space.methods) == names
    assert asked.each == each


def test_defaults_are_the_issues():
    asked = request()
    assert asked.each == 8
    assert asked.space.trials == 32
    assert asked.storage.uri == str(Path("runs/digits_kd").absolute())
    assert (asked.seed, asked.limit_train, asked.data, asked.teacher) == (0, 0, None, None)
    assert (asked.sampler, asked.scheduler, asked.resume) == ("tpe", "asha", False)


def test_out_and_name():
    assert request("--out", "/x", "--name", "y").storage.uri == "/x/y"
    found = options.request(given(), command="", name="z")
    assert found.storage.uri == str(Path("runs/z").absolute())
    named = options.request(given("--name", "y"), command="", name="z")
    assert named.storage.name == "y"


def test_sets_are_applied_in_their_order_after_all_else():
    chosen = space("--set", "batch_size=32", "--set", "batch_size=16", "--epochs", 3)
    assert (chosen.batch_size, chosen.epochs) == (16, 3)
    pinned = space("--set", "temperature=4", "--methods", "response")
    assert dict(pinned.methods["response"].fixed) == {"temperature": 4.0}
    with pytest.raises(UsageError, match="unknown name"):
        space("--set", "temperature=4", "--methods", "no_kd")  # it has no such range


def test_resources_of_this_machine(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "gpus", lambda: 2)

    def found(*arguments):
        r = options.wanted_resources(given(*arguments))
        return r.cpus, r.gpus, r.max_concurrent

    assert found() == (1.0, 1.0, 2)
    assert found("--gpus-per-trial", 0) == (1.0, 0.0, 8)
    assert found("--gpus-per-trial", 0.25) == (1.0, 0.25, 8)
    assert found("--gpus-per-trial", 0.3) == (1.0, 0.3, 6)
    assert found("--gpus-per-trial", 2) == (1.0, 2.0, 1)
    assert found("--gpus-per-trial", 0, "--cpus-per-trial", 3) == (3.0, 0.0, 2)
    assert found("--gpus-per-trial", 0, "--cpus-per-trial", 0.5) == (0.5, 0.0, 16)
    assert found("--gpus-per-trial", 0, "--max-concurrent", 3) == (1.0, 0.0, 3)
    with pytest.raises(UsageError, match="this machine has 2 GPUs"):
        found("--gpus-per-trial", 3)
    with pytest.raises(UsageError, match="this machine has 8 cores"):
        found("--cpus-per-trial", 9)
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    assert found() == (1.0, 0.0, 8)


def test_with_an_address_gpus_must_be_said(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    with pytest.raises(UsageError, match="--gpus-per-trial must be said"):
        options.wanted_resources(given("--address", "head:6379"))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(UsageError, match="--gpus-per-trial must be said"):
        options.wanted_resources(given())
    found = options.wanted_resources(given("--gpus-per-trial", 4, "--cpus-per-trial", 64))
    assert (found.address, found.gpus, found.cpus, found.max_concurrent) == ("head:6379", 4, 64, 0)
    assert options.address_of(given("--address", "other:1")) == "other:1"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert options.address_of(given()) is None


def test_a_cpu_is_at_least_a_part(monkeypatch):
    with pytest.raises(UsageError, match="more than 0"):
        options.wanted_resources(given("--cpus-per-trial", 0))


def test_data_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert request("--data", "images").data == tmp_path / "images"
    assert request("--data", "~/images").data == Path("/home/me/images")
