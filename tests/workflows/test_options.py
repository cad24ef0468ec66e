"""What options ask for, as values."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import made_study
from tune_kd import cli
from tune_kd.errors import UsageError
from tune_kd.measure import hardware
from tune_kd.tuning.search_plan import Budget
from tune_kd.workflows import checks, options

METHODS = ["no_kd", "response", "feature", "combined"]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def parse(*arguments: object):
    parser = cli.Parser()
    for add in (options.add_study, options.add_search, options.add_resources):
        add(parser)
    return parser.parse(["--space", "digits_kd", *map(str, arguments)])


def search_options(*arguments: object):
    return options.read(options.SearchOptions, parse(*arguments))


def resources(*arguments: object):
    return options.read(options.ResourceOptions, parse(*arguments))


def space(*arguments: object):
    return options.chosen_space(search_options(*arguments))[0]


def request(*arguments: object):
    return options.request(search_options(*arguments), command="made")


@pytest.mark.parametrize(
    ("arguments", "epochs", "teacher"),
    [
        ([], 15, 12),
        (["--epochs", 12], 12, 10),
        (["--epochs", 6], 6, 5),
        (["--epochs", 7], 7, 6),  # 5.6
        (["--epochs", 1], 1, 1),
        (["--epochs", 48], 48, 38),
        (["--epochs", 12, "--set", "teacher.epochs=3"], 12, 3),
        (["--set", "teacher.epochs=3", "--epochs", 12], 12, 3),
        (["--set", "teacher.epochs=3"], 15, 3),
        (["--set", "epochs=12"], 12, 10),
        (["--set", "teacher.epochs=3", "--set", "epochs=12"], 12, 3),
        (["--set", "student.epochs=12"], 12, 12),
    ],
)
def test_the_teachers_epochs_shrink_with_the_students(arguments, epochs, teacher):
    search_space = space(*arguments)
    assert (search_space.student.epochs, search_space.teacher.epochs) == (epochs, teacher)


@pytest.mark.parametrize(
    ("trials", "methods", "repeats", "each"),
    [
        (8, 4, 1, 2), (9, 4, 1, 3), (1, 4, 1, 1), (10, 3, 1, 4), (9, 1, 1, 9),
        (10, 1, 2, 5), (11, 2, 1, 6), (24, 1, 4, 6), (25, 1, 5, 5), (26, 1, 5, 6),
        (36, 4, 1, 9), (37, 4, 2, 5), (120, 4, 5, 6), (400, 4, 5, 20), (121, 4, 5, 7),
    ],
)  # fmt: skip
def test_trials_are_rounded_up_to_equal_counts(trials, methods, repeats, each):
    names = METHODS[:methods]
    search_request = request("--trials", trials, "--methods", *names)
    assert list(search_request.space.methods) == names
    assert checks.budget(search_request) == Budget(repeats=repeats, each=each)


@pytest.mark.parametrize(
    ("repeats", "trials", "methods", "each"),
    [(1, 1, 4, 1), (1, 400, 4, 100), (2, 10, 1, 5), (2, 11, 1, 6), (7, 140, 4, 5), (3, 61, 4, 6)],
)
def test_repeats_that_are_asked_for_by_name(repeats, trials, methods, each):
    search_request = request(
        "--trials", trials, "--repeats", repeats, "--methods", *METHODS[:methods]
    )
    assert checks.budget(search_request) == Budget(repeats=repeats, each=each)


@pytest.mark.parametrize(
    ("repeats", "trials", "methods", "says"),
    [
        (2, 9, 1, "9 trials are 9 for each of 1 methods.* --repeats 1 or --trials 10"),
        (5, 96, 4, "96 trials are 24 for each of 4 methods.* --repeats 4 or --trials 100"),
        (3, 4, 4, "4 trials are 1 for each of 4 methods.* --repeats 1 or --trials 60"),
    ],
)
def test_repeats_that_do_not_fit_name_what_does(repeats, trials, methods, says):
    words = ("--trials", trials, "--repeats", repeats, "--methods", *METHODS[:methods])
    with pytest.raises(UsageError, match=f"--repeats {repeats}: {says}"):
        request(*words)
    # what is named fits
    search_request = request(*words[:2], "--repeats", says.split()[-4], *words[4:])
    assert checks.budget(search_request).repeats == int(says.split()[-4])
    search_request = request("--trials", says.split()[-1], *words[2:])
    assert checks.budget(search_request) == Budget(repeats=repeats, each=5)


def test_a_space_may_have_fewer_repeats(tmp_path):
    search_request = made_study.request(tmp_path, trials=400, repeats=3)
    assert checks.budget(search_request) == Budget(repeats=3, each=34)
    # named repeats may be more than those
    assert checks.budget(replace(search_request, repeats=8)) == Budget(repeats=8, each=13)


# A study that is there: --repeats, --trials and what began it


def begin_study(folder, **changes):
    """Three repeats of six for each of four methods, and what asked for them."""
    search_request = made_study.request(folder, trials=72, repeats=3, **changes)
    study = made_study.begin(search_request)
    assert (study.manifest.repeats, study.manifest.trials_per_repeat) == (3, 6)
    assert study.manifest.trials == 72
    return search_request, study


@pytest.mark.parametrize(
    ("repeats", "trials", "expected"),
    [
        (None, None, 3), (3, None, 3), (4, None, 4), (9, None, 9),
        (None, 72, 3),  # the command that began it
        (None, 69, 3),  # which rounds to the same
        (None, 73, 4), (None, 96, 4), (None, 97, 5),
        (5, 72, 5), (4, 10, 4),  # what is named counts
    ],
)  # fmt: skip
def test_more_repeats_of_as_many_trials(tmp_path, repeats, trials, expected):
    search_request, study = begin_study(tmp_path)
    space = replace(search_request.space, trials=trials or search_request.space.trials)
    more = replace(search_request, space=space, repeats=repeats, trials=trials)
    assert checks.budget(more, study) == Budget(repeats=expected, each=6)


@pytest.mark.parametrize(("repeats", "trials"), [(2, None), (1, 72), (None, 48), (None, 4)])
def test_repeats_are_never_taken_away(tmp_path, repeats, trials):
    search_request, study = begin_study(tmp_path)
    space = replace(search_request.space, trials=trials or search_request.space.trials)
    fewer = replace(search_request, space=space, repeats=repeats, trials=trials)
    with pytest.raises(UsageError, match=r"has 3 repeats of 24 trials.*may only be raised"):
        checks.budget(fewer, study)


def test_a_study_that_has_grown_stays_so(tmp_path):
    search_request, study = begin_study(tmp_path, epochs=1)
    made_study.play(study, replace(search_request, repeats=4), lambda p, step: 0.5)
    grown = made_study.reopen(study)
    assert grown.manifest.repeats == 3
    assert grown.repeats == 4
    for same in (search_request, replace(search_request, trials=72)):  # the command that began it
        assert checks.budget(same, grown) == Budget(repeats=4, each=6)
    with pytest.raises(UsageError, match="has 4 repeats of 24 trials"):
        checks.budget(replace(search_request, repeats=3), grown)


def test_a_quick_look_does_not_become_a_study_of_repeats(tmp_path):
    search_request = made_study.request(tmp_path, trials=16)
    study = made_study.begin(search_request)
    assert checks.budget(search_request, study) == Budget(repeats=1, each=4)
    with pytest.raises(UsageError, match=r"began with 4 trials for.*--name.* --trials 60"):
        checks.budget(replace(search_request, repeats=3), study)


def test_trials_by_set_are_trials_that_are_asked_for():
    assert request("--set", "trials=40").trials == request("--trials", 40).trials == 40
    assert request().trials is None
    assert request("--trials", 120).trials == 120  # the space's own, said


@pytest.mark.parametrize("text", ["repeats=3", " repeats = 3"])
def test_repeats_are_not_set(text):
    with pytest.raises(UsageError, match="write --repeats"):
        space("--set", text)


def test_defaults_are_the_issues():
    search_request = request()
    assert checks.budget(search_request) == Budget(repeats=5, each=6)
    assert search_request.space.trials == 120
    assert search_request.storage.uri == str(Path("runs/digits_kd").absolute())
    assert (
        search_request.seed,
        search_request.limit_train,
        search_request.data,
        search_request.teacher,
    ) == (0, 0, None, None)
    assert (search_request.sampler, search_request.scheduler, search_request.resume) == (
        "tpe",
        "asha",
        False,
    )


def test_out_and_name():
    assert request("--out", "/x", "--name", "y").storage.uri == "/x/y"
    fallback = options.request(search_options(), command="", name="z")
    assert fallback.storage.uri == str(Path("runs/z").absolute())
    explicit = options.request(search_options("--name", "y"), command="", name="z")
    assert explicit.storage.name == "y"


def test_sets_are_applied_in_their_order_after_all_else():
    search_space = space(
        "--set", "student.batch_size=32", "--set", "student.batch_size=16", "--epochs", 3
    )
    assert (search_space.student.batch_size, search_space.student.epochs) == (16, 3)
    pinned = space("--set", "temperature=4", "--methods", "response")
    assert dict(pinned.methods["response"].fixed) == {"temperature": 4.0}
    with pytest.raises(UsageError, match="unknown name"):
        space("--set", "temperature=4", "--methods", "no_kd")  # it has no such range


def test_resources_of_this_machine(monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    monkeypatch.setattr(hardware, "gpus", lambda: 2)

    def allocate(*arguments):
        r = resources(*arguments).allocate()
        return r.cpus, r.gpus, r.max_concurrent

    assert allocate() == (1.0, 1.0, 2)
    assert allocate("--gpus-per-trial", 0) == (1.0, 0.0, 8)
    assert allocate("--gpus-per-trial", 0.25) == (1.0, 0.25, 8)
    assert allocate("--gpus-per-trial", 0.3) == (1.0, 0.3, 6)
    assert allocate("--gpus-per-trial", 2) == (1.0, 2.0, 1)
    assert allocate("--gpus-per-trial", 0, "--cpus-per-trial", 3) == (3.0, 0.0, 2)
    assert allocate("--gpus-per-trial", 0, "--cpus-per-trial", 0.5) == (0.5, 0.0, 16)
    assert allocate("--gpus-per-trial", 0, "--max-concurrent", 3) == (1.0, 0.0, 3)
    with pytest.raises(UsageError, match="this machine has 2 GPUs"):
        allocate("--gpus-per-trial", 3)
    with pytest.raises(UsageError, match="this machine has 8 cores"):
        allocate("--cpus-per-trial", 9)
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    assert allocate() == (1.0, 0.0, 8)


def test_with_an_address_gpus_must_be_said(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    with pytest.raises(UsageError, match="--gpus-per-trial must be said"):
        resources("--address", "head:6379").allocate()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(UsageError, match="--gpus-per-trial must be said"):
        resources().allocate()
    allocation = resources("--gpus-per-trial", 4, "--cpus-per-trial", 64).allocate()
    assert (allocation.address, allocation.gpus, allocation.cpus, allocation.max_concurrent) == (
        "head:6379",
        4,
        64,
        0,
    )
    assert resources("--address", "other:1").cluster == "other:1"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert resources().cluster is None


def test_a_cpu_is_at_least_a_part(monkeypatch):
    with pytest.raises(UsageError, match="must be positive"):
        resources("--cpus-per-trial", 0).allocate()


def test_data_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert request("--data", "images").data == tmp_path / "images"
    assert request("--data", "~/images").data == Path("/home/me/images")
