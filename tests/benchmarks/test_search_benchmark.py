"""Searches are replayed as the product searches, and recorded curves are those of the product's training."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.search import __main__ as command
from benchmarks.search import curves, grid, policies, record, recorded, replay, summary, surface
from benchmarks.search.policies import STOPPING, Stopping, Trial
from tests.helpers import made_study
from tune_kd.space import distributions, loader
from tune_kd.tuning import asha

ROOT = Path(__file__).resolve().parents[2]
SPACE, _ = loader.load("digits_kd")
PRODUCT = "ASHA half, 3"  # what tune_kd.tuning.asha does
IMAGES = {"fitted": 880, "validation": 400, "test": 500}


@pytest.fixture(autouse=True)
def threads():
    """A recording sets the number of threads of its process, which here is the tests' own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def made_truth(lr: float) -> float:
    """The accuracy of a made method: best at an lr of 0.1."""
    return 0.9 - 0.1 * math.log10(lr / 0.1) ** 2


def made_rows(configurations: int = 30, repeated: int = 10, *, noise: float = 0.01) -> list[dict]:
    """A recording of `no_kd` whose accuracy is `made_truth`, and half of it after epoch 8 of 15."""
    random, rows = np.random.default_rng(0), []
    for number in range(configurations):
        origin, config = record.configuration(SPACE, "no_kd", number)
        for seed in range(3 if number < repeated else 1):
            values = made_truth(config["lr"]) + noise * random.standard_normal(2)
            plain = {"method": "no_kd", "number": number, "origin": origin, "seed": seed}
            plain |= {f"config.{name}": value for name, value in config.items()}
            for epoch in range(1, 16):
                accuracy = float(values[0]) * (0.5 if epoch < 8 else 1.0)
                row = {"epoch": epoch, "val_accuracy": accuracy}
                rows.append({**plain, **row})
            rows[-1] |= {"test_accuracy": float(values[1])}
    return rows


def made_recording(path: Path, **changes: object) -> Path:
    """The same as a file."""
    about = {"space": "digits_kd", "methods": ["no_kd"], "epochs": 15, "images": IMAGES, **changes}
    names = sorted(SPACE.methods["no_kd"].ranges)
    curves.write(path, made_rows(), names=names, about=about)
    return path


@pytest.fixture(scope="module")
def made_surface() -> surface.Surface:
    looked_at = {e for stopping in STOPPING.values() for e in stopping.rungs(15)}
    return surface.fit(
        pd.DataFrame(made_rows()), SPACE.methods["no_kd"], looked_at=looked_at, images=IMAGES
    )


# Stopping is the product's


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 15, 30, 100])
def test_the_present_rungs_are_the_products(epochs):
    assert STOPPING[PRODUCT].rungs(epochs) == asha.rungs(epochs)


def test_a_replayed_search_stops_whom_the_products_judge_stops(tmp_path):
    request = made_study.request(tmp_path / "s", trials=80, repeats=1, sampler="random", epochs=9)
    study = made_study.begin(request)
    random = np.random.default_rng(1)
    scores = {m: random.random((20, 9)).round(3) for m in request.space.methods}
    made_study.play(study, request, lambda p, step: float(scores[p.method][p.number, step - 1]))
    stopped = 0
    for method in request.space.methods:
        ended = replay.run_trials(
            lambda history: {"number": len(history)},
            lambda number, _, method=method: dict(enumerate(scores[method][number].tolist(), 1)),
            stopping=STOPPING[PRODUCT],
            epochs=9,
            trials=20,
        )
        verdicts = [study.outcomes[p.trial][-1] for p in study.of("search", method)]
        assert [v["status"] == "finished" for v in verdicts] == [t.finished for t in ended]
        assert [v["epochs"] for v in verdicts] == [max(t.scores) for t in ended]
        stopped += sum(not t.finished for t in ended)
    assert 0 < stopped < 80


# Curves of six trials of 12 epochs, where policies look; the first trial has the default settings
LIST = [
    {4: 0.50, 6: 0.60, 8: 0.65, 12: 0.80},
    {4: 0.40, 6: 0.70, 8: 0.75, 12: 0.90},
    {4: 0.60, 6: 0.55, 8: 0.60, 12: 0.70},
    {4: 0.55, 6: 0.65, 8: 0.70, 12: 0.85},
    {4: 0.62, 6: 0.64, 8: 0.68, 12: 0.75},
    {4: 0.10, 6: 0.20, 8: 0.30, 12: 0.95},
]


@pytest.mark.parametrize(
    ("stopping", "epochs", "best_trial"),
    [
        ("none", [12, 12, 12, 12, 12, 12], 5),
        # 0.40 is below the best third of 0.50
        ("ASHA third, 3", [12, 4, 12, 12, 12, 4], 3),
        # after 8 epochs 0.60 is below the median of 0.65
        ("ASHA third, 2", [12, 4, 8, 12, 12, 4], 3),
        # 0.55 is below 0.667, the best third of 0.60 and 0.70; 0.64 is below 0.65
        ("ASHA half, 3", [12, 12, 6, 12, 6, 6], 1),
        # 0.64 is above 0.625, the median
        ("ASHA half, 2", [12, 12, 6, 12, 12, 6], 1),
        # the best two go on, and the default settings in any case
        ("halving third, 3", [12, 4, 12, 4, 12, 4], 0),
        ("halving half, 2", [12, 12, 6, 12, 12, 6], 1),
    ],
)
def test_a_list_of_trials_gives_its_known_values(stopping, epochs, best_trial):
    ended = replay.run_trials(
        lambda history: {"number": len(history)},
        lambda number, _: LIST[number],
        stopping=STOPPING[stopping],
        epochs=12,
        trials=6,
    )
    assert [max(trial.scores) for trial in ended] == epochs
    true = [0.1 * number for number in range(6)]
    outcome = replay.outcome(ended, true)
    assert outcome.epochs == sum(epochs)
    assert outcome.finished == epochs.count(12)
    assert outcome.chosen == true[best_trial]
    assert outcome.validation == LIST[best_trial][12]
    assert outcome.best == 0.5
    assert outcome.best_stopped == (epochs[5] < 12)


# Whole searches


@pytest.mark.parametrize("kind", ["random", "tpe", "prior", "tpe+prior"])
def test_without_stopping_all_trials_run_to_the_end(made_surface, kind):
    outcome = replay.search(
        made_surface, sampler=kind, stopping=Stopping(), trials=6, seed=("x", 1)
    )
    assert outcome.epochs == 6 * 15
    assert outcome.finished == 6
    assert not outcome.best_stopped
    assert outcome.default_settings == pytest.approx(made_truth(0.1), abs=0.01)


def test_policies_share_their_luck(made_surface):
    """The random trials of one seed are the same whatever stops them, and shown the same."""
    outcomes = [
        replay.search(made_surface, sampler="random", stopping=stopping, trials=8, seed=("x", 1))
        for stopping in STOPPING.values()
    ]
    assert len({outcome.best for outcome in outcomes}) == 1
    assert len({outcome.epochs for outcome in outcomes}) > 3
    assert {outcome.epochs >= 120 for outcome in outcomes[1:]} == {False}
    other = replay.search(
        made_surface, sampler="random", stopping=Stopping(), trials=8, seed=("x", 2)
    )
    assert other.validation != outcomes[0].validation


def test_what_samplers_hear_of_a_stopped_trial(made_surface, monkeypatch):
    """Optuna's GP hears of what ended alone; one of ours is told that what was stopped has ended."""
    others = {"weight_decay": 1e-4, "dropout": 0.1}
    history = [
        Trial(config=made_surface.settings[0], scores={5: 0.4, 15: 0.8}, finished=True),
        Trial(config={"lr": 0.2, **others}, scores={5: 0.3}, finished=False),
        Trial(config={"lr": 0.3, **others}, scores={5: 0.2}, finished=False),
    ]
    optuna_trials = {}

    def sample(kind, trials, ranges, *, seed):
        optuna_trials[kind] = [(t.state.name, t.value, t.intermediate_values) for t in trials]
        return policies.samplers.Suggestion(history[1].config, {})

    monkeypatch.setattr(policies.samplers, "sample", sample)
    scores = [{5: 0.4, 15: 0.8}, {5: 0.3}, {5: 0.2}]
    for kind, state in (("tpe", "PRUNED"), ("gp", "PRUNED"), ("gp+stopped", "COMPLETE")):
        policies.propose(kind, history, made_surface, length=policies.Length(8, 1), seed=("x",))
        values = [0.8, 0.3, 0.2] if state == "COMPLETE" else [0.8, None, None]
        expected = list(zip(["COMPLETE", state, state], values, scores, strict=True))
        assert optuna_trials.pop(kind.partition("+")[0]) == expected


@pytest.mark.parametrize(("rung", "share"), [(0, 0.5), (1, 0.25)])
def test_the_mixture_is_random_as_often_as_it_says(made_surface, rung, share):
    """While few trials have reported the rest lies around the default settings, whose dropout is 0."""
    trials = [Trial(config=made_surface.settings[0], scores={15: 0.9}, finished=True)]
    configs = [policies.mixture(trials, made_surface, rung=rung, seed=seed) for seed in range(600)]
    for name, (low, high, _) in distributions.bounds(made_surface.ranges).items():
        assert all(low <= config[name] <= high for config in configs)
    # of random settings a half has a dropout above the middle,
    # of a normal one two deviations off 0.046
    far = np.mean([config["dropout"] > 0.15 for config in configs])
    assert far == pytest.approx(share * 0.5 + (1 - share) * 0.046, abs=0.05)


def test_the_mixture_goes_to_the_best_trial_where_the_prior_is_wrong(made_surface):
    """Ten good trials in a corner far from the default settings: most settings that are not random lie there."""
    corner = np.full(len(made_surface.cube), 0.05)
    default = made_surface.cube.point(made_surface.settings[0])
    trials = [Trial(config=made_surface.settings[0], scores={15: 0.5}, finished=True)]
    good = [made_surface.cube.config(corner + 0.001 * n) for n in range(9)]
    trials += [Trial(config=config, scores={15: 0.9}, finished=True) for config in good]
    configs = [policies.mixture(trials, made_surface, rung=1, seed=seed) for seed in range(300)]
    points = np.array([made_surface.cube.point(config) for config in configs])
    nearer = np.linalg.norm(points - corner, axis=1) < np.linalg.norm(points - default, axis=1)
    assert nearer.mean() > 0.7


# Surfaces


def test_a_surface_recovers_the_truth_and_the_noise(made_surface):
    for lr in (0.02, 0.05, 0.1, 0.3):
        config = {"lr": lr, "weight_decay": 5e-4, "dropout": 0.1}
        point = made_surface.cube.point(config)
        assert made_surface.true_accuracy(point[None])[0] == pytest.approx(
            made_truth(lr), abs=0.012
        )
        curves = [made_surface.curve(point, np.random.default_rng(seed)) for seed in range(200)]
        last = np.array([curve[15] for curve in curves])
        assert last.mean() == pytest.approx(made_truth(lr), abs=0.012)
        assert 0.004 < last.std() < 0.016
        assert np.mean([curve[5] for curve in curves]) == pytest.approx(
            made_truth(lr) / 2, abs=0.012
        )
    assert made_surface.optimum() == pytest.approx(0.9, abs=0.01)


def test_a_curve_is_of_whole_images_and_of_one_run(made_surface):
    point = made_surface.cube.point(made_surface.settings[0])
    curve = made_surface.curve(point, np.random.default_rng(0))
    assert list(curve) == [5, 8, 10, 15]
    for share in curve.values():
        assert share * 400 == pytest.approx(round(share * 400))
    assert curve[8] == pytest.approx(curve[15], abs=0.004)  # made so: one residual in all epochs


# Tables


def frame(accuracies: list[float], epochs: int) -> pd.DataFrame:
    values = {"chosen": accuracies, "epochs": epochs, "finished": 2, "validation": 0.9, "best": 0.9}
    rows = pd.DataFrame({"method": "x", "repeat": range(len(accuracies)), "optimum": 0.9, **values})
    return rows.assign(default_settings=0.8, best_stopped=False)


def test_regret_is_compared_with_the_default_and_at_the_same_epochs():
    def cell(stopping: str, trials: int) -> grid.Cell:
        return grid.Cell(sampler="tpe", stopping=stopping, trials=trials, repeats=3)

    outcomes = {
        cell("none", 4): frame([0.80, 0.82, 0.84], 50),
        cell("none", 8): frame([0.86, 0.88, 0.90], 200),
        cell("ASHA third, 3", 8): frame([0.85, 0.87, 0.89], 100),
        cell("ASHA half, 2", 8): frame([0.86, 0.88, 0.90], 400),
    }
    short, long, default, half = summary.rows(outcomes)
    assert short["regret"] == pytest.approx(8.0)
    assert "less_than_default" not in short
    assert default["regret"] == pytest.approx(3.0)
    assert default["less_than_default"] == pytest.approx(0.0)
    assert long["less_than_default"] == pytest.approx(1.0)
    assert long["less_than_default_low"] == pytest.approx(1.0)  # the same in each repeat
    assert default["less_than_same_epochs"] == pytest.approx(5.0 - 3.0)  # half way from 8 to 2
    assert "less_than_same_epochs" not in half
    assert default["regret_low"] < 3.0 < default["regret_high"]
    assert default["worse_than_default_settings"] == 0.0
    assert default["winners_curse"] == pytest.approx(3.0)


def test_the_command_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    made_recording(tmp_path / "made.parquet")
    monkeypatch.setattr(curves, "RECORDINGS", {"digits": tmp_path / "made.parquet"})
    monkeypatch.setattr(grid, "TRIALS", (4,))
    monkeypatch.setattr(grid, "BETWEEN", ())
    monkeypatch.setattr(grid, "FRONTIER", (2,))
    options = ["--recordings", "digits", "--repeats", "3", "--samplers", "random"]
    options += ["--work", str(tmp_path), "--out", str(tmp_path)]
    assert command.main(options) == 0
    first = capsys.readouterr()
    assert "8/8 cells" in first.err
    results = json.loads((tmp_path / "search.json").read_text())["recordings"]["digits"]
    row = next(r for r in results["searches"] if (r["stopping"], r["trials"]) == ("none", 4))
    assert row["epochs"] == 4 * 15
    assert row["searches"] == 3
    assert f"| random | none | 60 | 4.0 | {row['regret']:.2f} [" in first.out
    assert all(r["epochs"] < 60 for r in results["searches"] if r["stopping"] != "none")
    next(tmp_path.glob("digits-*/random_none_4_3.parquet")).unlink()
    assert command.main(options) == 0
    again = capsys.readouterr()
    assert "1/1 cells" in again.err
    assert again.out == first.out


def test_searches_among_recorded_configurations_choose_and_judge_by_different_seeds():
    validation = np.tile(np.array([0.5, 0.6, 0.7, 0.9])[:, None, None], (1, 2, 3))
    validation[3, :, 2] = (0.9, 0.1)  # the best one's second seed ends badly
    accuracy = np.array([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7], [0.8, 0.2]])
    table = recorded.Table(validation=validation, accuracy=accuracy)
    accuracies = {
        recorded.search(table, stopping="none", trials=4, seed=(n,)).chosen for n in range(20)
    }
    assert accuracies == {0.2, 0.7}  # chosen by seed 0, it is worth what seed 1 says


# Recordings


def run_record(*options: str) -> subprocess.CompletedProcess:
    base = ["--space", "digits_kd", "--methods", "response", "--epochs", "2"]
    base += ["--teacher-epochs", "1", "--limit-train", "200", "--seeds", "2", "--repeated", "1"]
    command_ = [sys.executable, "-m", "benchmarks.search.record", *base, *options]
    return subprocess.run(command_, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_recording_goes_on_and_is_that_of_the_products_training(tmp_path):
    full_file, partial_file = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    assert run_record("--out", str(full_file), "--configurations", "3").returncode == 0
    assert run_record("--out", str(partial_file), "--configurations", "1").returncode == 0
    assert run_record("--out", str(partial_file), "--configurations", "3").returncode == 0
    rows, about = curves.read_rows(full_file)
    assert curves.read_rows(partial_file)[0] == rows
    runs = [(0, 0), (0, 1), (1, 0), (2, 0)]
    expected = [(number, seed, epoch) for number, seed in runs for epoch in (1, 2)]
    assert [(r["number"], r["seed"], r["epoch"]) for r in rows] == expected
    assert about["images"] == {"fitted": 140, "validation": 60, "test": 540}
    for row in rows[1::2]:
        right = np.unpackbits(np.frombuffer(row["test_correct"], np.uint8))[:540]
        assert row["test_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
        right = np.unpackbits(np.frombuffer(row["val_correct"], np.uint8))[:60]
        assert row["val_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert all(row["test_accuracy"] is None for row in rows[::2])
    other = run_record("--out", str(full_file), "--configurations", "3", "--epochs", "3")
    assert other.returncode == 2
    assert other.stderr.splitlines() == [
        f"error: {full_file} is a recording with epochs 2, but 3 is asked for; choose another --out"
    ]


def test_configurations_begin_with_the_products_settings():
    for method in SPACE.methods:
        settings = SPACE.methods[method].settings()
        configurations = [record.configuration(SPACE, method, n) for n in range(len(settings) + 2)]
        assert [config for _, config in configurations][: len(settings)] == settings
        assert [origin for origin, _ in configurations][-2:] == ["random", "random"]
        assert configurations[-1] != configurations[-2]


@pytest.mark.parametrize("name", [n for n, path in curves.RECORDINGS.items() if path.exists()])
def test_a_kept_recording_is_whole_and_small(name):
    rows, about = curves.read(curves.RECORDINGS[name])
    assert curves.RECORDINGS[name].stat().st_size < 1e6
    assert set(rows["method"]) == set(about["methods"])
    counts = rows.groupby(["method", "number", "seed"])["epoch"].count()
    assert (counts == about["epochs"]).all()
    per_method = rows.groupby("method")["number"].nunique()
    several = rows[rows["seed"] == 2].groupby("method")["number"].nunique()
    least = {"digits": (150, 40), "cifar10": (40, 12)}[name]
    assert per_method.min() >= least[0]
    assert several.min() >= least[1]


def test_what_is_no_recording_is_said_in_one_line(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(curves.UsageError, match="is not a recording"):
        curves.read(tmp_path / "x.parquet")
    with pytest.raises(curves.UsageError, match="there is no such recording"):
        curves.read(tmp_path / "y.parquet")
