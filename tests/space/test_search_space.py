"""Spaces: found by name and by path, pinned, changed, checked."""

import dataclasses
from pathlib import Path

import pytest
from optuna.distributions import json_to_distribution

from tune_kd.errors import UsageError
from tune_kd.recipe import LossWeights
from tune_kd.space import (
    Method,
    SearchSpace,
    choice,
    distributions,
    integer,
    loader,
    log_uniform,
    methods,
    overrides,
    search_space,
    uniform,
)

DIGITS = loader.load("digits_kd")[0]
MINE = """from tune_kd.space.methods import kd_methods
from tune_kd.space import SearchSpace, log_uniform, uniform

SPACE = SearchSpace(
    name="mine", task="digits", teacher="digits_teacher", student="nets.py:small",
    methods=kd_methods({"lr": log_uniform(0.01, 0.5)}, defaults={"lr": 0.1}),
)
"""


def plain(space: SearchSpace, *, lr: float, kind: str = "a", depth: int = 1, **training):
    return methods.no_kd(space, lr=lr, weight_decay=0.0, dropout=0.0)


# Finding


def test_shipped_spaces_are_found_by_name():
    assert {"cifar10_kd", "cifar10_small_kd", "digits_kd"} <= set(loader.names())
    for name in loader.names():
        space, file = loader.load(name)
        assert space.name == name
        assert file == loader.folder() / f"{name}.py"


def test_by_path_absolute_relative_and_in_the_home_folder(tmp_path, monkeypatch):
    text = MINE.replace(
        '"lr": log_uniform(0.01, 0.5)',
        '"lr": log_uniform(0.01, 0.5), "weight_decay": uniform(0, 1), "dropout": uniform(0, 0.5)',
    )
    text = text.replace('{"lr": 0.1}', '{"lr": 0.1, "weight_decay": 0.0, "dropout": 0.0}')
    (tmp_path / "a.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("a.py", "./a.py", "~/a.py", str(tmp_path / "a.py")):
        space, file = loader.load(path)
        assert space.name == "mine"
        assert file == tmp_path / "a.py"


def test_a_file_beside_does_not_shadow_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "digits_kd.py").write_text("SPACE = 1")
    monkeypatch.chdir(tmp_path)
    assert loader.load("digits_kd")[0].name == "digits_kd"
    with pytest.raises(UsageError, match="defines no SPACE"):
        loader.load("./digits_kd.py")


def test_an_edited_file_is_read_anew(tmp_path):
    file = tmp_path / "a.py"
    shipped = (loader.folder() / "digits_kd.py").read_text()
    for epochs in (15, 25, 26):
        file.write_text(shipped.replace("epochs=15", f"epochs={epochs}"))
        assert loader.load(str(file))[0].student.epochs == epochs


def test_an_error_names_the_users_line(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(MINE)  # no weight_decay, no dropout
    with pytest.raises(UsageError, match=rf"{file}, line 6: ValueError: .*weight_decay"):
        loader.load(str(file))
    file.write_text("x = 1\ny = (\n")
    with pytest.raises(UsageError, match=rf"{file}, line 2: SyntaxError"):
        loader.load(str(file))


# Methods


def test_the_methods_are_those_of_the_design():
    assert list(DIGITS.methods) == ["no_kd", "response", "feature", "combined"]
    training = {"lr", "weight_decay", "dropout"}
    names = {name: set(method.ranges) - training for name, method in DIGITS.methods.items()}
    assert names == {
        "no_kd": set(),
        "response": {"alpha", "temperature"},
        "feature": {"gamma"},
        "combined": {"alpha", "beta", "gamma", "temperature"},
    }


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("no_kd", (1.0, 0.0, 0.0, 1.0)),
        ("response", (0.5, 0.5, 0.0, 4.0)),
        ("feature", (1.0, 0.0, 0.5, 1.0)),
        ("combined", (1.0, 0.7, 0.5, 4.0)),
    ],
)
def test_default_settings(method, weights):
    (stage,) = DIGITS.stages(method, DIGITS.methods[method].settings()[0])
    loss_weights = stage.weights
    assert (
        loss_weights.alpha,
        loss_weights.beta,
        loss_weights.gamma,
        loss_weights.temperature,
    ) == weights
    assert (stage.optimizer.lr, stage.optimizer.weight_decay, stage.dropout) == (0.1, 5e-4, 0.0)
    assert stage.epochs == DIGITS.student.epochs
    assert bool(stage.levels) == (loss_weights.gamma > 0)


def test_the_published_settings_of_response():
    settings = DIGITS.methods["response"].settings()
    assert [(s["alpha"], s["temperature"]) for s in settings] == [
        (0.5, 4.0), (0.1, 4.0), (0.3, 16.0), (0.3, 4.0),
    ]  # fmt: skip
    assert all(s["lr"] == 0.1 for s in settings)


def method(**changes) -> Method:
    ranges = {
        "lr": log_uniform(0.01, 1.0),
        "kind": choice("a", "b"),
        "depth": integer(1, 3),
        "weight_decay": uniform(0, 1),
        "dropout": uniform(0, 0.5),
    }
    defaults = {"lr": 0.1, "kind": "a", "depth": 2, "weight_decay": 0.0, "dropout": 0.0}
    arguments = {"stages": plain, "ranges": ranges, "defaults": defaults}
    return Method(**{**arguments, **changes})


DEFAULTS = method().defaults


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"defaults": {**DEFAULTS, "lr": 2.0}}, r"lr=2.0 lies outside its range 0.01 .. 1 log"),
        ({"defaults": {**DEFAULTS, "kind": "c"}}, "'c'"),
        ({"defaults": {**DEFAULTS, "depth": 4}}, "depth=4"),
        ({"defaults": {"lr": 0.1}}, r"lacks \['depth'"),
        ({"defaults": {**DEFAULTS, "alpha": 1}}, "alpha, which has no range"),
        ({"published": ({"lr": 1e-3},)}, "lr=0.001"),
        ({"published": ({"beta": 1e-3},)}, "beta, which has no range"),
        ({"ranges": {"lr": log_uniform(0.01, 1.0)}}, "plain takes"),
        ({"ranges": {**method().ranges, "more": uniform(0, 1)}}, "plain takes"),
    ],
)
def test_a_method_that_contradicts_itself(changes, says):
    with pytest.raises(ValueError, match=says):
        method(**changes)


def test_settings_are_complete_and_each_once():
    spec = method(published=({"depth": 3}, {}, {"depth": 3}, {"kind": "b", "lr": 0.5}))
    assert spec.settings() == [
        dict(DEFAULTS), {**DEFAULTS, "depth": 3}, {**DEFAULTS, "kind": "b", "lr": 0.5},
    ]  # fmt: skip


# --set


def test_a_field_is_changed_and_keeps_its_type():
    for assignment, name, value in [
        ("student.batch_size=32", "student.batch_size", 32),
        (" teacher.epochs = 3", "teacher.epochs", 3),
        ("student.optimizer.momentum=0", "student.optimizer.momentum", 0.0),
        ("teacher.optimizer.nesterov=false", "teacher.optimizer.nesterov", False),
        ("teacher.optimizer.name=adamw", "teacher.optimizer.name", "adamw"),
        ("teacher.optimizer.lr=0.02", "teacher.optimizer.lr", 0.02),
        ("student.optimizer.decay_at=0.5,0.75", "student.optimizer.decay_at", (0.5, 0.75)),
        ("student.optimizer.decay_at=0.5", "student.optimizer.decay_at", (0.5,)),
        ("student.optimizer.decay_at=[0.3,0.6]", "student.optimizer.decay_at", (0.3, 0.6)),
        ("student.optimizer.decay_at=()", "student.optimizer.decay_at", ()),
        ("levels=low,high", "levels", ("low", "high")),
        ("levels=high", "levels", ("high",)),
        ("student=nets.py:small", "student.network", "nets.py:small"),
        ("student.network=nets.py:small", "student.network", "nets.py:small"),
    ]:
        changed = overrides.change(DIGITS, [assignment])
        fields = search_space.plain_fields(changed)
        assert fields[name] == value
        assert type(fields[name]) is type(value)
        before = search_space.plain_fields(DIGITS)[name]
        assert overrides.with_fields(changed, {name: before}) == DIGITS


def test_every_plain_field_can_be_set_to_what_it_is():
    for name, value in search_space.plain_fields(DIGITS).items():
        assert overrides.change(DIGITS, [f"{name}={value}"]) == DIGITS, name


def test_a_field_without_its_network_is_set_for_both():
    for assignment, path in [
        ("batch_size=32", "batch_size"),
        ("clip=1", "clip"),
        ("schedule=step", "optimizer.schedule"),
        ("optimizer.name=adamw", "optimizer.name"),
    ]:
        fields = search_space.plain_fields(overrides.change(DIGITS, [assignment]))
        before = search_space.plain_fields(DIGITS)
        changed = {name for name, value in fields.items() if value != before[name]}
        assert changed == {f"teacher.{path}", f"student.{path}"}


def test_a_range_is_pinned_in_every_method_that_has_it():
    pinned = overrides.change(DIGITS, ["temperature=4"])
    for name, before in DIGITS.methods.items():
        after = pinned.methods[name]
        assert "temperature" not in after.ranges
        has = "temperature" in before.ranges
        assert dict(after.fixed) == ({"temperature": 4.0} if has else {})
        assert after.settings()[0].keys() == after.ranges.keys()
        stage = pinned.stages(name, after.settings()[0])[0]
        assert stage.weights.temperature == (4.0 if has else 1.0)
    # without temperature two of the published settings are the same
    assert [s["alpha"] for s in pinned.methods["response"].settings()] == [0.5, 0.1, 0.3]
    again = overrides.change(pinned, ["temperature=2"])
    assert dict(again.methods["combined"].fixed) == {"temperature": 2.0}


def test_pinned_values_keep_the_type_of_their_range():
    space = dataclasses.replace(DIGITS, methods={"m": method()})
    fixed = {}
    for assignment in ("lr=1", "depth=3", "kind=b"):
        fixed |= overrides.change(space, [assignment]).methods["m"].fixed
    assert fixed == {"lr": 1.0, "depth": 3, "kind": "b"}
    assert [type(v) for v in fixed.values()] == [float, int, str]
    with pytest.raises(UsageError, match=r"2\.5"):
        overrides.change(space, ["depth=2.5"])


def test_all_ranges_pinned_is_one_setting():
    pinned = DIGITS
    for assignment in ("lr=0.1", "weight_decay=0", "dropout=0"):
        pinned = overrides.change(pinned, [assignment])
    assert pinned.methods["no_kd"].ranges == {}
    assert pinned.methods["no_kd"].settings() == [{}]
    assert pinned.stages("no_kd", {})[0].optimizer.lr == 0.1


def test_what_is_set_is_checked():
    for assignment, says in [
        ("nothing", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("epochs=0", "epochs >= 1"),
        ("lr=x", "'x'"),
        ("epochs=1.5", "int is wanted"),
        ("student.optimizer.nesterov=1", "bool is wanted"),
        ("student.batch_size=True", "int is wanted"),
        ("name=sgd", "unknown name in --set 'name'"),
        ("teacher_epochs=3", "did you mean 'teacher.epochs'"),
        ("teacher.lr=1", "did you mean"),
        ("teacher.optimizer=adamw", "did you mean .teacher.optimizer"),
        (
            "student.optimizer.lr=0.2",
            "its own lr, so that this would change nothing; pin it by --set lr=VALUE",
        ),
        ("student.dropout=0.2", "pin it by --set dropout=VALUE"),
        ("temprature=1", "did you mean 'temperature'"),
        ("methods=no_kd", "unknown name"),
    ]:
        with pytest.raises(UsageError, match=says):
            overrides.change(DIGITS, [assignment])


def _error_of(assignment):
    with pytest.raises(UsageError) as caught:
        overrides.change(DIGITS, [assignment])
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "names"),
    [
        ("temprature=1", ["temperature"]),
        ("clipp=1", ["clip"]),
        ("teacher.lr=1", ["teacher.optimizer.lr", "student.optimizer.lr", "lr"]),
        ("name=sgd", ["teacher.optimizer.name", "student.optimizer.name"]),
        ("batchsize=64", ["batch_size", "teacher.batch_size", "student.batch_size"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_three_at_most(assignment, names):
    name = assignment.partition("=")[0]
    hint = " or ".join(f"'{near}'" for near in names)
    assert _error_of(assignment).endswith(
        f": unknown name in --set '{name}'; did you mean {hint}? (docs/running.md lists all)"
    )


def test_a_name_that_is_near_none_is_answered_with_the_first_level():
    message = _error_of("xyz=1")
    names = message.partition("names are ")[2].removesuffix(" (docs/running.md lists all)")
    first = [path for path in search_space.plain_fields(DIGITS) if "." not in path]
    assert set(names.split(", ")) == {
        *("teacher.", "student.", "epochs", *first),
        *overrides.pinnable_ranges(DIGITS),
    }


def test_the_document_lists_the_names_of_all_fields():
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    names = {path.rpartition(".")[2] for path in search_space.plain_fields(DIGITS)}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_a_subset_keeps_the_spaces_order():
    subset = overrides.subset(DIGITS, ["combined", "no_kd"])
    assert list(subset.methods) == ["no_kd", "combined"]
    with pytest.raises(UsageError, match="did you mean 'feature'"):
        overrides.subset(DIGITS, ["features"])


@pytest.mark.parametrize("field", ["trials", "student.epochs", "teacher.epochs"])
def test_counts_are_at_least_one(field):
    with pytest.raises(ValueError, match=f"{field.rpartition('.')[2]} >= 1 must hold, but got .*0"):
        overrides.with_fields(DIGITS, {field: 0})


def test_a_space_without_methods_or_with_a_name_twice():
    with pytest.raises(ValueError, match="at least one method"):
        dataclasses.replace(DIGITS, methods={})

    def stages(space, *, finetune_epochs):
        return ()

    ranges = {"finetune_epochs": integer(2, 9)}
    twice = Method(stages=stages, ranges=ranges, defaults={"finetune_epochs": 4})
    with pytest.raises(ValueError, match="finetune_epochs is both a field"):
        dataclasses.replace(DIGITS, methods={"m": twice})


def test_check_names_the_method_that_cannot_be_built():
    def steep(space, *, lr):
        return (space.distill(LossWeights(alpha=lr - 0.2)),)

    broken = Method(stages=steep, ranges={"lr": uniform(0.1, 0.5)}, defaults={"lr": 0.3})
    with pytest.raises(UsageError, match=r"space digits_kd, method m: .*alpha=-0.1"):
        dataclasses.replace(DIGITS, methods={"m": broken}).check()


# Ranges


@pytest.mark.parametrize(
    ("distribution", "text", "bounds", "kind"),
    [
        (uniform(0, 0.5), "0 .. 0.5", (0.0, 0.5, False), "double"),
        (log_uniform(1e-5, 20), "1e-05 .. 20 log", (1e-5, 20.0, True), "double"),
        (integer(1, 5), "1 .. 5", (1, 5, False), "int64"),
        (choice("a", "b"), "a | b", None, "string"),
        (choice(1, 2), "1 | 2", None, "int64"),
        (choice(True, False), "True | False", None, "bool"),
        (choice(0.5, 1.0), "0.5 | 1.0", None, "double"),
        (choice(1, "a"), "1 | a", None, "string"),
    ],
)
def test_ranges_in_words_numbers_columns_and_json(distribution, text, bounds, kind):
    assert distributions.range_text(distribution) == text
    assert distributions.bounds({"x": distribution}) == ({"x": bounds} if bounds else {})
    assert distributions.column_type(distribution) == kind
    assert json_to_distribution(distributions.to_json(distribution)) == distribution


def test_stages_are_a_pure_function():
    for name, spec in DIGITS.methods.items():
        config = spec.settings()[0]
        assert DIGITS.stages(name, config) == DIGITS.stages(name, dict(config))
    assert Path(search_space.__file__).parent != loader.folder()
