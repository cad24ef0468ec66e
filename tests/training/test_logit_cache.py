"""The logit cache: the live teacher's logits, exact, filled once, whoever dies."""

import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import making
from tune_kd.data import tasks
from tune_kd.models import registry
from tune_kd.recipe import Compute, Images, Optimizer
from tune_kd.training import context as places
from tune_kd.training import loop, trial
from tune_kd.training.logit_cache import LogitCache, _save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ctx(tmp_path):
    return making.context_in(tmp_path / "cache")


# The logit cache is the live teacher


def _assert_cache_is_live(recipe, ctx, *, epochs=(1, 2, 5)):
    frozen = places.frozen_teacher(recipe, ctx)
    split = places.device_split(recipe.images, ctx, recipe.compute.layout)
    logit_cache = places.logit_cache(recipe, frozen, split, ctx=ctx)
    epoch_logits = []
    for epoch in epochs:
        logits = logit_cache.epoch(epoch)
        assert logits.dtype == torch.float16
        assert len(logits) == len(split.fit)
        position = torch.randperm(len(split.fit), generator=torch.Generator().manual_seed(epoch))
        augment = split.augmenter(recipe.images.view_seed, epoch)
        for chunk in position.split(50):  # not the chunks that filled it
            index = split.fit[chunk]
            live, _ = frozen.outputs(augment(index).images)
            torch.testing.assert_close(logits[chunk].float(), live, rtol=1e-3, atol=1e-3)
        epoch_logits.append(logits)
    for one, other in itertools.combinations(epoch_logits, 2):
        assert not torch.allclose(one.float(), other.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"limit_train": 300},
        {"limit_train": 300, "fit_on": "train+val"},
        {"limit_train": 300, "view_seed": 1000},
    ],
)
def test_the_logit_cache_is_the_live_teacher_on_digits(ctx, changes):
    _assert_cache_is_live(making.recipe("response", images=making.digits(**changes)), ctx)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_logit_cache_is_the_live_teacher_on_cropped_and_mirrored_colour_images(
    tmp_path, layout
):
    images = replace(_noise(tmp_path), view_seed=3)
    ctx = _noise_site(tmp_path)
    recipe = making.recipe(
        "response", images=images, student="resnet8", compute=Compute(layout=layout)
    )
    _assert_cache_is_live(replace(recipe, teacher="resnet8"), ctx)


def _noise(folder):
    name = making.noise_task(folder)
    decoded = tasks.decode(tasks.find(name, base=folder), "train", folder=None, cache=folder)
    return Images(task=name, train_hash=decoded.hash, num_classes=3, limit_train=45)


def _noise_site(folder):
    file = making.save_untrained(
        "resnet8", registry.Shape(num_classes=3), folder / "teacher.safetensors"
    )
    return trial.NodeContext(cache=folder, code=folder, model=lambda model_id: file)


def test_a_view_is_the_same_whatever_the_subset(tmp_path):
    ctx, images = _noise_site(tmp_path), _noise(tmp_path)
    views = []
    for limit in (0, 45, 24):
        split = places.device_split(replace(images, limit_train=limit), ctx, "contiguous")
        pixels = split.augmenter(0, 4)(split.fit).images
        views.append(dict(zip(split.fit.tolist(), pixels, strict=True)))
    common = set.intersection(*(set(view) for view in views))
    assert common
    for i in common:
        assert torch.equal(views[0][i], views[1][i])
        assert torch.equal(views[0][i], views[2][i])


@pytest.mark.parametrize("method", ["response", "combined"])
def test_training_from_a_fresh_cache_is_training_from_one_that_another_trial_filled(
    tmp_path, method
):
    recipe = making.recipe(method, dropout=0.2)
    fresh = making.run(recipe, making.context_in(tmp_path / "one"))
    ctx = making.context_in(tmp_path / "other")
    making.run(making.recipe("response", epochs=3, batch_size=32, optimizer=None), ctx)
    files = sorted((ctx.cache / "logits").glob("*/*.npy"))
    assert [file.name for file in files] == ["00001.npy", "00002.npy", "00003.npy"]
    before = [file.read_bytes() for file in files]
    inodes = [file.stat().st_ino for file in files]
    making.assert_same(making.run(recipe, ctx), fresh)
    assert sorted((ctx.cache / "logits").glob("*/*.npy")) == files  # the same logit cache
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_ino for file in files] == inodes  # and not written again


def test_training_from_the_logit_cache_is_training_with_the_live_teacher(tmp_path):
    """To the logit cache's precision: the losses of the first steps, before differences grow."""
    recipe = making.recipe("response", epochs=1)
    result = making.run(recipe, making.context_in(tmp_path / "one"))
    parts = making.bench(recipe, making.context_in(tmp_path / "other"))
    split, frozen = parts.work.split, parts.work.teacher

    class Live:
        def epoch(self, epoch):
            return frozen.outputs(split.augmenter(0, epoch)(split.fit).images)[0]

    (last,) = loop.train(replace(parts.work, logit_cache=Live()), parts.learner)
    live = last.values
    for name in ("train_loss", "hard_loss", "soft_loss"):
        assert live[name] == pytest.approx(result.rows[0][name], rel=1e-3)


# Which logit cache


def _keys(tmp_path, recipe, *, name="one", file=None):
    changes = {"model": lambda model_id: file} if file else {}
    ctx = making.context_in(tmp_path / name, **changes)
    frozen = places.frozen_teacher(recipe, ctx)
    split = places.device_split(recipe.images, ctx, recipe.compute.layout)
    return places.logit_cache(recipe, frozen, split, ctx=ctx)._folder.name


def test_other_views_precision_layout_subset_or_teacher_is_another_logit_cache(tmp_path):
    other = load_file(making.teacher_file())
    other["fc.bias"][0] += 1e-3
    save_file(other, tmp_path / "other.safetensors")
    plain = making.recipe("response")

    def with_images(**changes):
        return replace(plain, images=replace(plain.images, **changes))

    keys = [
        _keys(tmp_path, plain),
        _keys(tmp_path, plain, file=tmp_path / "other.safetensors"),
        _keys(tmp_path, replace(plain, compute=Compute(precision="bfloat16"))),
        _keys(tmp_path, replace(plain, compute=Compute(layout="channels_last"))),
        _keys(tmp_path, with_images(limit_train=200)),
        _keys(tmp_path, with_images(split_seed=1)),
        _keys(tmp_path, with_images(view_seed=1)),
        _keys(tmp_path, with_images(val_share=0.2)),
        _keys(tmp_path, with_images(fit_on="train+val")),
        _keys(tmp_path, with_images(pad=2)),
        _keys(tmp_path, with_images(flip=True)),
        _keys(tmp_path, with_images(mean=(0.2,))),
    ]
    assert len(set(keys)) == len(keys)


def test_what_a_trial_varies_leaves_the_logit_cache_as_it_is(tmp_path):
    one = making.recipe("response")
    two = making.recipe(
        "combined", epochs=9, dropout=0.4, batch_size=16, optimizer=Optimizer(name="adamw", lr=1e-3)
    )
    assert _keys(tmp_path, one) == _keys(tmp_path, two, name="two")


def test_a_teacher_of_another_source_is_another_logit_cache(tmp_path):
    """The same weights in another forward say something else."""
    plain = making.recipe("response")
    assert _keys(tmp_path, plain) != _keys(tmp_path, replace(plain, sources=("edited",)))


# Filling


def _log(path):
    return sorted(path.read_text().splitlines()) if path.exists() else []


def _expected(size, epoch):
    return making.numbers(epoch, np.arange(size)).half()


def test_an_epoch_is_computed_once_and_then_read(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        logit_cache = making.logit_cache(tmp_path / "logits", log=log)
        for epoch in (1, 2, 1):
            assert torch.equal(logit_cache.epoch(epoch), _expected(10, epoch))
    assert _log(log) == sorted(f"{epoch} {i}" for epoch in (1, 2) for i in range(10))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 17])
def test_shards_make_the_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr("tune_kd.training.logit_cache.SHARD", 8)
    logit_cache = making.logit_cache(tmp_path, size=size, log=tmp_path / "log")
    assert torch.equal(logit_cache.epoch(3), _expected(size, 3))
    assert [path.name for path in (tmp_path / "key").iterdir()] == ["00003.npy"]
    assert len(_log(tmp_path / "log")) == size


CHILD = """
import sys, time
from pathlib import Path
from tests.helpers import making
from tune_kd.training import logit_cache
logit_cache.SHARD = 16
folder, log, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def before(epoch, positions):
    if mode == "hang":
        print("claimed", flush=True)
        time.sleep(600)
    time.sleep(0.01)
logit_cache = making.logit_cache(folder, size=100, log=log, before=before)
print("ready", flush=True)
sys.stdin.readline()
for epoch in (1, 2, 3):
    logit_cache.epoch(epoch)
"""


def _child(folder, log, mode="fill"):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(log), mode],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _go(child):
    child.stdin.write("go\n")
    child.stdin.flush()


def test_two_processes_fill_what_one_does_and_each_image_once(tmp_path):
    log = tmp_path / "log"
    children = [_child(tmp_path / "logits", log) for _ in range(2)]
    try:
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            _go(child)
        assert [child.wait(timeout=120) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    one = making.logit_cache(tmp_path / "logits", size=100, log=tmp_path / "unused")
    for epoch in (1, 2, 3):
        assert torch.equal(one.epoch(epoch), _expected(100, epoch))
    assert not (tmp_path / "unused").exists()
    assert _log(log) == sorted(f"{epoch} {i}" for epoch in (1, 2, 3) for i in range(100))


def test_a_shard_of_a_process_that_dies_is_filled_by_the_one_that_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_kd.training.logit_cache.SHARD", 16)
    log = tmp_path / "log"
    child = _child(tmp_path / "logits", log, "hang")
    try:
        assert child.stdout.readline() == "ready\n"
        _go(child)
        assert child.stdout.readline() == "claimed\n"
        calls = []
        killer = threading.Timer(1.0, child.kill)  # kill -9, while we wait for its shard

        def before(epoch, positions):
            calls.append((epoch, positions[0], child.poll()))
            if not killer.is_alive() and not killer.finished.is_set():
                killer.start()

        logit_cache = making.logit_cache(tmp_path / "logits", size=100, before=before)
        assert torch.equal(logit_cache.epoch(1), _expected(100, 1))
    finally:
        child.kill()
        child.communicate()
    # its shard, the first, came last: the others were filled while it held the lock
    assert [start for _, start, _ in calls] == [16, 32, 48, 64, 80, 96, 0]
    assert not _log(log)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", ["empty", "cut", "short", "foreign"])
@pytest.mark.parametrize("which", ["whole", "part"])
def test_a_damaged_file_is_made_again(tmp_path, monkeypatch, which, damage):
    monkeypatch.setattr("tune_kd.training.logit_cache.SHARD", 4)
    logit_cache = making.logit_cache(tmp_path)
    file = tmp_path / "key" / "00001.npy"
    logit_cache.epoch(1)
    good = file.read_bytes()
    path = file
    if which == "part":
        file.unlink()
        path = file.with_name("00001.0001.part")
    contents = {
        "empty": b"",
        "cut": good[:-5],
        "short": _save(np.zeros((3, 2), np.float16)),
        "foreign": b"PK\x03\x04 no array",
    }
    path.write_bytes(contents[damage])
    log = tmp_path / "log"
    assert torch.equal(making.logit_cache(tmp_path, log=log).epoch(1), _expected(10, 1))
    assert file.read_bytes() == good
    assert _log(log) == sorted(f"1 {i}" for i in range(10))


def test_an_error_of_the_teacher_leaves_the_lock_free(tmp_path):
    def fail(epoch, positions):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        making.logit_cache(tmp_path, before=fail).epoch(1)
    assert torch.equal(making.logit_cache(tmp_path).epoch(1), _expected(10, 1))


# The bound on disk use


def _age(path, seconds):
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def test_what_was_read_longest_ago_goes_first_and_never_what_is_in_use(tmp_path, monkeypatch):
    old = making.logit_cache(tmp_path, size=500, key="old")
    for epoch in (1, 2, 3):
        old.epoch(epoch)
    files = {epoch: tmp_path / "old" / f"{epoch:05d}.npy" for epoch in (1, 2, 3)}
    size = files[1].stat().st_size
    for path in files.values():
        _age(path, 1000)
    old.epoch(1)  # read again: now the youngest of the three
    _age(files[2], 1000)  # and this the oldest
    monkeypatch.setenv("TUNE_KD_LOGIT_CACHE_GB", str(3.5 * size / 1e9))
    new = making.logit_cache(tmp_path, size=500, key="new")
    new.epoch(1)
    assert sorted(files) == [1, 2, 3]
    assert [epoch for epoch, path in files.items() if path.exists()] == [1, 3]
    new.epoch(2)
    assert [epoch for epoch, path in files.items() if path.exists()] == [1]
    new.epoch(3)
    names = sorted(path.name for path in tmp_path.glob("new/*"))
    assert names == ["00001.npy", "00002.npy", "00003.npy"]
    assert not any(path.exists() for path in files.values())


def test_the_bound_holds_for_a_single_logit_cache_too(tmp_path, monkeypatch):
    logit_cache = making.logit_cache(tmp_path, size=500)
    logit_cache.epoch(1)
    size = (tmp_path / "key" / "00001.npy").stat().st_size
    monkeypatch.setenv("TUNE_KD_LOGIT_CACHE_GB", str(2.5 * size / 1e9))
    for epoch in range(2, 6):
        _age(tmp_path / "key" / f"{epoch - 1:05d}.npy", 100 - epoch)
        assert torch.equal(logit_cache.epoch(epoch), _expected(500, epoch))
    total = sum(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    assert total <= 2.5 * size
    assert (tmp_path / "key" / "00005.npy").exists()


def test_logits_beyond_float16_are_kept_as_its_largest(tmp_path):
    """Of a teacher that has learned nothing yet: infinities would make every loss NaN."""
    huge = torch.tensor([[1e6, -1e6], [1.0, 2.0]])
    logit_cache = LogitCache(
        tmp_path, "key", size=2, compute=lambda epoch, positions: huge[positions]
    )
    assert logit_cache.epoch(1).tolist() == [[65504.0, -65504.0], [1.0, 2.0]]
