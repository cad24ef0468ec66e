"""What was computed once is looked up, by two that start together too."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tune_kd.measure import timing_cache
from tune_kd.measure.timing_cache import look_up


def count_calls(result: dict[str, Any]) -> tuple[Callable[[], dict[str, Any]], list[int]]:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return result

    return compute, calls


def test_a_result_is_computed_once_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "x.json"
    first, first_calls = count_calls({"a": 1.5})
    second, second_calls = count_calls({"b": "text"})
    assert look_up("one", file=file, compute=first) == {"a": 1.5}
    assert look_up("two", file=file, compute=second) == {"b": "text"}
    assert look_up("one", file=file, compute=second) == {"a": 1.5}
    assert (len(first_calls), len(second_calls)) == (1, 1)
    assert timing_cache.read_all(file) == {"one": {"a": 1.5}, "two": {"b": "text"}}


def test_two_that_start_together_compute_once(tmp_path: Path) -> None:
    started = threading.Barrier(2)
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.2)  # long enough for the other to ask meanwhile
        return {"a": len(calls)}

    def ask() -> dict[str, Any]:
        started.wait()
        return look_up("one", file=tmp_path / "x.json", compute=compute)

    with ThreadPoolExecutor(2) as pool:
        answers = [future.result() for future in [pool.submit(ask), pool.submit(ask)]]
    assert answers == [{"a": 1}, {"a": 1}]
    assert calls == [1]


def test_a_failed_computation_leaves_nothing_and_a_torn_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "x.json"

    def fails() -> dict[str, Any]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        look_up("one", file=file, compute=fails)
    assert not file.exists()
    file.write_text('{"one": {"a"')
    compute, calls = count_calls({"a": 1})
    assert look_up("one", file=file, compute=compute) == {"a": 1}
    assert calls == [1]
