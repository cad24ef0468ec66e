"""How often a study's test split was opened: each opening leaves a file in `test_access/`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_kd.study.storage import Storage

FOLDER = "test_access"


@dataclass(frozen=True, kw_only=True)
class TestAccess:
    """`looks`: designs that were confirmed; `evaluations`: single networks that were scored.

    An interrupted confirmation that goes on has the same design and is the same look. Another
    number of repeats or seeds is another look, and what it may say is judged more strictly.
    `design` is that of the last look: which `repeats`, how many `seeds` each, whether the
    `defaults` as well.
    """

    looks: int = 0
    evaluations: int = 0
    design: Mapping[str, Any] = field(default_factory=dict)


def read_test_access(storage: Storage) -> TestAccess:
    """Count the accesses to the test split of a study; both 0 where its test split was never opened."""
    files = (storage.read(f"{FOLDER}/{name}") for name in storage.names(FOLDER, ".json"))
    design_list = [_design(data) for data in files]
    designs = [design for design in design_list if design]
    return TestAccess(
        looks=len({json.dumps(design, sort_keys=True) for design in designs}),
        evaluations=len(design_list) - len(designs),
        design=designs[-1] if designs else {},
    )


def _design(data: bytes) -> dict[str, Any]:
    """Return what a confirmation was to consist of; empty for another opening, or a file that nobody can read."""
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    design = content.get("design") if isinstance(content, dict) else None
    return dict(design) if isinstance(design, dict) else {}
