"""What the tests of a confirmation's plan and of its run share."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import made_study, searched_study
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study


@pytest.fixture(scope="session")
def searched_folder(tmp_path_factory) -> Path:
    """Four searches of three methods over real digits that have ended, five trials each; the teacher."""
    request = searched_study.make_request(tmp_path_factory.mktemp("confirm") / "runs" / "x")
    study = searched_study.begin(request)
    made_study.play(study, request, searched_study.score)
    searched_study.put_teacher(study, request)
    study.merge()
    return study.storage.local


@pytest.fixture
def study(searched_folder, tmp_path) -> Study:
    """A copy of the study whose search has ended, read anew."""
    shutil.copytree(searched_folder, tmp_path / "runs" / "x")
    return Study(Storage(tmp_path / "runs" / "x"))
