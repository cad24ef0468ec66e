"""The commands as functions: the same studies, values in and out, nothing done to the process."""

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import tune_kd
from tests.helpers import made_study
from tune_kd import cli, files, search
from tune_kd.data import tasks
from tune_kd.errors import UsageError
from tune_kd.models import registry
from tune_kd.recipe import LossWeights, Stage
from tune_kd.space import loader
from tune_kd.study import manifest
from tune_kd.workflows import checks

ROOT = Path(tune_kd.__file__).parents[1]
TINY = {
    "trials": 20,
    "repeats": 2,
    "methods": ["no_kd", "response"],
    "epochs": 2,
    "limit_train": 400,
}
OPTIONS = [
    "--trials",
    "20",
    "--repeats",
    "2",
    "--methods",
    "no_kd",
    "response",
    "--epochs",
    "2",
    "--limit-train",
    "400",
]


def digits_test_split() -> tuple[torch.Tensor, torch.Tensor]:
    """Its images in 0 to 1, float32 [N, 1, 8, 8], and their labels."""
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=files.cache_folder())
    images = torch.from_numpy(decoded.images.copy()).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(decoded.labels.copy())


LIGHT = """
import sys, tune_kd
tune_kd.SearchSpace, tune_kd.kd_methods, tune_kd.run_search, dir(tune_kd)
print(sorted({"torch", "ray", "torchvision"} & set(sys.modules)))
"""


def test_importing_it_loads_neither_torch_nor_ray() -> None:
    command = [sys.executable, "-c", LIGHT]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert process.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in tune_kd.__all__:
        assert getattr(tune_kd, name) is not None
        assert name in dir(tune_kd)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tune_kd.nothing  # noqa: B018


def test_public_functions_take_their_options_by_name() -> None:
    for function in (tune_kd.run_search, tune_kd.evaluate_checkpoint, tune_kd.Study.confirm):
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
        assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": "tp"}, "did you mean 'tpe'"),
        ({"scheduler": "asa"}, "did you mean 'asha'"),
        ({"methods": ["respons"]}, "did you mean 'response'"),
        ({"trials": 4, "repeats": 3}, "a repeat needs 5"),
        ({"overrides": ["temprature=4"]}, "temperature"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"limit_train": -1}, "limit_train must be at least 0, got -1"),
        ({"time_budget": 0}, "time_budget must be more than 0 seconds"),
        ({"gpus_per_trial": -1}, "gpus_per_trial must be at least 0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_raised_not_printed(
    options: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=says):
        tune_kd.run_search("digits_kd", out=str(tmp_path), **options)  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def space_with(**changes: object) -> tune_kd.SearchSpace:
    space, _ = loader.load("digits_kd")
    return dataclasses.replace(space, **changes)  # type: ignore[arg-type]


def test_what_is_no_name_and_no_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task of space digits_kd is a int; give a name"):
        tune_kd.run_search(space_with(task=3), out=str(tmp_path))
    with pytest.raises(UsageError, match="where a function or class is expected"):
        tune_kd.run_search(space_with(student=torch.nn.Flatten()), out=str(tmp_path))


def gentle(space: tune_kd.SearchSpace, **training: float) -> tuple[Stage, ...]:
    return (space.distill(LossWeights(alpha=0.5), **training),)


def strong(space: tune_kd.SearchSpace, **training: float) -> tuple[Stage, ...]:
    return (space.distill(LossWeights(alpha=2.0), **training),)


def test_an_edited_method_of_a_space_made_in_python_is_another_study(tmp_path: Path) -> None:
    base = loader.load("digits_kd")[0].methods["no_kd"]
    specifications = []
    for stages in (gentle, strong):
        method = dataclasses.replace(base, stages=stages)
        request = made_study.request(
            tmp_path / "s", space=space_with(methods={"mine": method}), file=None
        )
        specifications.append(checks.specify(request, made_study.dataset()))
    (line,) = manifest.differences(*specifications)
    assert line.startswith("methods.mine.code is ")


def test_a_space_file_may_give_functions(tmp_path: Path) -> None:
    cell = (Path(__file__).with_name("cell.txt")).read_text().split("study = ")[0]
    (tmp_path / "own_kd.py").write_text(cell.replace("TRIALS", "10").replace("space =", "SPACE ="))
    space, _ = loader.load(str(tmp_path / "own_kd.py"))
    assert (space.student.network, space.task) == ("own_kd.py:small", "digits")
    model = registry.build(
        space.student.network, shape=registry.Shape(num_classes=10, channels=1), base=tmp_path
    )
    assert type(model).__name__ == "Small"


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json"):
        tune_kd.load_study(tmp_path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tune_kd.Study:
    """A search of digits by the API, and its confirmation."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    out = tmp_path_factory.mktemp("api")
    result = tune_kd.run_search("digits_kd", out=str(out / "api"), progress=False, **TINY)
    result.confirm(seeds=1, progress=False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    return result


@pytest.mark.slow
def test_the_command_gives_the_same_rows(study: tune_kd.Study, tmp_path: Path) -> None:
    arguments = ["--space", "digits_kd", *OPTIONS, "--out", str(tmp_path), "--quiet"]
    process = subprocess.run(
        [sys.executable, "-m", "tune_kd.search", *arguments, "--max-concurrent", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    typed = tune_kd.load_study(tmp_path / "digits_kd").trials_dataframe().set_index("trial")
    called = study.trials_dataframe().set_index("trial").loc[typed.index]
    first = [name for name in typed.index if name.endswith("0000")]  # run to the end in any order
    assert len(first) == 4
    assert list(called.loc[first, "val_accuracy"]) == list(typed.loc[first, "val_accuracy"])


@pytest.mark.slow
def test_its_rows_are_frames(study: tune_kd.Study) -> None:
    trials, epochs = study.trials_dataframe(), study.epochs_dataframe()
    assert isinstance(trials, pd.DataFrame)
    assert trials["trial"].is_unique
    assert (trials["phase"] == "search").sum() == 20
    assert set(epochs["trial"]) <= set(trials["trial"])


@pytest.mark.slow
def test_the_best_trial_has_the_sampled_values(study: tune_kd.Study) -> None:
    best = study.best_trial("response")
    assert set(best.params) == {"alpha", "temperature", "lr", "weight_decay", "dropout"}
    assert best.value == best.row["val_accuracy"]
    with pytest.raises(UsageError, match="did you mean 'response'"):
        study.best_trial("respons")


@pytest.mark.slow
def test_the_summary_is_the_reports_table(study: tune_kd.Study, tmp_path: Path) -> None:
    table = study.summary()
    assert list(table["method"]) == ["teacher", "no_kd", "response"]
    page = study.report(tmp_path / "report")
    assert page.is_file()
    frame = pd.read_csv(page.parent / "table.csv")
    assert list(frame["method"]) == list(table["method"])
    assert frame["mean"].to_list() == pytest.approx(table["mean"].astype(float).to_list())


def confirmed_run(study: tune_kd.Study) -> pd.Series:
    """The row of the first confirming run of the student that response recommends."""
    trial = study.best_trial("response").name
    trials = study.trials_dataframe()
    runs = trials[(trials["source"] == trial) & (trials["phase"] == "confirm")]
    runs = runs[runs["origin"].str.contains("recommended")]
    return runs.sort_values("seed").iloc[0]


@pytest.mark.slow
def test_the_loaded_student_scores_as_its_confirming_run(study: tune_kd.Study) -> None:
    student = study.load_student("response")
    assert not student.training
    first = confirmed_run(study)
    images, labels = digits_test_split()
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in study.normalization())
    with torch.no_grad():
        scores = student((images - mean) / std)
    assert (scores.argmax(1) == labels).double().mean().item() == first["test_accuracy"]


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_as_a_dictionary(study: tune_kd.Study, tmp_path: Path) -> None:
    evaluation = tune_kd.evaluate_checkpoint(
        "digits_kd", f"{study.address}:response", out=str(tmp_path), progress=False
    )
    assert evaluation["overall"]["accuracy"] == confirmed_run(study)["test_accuracy"]
    assert (
        json.loads((tmp_path / "evaluation.json").read_text())["overall"] == evaluation["overall"]
    )


@pytest.mark.slow
def test_a_space_of_a_cell_is_searched_resumed_and_loaded(tmp_path: Path) -> None:
    """Two kernels run the same cells; the second resumes the study of the first, which it did not make."""
    cell = (Path(__file__).with_name("cell.txt")).read_text()
    for trials in (10, 20):
        process = subprocess.run(
            [sys.executable, "-"],
            input=cell.replace("TRIALS", str(trials)),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.split() == [str(trials), "Small"]
    student = tune_kd.load_study(tmp_path / "runs" / "mine").load_student("response")
    assert type(student).__name__ == "Small"


def test_a_command_ends_with_2_where_the_function_raises(tmp_path: Path) -> None:
    arguments = ["--space", "digits_kd", "--sampler", "tp", "--out", str(tmp_path)]
    assert cli.run_command(search.main, arguments) == 2
