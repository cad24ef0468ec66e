"""A headless Chromium for tests, spoken to over its debugging pipe: standard library only."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
)
MOST_SECONDS = 60


class Browser:
    """One tab: commands of the DevTools protocol, and what the page said and asked for."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._last = to, back, b"", 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; events that come meanwhile are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self._last:
                assert "error" not in reply, (method, reply["error"])
                return dict(reply["result"])
            self.events.append(reply)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def open(
        self,
        path: Path,
        *,
        width: int = 1280,
        dark: bool = False,
        touch: bool = False,
        scripts: bool = True,
    ) -> None:
        """Show a file and wait until its plots are drawn."""
        self.events.clear()
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.theme(dark=dark)
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        if scripts:
            self.value(DRAWN)

    def theme(self, *, dark: bool) -> None:
        """The reader's colours."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def value(self, script: str) -> Any:
        """What a JavaScript expression (or the promise that it is) gives."""
        reply = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key on whatever has the focus."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def rest_on(self, x: float, y: float) -> None:
        """The pointer, at a place of the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x - 1, y=y)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def shot(self, *, full_page: bool = True) -> bytes:
        """A PNG picture of the page."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"] if full_page else None
        clip = {"clip": {**size, "scale": 1}} if size else {}
        data = self.send("Page.captureScreenshot", captureBeyondViewport=full_page, **clip)["data"]
        return base64.b64decode(data)

    def paper(self) -> bytes:
        """The page as it is printed on A4, PDF."""
        reply = self.send(
            "Page.printToPDF",
            preferCSSPageSize=False,
            paperWidth=8.27,
            paperHeight=11.69,
            printBackground=True,
        )
        return base64.b64decode(reply["data"])

    @property
    def errors(self) -> list[str]:
        """What went wrong in the page: exceptions, errors and warnings on its console, refused requests."""
        messages = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                messages.append(json.dumps(params["exceptionDetails"])[:500])
            elif event.get("method") == "Log.entryAdded":
                messages.append(f"{params['entry']['level']}: {params['entry']['text']}")
            elif event.get("method") == "Runtime.consoleAPICalled":
                messages.append(f"{params['type']}: {json.dumps(params['args'])[:500]}")
        return messages

    @property
    def requests(self) -> list[str]:
        """The addresses that the page asked for, itself and data within it left out."""
        urls = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls[1:] if not url.startswith(("data:", "blob:"))]


DRAWN = """new Promise((resolve, reject) => {
  const begun = Date.now();
  (function look() {
    if (!document.getElementById("plots") || document.documentElement.dataset.plots)
      setTimeout(resolve, 100);
    else if (Date.now() - begun > 45000) reject("the plots were not drawn");
    else setTimeout(look, 50);
  })();
})"""


# It reads commands from its file 3 and writes to its file 4; numbers that are in use are moved first.
BEGIN = """
import fcntl, os, sys
there, here = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(there, 3)
os.dup2(here, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of this test's own, ended with it."""
    assert PROGRAM
    command_read, command_write = os.pipe()
    reply_read, reply_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        begin = [sys.executable, "-c", BEGIN, str(command_read), str(reply_write)]
        command = [*begin, PROGRAM, *QUIET, f"--user-data-dir={home}", "--remote-debugging-pipe"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, pass_fds=(command_read, reply_write), **quiet)
        os.close(command_read)
        os.close(reply_write)
        try:
            yield Browser(command_write, reply_read)
        finally:
            os.close(command_write)  # without its pipe it ends by itself
            os.close(reply_read)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
