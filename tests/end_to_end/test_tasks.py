"""A search of every task goes through Ray; tests/contracts confirm and report every space without it."""

import pytest

from tests.end_to_end import studies
from tests.helpers import made_images
from tune_kd.data import tasks
from tune_kd.space import loader
from tune_kd.study import results
from tune_kd.study.storage import Storage

pytestmark = pytest.mark.slow
METHODS = ("no_kd", "response")


def small(task: tasks.Task) -> dict[str, str]:
    """Teacher and student that a core trains in a second."""
    if task.dense:
        return {"teacher": "lraspp_mobilenet_v3_large", "student": "lraspp_mobilenet_v3_small"}
    if task.name == "digits":
        return {"teacher": "digits_teacher", "student": "digits_student"}
    return {"teacher": "resnet20", "student": "resnet8"}


def space_of(task_name: str) -> str:
    """A shipped space of the task."""
    return next(n for n in loader.names() if loader.load(n)[0].task == task_name)


BRIEF = ("digits", "cifar10", "camvid")  # a reader of each kind; the others take a minute each


@pytest.mark.parametrize(
    "name",
    [pytest.param(t, marks=() if t in BRIEF else pytest.mark.long) for t in tasks.TASKS],
)
def test_a_study_of_each_task_is_searched(name, common_cache, tmp_path):
    task = tasks.find(name)
    folder = made_images.of_task(task, tmp_path / "set")
    fields = {**small(task), "teacher.epochs": 1, "teacher.optimizer.lr": 0.001}
    fields |= {"student.batch_size": 4, "teacher.batch_size": 4}
    with studies.desk(common_cache, tmp_path / "desk") as desk:
        words = ["--space", space_of(name), "--data", folder, "--epochs", 1, "--trials", 2]
        words += ["--methods", *METHODS, "--out", tmp_path, "--name", "study"]
        for field, value in fields.items():
            words += ["--set", f"{field}={value}"]
        desk.run("tune_kd.search", *words)
    study = Storage(tmp_path / "study")
    assert studies.statuses(study.uri) == {f"{method}-r0-0000": "finished" for method in METHODS}
    rows = [r for r in results.read_trials(study) if r["phase"] in ("teacher", "search")]
    assert [r["method"] for r in rows] == ["", *METHODS]
    measured = "val_miou" if task.dense else "val_accuracy"
    assert all(0 <= row[measured] <= 1 for row in rows)
    assert all(row["test_accuracy"] is None for row in rows)
