"""One network checked on the test split: its numbers against a plain loop, files of every kind, alarms."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from tune_kd import (
    cli,
    data,
    evaluate,
    findings,
    foreign,
    models,
    results,
    sheet,
    site,
    spaces,
    subject,
    tasks,
    trial,
    weights,
    worker,
)
from tune_kd.foreign import Foreign
from tune_kd.recipe import Distill, Images, Optimiser, Prune, Quantize, Recipe, from_json, to_json
from tune_kd.storage import Storage
from tune_kd.study import Proposal, Study

SHAPE = models.Shape(num_classes=10, channels=1, size=(8, 8))
LIMIT = 600


# ------------------------------------------------------------ files of every kind


@functools.cache
def _session_cache() -> Path:
    return worker.cache_folder()


_session_cache()  # now, while TUNE_KD_CACHE is the session's


@functools.cache
def _images() -> Images:
    """The digits as a search over some of them sees them: with statistics of their own."""
    task = tasks.find("digits")
    decoded = tasks.decode(task, "train", folder=None, cache=_session_cache())
    fit, _ = data.split(decoded, limit=LIMIT, seed=0)
    mean, std = data.normalisation(task, decoded, fit)
    return Images(
        task="digits",
        train_hash=decoded.hash,
        num_classes=10,
        channels=1,
        size=(8, 8),
        mean=mean,
        std=std,
        limit_train=LIMIT,
        pad=1,
        flip=False,
    )


@functools.cache
def _written(*, student: str = "digits_student", after: tuple[Any, ...] = (), epochs: int = 30) -> bytes:  # fmt: skip
    """A network trained for a moment, as a worker writes it."""
    first = Distill(epochs=epochs, optimiser=Optimiser(lr=0.1), batch_size=32)
    recipe = Recipe(images=_images(), student=student, stages=(first, *after))
    where = trial.Site(cache=_session_cache())
    *_, last = trial.run(recipe, seed=0, site=where)
    proposal = Proposal(
        trial="t", phase="search", method="no_kd", number=0, seed=0, origin="textbook", recipe=recipe
    )  # fmt: skip
    return worker._weights(proposal, last)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return _file(tmp_path / "student.safetensors", _written())


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _checkpoint(path: Path, network: str, change: Callable[[Any], None] | None = None) -> Path:
    """A state dict as any script writes it, of fresh or of changed weights."""
    model = models.build(network, shape=SHAPE, seed=1)
    if change:
        with torch.no_grad():
            change(model)
    torch.save(model.state_dict(), path)
    return path


class Ran:
    """What a run printed and wrote."""

    def __init__(self, code: int, out: str, err: str, folder: Path) -> None:
        self.code, self.out, self.err, self.folder = code, out, err, folder
        file = folder / "evaluation.json"
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    @property
    def alarms(self) -> list[str]:
        return [alarm["name"] for alarm in self.found["alarms"]]

    @property
    def openings(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "openings").glob("*"))


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process; results in a folder below tmp_path."""

    def run(weights_: Path | str, *more: str, space: str = "digits_kd", out: str = "out") -> Ran:
        folder = tmp_path / out
        arguments = ["--space", space, "--weights", str(weights_), "--out", str(folder), *more]
        capsys.readouterr()
        code = cli.guarded(evaluate.main, arguments)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err, folder)

    return run


# ------------------------------------------------------------ numbers


def _by_hand(network: str, state: dict[str, Any], images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, 10] of the test images one by one, and their labels: apart from the package's loop."""
    model = models.build(network, shape=SHAPE)
    model.load_state_dict(state)
    model.eval()
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=_session_cache())
    scores = []
    with torch.no_grad():
        for pixels in np.asarray(decoded.images):
            image = torch.tensor(pixels[:, :, 0], dtype=torch.float32)[None, None]
            image = (image / 255 - images.mean[0]) / images.std[0]
            scores.append(model(image)[0].numpy())
    return np.stack(scores), np.asarray(decoded.labels)


def test_the_numbers_are_those_of_a_plain_loop(run: Run, student: Path) -> None:
    ran = run(student, "--batch-size", "64")
    assert ran.code == 0, ran.err
    found = ran.found
    state = safetensors.torch.load(_written())
    scores, labels = _by_hand("digits_student", state, _images())
    predicted = scores.argmax(1)
    right = predicted == labels
    assert found["images"] == len(labels) == 540
    assert found["overall"]["accuracy"] == right.mean()
    spread = right.std(ddof=1) / math.sqrt(len(right))
    assert found["overall"]["accuracy_se"] == pytest.approx(spread, rel=1e-9)
    loss = F.cross_entropy(torch.tensor(scores), torch.tensor(labels)).item()
    assert found["overall"]["loss"] == pytest.approx(loss, rel=1e-5)
    # Guo et al. 2017, equation 3, 15 bins of confidence
    sure = torch.from_numpy(scores).softmax(1).max(1).values.double().numpy()
    bins = np.minimum((sure * 15).astype(int), 14)
    ece = sum(abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(15)) / len(labels)
    assert found["overall"]["ece"] == pytest.approx(ece, abs=1e-6)
    confusion = np.zeros((10, 10), int)
    for true, said in zip(labels, predicted, strict=True):
        confusion[true, said] += 1
    assert found["confusion"] == confusion.tolist()
    for at, one in enumerate(found["classes"]):
        own = labels == at
        assert (one["name"], one["count"]) == (str(at), own.sum())
        assert one["accuracy"] == right[own].mean()
        assert one["precision"] == right[predicted == at].mean()
    by_class = [right[labels == at].mean() for at in range(10)]
    assert found["overall"]["mean_class_accuracy"] == pytest.approx(np.mean(by_class), rel=1e-12)
    cells = [(confusion[i, j], i, j) for i in range(10) for j in range(10) if i != j]
    most = sorted((cell for cell, _, _ in cells), reverse=True)[:5]
    assert [pair["count"] for pair in found["confused"]] == most
    for pair in found["confused"]:
        assert confusion[int(pair["true"]), int(pair["predicted"])] == pair["count"]
    starts = range(0, 540, 64)
    assert [b["accuracy"] for b in found["batches"]] == [right[s : s + 64].mean() for s in starts]
    assert [b["images"] for b in found["batches"]] == [64] * 8 + [28]
    assert [b["number"] for b in found["batches"]] == list(range(1, 10))
    each = F.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels), reduction="none")
    assert found["batches"][2]["loss"] == pytest.approx(each[128:192].mean().item(), rel=1e-5)
    assert 0.5 < right.mean() < 1  # so that there was something to count


def test_what_is_printed_and_written(run: Run, student: Path) -> None:
    ran = run(student, "--batch-size", "64")
    found = ran.found
    assert (found["network"], found["role"], found["stages"]) == ("digits_student", "student", ["Distill"])  # fmt: skip
    profile = found["profile"]
    assert profile["num_params"] == 1030
    assert profile["size_mb"] == pytest.approx(sum(t.nbytes for t in safetensors.torch.load(_written()).values()) / 1e6)  # fmt: skip
    assert profile["latency_ms"] > 0
    assert profile["latency_ms_sd"] >= 0
    assert profile["throughput_per_s"] > 0
    assert "compiled_latency_ms" not in profile
    accuracy = f"{100 * found['overall']['accuracy']:.2f}"
    assert f"accuracy            {accuracy} ± " in ran.out
    assert "1,030" in ran.out
    worst = min(found["batches"], key=lambda one: one["accuracy"])
    assert f"{100 * worst['accuracy']:.2f} % in the worst, number {worst['number']} of 9" in ran.out
    assert ran.out.count("taken for") == 5
    assert profile["device"] in ran.out
    assert "scoring" in ran.err
    assert (ran.folder / "confusion.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_quiet_says_results_only(run: Run, student: Path) -> None:
    ran = run(student, "--quiet")
    assert "accuracy" in ran.out
    assert ran.err == ""


def test_each_opening_of_the_test_split_is_recorded(
    run: Run, student: Path, tmp_path: Path
) -> None:
    first = run(student)
    assert first.openings == ["0001.json"]
    teacher = _checkpoint(tmp_path / "teacher.pt", "digits_teacher")
    second = run(teacher, "--against", str(student))
    assert second.openings == ["0001.json", "0002.json"]
    one, two = (json.loads((second.folder / "openings" / n).read_text()) for n in second.openings)
    assert one["weights"] == [{"weights": str(student), "hash": Foreign(name="", data=_written()).hash}]  # fmt: skip
    assert [given["weights"] for given in two["weights"]] == [str(teacher), str(student)]
    assert one["command"].startswith("python -m tune_kd.evaluate --space digits_kd --weights")
    assert one["time"] <= two["time"]


def test_the_default_folder_is_named_by_the_space(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["--space", "digits_kd", "--weights", str(student), "--quiet"]) == 0
    assert (tmp_path / "runs" / "digits_kd_evaluation" / "evaluation.json").is_file()


# ------------------------------------------------------------ whose weights


def test_a_students_own_statistics_normalise_its_images(run: Run, student: Path, tmp_path: Path) -> None:  # fmt: skip
    """The file's header tells them; the same weights bare are seen with those of the whole split."""
    state = safetensors.torch.load(_written())
    bare = tmp_path / "bare.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, bare)
    told, guessed = run(student).found, run(bare, out="bare").found
    assert guessed["stages"] == []
    assert guessed["network"] == "digits_student"
    decoded = tasks.decode(tasks.find("digits"), "train", folder=None, cache=_session_cache())
    fit, _ = data.split(decoded, limit=0, seed=0)
    mean, std = data.normalisation(tasks.find("digits"), decoded, fit)
    assert (mean, std) != (_images().mean, _images().std)
    scores, labels = _by_hand("digits_student", state, replace(_images(), mean=mean, std=std))
    loss = F.cross_entropy(torch.tensor(scores), torch.tensor(labels)).item()
    assert guessed["overall"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert guessed["overall"]["loss"] != told["overall"]["loss"]


@pytest.mark.parametrize("packed", ["state dict", "safetensors"])
def test_a_checkpoint_of_the_teacher_is_known_by_its_keys(tmp_path: Path, packed: str) -> None:  # fmt: skip
    path = _checkpoint(tmp_path / "teacher.pt", "digits_teacher")
    if packed == "safetensors":
        state = torch.load(path, weights_only=True)
        path = tmp_path / "teacher.safetensors"
        safetensors.torch.save_file(state, path)
    found = _assessed(path)
    assert (found["network"], found["role"]) == ("digits_teacher", "teacher")


def test_another_network_must_be_named(run: Run, tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "medium.pt", "digits_medium")
    ran = run(path)
    assert ran.code == 2
    assert "does not fit digits_student (shape: " in ran.err
    assert "nor digits_teacher (shape: " in ran.err
    assert "[8, 1, 3, 3] instead of [4, 1, 3, 3]" in ran.err
    assert "--network" in ran.err
    assert len(ran.err.strip().splitlines()) == 2
    assert ran.openings == []  # the test split stayed sealed
    named = run(path, "--network", "digits_medium")
    assert (named.code, named.found["network"], named.found["role"]) == (0, "digits_medium", "")


def test_a_users_network_is_found_from_the_working_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n"
        "def flat(num_classes, channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, num_classes))\n"
    )
    torch.save({"1.weight": torch.eye(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "flat.pt")
    monkeypatch.chdir(tmp_path)
    ran = run("flat.pt", "--network", "nets.py:flat")
    assert ran.code == 0, ran.err
    assert ran.found["profile"]["num_params"] == 650


def test_a_pruned_student_has_the_shapes_of_its_file(run: Run, tmp_path: Path) -> None:
    content = _written(student="digits_medium", after=(Prune(ratio=0.5),), epochs=2)
    ran = run(_file(tmp_path / "pruned.safetensors", content), space="digits_kd_prune")
    assert ran.code == 0, ran.err
    state = safetensors.torch.load(content)
    assert state["stage1.0.weight"].shape[0] == 4  # of 8
    numbers = sum(t.numel() for n, t in state.items() if "running" not in n and "num_batches" not in n)  # fmt: skip
    assert ran.found["profile"]["num_params"] == numbers < 6274
    assert ran.found["stages"] == ["Distill", "Prune"]
    bare = tmp_path / "bare.pt"
    torch.save(state, bare)
    assert run(bare, space="digits_kd_prune", out="bare").code == 2
    named = run(bare, "--network", "digits_medium", space="digits_kd_prune", out="bare")
    assert named.found["profile"]["num_params"] == numbers


def test_weights_set_to_zero_are_told(run: Run, tmp_path: Path) -> None:
    content = _written(student="digits_medium", after=(Prune(method="magnitude", ratio=0.5),), epochs=2)  # fmt: skip
    ran = run(_file(tmp_path / "sparse.safetensors", content), space="digits_kd_prune")
    profile = ran.found["profile"]
    state = safetensors.torch.load(content)
    kept = [t for n, t in state.items() if "running" not in n and "num_batches" not in n]
    assert profile["nonzero_params"] == sum(int(t.count_nonzero()) for t in kept)
    assert profile["num_params"] == sum(t.numel() for t in kept) > profile["nonzero_params"]
    assert "% of them zero" in ran.out


def test_a_studys_best_student_is_named_by_the_study(run: Run, tmp_path: Path) -> None:
    """Two methods of one trial each, of which the second is better on validation."""
    storage = Storage(tmp_path / "runs" / "mine")
    kept = {"schema": results.SCHEMA_VERSION, "study": "mine", "metric": "val_accuracy", "objectives": ["val_accuracy"]}  # fmt: skip
    kept |= {"constraints": [], "config_types": {}, "methods": {"no_kd": {}, "response": {}}}
    storage.write("manifest.json", json.dumps(kept).encode())
    known = Study(storage)
    for method, epochs, reached in (("no_kd", 3, 0.5), ("response", 30, 0.9)):
        content = _written(epochs=epochs)
        storage.write(f"students/{method}-0000.safetensors", content)
        recipe = from_json(weights.header(content)["recipe"])
        trial_ = {"trial": f"{method}-0000", "phase": "search", "method": method, "number": 0}
        known.add(Proposal(**trial_, seed=0, origin="textbook", recipe=recipe))
        row = {**trial_, "stage": 0, "status": "finished", "val_accuracy": reached}
        known.put_verdict(f"{method}-0000", [row])
    best = _assessed(f"{storage.uri}")
    assert best["weights"] == f"{storage.uri}:response"
    assert best["confusion"] == _assessed(storage.local / "students" / "response-0000.safetensors")["confusion"]  # fmt: skip
    assert _assessed(f"{storage.uri}:no_kd")["confusion"] != best["confusion"]
    ran = run(f"{storage.uri}:respons")
    assert ran.code == 2
    assert "did you mean 'response'?" in ran.err


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
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
    said: str,
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path / "text.pt", b"no checkpoint at all")
    torch.save({"x": "words"}, tmp_path / "words.pt")
    _checkpoint(tmp_path / "ok.pt", "digits_student")
    _file(tmp_path / "cut.safetensors", student.read_bytes()[:-100])
    state = safetensors.torch.load(_written())
    safetensors.torch.save_file(state, "old.safetensors", metadata={"recipe": '{"epochs": 3}'})
    code = cli.guarded(evaluate.main, ["--space", "digits_kd", "--out", "out", *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "out" / "openings").exists()


def test_a_network_for_other_images_is_refused(run: Run, student: Path, tmp_path: Path) -> None:
    recipe = Recipe(images=replace(_images(), num_classes=7), student="digits_student")
    path = tmp_path / "seven.safetensors"
    state = safetensors.torch.load(_written())
    safetensors.torch.save_file(state, path, metadata={"recipe": to_json(recipe)})
    ran = run(path)
    assert ran.code == 2
    assert "is for images of 1x8x8 (7 classes), but space digits_kd has images of 1x8x8 (10 classes)" in ran.err  # fmt: skip


# ------------------------------------------------------------ against another network


def test_against_compares_image_by_image(run: Run, student: Path, tmp_path: Path) -> None:
    other = _file(tmp_path / "other.safetensors", _written(epochs=1))
    ran = run(student, "--against", str(other))
    own, against = ran.found, ran.found["against"]
    alone = _assessed(other)
    assert against["overall"] == alone["overall"]
    difference = own["overall"]["accuracy"] - alone["overall"]["accuracy"]
    assert against["difference"]["accuracy"] == difference != 0
    hits = [
        scores.argmax(1) == labels
        for content in (_written(), _written(epochs=1))
        for scores, labels in [_by_hand("digits_student", safetensors.torch.load(content), _images())]
    ]  # fmt: skip
    paired = hits[0].astype(float) - hits[1].astype(float)
    assert paired.mean() == pytest.approx(difference)
    assert against["difference"]["accuracy_se"] == pytest.approx(paired.std(ddof=1) / math.sqrt(540))  # fmt: skip
    assert against["ratio"]["num_params"] == against["ratio"]["size_mb"] == 1
    assert f"{100 * difference:+.2f} ± " in ran.out
    # the worse one against the better one: its loss of accuracy is an alarm
    back = run(other, "--against", str(student), out="back")
    assert -back.found["against"]["difference"]["accuracy"] == difference > 0.05
    assert "drop" in back.alarms
    assert "drop" not in ran.alarms
    assert f"accuracy is {100 * difference:.2f} points below that of {student}" in back.out


# ------------------------------------------------------------ alarms, each by a network made for it


def _always(number: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.fc.weight.zero_()
        model.fc.bias.zero_()
        model.fc.bias[number] = 0.1  # as sure as chance is

    return change


def _assessed(path: Path | str, space: str = "digits_kd") -> dict[str, Any]:
    """An evaluation without timing: scored on the test split, and its alarms."""
    chosen, file = spaces.load(space)
    where = site.Site(cache=_session_cache(), code=file.parent)
    wanted = subject.Wanted(space=chosen, images=_images(), site=where)
    one = subject.load(foreign.find(str(path), what="--weights"), wanted)
    scored, _ = evaluate.scored(one, 100)
    found = evaluate.finite({**evaluate.facts(one, wanted), **scored, "profile": {}})
    return {**found, "alarms": {alarm.name: alarm for alarm in findings.alarms(found)}}


def _saved(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def test_a_good_student_raises_no_alarm(run: Run, student: Path) -> None:
    ran = run(student)
    assert ran.alarms == []
    assert "no alarms" in ran.out


def test_one_answer_for_all_is_chance_and_one_class(run: Run, tmp_path: Path) -> None:
    ran = run(_checkpoint(tmp_path / "three.pt", "digits_student", _always(3)))
    assert ran.code == 0
    assert ran.alarms == ["one_class", "chance"]
    assert "ALARM all predictions are '3'" in ran.out
    threes = ran.found["classes"][3]
    assert (threes["accuracy"], threes["predicted"]) == (1.0, 540)
    assert [one["accuracy"] for one in ran.found["classes"]].count(0.0) == 9


def test_a_class_that_is_never_predicted_is_named(tmp_path: Path) -> None:
    state = safetensors.torch.load(_written())
    state["fc.bias"][[4, 7]] = -1e4
    found = _assessed(_saved(tmp_path / "mute.pt", state))
    assert found["alarms"]["never_predicted"].text == "never predicted: 4, 7"
    assert "never_right" not in found["alarms"]
    assert found["classes"][4]["accuracy"] == 0
    assert found["classes"][4]["precision"] is None


def test_a_class_that_is_always_wrong_is_named(tmp_path: Path) -> None:
    """Two classes that are never taken for each other change their names."""
    state = safetensors.torch.load(_written())
    scores, labels = _by_hand("digits_student", state, _images())
    said = scores.argmax(1)
    pairs = [(i, j) for i in range(10) for j in range(i) if not ((labels == i) & (said == j)).any() and not ((labels == j) & (said == i)).any()]  # fmt: skip
    one, other = pairs[0]
    for name in ("fc.weight", "fc.bias"):
        state[name][[one, other]] = state[name][[other, one]]
    found = _assessed(_saved(tmp_path / "swapped.pt", state))
    assert found["alarms"]["never_right"].text == f"accuracy 0 % of class {other}, {one}"
    assert "never_predicted" not in found["alarms"]


def test_scores_that_are_far_too_sure(tmp_path: Path) -> None:
    """Probabilities of nearly 1 everywhere: the calibration error is the share of wrong answers."""
    state = safetensors.torch.load(_written(epochs=3))
    for name in ("fc.weight", "fc.bias"):
        state[name] *= 1e4
    found = _assessed(_saved(tmp_path / "sure.pt", state))
    wrong = 1 - found["overall"]["accuracy"]
    assert found["overall"]["ece"] == pytest.approx(wrong, abs=0.01)
    assert wrong > 0.1
    assert found["alarms"]["ece"].text.startswith(f"the calibration error is {100 * found['overall']['ece']:.2f} %")  # fmt: skip


def test_weights_that_are_no_numbers(run: Run, tmp_path: Path) -> None:
    def break_(model: Any) -> None:
        model.fc.weight[0, :2] = float("nan")
        model.fc.bias[1] = float("inf")

    ran = run(_checkpoint(tmp_path / "broken.pt", "digits_student", break_))
    assert ran.code == 0
    assert "not_finite" in ran.alarms
    assert ran.found["not_finite"] == 3
    assert "3 of the weights are infinite or not a number" in ran.out
    assert ran.found["overall"]["loss"] is None
    assert "NaN" not in (ran.folder / "evaluation.json").read_text()


def test_other_images_than_it_was_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(images=replace(_images(), train_hash="others"), student="digits_student")
    path = tmp_path / "other.safetensors"
    state = safetensors.torch.load(_written())
    safetensors.torch.save_file(state, path, metadata={"recipe": to_json(recipe)})
    assert list(_assessed(path)["alarms"]) == ["other_images"]


def test_a_space_may_expect_so_much(student: Path, tmp_path: Path) -> None:
    teacher = _checkpoint(tmp_path / "teacher.pt", "digits_teacher")  # untrained: below a half
    file = tmp_path / "strict.py"
    for share, raised in (("0.999", True), ("0.5", False)):
        file.write_text(
            "from dataclasses import replace\n"
            "from search_spaces.digits_kd import SPACE\n"
            f"SPACE = replace(SPACE, name='s{share[2:]}', expected_student={share}, expected_teacher={share})\n"
        )
        assert ("expected_student" in _assessed(student, str(file))["alarms"]) == raised
    found = _assessed(teacher, str(file))["alarms"]
    assert "of the teacher is below the 50% that space s5 expects" in found["expected_teacher"].text
    assert "check training epochs and learning rate" in found["expected_teacher"].advice
    assert "expected_student" not in found


def test_the_reference_pair_of_cifar10_expects_what_it_says() -> None:
    space, _ = spaces.load("cifar10_mobilenet_quant")
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
        "quantised": False,
        "difference": {"accuracy": -0.01, "size_mb": -1.0},
        "profile": {"compiled_latency_ms": 2.0, "compiled_latency_ms_sd": 0.1},
    }
    found = {
        "space": "s", "images": 20, "role": "student", "expected": 0.0, "metric": "accuracy", "quantised": True,
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
        ({"against__quantised": True, "profile__compiled_latency_ms": 2.5}, "", ""),  # int8 both
        ({"against__difference": {"accuracy": -0.051, "size_mb": -1.0}}, "drop", "5.10 points below that of float"),
        ({"against__difference": {"accuracy": -0.049, "size_mb": -1.0}}, "", ""),
        ({"against__difference": {"accuracy": 0.2, "size_mb": 0.0}}, "no_smaller", "no smaller than float"),
        ({"profile__wrong": "no int8 layer"}, "not_quantised", "no int8 layer"),
    ],
)  # fmt: skip
def test_alarms_of_an_int8_network(changes: dict[str, Any], name: str, said: str) -> None:
    found = findings.alarms(_int8(**changes))
    assert [alarm.name for alarm in found] == ([name] if name else [])
    if name:
        assert said in found[0].text
        assert found[0].advice


def test_advice_says_how_much_is_int8() -> None:
    (alarm,) = findings.alarms(_int8(profile__compiled_latency_ms=2.5))
    assert "verify that the model is really quantised: 3 of 4 convolutions" in alarm.advice
    (alarm,) = findings.alarms(_int8(against__difference={"accuracy": -0.2, "size_mb": -1.0}))
    assert "review the calibration" in alarm.advice
    (alarm,) = findings.alarms(
        _int8(against__difference={"accuracy": -0.2, "size_mb": -1.0}, quantised=False)
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
    assert [alarm.name for alarm in findings.alarms(found)] == (["chance"] if raised else [])


# ------------------------------------------------------------ the sheet


def test_of_many_classes_the_worst_and_the_best_are_listed(run: Run, student: Path) -> None:
    found = run(student).found
    confusion = [[0] * 30 for _ in range(30)]
    for at in range(30):
        confusion[at][at], confusion[at][(at + 1) % 30] = at, 30 - at
    names = [f"class{at:02d}" for at in range(30)]
    many = {**found, "classes": findings.classes(confusion, names), "confusion": confusion}
    lines = sheet.text(many).splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("class") and line[5:6].isdigit()]
    assert listed == names[:10] + names[20:]
    assert "the 10 worst and the 10 best of 30 classes" in lines
    assert sheet.picture(many)[:4] == b"\x89PNG"
    twenty_five = {**many, "classes": many["classes"][:25]}
    listed = [line for line in sheet.text(twenty_five).splitlines() if line.startswith("class0") or line.startswith("class1") or line.startswith("class2")]  # fmt: skip
    assert len(listed) == 20  # none twice


# ------------------------------------------------------------ every pixel, and integers


SCENES = """
import numpy as np
from torch import nn
from tune_kd.methods import kd_methods
from tune_kd.space import SearchSpace, log_uniform
from tune_kd.tasks import Raw, Task

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
             "dropout": log_uniform(0.01, 0.1)}, recipe={"lr": 0.1, "weight_decay": 1e-4, "dropout": 0.05})["no_kd"]},
)
"""


def test_of_every_pixel_iou_by_class_without_void(run: Run, tmp_path: Path) -> None:
    """A network that reads the class from the red value, but takes roads for trees."""
    (tmp_path / "scenes.py").write_text(SCENES)
    task = tasks.find("scenes.py:task", base=tmp_path)
    decoded = tasks.decode(task, "train", folder=None, cache=_session_cache())
    mean, std = data.normalisation(task, decoded, data.split(decoded)[0])
    red = (torch.tensor([0.0, 100.0, 200.0]) / 255 - mean[0]) / std[0]
    state = {"weight": torch.zeros(3, 3, 1, 1), "bias": -(red**2)}
    state["weight"][:, 0, 0, 0] = 2 * red  # the nearest: |x - c|^2 = x^2 - (2 x c - c^2)
    state["bias"][2] = -99.0
    path = tmp_path / "pixels.pt"
    torch.save(state, path)
    ran = run(path, "--batch-size", "5", space=str(tmp_path / "scenes.py"))
    assert ran.code == 0, ran.err
    masks = np.random.default_rng(1).integers(0, 3, (7, 8, 12))
    masks[:, 0] = masks[5] = 9
    sky, tree, road = (int((masks == number).sum()) for number in range(3))
    found = ran.found
    assert found["confusion"] == [[sky, 0, 0], [0, tree, 0], [0, road, 0]]
    assert [one["iou"] for one in found["classes"]] == [1.0, tree / (tree + road), 0.0]
    assert found["overall"]["miou"] == pytest.approx((1 + tree / (tree + road)) / 3)
    assert found["overall"]["accuracy"] == (sky + tree) / (sky + tree + road)
    assert found["confused"] == [{"true": "road", "predicted": "tree", "count": road, "share": 1.0}]
    known = [number for number in range(7) if number != 5]
    by_image = [(masks[number] < 2).sum() / (masks[number] < 9).sum() for number in known]
    spread = np.std(by_image, ddof=1) / math.sqrt(6)  # the image without a label counts for nothing
    assert found["overall"]["accuracy_se"] == pytest.approx(spread)
    first = masks[:5]
    assert found["batches"][0]["accuracy"] == (first < 2).sum() / (first < 9).sum()
    assert "IoU %" in ran.out
    assert "never_predicted" in ran.alarms
    assert "expected_student" in ran.alarms
    assert "miou" in next(a["text"] for a in found["alarms"] if a["name"] == "expected_student")
    alone = run(path, "--batch-size", "1", space=str(tmp_path / "scenes.py"))
    assert [one["accuracy"] is None for one in alone.found["batches"]] == [n == 5 for n in range(7)]
    assert alone.found["overall"] == pytest.approx(found["overall"])


@pytest.mark.slow
def test_an_int8_student_is_compared_with_its_float_one_compiled(run: Run, student: Path, tmp_path: Path) -> None:  # fmt: skip
    from tune_kd import compiled, int8

    content = _written(after=(Quantize(calibration_images=100),))
    path = _file(tmp_path / "int8.safetensors", content)
    ran = run(path, "--against", str(student))
    assert ran.code == 0, ran.err
    found = ran.found
    assert (found["quantised"], found["against"]["quantised"]) == (True, False)
    assert found["stages"] == ["Distill", "Quantize"]
    # the same integers, image by image, apart from the loop
    recipe = Recipe(images=_images(), student="digits_student")
    where = site.Site(cache=_session_cache())
    model = int8.restore(
        site.build("digits_student", recipe, where, seed=0).eval(),
        weights.parse(content, what="int8"),
        sample=torch.zeros(2, 1, 8, 8),
    )
    decoded = tasks.decode(tasks.find("digits"), "test", folder=None, cache=_session_cache())
    images = torch.tensor(np.asarray(decoded.images), dtype=torch.float32)[:, None, :, :, 0] / 255
    scores = model((images - _images().mean[0]) / _images().std[0])
    right = (scores.argmax(1).numpy() == decoded.labels).mean()
    assert found["overall"]["accuracy"] == right > 0.5
    profile, other = found["profile"], found["against"]["profile"]
    assert profile["num_params"] == 1030
    assert profile["size_mb"] == int8.size_mb(model) < other["size_mb"]
    assert (profile["int8_operators"], profile["float_operators"]) == (4, 0)
    assert "4 of 4 convolutions and linear layers" in ran.out
    assert "latency_ms" not in profile  # of the eager graph: it would say nothing
    if compiled.why_no_compiler():
        assert "compiled_latency_ms" not in profile
        assert "no_faster" not in ran.alarms
        return
    assert "reason" not in profile
    gain = other["compiled_latency_ms"] - profile["compiled_latency_ms"]
    noise = other["compiled_latency_ms_sd"] + profile["compiled_latency_ms_sd"]
    assert ("no_faster" in ran.alarms) == (gain <= noise)
    ratio = profile["compiled_latency_ms"] / other["compiled_latency_ms"]
    assert found["against"]["ratio"]["compiled_latency_ms"] == pytest.approx(ratio)
