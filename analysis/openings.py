"""How often a study's test split was opened: each opening leaves a file in `openings/`."""

import json
from dataclasses import dataclass

from tune_kd.storage import Storage

FOLDER = "openings"


@dataclass(frozen=True, kw_only=True)
class Openings:
    """`looks`: designs that were confirmed; `evaluations`: single networks that were scored.

    An interrupted confirmation that goes on has the same design and is the same look. Another number
    of repeats or seeds is another look, and what it may say is judged more strictly.
    """

    looks: int
    evaluations: int


def read_openings(storage: Storage) -> Openings:
    """Count the openings of a study; both 0 where its test split was never opened."""
    designs, evaluations = set(), 0
    for name in storage.names(FOLDER, ".json"):
        design = _design(storage.read(f"{FOLDER}/{name}"))
        if design:
            designs.add(design)
        else:
            evaluations += 1
    return Openings(looks=len(designs), evaluations=evaluations)


def _design(data: bytes) -> str:
    """What a confirmation was to consist of; "" of another opening, and of a file that nobody can read."""
    try:
        found = json.loads(data)
    except ValueError:
        return ""
    design = found.get("design") if isinstance(found, dict) else None
    return json.dumps(design, sort_keys=True) if design else ""
