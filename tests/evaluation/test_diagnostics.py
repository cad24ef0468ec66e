"""Alarms, each raised by a network that was made for it, and the summary that prints them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.evaluation.checking import (
    Run,
    assess,
    by_hand,
    checkpoint,
    digits,
    dump_student,
)
from tune_kd.evaluation import diagnostics, summary
from tune_kd.recipe import Recipe, to_json
from tune_kd.space import loader


def _always(number: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.fc.weight.zero_()
        model.fc.bias.zero_()
        model.fc.bias[number] = 0.1  # as sure as chance is

    return change


def _save(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def test_a_good_student_raises_no_alarm(run: Run, student: Path) -> None:
    result = run(student)
    assert result.alarms == []
    assert "no alarms" in result.out


def test_one_answer_for_all_is_chance_and_one_class(run: Run, tmp_path: Path) -> None:
    result = run(checkpoint(tmp_path / "three.pt", "digits_student", _always(3)))
    assert result.code == 0
    assert result.alarms == ["one_class", "chance"]
    assert "ALARM all predictions are '3'" in result.out
    threes = result.evaluation["classes"][3]
    assert (threes["accuracy"], threes["predicted"]) == (1.0, 540)
    assert [one["accuracy"] for one in result.evaluation["classes"]].count(0.0) == 9


def test_a_class_that_is_never_predicted_is_named(tmp_path: Path) -> None:
    state = safetensors.torch.load(dump_student())
    state["fc.bias"][[4, 7]] = -1e4
    evaluation = assess(_save(tmp_path / "mute.pt", state))
    assert evaluation["alarms"]["never_predicted"].text == "never predicted: 4, 7"
    assert "never_right" not in evaluation["alarms"]
    assert evaluation["classes"][4]["accuracy"] == 0
    assert evaluation["classes"][4]["precision"] is None


def test_a_class_that_is_always_wrong_is_named(tmp_path: Path) -> None:
    """Two classes that are never taken for each other change their names."""
    state = safetensors.torch.load(dump_student())
    scores, labels = by_hand("digits_student", state, digits())
    predictions = scores.argmax(1)
    mixed = {*zip(labels, predictions, strict=True), *zip(predictions, labels, strict=True)}
    pairs = [(i, j) for i in range(10) for j in range(i) if (i, j) not in mixed]
    one, other = pairs[0]
    for name in ("fc.weight", "fc.bias"):
        state[name][[one, other]] = state[name][[other, one]]
    evaluation = assess(_save(tmp_path / "swapped.pt", state))
    assert evaluation["alarms"]["never_right"].text == f"accuracy 0 % of class {other}, {one}"
    assert "never_predicted" not in evaluation["alarms"]


def test_scores_that_are_far_too_sure(tmp_path: Path) -> None:
    """Probabilities of nearly 1 everywhere: the calibration error is the share of wrong answers."""
    state = safetensors.torch.load(dump_student(epochs=3))
    for name in ("fc.weight", "fc.bias"):
        state[name] *= 1e4
    evaluation = assess(_save(tmp_path / "sure.pt", state))
    wrong = 1 - evaluation["overall"]["accuracy"]
    assert evaluation["overall"]["ece"] == pytest.approx(wrong, abs=0.01)
    assert wrong > 0.1
    percent = f"{100 * evaluation['overall']['ece']:.2f} %"
    assert evaluation["alarms"]["ece"].text.startswith(f"the calibration error is {percent}")


def test_weights_that_are_no_numbers(run: Run, tmp_path: Path) -> None:
    def break_(model: Any) -> None:
        model.fc.weight[0, :2] = float("nan")
        model.fc.bias[1] = float("inf")

    result = run(checkpoint(tmp_path / "broken.pt", "digits_student", break_))
    assert result.code == 0
    assert "not_finite" in result.alarms
    assert result.evaluation["not_finite"] == 3
    assert "3 of the weights are infinite or not a number" in result.out
    assert result.evaluation["overall"]["loss"] is None
    assert "NaN" not in (result.folder / "evaluation.json").read_text()


def test_other_images_than_it_was_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(images=replace(digits(), train_hash="others"), student="digits_student")
    path = tmp_path / "other.safetensors"
    state = safetensors.torch.load(dump_student())
    safetensors.torch.save_file(state, path, metadata={"recipe": to_json(recipe)})
    assert list(assess(path)["alarms"]) == ["other_images"]


def test_a_space_may_expect_so_much(student: Path, tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path / "teacher.pt", "digits_teacher")  # untrained: below a half
    file = tmp_path / "strict.py"
    for share, raised in (("0.999", True), ("0.5", False)):
        file.write_text(
            "from dataclasses import replace\n"
            "from search_spaces.digits_kd import SPACE\n"
            f"SPACE = replace(SPACE, name='s{share[2:]}', expected_student={share}, expected_teacher={share})\n"
        )
        assert ("expected_student" in assess(student, str(file))["alarms"]) == raised
    alarms = assess(teacher, str(file))["alarms"]
    assert (
        "of the teacher is below the 50% that space s5 expects" in alarms["expected_teacher"].text
    )
    assert "check training epochs and learning rate" in alarms["expected_teacher"].advice
    assert "expected_student" not in alarms


def test_the_reference_pair_of_cifar10_expects_what_it_says() -> None:
    space, _ = loader.load("cifar10_mobilenet_quant")
    assert (space.expected_teacher, space.expected_student) == (0.94, 0.88)
    with pytest.raises(ValueError, match="0 <= expected_student <= 1"):
        replace(space, expected_student=88.0)


def _int8(**changes: Any) -> dict[str, Any]:
    """An evaluation of an int8 network that is as it should be, 2 times as fast as its float one."""
    fine = {"name": "a", "count": 10, "predicted": 10, "accuracy": 1.0}
    profile = {
        "compiled_latency_ms": 1.0,
        "compiled_latency_ms_sd": 0.1,
        "int8_operators": 3,
        "float_operators": 1,
    }
    against = {
        "weights": "float",
        "quantized": False,
        "difference": {"accuracy": -0.01, "size_mb": -1.0},
        "profile": {"compiled_latency_ms": 2.0, "compiled_latency_ms_sd": 0.1},
    }
    evaluation = {
        "space": "s",
        "images": 20,
        "role": "student",
        "expected": 0.0,
        "metric": "accuracy",
        "quantized": True,
        "other_images": False,
        "not_finite": 0,
        "overall": {"accuracy": 1.0, "ece": 0.01},
        "classes": [fine, {**fine, "name": "b"}],
        "profile": profile,
        "against": against,
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        evaluation = {**evaluation, part: {**evaluation[part], key: value} if key else value}
    return evaluation


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({}, "", ""),
        ({"profile__compiled_latency_ms": 2.5}, "no_faster", "no speed-up from int8: 2.500 ± 0.100 ms against 2.000"),
        ({"profile__compiled_latency_ms": 1.85}, "no_faster", "1.850"),  # within both deviations
        ({"against__profile": {}}, "", ""),  # not compiled: nothing to compare with
        ({"against__quantized": True, "profile__compiled_latency_ms": 2.5}, "", ""),  # int8 both
        ({"against__difference": {"accuracy": -0.051, "size_mb": -1.0}}, "drop", "5.10 points below that of float"),
        ({"against__difference": {"accuracy": -0.049, "size_mb": -1.0}}, "", ""),
        ({"against__difference": {"accuracy": 0.2, "size_mb": 0.0}}, "no_smaller", "no smaller than float"),
        ({"profile__wrong": "no int8 layer"}, "not_quantized", "no int8 layer"),
    ],
)  # fmt: skip
def test_alarms_of_an_int8_network(changes: dict[str, Any], name: str, text: str) -> None:
    alarms = diagnostics.diagnose(_int8(**changes))
    assert [alarm.name for alarm in alarms] == ([name] if name else [])
    if name:
        assert text in alarms[0].text
        assert alarms[0].advice


def test_advice_says_how_much_is_int8() -> None:
    (alarm,) = diagnostics.diagnose(_int8(profile__compiled_latency_ms=2.5))
    assert "verify that the model is really quantized: 3 of 4 convolutions" in alarm.advice
    (alarm,) = diagnostics.diagnose(_int8(against__difference={"accuracy": -0.2, "size_mb": -1.0}))
    assert "review the calibration" in alarm.advice
    (alarm,) = diagnostics.diagnose(
        _int8(against__difference={"accuracy": -0.2, "size_mb": -1.0}, quantized=False)
    )
    assert "check the distillation pipeline" in alarm.advice


@pytest.mark.parametrize(("accuracy", "raised"), [(0.56, True), (0.58, False)])
def test_chance_is_the_most_frequent_class_and_its_spread(accuracy: float, raised: bool) -> None:
    """1000 images of two equal classes: 0.5 + 2 * sqrt(0.25 / 1000) = 0.5316; 0.54 + ... = 0.5715."""
    classes = [
        {"name": "a", "count": 540, "predicted": 5, "accuracy": 0.6},
        {"name": "b", "count": 460, "predicted": 5, "accuracy": 0.6},
    ]
    evaluation = _int8(overall__accuracy=accuracy, images=1000, classes=classes)
    assert [alarm.name for alarm in diagnostics.diagnose(evaluation)] == (
        ["chance"] if raised else []
    )


# ------------------------------------------------------------ the summary


def test_of_many_classes_the_worst_and_the_best_are_listed(run: Run, student: Path) -> None:
    evaluation = run(student).evaluation
    confusion = [[0] * 30 for _ in range(30)]
    for at in range(30):
        confusion[at][at], confusion[at][(at + 1) % 30] = at, 30 - at
    names = [f"class{at:02d}" for at in range(30)]
    many = {**evaluation, "classes": diagnostics.classes(confusion, names), "confusion": confusion}
    lines = summary.text(many).splitlines()
    rows = [line.split()[0] for line in lines if line.startswith("class") and line[5:6].isdigit()]
    assert rows == names[:10] + names[20:]
    assert "the 10 worst and the 10 best of 30 classes" in lines
    assert summary.picture(many)[:4] == b"\x89PNG"
    twenty_five = {**many, "classes": many["classes"][:25]}
    lines = summary.text(twenty_five).splitlines()
    rows = [line for line in lines if line.startswith(("class0", "class1", "class2"))]
    assert len(rows) == 20  # none twice
