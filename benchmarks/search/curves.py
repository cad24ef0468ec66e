"""Recorded learning curves: a row an epoch of a configuration and a seed, as Parquet.

Columns: `method`, `number` of the configuration within its method (0 has the default settings, then
come published ones, then random ones), `origin`, `seed`, `epoch` (from 1), `val_accuracy` (float32,
a fraction), `config.<name>` (float32), and in the last epoch's row alone `test_accuracy`,
`val_correct` and `test_correct` (which images were classified correctly, in the split's order, by
numpy.packbits). What was recorded, on what and by which commit stands in the file's metadata, under
the key `recording`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tune_kd.errors import UsageError
from tune_kd.files import write_whole

FOLDER = Path(__file__).parent
RECORDINGS = {"digits": FOLDER / "digits.parquet", "cifar10": FOLDER / "cifar10.parquet"}
KEY = b"recording"
# Recordings outlive the names of origins; those of earlier versions are read under the present ones.
RENAMED_ORIGINS = {"textbook": "default", "literature": "published"}

Row = dict[str, Any]


def schema(names: Sequence[str]) -> pa.Schema:
    """Return the columns of a recording whose methods sample these names."""
    plain: list[tuple[str, pa.DataType]] = [
        ("method", pa.string()),
        ("number", pa.int16()),
        ("origin", pa.string()),
        ("seed", pa.int16()),
        ("epoch", pa.int16()),
        ("val_accuracy", pa.float32()),
        ("test_accuracy", pa.float32()),
        ("val_correct", pa.binary()),
        ("test_correct", pa.binary()),
    ]
    return pa.schema([*plain, *((f"config.{name}", pa.float32()) for name in names)])


def write(
    path: Path, rows: Sequence[Row], *, names: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write a whole recording, or none: the file is replaced at once."""
    columns = schema(names)
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in columns.names} for row in rows],
        schema=columns.with_metadata({KEY: json.dumps(about, sort_keys=True).encode()}),
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=15)
    write_whole(path, sink.getvalue().to_pybytes())


def read_rows(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and metadata of a recording.

    Raises:
        UsageError: There is no such file, or it is no recording.
    """
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[KEY])
    except FileNotFoundError:
        raise UsageError(
            f"{path}: there is no such recording; python -m benchmarks.search.record makes one"
        ) from None
    except (pa.ArrowInvalid, KeyError, ValueError):
        raise UsageError(f"{path} is not a recording of benchmarks.search.record") from None
    rows = table.to_pylist()
    for row in rows:
        row["origin"] = RENAMED_ORIGINS.get(row["origin"], row["origin"])
    return rows, dict(about)


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the same as a frame."""
    rows, about = read_rows(path)
    return pd.DataFrame(rows), about
