"""Alarms, each raised by a network that was made for it, and the sheet that says them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.evaluation.checking import (
    Run,
    assessed,
    by_hand,
    checkpoint,
    digits,
    written,
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


def _saved(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def test_a_good_student_raises_no_alarm(run: Run, student: Path) -> None:
    ran = run(student)
    assert ran.alarms == []
    assert "no alarms" in ran.out


def test_one_answer_for_all_is_chance_and_one_class(run: Run, tmp_path: Path) -> None:
    ran = run(checkpoint(tmp_path / "three.pt", "digits_student", _always(3)))
    assert ran.code == 0
    assert ran.alarms == ["one_class", "chance"]
    assert "ALARM all predictions are '3'" in ran.out
    threes = ran.found["classes"][3]
    assert (threes["accuracy"], threes["predicted"]) == (1.0, 540)
    assert [one["accuracy"] for one in ran.found["classes"]].count(0.0) == 9


def test_a_class_that_is_never_predicted_is_named(tmp_path: Path) -> None:
    state = safetensors.torch.load(written())
    state["fc.bias"][[4, 7]] = -1e4
    found = assessed(_saved(tmp_path / "mute.pt", state))
    assert found["alarms"]["never_predicted"].text == "never predicted: 4, 7"
    assert "never_right" not in found["alarms"]
    assert found["classes"][4]["accuracy"] == 0
    assert found["classes"][4]["precision"] is None


def test_a_class_that_is_always_wrong_is_named(tmp_path: Path) -> None:
    """Two classes that are never taken for each other change their names."""
    state = safetensors.torch.load(written())
    scores, labels = by_hand("digits_student", state, digits())
    said = scores.argmax(1)
    pairs = [(i, j) for i in range(10) for j in range(i) if not ((labels == i) & (said == j)).any() and not ((labels == j) & (said == i)).any()]  # fmt: skip
    one, other = pairs[0]
    for name in ("fc.weight", "fc.bias"):
        state[name][[one, other]] = state[name][[other, one]]
    found = assessed(_saved(tmp_path / "swapped.pt", state))
    assert found["alarms"]["never_right"].text == f"accuracy 0 % of class {other}, {one}"
    assert "never_predicted" not in found["alarms"]


def test_scores_that_are_far_too_sure(tmp_path: Path) -> None:
    """Probabilities of nearly 1 everywhere: the calibration error is the share of wrong answers."""
    state = safetensors.torch.load(written(epochs=3))
    for name in ("fc.weight", "fc.bias"):
        state[name] *= 1e4
    found = assessed(_saved(tmp_path / "sure.pt", state))
    wrong = 1 - found["overall"]["accuracy"]
    assert found["overall"]["ece"] == pytest.approx(wrong, abs=0.01)
    assert wrong > 0.1
    assert found["alarms"]["ece"].text.startswith(f"the calibration error is {100 * found['overall']['ece']:.2f} %")  # fmt: skip


def test_weights_that_are_no_numbers(run: Run, tmp_path: Path) -> None:
    def break_(model: Any) -> None:
        model.fc.weight[0, :2] = float("nan")
        model.fc.bias[1] = float("inf")

    ran = run(checkpoint(tmp_path / "broken.pt", "digits_student", break_))
    assert ran.code == 0
    assert "not_finite" in ran.alarms
    assert ran.found["not_finite"] == 3
    assert "3 of the weights are infinite or not a number" in ran.out
    assert ran.found["overall"]["loss"] is None
    assert "NaN" not in (ran.folder / "evaluation.json").read_text()


def test_other_images_than_it_was_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(images=replace(digits(), train_hash="others"), student="digits_student")
    path = tmp_path / "other.safetensors"
    state = safetensors.torch.load(written())
    safetensors.torch.save_file(state, path, metadata={"recipe": to_json(recipe)})
    assert list(assessed(path)["alarms"]) == ["other_images"]


def test_a_space_may_expect_so_much(student: Path, tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path / "teacher.pt", "digits_teacher")  # untrained: below a half
    file = tmp_path / "strict.py"
    for share, raised in (("0.999", True), ("0.5", False)):
        file.write_text(
            "from dataclasses import replace\n"
            "from search_spaces.digits_kd import SPACE\n"
            f"SPACE = replace(SPACE, name='s{share[2:]}', expected_student={share}, expected_teacher={share})\n"
        )
        assert ("expected_student" in assessed(student, str(file))["alarms"]) == raised
    found = assessed(teacher, str(file))["alarms"]
    assert "of the teacher is below the 50% that space s5 expects" in found["expected_teacher"].text
    assert "check training epochs and learning rate" in found["expected_teacher"].advice
    assert "expected_student" not in found


def test_the_reference_pair_of_cifar10_expects_what_it_says() -> None:
    space, _ = loader.load("cifar10_mobilenet_quant")
    assert (space.expected_teacher, space.expected_student) == (0.94, 0.88)
    with pytest.raises(ValueError, match="0 <= expected_student <= 1"):
        replace(space, expected_student=88.0)


def _int8(**changes: Any) -> dict[str, Any]:
    """An evaluation of an int8 network that is as it should be, 2 times as fast as its float one."""
    fine = {"name": "a", "count": 10, "predicted": 10, "accuracy": 1.0}
    own = {
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
    found = {
        "space": "s", "images": 20, "role": "student", "expected": 0.0, "metric": "accuracy", "quantized": True,
        "other_images": False, "not_finite": 0, "overall": {"accuracy": 1.0, "ece": 0.01},
        "classes": [fine, {**fine, "name": "b"}], "profile": own, "against": against,
    }  # fmt: skip
    for name, value in changes.items():
        part, _, key = name.partition("__")
        found = {**found, part: {**found[part], key: value} if key else value}
    return found


@pytest.mark.parametrize(
    ("changes", "name", "said"),
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
def test_alarms_of_an_int8_network(changes: dict[str, Any], name: str, said: str) -> None:
    found = diagnostics.diagnose(_int8(**changes))
    assert [alarm.name for alarm in found] == ([name] if name else [])
    if name:
        assert said in found[0].text
        assert found[0].advice


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
    found = _int8(overall__accuracy=accuracy, images=1000, classes=classes)
    assert [alarm.name for alarm in diagnostics.diagnose(found)] == (["chance"] if raised else [])


# ------------------------------------------------------------ the sheet


def test_of_many_classes_the_worst_and_the_best_are_listed(run: Run, student: Path) -> None:
    found = run(student).found
    confusion = [[0] * 30 for _ in range(30)]
    for at in range(30):
        confusion[at][at], confusion[at][(at + 1) % 30] = at, 30 - at
    names = [f"class{at:02d}" for at in range(30)]
    many = {**found, "classes": diagnostics.classes(confusion, names), "confusion": confusion}
    lines = summary.text(many).splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("class") and line[5:6].isdigit()]
    assert listed == names[:10] + names[20:]
    assert "the 10 worst and the 10 best of 30 classes" in lines
    assert summary.picture(many)[:4] == b"\x89PNG"
    twenty_five = {**many, "classes": many["classes"][:25]}
    listed = [line for line in summary.text(twenty_five).splitlines() if line.startswith("class0") or line.startswith("class1") or line.startswith("class2")]  # fmt: skip
    assert len(listed) == 20  # none twice
