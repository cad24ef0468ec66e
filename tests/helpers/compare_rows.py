"""Compares the rows of two folders of studies, to the last digit.

    python -m tests.helpers.compare_rows BEFORE AFTER

Two versions of the code that should train alike write the same accuracies, losses and proposals
where everything else is the same: space, seed, machine, `--max-concurrent 1`. Names, hashes, times
and what names the version differ. Exit code 1 if any other column does.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

NAMES = {
    "schema", "study", "trial", "source", "fingerprint", "teacher_model", "recipe", "checkpoint",
    "attempt", "attempts", "versions", "commit", "device", "host", "pid", "seconds", "started",
    "ended",
}  # fmt: skip
ORIGINS = {"textbook": "default", "literature": "published", "best+textbook": "best+default"}
FROM_FILE = ", begun from a file"  # what confirming appends to a role
# values that older versions wrote
RENAMED = {
    "phase": {"teach": "teacher"},
    "origin": ORIGINS | {old + FROM_FILE: new + FROM_FILE for old, new in ORIGINS.items()},
}
ORDER = ["phase", "method", "repeat", "number", "seed", "stage"]


def read_rows(folder: Path, kind: str) -> pd.DataFrame:
    files = sorted((folder / kind).glob("*.parquet"))
    rows = pd.concat([pd.read_parquet(file) for file in files])
    rows = rows.replace(RENAMED)
    rows = rows[rows["phase"] != "measure"]
    order = [*ORDER, *(["step"] if kind == "epochs" else [])]
    return rows.sort_values(order, kind="stable").reset_index(drop=True)


def differing(before: pd.DataFrame, after: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns that were compared, and those of them that differ."""
    common = [c for c in before.columns if c in after.columns and c not in NAMES]
    timed = ("latency", "throughput")
    compared = [c for c in common if not any(word in c for word in timed)]
    return compared, [c for c in compared if not _equal(before[c], after[c])]


def _equal(before: pd.Series, after: pd.Series) -> bool:
    return len(before) == len(after) and all(map(_same, before, after))


def _same(before: object, after: object) -> bool:
    if isinstance(before, np.ndarray) or isinstance(after, np.ndarray):
        return np.array_equal(np.asarray(before), np.asarray(after))
    return bool(before == after) or (bool(pd.isna(before)) and bool(pd.isna(after)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    code = 0
    for study in sorted(path.name for path in options.before.iterdir()):
        for kind in ("trials", "epochs"):
            before = read_rows(options.before / study, kind)
            after = read_rows(options.after / study, kind)
            compared, wrong = differing(before, after)
            unmatched = sorted(set(before.columns) ^ set(after.columns))
            result = f"DIFFERENT: {', '.join(wrong)}" if wrong else "equal"
            counts = f"{len(before)} and {len(after)} rows, {len(compared)} columns"
            print(f"{study} {kind}: {counts} {result}")
            print(f"  columns of one side only: {', '.join(unmatched) or 'none'}")
            code |= bool(wrong)
    return code


if __name__ == "__main__":
    sys.exit(main())
