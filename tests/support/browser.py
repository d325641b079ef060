# SPDX-License-Identifier: Apache-2.0
"""A real browser without a screen: Debian's Chromium, asked over a pipe.

Source: the Chrome DevTools Protocol; `--remote-debugging-pipe` has the browser read
commands on descriptor 3 and write answers on 4, JSON with a zero byte at each end.
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATIENCE = 120.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--password-store=basic",
    # Whatever a page asks for, nothing outside is found.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


@dataclass(slots=True)
class Seen:
    """What a page did while it was looked at."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)


class Browser:
    """One browser with one page. Use `browser()`."""

    def __init__(self, reading: int, writing: int, process: subprocess.Popen[bytes]) -> None:
        self._reading = reading
        self._writing = writing
        self._process = process
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self._context: str | None = None
        self._loaded: set[str] = set()
        self.seen = Seen()

    def open_page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Start with a fresh page, with cookies of its own."""
        if self._context is not None:
            self._session = None
            self._call("Target.disposeBrowserContext", browserContextId=self._context)
        context = self._call("Target.createBrowserContext")["browserContextId"]
        self._context = context
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)[
            "targetId"
        ]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)
        self.resize(width, height, dark=dark)
        self.seen = Seen()

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Make the page as wide as a screen; under 600 pixels it is a phone's."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self._call("Emulation.setEmulatedMedia", features=[scheme, still])

    def without_scripts(self) -> None:
        """Have no page run JavaScript of its own."""
        self._call("Emulation.setScriptExecutionDisabled", value=True)

    def go(self, url: str) -> Seen:
        """Open an address, wait until all of it is there, and tell what happened."""
        self.seen = Seen()
        self._loaded = set()
        loader = self._call("Page.navigate", url=url).get("loaderId")
        self._until(lambda: loader is None or loader in self._loaded)
        return self.seen

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, run from outside the page's own rules."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def submit(self, script: str) -> Seen:
        """Run a script that leads to another page, and wait for that one."""
        self.seen = Seen()
        self._loaded = set()
        self.evaluate(script)
        self._until(lambda: bool(self._loaded))
        return self.seen

    def press_tab(self) -> None:
        """Press the tabulator key."""
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        answer = self._call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, fromSurface=True
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """End the browser in order."""
        self._session = None
        with contextlib.suppress(AssertionError):  # it may end before it has answered
            self._call("Browser.close")
        self._process.wait(_PATIENCE)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _until(self, true: Any) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not true():
            self._note(self._next(deadline))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select(
                [self._reading], [], [], max(0, deadline - time.monotonic())
            )
            piece = os.read(self._reading, 1 << 16) if ready else b""
            if not piece:
                raise AssertionError("the browser does not answer")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("sessionId") != self._session:
            return
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.seen.requests.append(parameters["request"]["url"])
            case "Network.responseReceived":
                response = parameters["response"]
                self.seen.status[response["url"]] = response["status"]
            case "Log.entryAdded" if parameters["entry"]["level"] in {"warning", "error"}:
                self.seen.console.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.seen.console.append(json.dumps(parameters))
            case "Page.javascriptDialogOpening":
                self.seen.dialogs.append(parameters["message"])
            case "Page.lifecycleEvent" if parameters["name"] == "load":
                self._loaded.add(parameters["loaderId"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser, with a profile that is gone afterwards."""
    program = shutil.which("chromium")
    if program is None:
        raise AssertionError("chromium is missing: apt-get install chromium")
    profile = Path(tempfile.mkdtemp(prefix="svb-", dir="/tmp"))
    commands, writing = _high_pipe()
    reading, answers = _high_pipe()
    command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    try:
        process = subprocess.Popen(
            # A shell puts the pipes where the browser looks for them.
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(commands, answers),
            start_new_session=True,
            env=os.environ | {"HOME": str(profile), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        )
        os.close(commands)
        os.close(answers)
        found = Browser(reading, writing, process)
        try:
            yield found
            found.close()
        finally:
            # Its helpers are in its group, and hear of the end by themselves, but not at once.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_PATIENCE)
    finally:
        os.close(reading)
        os.close(writing)
        shutil.rmtree(profile, ignore_errors=True)


def _high_pipe() -> tuple[int, int]:
    """Return a pipe whose ends are none of the descriptors that a shell renumbers."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
