"""Wrong usage, row by row, through the real command lines: what is said, the exit code, what is left.

Each is answered before Ray starts, in one or two lines, with exit code 2 and nothing new on disk.
"""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import ray
import torch
import torch.utils.cpp_extension  # now, while nobody looks: it warns where a CUDA lacks its GPU
from PIL import Image

from tests.helpers import made_study
from tune_kd import cli, confirm, search, train_teacher
from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.workflows import checks

SPACE = """from tune_kd.space.methods import kd_methods
from tune_kd.space import *

SPACE = SearchSpace(
    name="mine", task="digits",
    teacher=Training("digits_teacher", epochs=1), student=Training("digits_student", epochs=1), trials=4,
    methods=kd_methods(
        {"lr": log_uniform(0.01, 0.5), "weight_decay": log_uniform(5e-5, 2e-3),
         "dropout": uniform(0.0, 0.3)},
        defaults={"lr": 0.1, "weight_decay": 5e-4, "dropout": 0.0},
    ),
)
"""


@dataclass(frozen=True)
class Answer:
    code: int
    message: str
    out: str


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """In an empty folder, with the environment put back, where starting Ray is an error."""

    def never(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with mock.patch.dict(os.environ):
        yield


def tree(folder: Path = Path()) -> dict[str, bytes]:
    """Everything below a folder, with contents."""
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def run(main, *arguments: object) -> Answer:
    """A command line in this process."""
    err, out = io.StringIO(), io.StringIO()
    with redirect_stderr(err), redirect_stdout(out):
        try:
            code = cli.run_command(main, [str(a) for a in arguments])
        except SystemExit as stopped:  # argparse
            code = stopped.code
    return Answer(code, err.getvalue().strip(), out.getvalue())


def check_refused(main, *arguments: object, says: str | tuple[str, ...]) -> str:
    """The answer to wrong usage, checked for what all have in common."""
    before = tree()
    answer = run(main, *arguments)
    words = (says,) if isinstance(says, str) else says
    assert answer.code == 2, answer
    assert [word for word in words if word not in answer.message] == [], answer.message
    assert answer.message.startswith("error: ")
    assert len(answer.message.splitlines()) <= 2, answer.message
    assert "Traceback" not in answer.message
    assert answer.out == ""
    assert tree() == before  # nothing left behind
    return answer.message


def digits(*arguments: object, says: str | tuple[str, ...]) -> str:
    return check_refused(search.main, "--space", "digits_kd", *arguments, says=says)


# Unknown names: the nearest is named


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--space", "digit_kd"], ("'digit_kd'", "did you mean 'digits_kd'?", "cifar10_small_kd")),
        (["--space", "zzz"], ("unknown space 'zzz'", "digits_kd")),
        (["--space", "nope/mine.py"], ("nope/mine.py", "no such file")),
        (["--space", "."], "unknown space '.'"),
        ([], "--space"),
        (["--space", "digits_kd", "--trails", "4"], ("--trails", "did you mean --trials?")),
        (["--space", "digits_kd", "--methods", "respons"], "did you mean 'response'?"),
        (["--space", "digits_kd", "--methods", "no_kd", "kd"], "unknown method 'kd'"),
        (["--space", "digits_kd", "--set", "temprature=4"], "did you mean 'temperature'?"),
        (
            ["--space", "digits_kd", "--set", "batchsize=4"],
            "did you mean 'batch_size' or 'teacher.batch_size'",
        ),
        (["--space", "digits_kd", "--set", "name=x"], "unknown name in --set 'name'"),
        (["--space", "digits_kd", "--set", "task=digit"], "did you mean 'digits'?"),
        (["--space", "digits_kd", "--sampler", "tp"], "did you mean 'tpe'?"),
        (["--space", "digits_kd", "--scheduler", "ahsa"], "did you mean 'asha'?"),
    ],
)
def test_unknown_names(arguments, says):
    check_refused(search.main, *arguments, says=says)


@pytest.mark.parametrize(
    ("field", "near"),
    [
        ("student=digits_studnt", "did you mean 'digits_student'?"),
        ("teacher=digits_teachr", "did you mean 'digits_teacher'?"),
        ("feature_loss=cosin", "did you mean 'cosine'?"),
        ("levels=lo,mid", "did you mean 'low'?"),
    ],
)
def test_unknown_networks_losses_and_levels(field, near):
    digits("--set", field, says=near)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_for_other_labels_than_the_tasks(role):
    name = "lraspp_mobilenet_v3_small"
    message = (f"network {name} scores every pixel", "task digits has labels of images")
    digits("--set", f"{role}={name}", says=message)


def test_networks_of_images_for_pixels_and_a_vit_for_oblong_ones():
    pixels = replace(made_study.IMAGES, task="camvid", channels=3, size=(24, 32), pad=0, dense=True)
    for name, says in (
        ("resnet8", "network resnet8 scores images, but task camvid has labels of every pixel"),
        ("vit_tiny_6", "a ViT takes square images whose side is a multiple of 4, not 24x32"),
    ):
        request = made_study.request(Path("s"), student=name, teacher="fcn_resnet50")
        with pytest.raises(UsageError, match=says):
            checks.check_networks(request, replace(made_study.dataset(), images=pixels))


# Impossible values: rule and value


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--trials", 0], ("--trials", "at least 1", "0")),
        (["--trials", -3], ("--trials", "at least 1", "-3")),
        (["--trials", "many"], ("--trials", "expected an integer", "'many'")),
        (["--repeats", 0], ("--repeats", "at least 1", "0")),
        (["--epochs", -1], ("--epochs", "at least 1", "-1")),
        (["--epochs", 0], ("--epochs", "at least 1", "0")),
        (["--epochs", 1.5], ("--epochs", "expected an integer", "'1.5'")),
        (["--seed", -1], ("--seed", "at least 0", "-1")),
        (["--max-concurrent", 0], ("--max-concurrent", "at least 1")),
        (["--time-budget", "soon"], ("--time-budget", "45m", "'soon'")),
        (["--time-budget", "0"], ("--time-budget", "more than 0")),
        (["--cpus-per-trial", 0], ("--cpus-per-trial 0", "must be positive")),
        (["--cpus-per-trial", 4096], ("--cpus-per-trial 4096", "cores")),
        (["--gpus-per-trial", -1], ("--gpus-per-trial", "at least 0")),
        (["--gpus-per-trial", "nan"], ("--gpus-per-trial", "at least 0")),
        (["--set", "lr"], "--set NAME=VALUE"),
        (["--set", "lr=fast"], ("--set lr=fast", "'fast'")),
        (["--set", "lr=-1"], ("0 < lr", "-1.0")),
        (["--set", "temperature=0"], ("0 < temperature", "0.0")),
        (["--set", "dropout=1"], ("dropout < 1", "1.0")),
        (["--set", "epochs=0"], ("epochs >= 1", "0")),
        (["--set", "teacher.epochs=-2"], ("epochs >= 1", "-2")),
        (["--set", "batch_size=1"], ("batch_size >= 2", "1")),
        (["--set", "batch_size=64.5"], ("batch_size=64.5", "int is wanted")),
        (["--set", "optimizer.name=adm"], ("sgd, adamw", "'adm'")),
        (["--set", "nesterov=3"], ("nesterov=3", "bool is wanted")),
        (["--set", "decay_at=0.7,0.2"], ("decay_at rises", "(0.7, 0.2)")),
        (["--set", "decay_at=soon"], ("decay_at rises", "soon")),
        (["--limit-train", 0], ("--limit-train", "at least 1")),
        (["--limit-train", 39], ("--limit-train 39", "40 to 1257")),
        (["--limit-train", 1258], ("--limit-train 1258", "40 to 1257")),
        (["--name", "a/b"], ("--name a/b", "plain name", "--out")),
        (["--name", "../x"], ("--name ../x", "plain name")),
        (["--name", ".x"], ("--name .x", "plain name")),
        (["--address", "127.0.0.1:1"], ("--gpus-per-trial", "must be said")),
    ],
)
def test_impossible_values(arguments, says):
    digits(*arguments, says=says)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("log_uniform(0.01, 0.5)", "log_uniform(0.5, 0.01)", 8, ("low <= high", "low=0.5")),
        ("log_uniform(0.01, 0.5)", "log_uniform(0.0, 0.5)", 8, ("low > 0", "low=0.0")),
        ("log_uniform(0.01, 0.5)", "log_uniform(0.2, 0.5)", 7, ("lr=0.1", "0.2 .. 0.5 log")),
        ("trials=4", "trials=0", 4, ("trials >= 1", "0")),
        ("epochs=1)", "epochs=-1)", 6, ("epochs >= 1", "-1")),
        ("trials=4", "trails=4", 4, ("trails",)),
        ('"lr": 0.1', '"lrr": 0.1', 7, ("lrr", "no range")),
        ("uniform(0.0, 0.3)", "unifrom(0.0, 0.3)", 9, ("unifrom",)),
        ("SPACE = SearchSpace(", "SPACE = SearchSpace((", 4, ("SyntaxError",)),
        ("SPACE =", "SPCE =", None, ("defines no SPACE", "SearchSpace(name=...")),
    ],
)
def test_a_users_space_file_is_answered_with_file_and_line(old, new, line, says):
    assert SPACE.count(old) >= 1
    Path("mine.py").write_text(SPACE.replace(old, new, 1))
    where = f"mine.py, line {line}:" if line else "mine.py"
    message = check_refused(search.main, "--space", "mine.py", says=(where, *says))
    assert "line 0" not in message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("uniform(0.0, 0.3)", "uniform(0.0, 1.3)", ("dropout", "< 1", "1.3")),
        ("uniform(0.0, 0.3)", "uniform(-0.5, 0.3)", ("dropout", "-0.5")),
    ],
)
def test_a_range_that_no_recipe_takes(old, new, says):
    Path("mine.py").write_text(SPACE.replace(old, new, 1))
    check_refused(search.main, "--space", "mine.py", says=says)


def test_a_users_own_functions_that_are_not_there():
    Path("mine.py").write_text(SPACE.replace('task="digits"', 'task="nets.py:small"'))
    check_refused(search.main, "--space", "mine.py", says=("nets.py:small", "there is no file"))
    Path("nets.py").write_text("def smal():\n    pass\n")
    check_refused(search.main, "--space", "mine.py", says=("'small'", "did you mean 'smal'?"))


def test_a_users_own_network_that_is_not_there():
    Path("mine.py").write_text(SPACE.replace('"digits_student"', '"nets.py:small"'))
    check_refused(search.main, "--space", "mine.py", says=("nets.py:small", "there is no file"))


# Data


def folder(
    *, classes: int = 2, images: int = 6, splits: tuple[str, ...] = ("train", "test")
) -> Path:
    for split in splits:
        for kind in range(classes):
            inner = Path("images") / split / f"class{kind}"
            inner.mkdir(parents=True)
            for number in range(images):
                pixels = np.full((8, 8), 40 * number, np.uint8)
                Image.fromarray(pixels).save(inner / f"{number}.png")
    return Path("images")


LAYOUT = "train/<class>/*"


def test_data_of_one_class():
    digits("--data", folder(classes=1), says=("images/train", "1 class", "at least 2", LAYOUT))


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_without_a_split(split):
    other = "test" if split == "train" else "train"
    digits("--data", folder(splits=(other,)), says=("images", f"no {split} split", LAYOUT))


def test_an_unreadable_image():
    where = folder() / "train" / "class1" / "3.png"
    where.write_bytes(b"nothing")
    digits("--data", "images", says=(str(where), "not a readable image"))


def test_a_class_without_images():
    for image in (folder() / "train" / "class1").iterdir():
        image.unlink()
    digits("--data", "images", says=("train/class1", "no images", LAYOUT))


def test_too_few_images_of_a_class():
    digits("--data", folder(images=3), says=("class", "3 training images", "at least 4"))


def test_data_that_is_nothing_that_is_known():
    digits("--data", "nothing", says=("nothing", "no such folder"))
    Path("empty").mkdir()
    digits("--data", "empty", says=("empty", "holds no data set", LAYOUT))
    Path("file").write_text("")
    digits("--data", "file", says=("file", "no such folder"))
    (Path("empty") / "train.parquet").write_bytes(b"nothing")
    (Path("empty") / "test.parquet").write_bytes(b"nothing")
    digits("--data", "empty", says=("train.parquet", "not a readable Parquet file"))


def test_cifar_that_is_nowhere(monkeypatch):
    from torchvision.datasets import utils

    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.delenv("TUNE_KD_DATA", raising=False)
    monkeypatch.setattr(utils, "download_url", unreachable)
    with mock.patch.dict(os.environ, TUNE_KD_CACHE=str(Path("empty-cache").absolute())):
        Path("empty-cache/downloads").mkdir(parents=True)
        Path("empty-cache/data").mkdir()
        answer = run(search.main, "--space", "cifar10_small_kd")
    assert answer.code == 2
    assert "empty-cache/downloads" in answer.message
    assert "cifar-10-python.tar.gz" in answer.message
    assert "--data" in answer.message
    assert not Path("runs").exists()


# A teacher's checkpoint


def save(name: str, value: object) -> str:
    torch.save(value, name)
    return name


def test_a_checkpoint_of_another_architecture():
    student = registry.build("digits_student", shape=registry.Shape(num_classes=10, channels=1))
    message = digits(
        "--teacher", save("student.pt", student.state_dict()), says=("student.pt", "shape", "[4]")
    )
    assert "instead of" in message
    digits("--teacher", save("x.pt", {"w": torch.zeros(1)}), says=("missing: ", "unexpected: w"))


def test_not_a_checkpoint():
    digits("--teacher", "none.pt", says=("none.pt", "no such file"))
    digits("--teacher", ".", says="no such file")
    for name in ("bad.pt", "bad.safetensors"):
        Path(name).write_bytes(b"nothing")
        digits("--teacher", name, says=(name, "not a checkpoint", "state_dict()"))
    Path("text.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"{" + b"x" * 30)
    digits("--teacher", "text.safetensors", says="not a checkpoint")
    digits("--teacher", save("list.pt", [1]), says=("list.pt", "not a checkpoint"))
    digits("--teacher", save("odd.pt", {"lr": 0.1}), says=("odd.pt", "'lr' is float"))
    module = torch.nn.Linear(1, 1)
    digits("--teacher", save("whole.pt", module), says=("whole.pt", "state_dict()"))


# Resources and outputs


def test_more_gpus_than_there_are():
    have = torch.cuda.device_count()
    says = (f"--gpus-per-trial {have + 1}", f"this machine has {have} GPUs", "--address")
    digits("--gpus-per-trial", have + 1, says=says)


def test_an_address_where_nothing_answers():
    digits("--address", "127.0.0.1:1", "--gpus-per-trial", 0, says="nothing answers there")


def test_an_output_that_cannot_be_written():
    Path("file").write_text("in the way")
    for out in ("file", "file/below", "/proc/runs"):  # root may write everywhere else
        digits("--out", out, says=("cannot write to --out", out, "may write"))
    Path("runs").mkdir()
    Path("runs/digits_kd").write_text("in the way")
    digits(says=("cannot write to --out", "runs/digits_kd"))


@pytest.mark.parametrize("out", ["ftp://host/x", "s3://", "s3://bucket/x?nope=1"])
def test_an_output_of_no_known_kind(out):
    digits("--out", out, says=("--out", "allowed"))


def test_a_bucket_where_nothing_answers():
    out = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http"
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    with mock.patch.dict(os.environ, keys):
        digits("--out", out, says="cannot write to --out")


# Studies that are something else


@pytest.fixture
def study_folder(tmp_path):
    """A study as `--space digits_kd --epochs 3 --trials 4` begins it, on the real digits."""
    request = made_study.request(
        tmp_path / "runs" / "digits_kd", epochs=3, teacher_epochs=2, trials=4
    )
    dataset = made_study.checks.prepare_data(request)
    made_study.create_study.begin(
        request,
        dataset,
        session=made_study.FakeSession(),
        progress=made_study.Progress(quiet=True),
    )
    return tmp_path / "runs" / "digits_kd"


SAME = ("--epochs", 3, "--trials", 4)


def test_an_existing_study_names_both_ways_on(study_folder):
    digits(*SAME, says=("runs/digits_kd", "--resume", "--name"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ["--epochs", 4, "--trials", 4],
            ("settings.student.epochs is 3 in the existing study, 4 requested",),
        ),
        ([*SAME, "--seed", 1], ("seed is 0 in the existing study, 1 requested",)),
        ([*SAME, "--methods", "no_kd"], ("methods.combined",)),
        ([*SAME, "--set", "lr=0.1"], ("methods.combined.",)),
        (
            [*SAME, "--set", "student.batch_size=32"],
            ("settings.student.batch_size is 64 in the existing study, 32",),
        ),
        ([*SAME, "--limit-train", 100], ("limit_train is 0 in the existing study, 100",)),
        ([*SAME, "--sampler", "random"], ("sampler is 'tpe' in the existing study",)),
        ([*SAME, "--scheduler", "none"], ("scheduler is 'asha' in the existing study",)),
        (["--epochs", 3, "--trials", 2, "--methods", "no_kd", "feature"], ("methods.combined",)),
    ],
)
def test_a_study_of_something_else_shows_the_difference(study_folder, change, says):
    digits(*change, "--resume", says=(*says, "created with other settings", "--name"))


def test_fewer_trials_than_the_study_has(study_folder):
    manifest = json.loads((study_folder / "manifest.json").read_text())
    more = {"trials": 8, "trials_per_repeat": 2}
    (study_folder / "manifest.json").write_text(json.dumps(manifest | more))
    digits(*SAME, "--resume", says=("1 repeat of 8 trials", "--trials", "only be raised"))


def test_fewer_repeats_than_the_study_has(study_folder):
    manifest = json.loads((study_folder / "manifest.json").read_text())
    more = {"trials": 60, "trials_per_repeat": 5, "repeats": 3}
    (study_folder / "manifest.json").write_text(json.dumps(manifest | more))
    same = ("--epochs", 3, "--trials", 60, "--resume")
    digits(*same, "--repeats", 2, says=("3 repeats of 20 trials", "--repeats", "only be raised"))


def test_more_repeats_than_the_trials_suffice_for(study_folder):
    says = ("began with 1 trials for each method", "a repeat needs 5", "--name", "--trials 60")
    digits(*SAME, "--resume", "--repeats", 3, says=says)
    digits(*SAME, "--resume", "--trials", 12, says=("a repeat needs 5", "--trials 60"))
    new = ("--name", "new", "--methods", "no_kd", "response", "--trials", 24)
    says = ("--repeats 3", "24 trials are 12 for each of 2 methods", "--repeats 2 or --trials 30")
    digits(*new, "--repeats", 3, says=says)
    digits(*new, "--repeats", 3, "--resume", says=says)  # of a study that is not there yet
    digits(*new, "--repeats", 3, "--dry-run", says=says)


def test_repeats_are_no_field_that_is_set():
    digits("--set", "repeats=3", says=("--set repeats=3", "write --repeats 3"))


def test_a_study_of_another_space(study_folder):
    Path("mine.py").write_text(SPACE)
    says = ("space is 'digits_kd' in the existing study, 'mine' requested", "--name")
    check_refused(search.main, "--space", "mine.py", "--name", "digits_kd", "--resume", says=says)


def test_a_study_of_other_images(study_folder):
    data = folder(classes=10)
    digits(
        *SAME,
        "--data",
        data,
        "--resume",
        says=("images.", "in the existing study", "created with other settings"),
    )


def test_a_study_of_another_schema(study_folder):
    manifest = json.loads((study_folder / "manifest.json").read_text())
    (study_folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    digits(*SAME, "--resume", says=("schema 99", "--name"))
    check_refused(confirm.main, "runs/digits_kd", says="schema 99")
    from analysis import report

    check_refused(report.main, "runs/digits_kd", says="schema 99")


def test_a_study_that_another_driver_has_open(study_folder):
    from tune_kd.study.storage import Storage, lock_study

    with lock_study(Storage(study_folder)):
        digits(*SAME, "--resume", says=("another search or confirmation is running", "--name"))


def test_confirm_and_report_of_what_is_no_study():
    from analysis import report

    Path("empty").mkdir()
    Path("file").write_text("")
    for name in ("empty", "none", "file"):
        for main in (confirm.main, report.main):
            check_refused(main, name, says=name)
    check_refused(confirm.main, says="STUDY")


def test_confirm_of_a_study_without_a_finished_trial(study_folder):
    (study_folder / ".lock").touch()
    check_refused(
        confirm.main,
        study_folder,
        says=("0 of 4 trials of the search have ended", "resume it with"),
    )
    arguments = (study_folder, "--unfinished")
    check_refused(
        confirm.main,
        *arguments,
        says=("no finished trial to confirm", "run the search first (or resume it)"),
    )


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_manifest_that_is_not_ours(study_folder, text):
    (study_folder / "manifest.json").write_text(text)
    check_refused(confirm.main, "runs/digits_kd", says="runs/digits_kd")
    digits(*SAME, "--resume", says="runs/digits_kd")


def test_teach_is_answered_like_search():
    check_refused(train_teacher.main, "--space", "digit_kd", says="did you mean 'digits_kd'?")
    check_refused(train_teacher.main, "--space", "digits_kd", "--epochs", 0, says="at least 1")
    check_refused(
        train_teacher.main, "--space", "digits_kd", "--set", "teacher.optimizer.lr=0", says="0 < lr"
    )
    check_refused(
        train_teacher.main, "--space", "digits_kd", "--trials", 3, says="unknown option --trials"
    )


# Exit codes are those of the processes


@pytest.mark.parametrize(
    "command",
    [
        ["tune_kd.search", "--space", "digits_kd", "--limit-train", "7"],
        ["analysis.report", "no-study"],
    ],
)
def test_processes_exit_with_2_and_no_traceback(command):
    root = str(Path(made_study.__file__).parents[2])
    process = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.strip().splitlines()) <= 2
    assert tree() == {}
