"""Tasks by name or as a user's own function: what they give, and what is refused."""

import numpy as np
import pytest

from tests.helpers import made_images
from tune_kd import plugins
from tune_kd.data import tasks
from tune_kd.errors import UsageError

OWN_TASK = """
import numpy as np
from tune_kd.data.tasks import Raw, Task

LEVEL = 1

def read(split, folder, cache):
    images = np.full((8, 8, 8), LEVEL, np.uint8)
    return Raw(images=images, labels=np.arange(8) % 2, class_names=("a", "b"))

def task():
    return Task(name="flat", size=4, channels=1, pad=1, flip=False, read=read)

def nothing():
    return None

def short():
    one = lambda *_: Raw(images=[], labels=np.arange(8), class_names=("a", "b"))
    return Task(name="short", size=4, channels=1, pad=1, flip=False, read=one)
"""


def test_a_task_of_the_users_own(tmp_path, folders, cache):
    file = tmp_path / "mine.py"
    file.write_text(OWN_TASK)
    task = tasks.find("mine.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=cache)
    assert decoded.images.shape == (8, 4, 4, 1)
    assert set(decoded.images.ravel().tolist()) == {1}
    assert (
        tasks.decode(task, "train", folder=folders, cache=cache).class_names == made_images.CLASSES
    )
    file.write_text(OWN_TASK.replace("LEVEL = 1", "LEVEL = 2"))
    edited = tasks.find(f"{file}:task")
    changed = tasks.decode(edited, "train", folder=None, cache=cache)
    assert set(changed.images.ravel().tolist()) == {2}


OWN_DENSE_TASK = """
import numpy as np
from tune_kd.data.tasks import Raw, Task

def read(split, folder, cache):
    random = np.random.default_rng(0)
    masks = random.integers(0, 3, (8, 12, 16), dtype=np.uint8)
    masks[0, 0, 0] = 255
    return Raw(images=masks * 80, labels=iter(masks), class_names=("a", "b", "c"), **MORE)

MORE = {"validation": np.array([6, 7])}

def task():
    return Task(name="own", size=(12, 16), channels=1, pad=0, flip=True, dense=True, read=read)
"""


def test_a_dense_task_of_the_users_own(tmp_path, cache):
    (tmp_path / "mine.py").write_text(OWN_DENSE_TASK)
    task = tasks.find("mine.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=cache)
    assert decoded.images.shape == (8, 12, 16, 1)
    assert decoded.labels.shape == (8, 12, 16)
    assert decoded.labels[0, 0, 0] == 255
    valid = decoded.labels != 255
    np.testing.assert_array_equal(decoded.images[..., 0][valid], decoded.labels[valid] * 80)
    assert decoded.validation.tolist() == [6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("iter(masks)", "iter(masks[:7])"), "fewer masks than images"),
        (("masks * 80", "(masks * 80)[:7]"), "more masks than images"),
        (('("a", "b", "c")', '("a", "b")'), "mask of image 0 has class 2; allowed are 0 to 1"),
        (
            ("iter(masks)", "iter(masks[:, 1:])"),
            r"image 0 has \(12, 16\) pixels .* mask \(11, 16\)",
        ),
        (("iter(masks)", "iter(masks + 0.5)"), "a mask must be uint8 .* it is float64"),
        (("(8, 12, 16)", "(0, 12, 16)"), "own-train has no images"),
    ],
)
def test_masks_that_do_not_fit_are_refused(change, message, tmp_path, cache):
    text = OWN_DENSE_TASK.replace(*change)
    if "(0," in change[1]:
        text = text.replace("    masks[0, 0, 0] = 255\n", "")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        tasks.decode(tasks.find("mine.py:task", base=tmp_path), "train", folder=None, cache=cache)


def test_the_validation_images_belong_to_the_hash(tmp_path, cache):
    hashes = set()
    for more in ('{"validation": np.array([6, 7])}', '{"validation": np.array([5, 7])}', "{}"):
        text = OWN_DENSE_TASK.replace('{"validation": np.array([6, 7])}', more)
        (tmp_path / "mine.py").write_text(text)
        task = tasks.find("mine.py:task", base=tmp_path)
        hashes.add(tasks.decode(task, "train", folder=None, cache=cache).hash)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size >= 1"),
        ({"size": (8, 8, 3)}, "size >= 1"),
        ({"channels": 2}, "channels 1 or 3"),
        ({"pad": -1}, "pad >= 0"),
        ({"pad": 1, "dense": True}, "pad >= 0, and 0 where dense"),
        ({"scale": (0.5, 2.0)}, "1 unless dense"),
        ({"scale": (2.0, 0.5), "dense": True}, r"0 < scale\[0\] <= scale\[1\]"),
        ({"read": None}, "read or locate"),
        ({"locate": lambda cache: cache}, "read or locate"),
    ],
)
def test_a_task_that_cannot_be_is_refused(change, message):
    fields = {"name": "x", "size": 8, "channels": 1, "pad": 0, "flip": False, "read": print}
    assert tasks.Task(**fields).sides == (8, 8)
    assert tasks.Task(**{**fields, "size": (8, 9)}).sides == (8, 9)
    with pytest.raises(UsageError, match=message):
        tasks.Task(**{**fields, **change})


def test_what_is_no_task_is_refused(tmp_path, cache):
    (tmp_path / "mine.py").write_text(OWN_TASK)
    with pytest.raises(UsageError, match="unknown task 'cifar'; did you mean 'cifar10'"):
        tasks.find("cifar")
    with pytest.raises(
        UsageError, match=r"returned a NoneType; a tune_kd\.data\.tasks\.Task is needed"
    ):
        tasks.find("mine.py:nothing", base=tmp_path)
    with pytest.raises(UsageError, match="8 labels but 0 images"):
        tasks.decode(tasks.find("mine.py:short", base=tmp_path), "train", folder=None, cache=cache)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("def build(): ...", "bild", "did you mean 'build'"),
        ("x = 1\nraise KeyError('y')", "build", r"line 2: KeyError"),
        ("def build(:", "build", r"line 1: SyntaxError"),
        ("import no_such_module", "build", r"line 1: ModuleNotFoundError"),
        ("build = 3", "build", "unknown function 'build'"),
    ],
)
def test_a_reference_that_leads_nowhere(tmp_path, content, name, message):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError, match=message):
        plugins.load_function(f"mine.py:{name}", base=tmp_path)


def test_a_reference_to_no_file_or_of_another_form(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*none\.py"):
        plugins.load_function("none.py:build", base=tmp_path)
    with pytest.raises(UsageError, match=r"expected file\.py:function"):
        plugins.load_function("mine.py:", base=tmp_path)


def test_an_edited_file_is_loaded_anew_and_an_unchanged_one_once(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def build(): return 1")
    first = plugins.load_function("mine.py:build", base=tmp_path)
    assert plugins.load_function(f"{file}:build") is first
    before = plugins.file_id_of("mine.py:build", base=tmp_path)
    file.write_text("def build(): return 2")
    assert plugins.load_function("mine.py:build", base=tmp_path)() == 2
    assert first() == 1
    assert plugins.file_id_of("mine.py:build", base=tmp_path) != before
