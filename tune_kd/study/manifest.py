"""The manifest: what a study is, written once when it begins; read, and compared with what is asked for."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tune_kd.errors import UsageError
from tune_kd.recipe import Compute, Images, rebuild, to_builtins
from tune_kd.study.results import SCHEMA_VERSION
from tune_kd.study.storage import Storage

FILE = "manifest.json"
REPEATED = {"bounds", "distributions", "settings"}  # say again what `ranges` and `defaults` say
Scalar = str | int | float | bool | None
Setting = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, kw_only=True)
class SearchedMethod:
    """What a study searches of one method."""

    ranges: Mapping[str, str] = field(default_factory=dict)  # in words
    bounds: Mapping[str, tuple[float, float, bool]] = field(default_factory=dict)  # low, high, log
    distributions: Mapping[str, str] = field(default_factory=dict)  # as Optuna writes them
    fixed: Mapping[str, Scalar] = field(default_factory=dict)  # pinned by --set
    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    settings: tuple[Mapping[str, Scalar], ...] = ()  # the default settings, then the published
    code: str = ""  # hash of the function that builds its stages, where no file has it
    unknown: Mapping[str, Any] = field(default_factory=dict)  # entries that a newer version wrote


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """Where weights came from that trials begin with in place of shared stages; empty where none were given."""

    name: str = ""
    model: str = ""  # the id that they have in the study
    stages: str = ""  # the stages that made them, as JSON, where all are known


@dataclass(frozen=True, kw_only=True)
class Specification:
    """The part of a manifest that a resumed study must agree with.

    Settings and images leave out on disk what equals its default, so that a field that one version
    has and the other has not matters only where it is used. References to a user's files are as
    workers find them.
    """

    schema: int = SCHEMA_VERSION
    space: str
    settings: Mapping[str, Setting]
    methods: Mapping[str, SearchedMethod]
    seed: int
    limit_train: int
    sampler: str
    scheduler: str
    teacher_hash: str = ""  # of the bytes of a given checkpoint
    start_hash: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)  # hashes of the user's files by name
    images: Images


@dataclass(frozen=True, kw_only=True)
class Manifest(Specification):
    """What a study is: its specification, and what was decided and measured when it began.

    What has a default is only shown, or may be missing in a study of another version.
    """

    study: str
    # all that change trials, to be shown
    fields: Mapping[str, Setting] = field(default_factory=dict)
    family: str
    task: str  # as the user named it, like both networks
    teacher: str
    student: str
    trials: int  # of all methods and repeats
    repeats: int  # as planned when it began
    trials_per_repeat: int  # of each method
    margin: float = 0.005  # a difference of the test metric that is too small to matter, a fraction
    epochs: int
    teacher_epochs: int
    num_train: int
    num_val: int
    validation_rule: str = ""
    class_names: tuple[str, ...] = ()
    compute: Compute
    rungs: tuple[int, ...]
    random_start: int
    metric: str  # of validation, that the search ranks and stops by
    objectives: tuple[str, ...]  # the metric first
    constraints: tuple[str, ...] = ()
    dense: bool = False  # whether every pixel has a label
    needs_teacher: bool
    tables: tuple[str, ...] = ()
    config_types: Mapping[str, str]  # Arrow types of all values that the methods sample
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    device: str = ""
    hardware: Mapping[str, Scalar] = field(default_factory=dict)
    host: str = ""
    teacher_file: str = ""  # a given teacher that may have seen validation images
    teacher_source: str = ""  # any given teacher
    teacher_model: str
    start: StartWeights = field(default_factory=StartWeights)
    start_file: str = ""  # given weights that may have seen validation images
    marker: str
    data: str = ""
    command: str = ""
    created: str = ""

    @property
    def trials_of_each_repeat(self) -> int:
        """How many trials one repeat has, those of all methods."""
        return self.trials_per_repeat * len(self.methods)


class SchemaError(ValueError):
    """A manifest of another schema; None where it names none, or is no manifest at all."""

    def __init__(self, schema: object) -> None:
        super().__init__(f"schema {schema}")
        self.schema = schema


class MissingKeysError(ValueError):
    """A manifest lacks keys that have no default."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(f"it lacks {', '.join(keys)}")
        self.keys = keys


def to_json(specification: Specification) -> dict[str, Any]:
    """Return a manifest, or its specification alone, as JSON data."""
    data = asdict(specification)
    data["methods"] = {
        name: _method_to_json(method) for name, method in specification.methods.items()
    }
    data["images"] = to_builtins(specification.images)
    if isinstance(specification, Manifest) and specification.start == StartWeights():
        data["start"] = {}
    return data


def _method_to_json(method: SearchedMethod) -> dict[str, Any]:
    data: dict[str, Any] = asdict(method)
    unknown: dict[str, Any] = data.pop("unknown")
    if not data["code"]:
        del data["code"]
    return data | unknown


def from_json(data: object) -> Manifest:
    """Return the manifest of JSON data; keys that a newer version added are left out.

    Raises:
        SchemaError: rows of another schema, or no manifest.
        MissingKeysError: keys without a default are missing.
        ValueError: a value is not what its key asks for.
    """
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(data, dict) or schema != SCHEMA_VERSION:
        raise SchemaError(schema)
    hints = typing.get_type_hints(Manifest)
    parts = fields(Manifest)
    values = {part.name: data[part.name] for part in parts if data.get(part.name) is not None}
    if missing := [
        part.name for part in parts if part.name not in values and not _has_default(part)
    ]:
        raise MissingKeysError(missing)
    try:
        return Manifest(
            **{name: _value(name, hints[name], value) for name, value in values.items()}
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None


def _has_default(part: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return part.default is not missing or part.default_factory is not missing


def _value(name: str, kind: Any, value: Any) -> Any:
    if name == "methods":
        return {method: _method(entry) for method, entry in value.items()}
    if typing.get_origin(kind) is Mapping:
        return _mapping(value)
    return rebuild(kind, value)


def _method(entry: Mapping[str, Any]) -> SearchedMethod:
    names = {part.name for part in fields(SearchedMethod)} - {"unknown", "settings", "code"}
    return SearchedMethod(
        **{name: _mapping(entry[name]) for name in names & entry.keys()},
        settings=tuple(map(_mapping, entry.get("settings", ()))),
        code=entry.get("code", ""),
        unknown={k: v for k, v in entry.items() if k not in {*names, "settings", "code"}},
    )


def _mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by name, JSON's lists as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


def write(storage: Storage, manifest: Manifest) -> None:
    """Write the manifest; a study is there from then on."""
    storage.write(FILE, json.dumps(to_json(manifest), indent=1).encode())


def exists(storage: Storage) -> bool:
    """Whether there is a study."""
    return storage.exists(FILE)


def read(storage: Storage) -> Manifest:
    """Return the manifest of a study.

    Raises:
        UsageError: It is not one, or its rows are of another schema.
    """
    try:
        return from_json(json.loads(storage.read(FILE)))
    except SchemaError as error:
        if error.schema is not None:
            raise UsageError(
                f"{storage.uri} has rows of schema {error.schema}, this program writes {SCHEMA_VERSION}; "
                "choose another --name"
            ) from None
    except json.JSONDecodeError:
        pass
    except ValueError as error:
        raise UsageError(
            f"{storage.uri}/{FILE}: {error}; take the version that wrote it, or another --name"
        ) from None
    raise UsageError(f"{storage.uri}/{FILE} is not a study's; use a new --name")


def differences(existing: Specification, requested: Specification) -> list[str]:
    """Return what differs between the study on disk and the one asked for, in words.

    >>> images = Images(task="digits", train_hash="", num_classes=10)
    >>> existing = Specification(
    ...     space="digits_kd", settings={}, methods={}, seed=0, limit_train=0, sampler="tpe",
    ...     scheduler="asha", images=images,
    ... )
    >>> differences(existing, dataclasses.replace(existing, seed=1))
    ['seed is 0 in the existing study, 1 requested']
    """
    before, after = (json.loads(json.dumps(to_json(side))) for side in (existing, requested))
    names = [part.name for part in fields(Specification)]
    return [line for name in names for line in _differences(name, before[name], after[name])]


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after} - REPEATED):
            yield from _differences(f"{path}.{key}", before.get(key), after.get(key))
    elif before != after and (before is None or after is None):
        state = "at its default" if path.split(".")[0] in ("settings", "images") else "not set"
        if before is None:
            yield f"{path} is {state} in the existing study, {after!r} requested"
        else:
            yield f"{path} is {before!r} in the existing study, not requested"
    elif before != after:
        yield f"{path} is {before!r} in the existing study, {after!r} requested"
