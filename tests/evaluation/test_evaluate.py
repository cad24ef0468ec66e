"""One network checked on the test split: its numbers against a plain loop, files of every kind, alarms."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from tests.evaluation.checking import (
    Run,
    assess,
    by_hand,
    checkpoint,
    digits,
    dump_student,
    put,
    session_cache,
)
from tests.helpers import made_manifest
from tune_kd import cli, evaluate
from tune_kd.data import splits, tasks
from tune_kd.models import checkpoints
from tune_kd.recipe import Prune, Quantize, Recipe, from_json, to_json
from tune_kd.study import manifest
from tune_kd.study.proposal import Proposal
from tune_kd.study.storage import Storage
from tune_kd.study.study import Study
from tune_kd.training import context
from tune_kd.training.external_weights import ExternalCheckpoint

# ------------------------------------------------------------ numbers


def test_the_numbers_are_those_of_a_plain_loop(run: Run, student: Path) -> None:
    result = run(student, "--batch-size", "64")
    assert result.code == 0, result.err
    evaluation = result.evaluation
    state = safetensors.torch.load(dump_student())
    scores, labels = by_hand("digits_student", state, digits())
    predicted = scores.argmax(1)
    right = predicted == labels
    assert evaluation["images"] == len(labels) == 540
    assert evaluation["overall"]["accuracy"] == right.mean()
    spread = right.std(ddof=1) / math.sqrt(len(right))
    assert evaluation["overall"]["accuracy_se"] == pytest.approx(spread, rel=1e-9)
    loss = F.cross_entropy(torch.tensor(scores), torch.tensor(labels)).item()
    assert evaluation["overall"]["loss"] == pytest.approx(loss, rel=1e-5)
    # Guo et al. 2017, equation 3, 15 bins of confidence
    sure = torch.from_numpy(scores).softmax(1).max(1).values.double().numpy()
    bins = np.minimum((sure * 15).astype(int), 14)
    ece = sum(abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(15)) / len(labels)
    assert evaluation["overall"]["ece"] == pytest.approx(ece, abs=1e-6)
    confusion = np.zeros((10, 10), int)
    for true, prediction in zip(labels, predicted, strict=True):
        confusion[true, prediction] += 1
    assert evaluation["confusion"] == confusion.tolist()
    for at, one in enumerate(evaluation["classes"]):
        mask = labels == at
        assert (one["name"], one["count"]) == (str(at), mask.sum())
        assert one["accuracy"] == right[mask].mean()
        assert one["precision"] == right[predicted == at].mean()
    by_class = [right[labels == at].mean() for at in range(10)]
    assert evaluation["overall"]["mean_class_accuracy"] == pytest.approx(
        np.mean(by_class), rel=1e-12
    )
    cells = [(confusion[i, j], i, j) for i in range(10) for j in range(10) if i != j]
    most = sorted((cell for cell, _, _ in cells), reverse=True)[:5]
    assert [pair["count"] for pair in evaluation["confused"]] == most
    for pair in evaluation["confused"]:
        assert confusion[int(pair["true"]), int(pair["predicted"])] == pair["count"]
    starts = range(0, 540, 64)
    assert [b["accuracy"] for b in evaluation["batches"]] == [
        right[s : s + 64].mean() for s in starts
    ]
    assert [b["images"] for b in evaluation["batches"]] == [64] * 8 + [28]
    assert [b["number"] for b in evaluation["batches"]] == list(range(1, 10))
    each = F.cross_entropy(torch.tensor(scores), torch.tensor(labels), reduction="none")
    assert evaluation["batches"][2]["loss"] == pytest.approx(each[128:192].mean().item(), rel=1e-5)
    assert 0.5 < right.mean() < 1  # so that there was something to count


def test_what_is_printed_and_written(run: Run, student: Path) -> None:
    result = run(student, "--batch-size", "64")
    evaluation = result.evaluation
    assert (evaluation["network"], evaluation["role"]) == ("digits_student", "student")
    assert evaluation["stages"] == ["Distill"]
    profile = evaluation["profile"]
    assert profile["num_params"] == 1030
    state = safetensors.torch.load(dump_student())
    assert profile["size_mb"] == pytest.approx(sum(t.nbytes for t in state.values()) / 1e6)
    assert profile["latency_ms"] > 0
    assert profile["latency_ms_sd"] >= 0
    assert profile["throughput_per_s"] > 0
    assert "compiled_latency_ms" not in profile
    accuracy = f"{100 * evaluation['overall']['accuracy']:.2f}"
    assert f"accuracy            {accuracy} ± " in result.out
    assert "1,030" in result.out
    worst = min(evaluation["batches"], key=lambda one: one["accuracy"])
    assert (
        f"{100 * worst['accuracy']:.2f} % in the worst, number {worst['number']} of 9" in result.out
    )
    assert result.out.count("predicted as") == 5
    assert profile["device"] in result.out
    assert "scoring" in result.err
    assert (result.folder / "confusion.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_quiet_says_results_only(run: Run, student: Path) -> None:
    result = run(student, "--quiet")
    assert "accuracy" in result.out
    assert result.err == ""


def test_each_opening_of_the_test_split_is_recorded(
    run: Run, student: Path, tmp_path: Path
) -> None:
    first = run(student)
    assert first.test_access == ["0001.json"]
    teacher = checkpoint(tmp_path / "teacher.pt", "digits_teacher")
    second = run(teacher, "--against", str(student))
    assert second.test_access == ["0001.json", "0002.json"]
    one, two = (
        json.loads((second.folder / "test_access" / n).read_text()) for n in second.test_access
    )
    file_id = ExternalCheckpoint(name="", data=dump_student()).file_id
    assert one["weights"] == [{"weights": str(student), "hash": file_id}]
    assert [entry["weights"] for entry in two["weights"]] == [str(teacher), str(student)]
    assert one["command"].startswith("python -m tune_kd.evaluate --space digits_kd --weights")
    assert one["time"] <= two["time"]


def test_the_default_folder_is_named_by_the_space(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["--space", "digits_kd", "--weights", str(student), "--quiet"]) == 0
    assert (tmp_path / "runs" / "digits_kd_evaluation" / "evaluation.json").is_file()


# ------------------------------------------------------------ whose weights


def test_a_students_own_statistics_normalise_its_images(
    run: Run, student: Path, tmp_path: Path
) -> None:
    """The file's header tells them; the same weights bare are seen with those of the whole split."""
    state = safetensors.torch.load(dump_student())
    bare = tmp_path / "bare.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, bare)
    evaluation, bare_evaluation = run(student).evaluation, run(bare, out="bare").evaluation
    assert bare_evaluation["stages"] == []
    assert bare_evaluation["network"] == "digits_student"
    decoded = tasks.decode(tasks.find("digits"), "train", folder=None, cache=session_cache())
    fit, _ = splits.split(decoded, limit=0, seed=0)
    mean, std = splits.normalisation(tasks.find("digits"), decoded, fit)
    assert (mean, std) != (digits().mean, digits().std)
    scores, labels = by_hand("digits_student", state, replace(digits(), mean=mean, std=std))
    loss = F.cross_entropy(torch.tensor(scores), torch.tensor(labels)).item()
    assert bare_evaluation["overall"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert bare_evaluation["overall"]["loss"] != evaluation["overall"]["loss"]


@pytest.mark.parametrize("format", ["state dict", "safetensors"])
def test_a_checkpoint_of_the_teacher_is_known_by_its_keys(tmp_path: Path, format: str) -> None:
    path = checkpoint(tmp_path / "teacher.pt", "digits_teacher")
    if format == "safetensors":
        state = torch.load(path, weights_only=True)
        path = tmp_path / "teacher.safetensors"
        safetensors.torch.save_file(state, path)
    evaluation = assess(path)
    assert (evaluation["network"], evaluation["role"]) == ("digits_teacher", "teacher")


def test_another_network_must_be_named(run: Run, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "medium.pt", "digits_medium")
    refusal = run(path)
    assert refusal.code == 2
    assert "does not fit digits_student (shape: " in refusal.err
    assert "nor digits_teacher (shape: " in refusal.err
    assert "[8, 1, 3, 3] instead of [4, 1, 3, 3]" in refusal.err
    assert "--network" in refusal.err
    assert len(refusal.err.strip().splitlines()) == 2
    assert refusal.test_access == []  # the test split stayed sealed
    result = run(path, "--network", "digits_medium")
    assert (result.code, result.evaluation["network"], result.evaluation["role"]) == (
        0,
        "digits_medium",
        "",
    )


def test_a_users_network_is_found_from_the_working_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n"
        "def flat(num_classes, channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, num_classes))\n"
    )
    torch.save({"1.weight": torch.eye(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "flat.pt")
    monkeypatch.chdir(tmp_path)
    result = run("flat.pt", "--network", "nets.py:flat")
    assert result.code == 0, result.err
    assert result.evaluation["profile"]["num_params"] == 650


def test_a_pruned_student_has_the_shapes_of_its_file(run: Run, tmp_path: Path) -> None:
    content = dump_student(student="digits_medium", compression=(Prune(ratio=0.5),), epochs=2)
    result = run(put(tmp_path / "pruned.safetensors", content), space="digits_kd_prune")
    assert result.code == 0, result.err
    state = safetensors.torch.load(content)
    assert state["stage1.0.weight"].shape[0] == 4  # of 8
    count = sum(t.numel() for t in _parameters(state))
    assert result.evaluation["profile"]["num_params"] == count < 6274
    assert result.evaluation["stages"] == ["Distill", "Prune"]
    bare = tmp_path / "bare.pt"
    torch.save(state, bare)
    assert run(bare, space="digits_kd_prune", out="bare").code == 2
    bare_result = run(bare, "--network", "digits_medium", space="digits_kd_prune", out="bare")
    assert bare_result.evaluation["profile"]["num_params"] == count


def _parameters(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """A state dict's tensors without the statistics of batch normalization."""
    return [t for n, t in state.items() if "running" not in n and "num_batches" not in n]


def test_weights_set_to_zero_are_told(run: Run, tmp_path: Path) -> None:
    prune = Prune(method="magnitude", ratio=0.5)
    content = dump_student(student="digits_medium", compression=(prune,), epochs=2)
    result = run(put(tmp_path / "sparse.safetensors", content), space="digits_kd_prune")
    profile = result.evaluation["profile"]
    state = safetensors.torch.load(content)
    tensors = _parameters(state)
    assert profile["nonzero_params"] == sum(int(t.count_nonzero()) for t in tensors)
    assert profile["num_params"] == sum(t.numel() for t in tensors) > profile["nonzero_params"]
    assert "% of them zero" in result.out


def test_a_studys_best_student_is_named_by_the_study(run: Run, tmp_path: Path) -> None:
    """Two methods of one trial each, of which the second is better on validation."""
    storage = Storage(tmp_path / "runs" / "mine")
    methods = {"no_kd": {}, "response": {}}
    manifest.write(storage, made_manifest.manifest(study="mine", methods=methods, config_types={}))
    study = Study(storage)
    for method, epochs, accuracy in (("no_kd", 3, 0.5), ("response", 30, 0.9)):
        content = dump_student(epochs=epochs)
        trial = f"{method}-r0-0000"
        storage.write(f"students/{trial}.safetensors", content)
        recipe = from_json(checkpoints.header(content)["recipe"])
        columns = {"trial": trial, "phase": "search", "method": method, "number": 0, "repeat": 0}
        study.add(Proposal(**columns, seed=0, origin="default", recipe=recipe))
        row = {
            **columns,
            "stage": 0,
            "status": "finished",
            "epochs": epochs,
            "val_accuracy": accuracy,
        }
        study.write_outcome(row["trial"], [row])
    best = assess(f"{storage.uri}")
    assert best["weights"] == f"{storage.uri}:response"
    path = storage.local / "students" / "response-r0-0000.safetensors"
    assert best["confusion"] == assess(path)["confusion"]
    assert assess(f"{storage.uri}:no_kd")["confusion"] != best["confusion"]
    result = run(f"{storage.uri}:respons")
    assert result.code == 2
    assert "did you mean 'response'?" in result.err


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "nowhere.pt"], "--weights nowhere.pt: there is no such file and no such study"),
        (["--weights", "text.pt"], "text.pt is not a checkpoint of tensors alone"),
        (["--weights", "words.pt"], "'x' is str, not a tensor"),
        (["--weights", "ok.pt", "--network", "digit_student"], "did you mean 'digits_student'?"),
        (["--weights", "ok.pt", "--network", "resnet8"], "ok.pt does not fit resnet8 (missing: "),
        (["--weights", "ok.pt", "--against", "nowhere.pt"], "--against nowhere.pt: there is no such"),
        (["--weights", "ok.pt", "--data", "nowhere"], "--data"),
        (["--weights", "student.safetensors", "--network", "digits_teacher"], "says that it is digits_student"),
        (["--weights", "old.safetensors"], "its header's recipe cannot be read"),
        (["--weights", "cut.safetensors"], "cut.safetensors is not a checkpoint"),
    ],
)  # fmt: skip
def test_wrong_files_and_names_are_said_and_nothing_is_opened(
    arguments: list[str],
    message: str,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "text.pt", b"no checkpoint at all")
    torch.save({"x": "words"}, tmp_path / "words.pt")
    checkpoint(tmp_path / "ok.pt", "digits_student")
    put(tmp_path / "cut.safetensors", student.read_bytes()[:-100])
    state = safetensors.torch.load(dump_student())
    safetensors.torch.save_file(state, "old.safetensors", metadata={"recipe": '{"epochs": 3}'})
    code = cli.run_command(evaluate.main, ["--space", "digits_kd", "--out", "out", *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "out" / "test_access").exists()


def test_a_network_for_other_images_is_refused(run: Run, student: Path, tmp_path: Path) -> None:
    recipe = Recipe(images=replace(digits(), num_classes=7), student="digits_student")
    path = tmp_path / "seven.safetensors"
    state = safetensors.torch.load(dump_student())
    safetensors.torch.save_file(state, path, metadata={"recipe": to_json(recipe)})
    result = run(path)
    assert result.code == 2
    assert "is for images of 1x8x8 (7 classes), " in result.err
    assert "but space digits_kd has images of 1x8x8 (10 classes)" in result.err


# ------------------------------------------------------------ against another network


def test_against_compares_image_by_image(run: Run, student: Path, tmp_path: Path) -> None:
    other = put(tmp_path / "other.safetensors", dump_student(epochs=1))
    result = run(student, "--against", str(other))
    evaluation, against = result.evaluation, result.evaluation["against"]
    other_evaluation = assess(other)
    assert against["overall"] == other_evaluation["overall"]
    difference = evaluation["overall"]["accuracy"] - other_evaluation["overall"]["accuracy"]
    assert against["difference"]["accuracy"] == difference != 0
    hits = [
        scores.argmax(1) == labels
        for content in (dump_student(), dump_student(epochs=1))
        for scores, labels in [by_hand("digits_student", safetensors.torch.load(content), digits())]
    ]
    differences = hits[0].astype(float) - hits[1].astype(float)
    assert differences.mean() == pytest.approx(difference)
    spread = differences.std(ddof=1) / math.sqrt(540)
    assert against["difference"]["accuracy_se"] == pytest.approx(spread)
    assert against["ratio"]["num_params"] == against["ratio"]["size_mb"] == 1
    assert f"{100 * difference:+.2f} ± " in result.out
    # the worse one against the better one: its loss of accuracy is an alarm
    reverse = run(other, "--against", str(student), out="back")
    assert -reverse.evaluation["against"]["difference"]["accuracy"] == difference > 0.05
    assert "drop" in reverse.alarms
    assert "drop" not in result.alarms
    assert f"accuracy is {100 * difference:.2f} points below that of {student}" in reverse.out


# ------------------------------------------------------------ every pixel, and integers


SCENES = """
import numpy as np
from torch import nn
from tune_kd.space.methods import kd_methods
from tune_kd.space import SearchSpace, log_uniform
from tune_kd.data.tasks import Raw, Task

def read(split, folder, cache):
    random = np.random.default_rng(1 if split == "test" else 0)
    masks = random.integers(0, 3, (7, 8, 12)).astype(np.uint8)
    images = np.zeros((7, 8, 12, 3), np.uint8)
    images[..., 0] = masks * 100
    masks[:, 0] = 255
    masks[5] = 255
    return Raw(images=images, labels=masks, class_names=("sky", "tree", "road"))

def task():
    return Task(name="scenes", size=(8, 12), channels=3, pad=0, flip=True, dense=True, read=read)

def pixels(num_classes, channels):
    return nn.Conv2d(channels, num_classes, 1)

SPACE = SearchSpace(
    name="scenes", task="scenes.py:task", teacher="fcn_resnet50", student="scenes.py:pixels",
    expected_student=0.6,
    methods={"no_kd": kd_methods({"lr": log_uniform(0.01, 1), "weight_decay": log_uniform(1e-5, 1e-3),
             "dropout": log_uniform(0.01, 0.1)}, defaults={"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.05})["no_kd"]},
)
"""


def test_of_every_pixel_iou_by_class_without_void(run: Run, tmp_path: Path) -> None:
    """A network that reads the class from the red value, but takes roads for trees."""
    (tmp_path / "scenes.py").write_text(SCENES)
    task = tasks.find("scenes.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=session_cache())
    mean, std = splits.normalisation(task, decoded, splits.split(decoded)[0])
    red = (torch.tensor([0.0, 100.0, 200.0]) / 255 - mean[0]) / std[0]
    state = {"weight": torch.zeros(3, 3, 1, 1), "bias": -(red**2)}
    state["weight"][:, 0, 0, 0] = 2 * red  # the nearest: |x - c|^2 = x^2 - (2 x c - c^2)
    state["bias"][2] = -99.0
    path = tmp_path / "pixels.pt"
    torch.save(state, path)
    result = run(path, "--batch-size", "5", space=str(tmp_path / "scenes.py"))
    assert result.code == 0, result.err
    masks = np.random.default_rng(1).integers(0, 3, (7, 8, 12))
    masks[:, 0] = masks[5] = 9
    sky, tree, road = (int((masks == number).sum()) for number in range(3))
    evaluation = result.evaluation
    assert evaluation["confusion"] == [[sky, 0, 0], [0, tree, 0], [0, road, 0]]
    assert [one["iou"] for one in evaluation["classes"]] == [1.0, tree / (tree + road), 0.0]
    assert evaluation["overall"]["miou"] == pytest.approx((1 + tree / (tree + road)) / 3)
    assert evaluation["overall"]["accuracy"] == (sky + tree) / (sky + tree + road)
    assert evaluation["confused"] == [
        {"true": "road", "predicted": "tree", "count": road, "share": 1.0}
    ]
    numbers = [number for number in range(7) if number != 5]
    by_image = [(masks[number] < 2).sum() / (masks[number] < 9).sum() for number in numbers]
    spread = np.std(by_image, ddof=1) / math.sqrt(6)  # the image without a label counts for nothing
    assert evaluation["overall"]["accuracy_se"] == pytest.approx(spread)
    first = masks[:5]
    assert evaluation["batches"][0]["accuracy"] == (first < 2).sum() / (first < 9).sum()
    assert "IoU %" in result.out
    assert "never_predicted" in result.alarms
    assert "expected_student" in result.alarms
    assert "miou" in next(
        a["text"] for a in evaluation["alarms"] if a["name"] == "expected_student"
    )
    single = run(path, "--batch-size", "1", space=str(tmp_path / "scenes.py"))
    assert [one["accuracy"] is None for one in single.evaluation["batches"]] == [
        n == 5 for n in range(7)
    ]
    assert single.evaluation["overall"] == pytest.approx(evaluation["overall"])


@pytest.mark.slow
def test_an_int8_student_is_compared_with_its_float_one_compiled(
    run: Run, student: Path, tmp_path: Path
) -> None:
    from tune_kd.compress import int8
    from tune_kd.measure import inductor

    content = dump_student(compression=(Quantize(calibration_images=100),))
    path = put(tmp_path / "int8.safetensors", content)
    result = run(path, "--against", str(student))
    assert result.code == 0, result.err
    evaluation = result.evaluation
    assert (evaluation["quantized"], evaluation["against"]["quantized"]) == (True, False)
    assert evaluation["stages"] == ["Distill", "Quantize"]
    # the same integers, image by image, apart from the loop
    recipe = Recipe(images=digits(), student="digits_student")
    ctx = context.NodeContext(cache=session_cache())
    model = int8.restore(
        context.build("digits_student", recipe, ctx, seed=0).eval(),
        checkpoints.parse(content, source="int8"),
        sample=torch.zeros(2, 1, 8, 8),
    )
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=session_cache())
    images = torch.tensor(np.asarray(decoded.images), dtype=torch.float32)[:, None, :, :, 0] / 255
    scores = model((images - digits().mean[0]) / digits().std[0])
    right = (scores.argmax(1).numpy() == decoded.labels).mean()
    assert evaluation["overall"]["accuracy"] == right > 0.5
    profile, other = evaluation["profile"], evaluation["against"]["profile"]
    assert profile["num_params"] == 1030
    assert profile["size_mb"] == int8.size_mb(model) < other["size_mb"]
    assert (profile["int8_operators"], profile["float_operators"]) == (4, 0)
    assert "4 of 4 convolutions and linear layers" in result.out
    assert "latency_ms" not in profile  # of the eager graph: it would say nothing
    if inductor.why_no_compiler():
        assert "compiled_latency_ms" not in profile
        assert "no_faster" not in result.alarms
        return
    assert "reason" not in profile
    gain = other["compiled_latency_ms"] - profile["compiled_latency_ms"]
    noise = other["compiled_latency_ms_sd"] + profile["compiled_latency_ms_sd"]
    assert ("no_faster" in result.alarms) == (gain <= noise)
    ratio = profile["compiled_latency_ms"] / other["compiled_latency_ms"]
    assert evaluation["against"]["ratio"]["compiled_latency_ms"] == pytest.approx(ratio)
