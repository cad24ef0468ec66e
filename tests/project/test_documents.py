"""docs/guide.md and docs/reference-systems.md say what is true: rows, names, paths, links, commands."""

import importlib
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import ray

from analysis.plots.results import PLOTS
from analysis.tables.common import TABLES
from tune_kd import cli, plugins, search
from tune_kd.data.tasks import TASKS
from tune_kd.errors import UsageError
from tune_kd.models.registry import MODELS
from tune_kd.space import loader, overrides, plain_fields
from tune_kd.study import results
from tune_kd.training import external_weights
from tune_kd.workflows import options

ROOT = Path(__file__).resolve().parents[2]
GUIDE, SYSTEMS = (ROOT / "docs" / name for name in ("guide.md", "reference-systems.md"))
DOCUMENTS = (GUIDE, SYSTEMS)
ROWS = {
    "cnn-vit": 44,
    "segmentation": 54,
    "int8": 64,
    "pruning": 39,
    "cifar100": 20,
}  # of the checklist, by system

SPACES = {name: loader.load(name)[0] for name in loader.names()}
METHODS = {name: method for space in SPACES.values() for name, method in space.methods.items()}
FIELDS = set(plain_fields(next(iter(SPACES.values()))))
KINDS = {
    "space": set(SPACES),
    "task": set(TASKS),
    "network": set(MODELS),
    "method": set(METHODS),
    "field": FIELDS
    | {path.partition(".")[2] for path in FIELDS}
    | {path.rpartition(".")[2] for path in FIELDS},
    "range": {name for method in METHODS.values() for name in method.ranges},
    "column": {*results.TRIAL_COLUMNS, *results.EPOCH_COLUMNS},
    "table": set(TABLES),
    "picture": {f"{name}.png" for name in PLOTS},
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


PROSE = {path: prose(path) for path in DOCUMENTS}
SPANS = [span for text in PROSE.values() for span in re.findall(r"`([^`\n]+)`", text)]
LINES = [
    line
    for path in DOCUMENTS
    for code in blocks(path.read_text(), "sh")
    for line in code.splitlines()
]
TEXTS = dict.fromkeys([*LINES, *SPANS])
COMMANDS = [shlex.split(text) for text in TEXTS if text.startswith("python -m")]
FILES = {
    code.split("\n")[0].removeprefix("# "): code for code in blocks(GUIDE.read_text(), "python")
}


def names_after(kind: str) -> list[str]:
    """The names that follow a kind's word in the prose: one of the singular, all of the plural."""
    one = rf"\b{kind} `([^`]+)`"
    more = rf"\b{kind}s ((?:`[^`]+`(?: \([^)]*\))?(?:, | and | or )?)+)"
    names: list[str] = []
    for text in PROSE.values():
        names += re.findall(one, text, re.IGNORECASE)
        for span in re.findall(more, text, re.IGNORECASE):
            names += re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", span))
    return names


# The checklist


def test_every_row_of_the_checklist_is_there_once_in_its_systems_table() -> None:
    expected = [f"{name}-{n:02d}" for name, count in ROWS.items() for n in range(1, count + 1)]
    assert len(expected) == 221
    names = "|".join(ROWS)
    parts = re.split(r"^## ", SYSTEMS.read_text(), flags=re.MULTILINE)[1:]
    rows = [re.findall(rf"^\| ((?:{names})-\d{{2}}) \|", part, re.MULTILINE) for part in parts]
    assert [row for part in rows for row in part] == expected
    assert [len(part) for part in rows if part] == list(ROWS.values())


def test_every_row_has_three_cells_and_says_where_or_why_not() -> None:
    text = SYSTEMS.read_text()
    lines = [line for line in text.splitlines() if re.match(r"\| \d{3}-\d{2} ", line)]
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 3, line
        assert min(map(len, cells)) > 0, line
        for text in re.findall(r"\*\*left out\*\*(.*)", cells[2]):
            assert re.match(r"(: |, | \()[\w`]", text), line  # the reason


# Names


@pytest.mark.parametrize("kind", KINDS)
def test_names_after_the_word_for_their_kind_exist(kind: str) -> None:
    names = names_after(kind)
    assert names
    assert set(names) - KINDS[kind] == set()


def test_what_is_set_can_be_set() -> None:
    lines = [shlex.split(span) for span in SPANS if "--set " in span]
    pairs = [pair for words in (*lines, *COMMANDS) for pair in itertools.pairwise(words)]
    assignments = {word for option, word in pairs if option == "--set"}
    assert len(assignments) > 20
    for assignment in assignments - {"NAME=VALUE"}:
        assert any(accepts(space, assignment) for space in SPACES.values()), assignment


def accepts(space: loader.SearchSpace, assignment: str) -> bool:
    try:
        overrides.change(space, [assignment]).check()
    except UsageError:
        return False
    return True


def test_paths_exist() -> None:
    folders = ("tune_kd", "analysis", "search_spaces", "tests", "docs", "examples")
    names = {span for span in SPANS if re.fullmatch(r"[\w./-]+", span)}
    paths = {name for name in names if "/" in name and name.split("/")[0] in folders}
    files = ("LICENSE", "constraints.txt")
    paths |= {span for span in SPANS if span in files or span.endswith(".toml")}
    assert len(paths) > 15
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_functions_said_to_be_in_a_file_are_there() -> None:
    pattern = r"`(\w+)` in `([\w/]+\.py)`"
    pairs = {pair for text in PROSE.values() for pair in re.findall(pattern, text)}
    pairs = {(name, path) for name, path in pairs if not name.isupper() and name != "taps"}
    assert pairs
    for name, path in pairs:
        assert f"def {name}(" in (ROOT / path).read_text(), (name, path)


def test_files_said_to_be_in_a_report_are_written_there() -> None:
    source = (ROOT / "analysis" / "report.py").read_text()
    names = {Path(span).stem for span in SPANS if re.fullmatch(r"report/[\w.]+/?", span)}
    assert {"report", "logs", "table", "details"} <= names
    for name in names:
        assert re.search(rf"[\"/ ]{name}\b|[\"]{name}{{", source), name


def test_links_and_their_anchors_exist() -> None:
    links = [link for text in PROSE.values() for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = ROOT / "docs" / name
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, link


# Commands


def modules() -> list[str]:
    return sorted({words[2] for words in COMMANDS})


def help_of(module: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that a command knows."""
    load = pytest.importorskip if module == "tune_kd.evaluate" else importlib.import_module
    entry = load(module)
    with pytest.raises(SystemExit) as ended:
        entry.main(["--help"])
    assert ended.value.code == 0
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_all_commands_are_shown() -> None:
    names = ("confirm", "evaluate", "search", "train_teacher")
    assert modules() == ["analysis.report", *(f"tune_kd.{name}" for name in names)]


@pytest.mark.parametrize("module", modules())
def test_options_of_commands_exist(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    used = {word for words in COMMANDS if words[2] == module for word in words if word[:2] == "--"}
    assert used - help_of(module, capsys) == set()


def test_options_in_the_text_exist(capsys: pytest.CaptureFixture[str]) -> None:
    options = {option for module in modules() for option in help_of(module, capsys)}
    used = {option for span in SPANS for option in re.findall(r"(?<![\w-])--[a-z-]+", span)}
    assert len(used) > 10
    assert used - options == set()


@pytest.fixture
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[None]:
    """An empty folder with the guide's files, one GPU, and the studies that commands name."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a dry run touches neither Ray nor data")

    # no study lies in the folder; the plan is the same without one
    def checkpoint(name: str, **_: object) -> external_weights.ExternalCheckpoint:
        return external_weights.ExternalCheckpoint(name=name, data=b"")

    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr("tune_kd.data.tasks.decode", fail)
    monkeypatch.setattr("tune_kd.measure.hardware.gpus", lambda: 1)
    monkeypatch.setattr("tune_kd.measure.timing_cache.gpu_name", lambda: "cuda: made")
    monkeypatch.setattr(external_weights, "find", checkpoint)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with mock.patch.dict(os.environ):
        yield


PLANNED = [words for words in COMMANDS if words[2] == "tune_kd.search" and len(words) > 3]


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize("words", PLANNED, ids=shlex.join)
def test_searches_can_be_planned(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run_command(search.main, [*words[3:], "--dry-run"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert re.search(r"^student +\S", out, re.MULTILINE)
    assert "exists: add --resume" not in out


@pytest.mark.usefixtures("_empty_folder")
@pytest.mark.parametrize(
    "words",
    [w for w in COMMANDS if w[2] == "tune_kd.train_teacher" and "--space" in w],
    ids=shlex.join,
)
def test_teachers_can_be_asked_for(words: list[str]) -> None:
    parser = cli.Parser()
    options.add_study(parser)
    options.add_resources(parser)
    study_options = options.read(options.SearchOptions, parser.parse(words[3:]))
    space, _ = options.chosen_space(study_options)
    assert space.teacher_stages()


def test_one_trial_a_method_has_the_default_settings() -> None:
    """What the systems' own commands count on: as many trials as methods."""
    commands = [words for words in COMMANDS if any(word.startswith("own_") for word in words)]
    commands = [words for words in commands if words[2] == "tune_kd.search"]
    assert len(commands) == 6
    for words in commands:
        space = SPACES[words[words.index("--space") + 1]]
        methods = list(space.methods)
        if "--methods" in words:
            tail = words[words.index("--methods") + 1 :]
            methods = tail[: next(at for at, word in enumerate(tail) if word[:2] == "--")]
        assert int(words[words.index("--trials") + 1]) == len(methods), shlex.join(words)


@pytest.mark.usefixtures("_empty_folder")
def test_the_study_of_a_teacher_compares_its_learning_rates() -> None:
    space, _ = loader.load("./resnet152_lr.py")
    assert list(space.methods) == ["no_kd"]
    assert (space.student.network, space.task) == ("resnet152", "cifar10")
    assert space.student.network == SPACES["cifar10_mobilenet_quant"].teacher.network
    assert space.methods["no_kd"].ranges["lr"].choices == (0.05, 0.1)
    assert not any(
        stage.needs_teacher for stage in space.stages("no_kd", space.methods["no_kd"].defaults)
    )


def test_torchvisions_fcn_fits_without_its_auxiliary_head() -> None:
    from torchvision.models.segmentation import fcn_resnet50

    from tune_kd.models import checkpoints, registry

    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("aux_classifier.")}
    assert len(state) < len(theirs.state_dict())
    ours = registry.build("fcn_resnet50", shape=registry.Shape(num_classes=21))
    checkpoints.checked_load(ours, state, source="torchvision's")
    assert 'startswith("aux_classifier.")' in FILES["voc_teacher.py"]


def test_parameters_that_are_counted_are_right() -> None:
    """`network` (1,234,567 ...) or `network` ...: 1,234,567 in the tables."""
    from tune_kd.models import registry

    counts = re.findall(r"`(\w+)`:? \(?(\d{1,3}(?:,\d{3})+)", PROSE[SYSTEMS])
    counts = [(name, int(count.replace(",", ""))) for name, count in counts if name in MODELS]
    assert len(counts) > 5
    dense = ("fcn", "aspp", "lraspp")
    for name, count in counts:
        shape = registry.Shape(num_classes=21 if name.startswith(dense) else 10)
        model = registry.build(name, shape=shape)
        assert sum(p.numel() for p in model.parameters()) == count, name


def test_placeholders_aside_users_functions_are_not_named() -> None:
    assert not [span for span in SPANS if plugins.is_reference(span) and span != "file.py:function"]
