"""docs/notebook.ipynb runs, and an interrupted kernel lives on with a study that can be resumed."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def test_the_notebook_runs_from_first_to_last_cell(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [str(output.get("data", {}).get("text/plain")) for output in outputs]
    assert any(text.startswith("Study('") for text in texts)
    assert any("temperature" in text for text in texts)
    assert texts[-1] == "torch.Size([1, 10])"
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (tmp_path / "runs" / "notebook" / "manifest.json").is_file()


class Kernel:
    """A kernel of its own; cells are run in it one by one."""

    def __init__(self, folder: Path) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(folder), env=dict(os.environ))

    def start(self, code: str) -> str:
        """Begin a cell; its message.

        An error aborts no cell behind it: the kernel aborts whatever arrives for a moment after its
        reply, and the next cell of a test may be that early.
        """
        return str(self.client.execute(code, stop_on_error=False))

    def wait(self, message: str, *, seconds: float = 240) -> dict[str, object]:
        """The end of a cell: its status, and the name of an error."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            reply = self.client.get_shell_msg(timeout=seconds)
            if reply["parent_header"].get("msg_id") == message:
                return dict(reply["content"])
        raise TimeoutError(message)

    def run(self, code: str) -> dict[str, object]:
        return self.wait(self.start(code))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    process = Kernel(tmp_path)
    yield process
    process.client.stop_channels()
    process.manager.shutdown_kernel(now=True)


SEARCH = 'import tune_kd; study = tune_kd.run_search("digits_kd", trials=20, repeats=2, methods=["no_kd", "response"], epochs=4, limit_train=400, progress=False)'


def test_an_interrupt_leaves_the_kernel_alive_and_the_study_resumable(
    kernel: Kernel, tmp_path: Path
) -> None:
    first = "import signal; before = signal.getsignal(signal.SIGTERM); value = 41"
    assert kernel.run(first)["status"] == "ok"
    running = kernel.start(SEARCH)
    trials = tmp_path / "runs" / "digits_kd" / "trials"
    end = time.monotonic() + 120
    while len(list(trials.glob("*.parquet"))) < 6 and time.monotonic() < end:
        time.sleep(0.2)
    kernel.manager.interrupt_kernel()  # what the stop button sends: SIGINT
    stopped = kernel.wait(running)
    assert (stopped["status"], stopped["ename"]) == ("error", "KeyboardInterrupt")
    names = {path.name for path in trials.glob("*.parquet")}
    check = "assert value == 41 and signal.getsignal(signal.SIGTERM) is before"
    assert kernel.run(check)["status"] == "ok"
    again = kernel.run(SEARCH)
    assert again["status"] == "ok", again
    count = "rows = study.trials_dataframe(); assert (rows['phase'] == 'search').sum() == 20, rows"
    assert kernel.run(count)["status"] == "ok"
    assert names
