"""The benchmarks run, on sizes that say nothing about speed, and print what README quotes."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import common, data_path, int8, logit_cache

ROOT = Path(__file__).resolve().parents[2]
SPREAD = r"[\d.]+ \([\d.]+\.\.[\d.]+\)"
LOGIT_CACHE = [
    "--images",
    "48",
    "--batch-size",
    "16",
    "--epochs",
    "2",
    "--repeats",
    "2",
    "--trials",
    "2",
    "--teacher",
    "resnet8",
    "--student",
    "resnet8",
]
DATA_PATH = ["--images", "200", "--repeats", "2", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def threads():
    """A benchmark sets the number of threads of its process, which here is the tests' own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("main", "options", "lines"),
    [
        (
            logit_cache.main,
            LOGIT_CACHE,
            [
                "teacher in every step",
                "logit cache, first trial fills it",
                "logit cache, mean of 2 trials",
                "ratio, 2 trials",
                "ratio, logit cache filled before",
            ],
        ),
        (data_path.main, DATA_PATH, ["one gather", "torchvision, per image", "ratio"]),
        (data_path.main, [*DATA_PATH, "--layout", "channels_last"], ["one gather", "ratio"]),
        pytest.param(
            int8.main, ["--repeats", "2"], ["float32, eager", "int8, eager"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_benchmark_prints_numbers_with_their_spread(capsys, main, options, lines):
    assert main(options) == 0
    printed = capsys.readouterr().out
    for line in lines:
        assert re.search(rf"^{re.escape(line)} +{SPREAD}", printed, re.MULTILINE), (line, printed)
    assert f"torch {torch.__version__}" in printed
    assert "random images" in printed


def test_real_images_are_taken_where_they_are_given(shared_data, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(common.tasks, "decode", lambda *a, **k: calls.append(k) or _few_images())
    assert data_path.main([*DATA_PATH, "--data", str(shared_data / "cifar10")]) == 0
    assert calls[0]["folder"] == shared_data / "cifar10"
    assert "CIFAR-10 in" in capsys.readouterr().out


def _few_images():
    return common.images(None, 300)


@pytest.mark.parametrize("module", ["benchmarks.logit_cache", "benchmarks.data_path"])
def test_a_wrong_option_is_one_line_and_exit_code_2(module):
    ran = subprocess.run(
        [sys.executable, "-m", module, "--images", "0"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "error: argument --images: must be at least 1" in ran.stderr


def test_live_teacher_and_logit_cache_see_the_same_images():
    """The comparison is of one work done in two ways."""
    decoded = common.images(None, 40)
    networks = {"student": "resnet8", "teacher": "resnet8"}
    options = SimpleNamespace(epochs=1, batch_size=8, **networks)
    bench = logit_cache.Bench(logit_cache.recipe_of(options, decoded), decoded)
    live = bench.live()
    for epoch in (1, 2):
        make_batch = bench.split.augmenter(logit_cache.SEED, epoch)
        for position in torch.randperm(40).split(8):
            expected, _ = bench.frozen.outputs(make_batch(position).images)
            assert torch.equal(live.epoch(epoch)[position], expected)
