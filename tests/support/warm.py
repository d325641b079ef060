# SPDX-License-Identifier: Apache-2.0
"""A Python that has imported SnapVault and what it stands on, and forks for each run of it.

These imports are most of what a short command costs, and tests run a thousand. Each run is still
a process of its own, with its own environment, streams, exit status and end. Who needs a real
start (signals, limits, another locale) starts one.
"""

import array
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import snapvault
from tests.support.seaweed import LASTING

_ROOT = Path(__file__).parents[2]
_LIBRARIES = (
    "numpy boto3 botocore.client botocore.session pydantic zstandard blake3 yaml typer click"
    " rich.console rich.progress rich.table jinja2 apscheduler.triggers.cron prometheus_client"
    " gnupg cryptography.hazmat.primitives.ciphers sqlite3 urllib3 http.client concurrent.futures"
)
# What Python looks at only when it starts; a run for which one differs needs a real start.
_AT_THE_START = ("PYTHON", "LC_", "LANG")
_MOVED_CLOCK = _ROOT / "tests" / "support" / "moved_clock"
_MOST = 1 << 20  # bytes of a request
_STARTING = 240.0  # seconds until it forks: at first it imports all of that


# --- who asks -------------------------------------------------------------------------------


class WarmPython:
    """The process that forks. It ends when this one does."""

    def __init__(self) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"}
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(its.fileno())],
                cwd=_ROOT,
                env=self._environment,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._line = ours
        self._lock = threading.Lock()
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End it; safe to repeat."""
        self._line.close()
        self._process.wait()
        atexit.unregister(self.stop)

    def can_run(self, environment: Mapping[str, str]) -> bool:
        """Tell whether a run with this environment is the same here as with a real start."""

        def matters(variables: Mapping[str, str]) -> dict[str, str]:
            return {
                name: value
                for name, value in variables.items()
                if name.startswith(_AT_THE_START) and name != "PYTHONPATH"
            }

        return matters(environment) == matters(self._environment) and all(
            folder == _MOVED_CLOCK for folder in _customized(environment)
        )

    def run(
        self, words: Sequence[str], *, environment: Mapping[str, str], data: bytes, timeout: float
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run `python -m snapvault WORDS` to its end. Safe from several threads.

        Raises:
            subprocess.TimeoutExpired: it took longer, from its fork on, and was killed.
        """
        with contextlib.ExitStack() as stack:
            inner, outer = zip(
                *(os.pipe() if n else os.pipe()[::-1] for n in range(3)), strict=True
            )
            stdin = stack.enter_context(io.FileIO(inner[0], "w"))
            outputs = [stack.enter_context(io.FileIO(end)) for end in inner[1:]]
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(ours)
            request = {
                "words": list(words),
                "environment": dict(environment),
                "folder": str(Path.cwd()),
                "umask": _umask(),
            }
            with its:
                sent = array.array("i", [*outer, its.fileno()])
                with self._lock:
                    self._line.sendmsg(
                        [json.dumps(request).encode()],
                        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)],
                    )
            for end_of_its in outer:
                os.close(end_of_its)
            ours.settimeout(_STARTING)
            pid = int(ours.recv(64))
            ours.settimeout(timeout)
            try:
                out, err = _communicate(stdin, outputs, data, timeout)
                status = int(ours.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout) from None
        return subprocess.CompletedProcess(words, status, out, err)


@functools.cache
def warm_python() -> WarmPython:
    """Return the one that all tests of this process share."""
    python = WarmPython()
    LASTING.add(python.pid)
    return python


def _customized(environment: Mapping[str, str]) -> list[Path]:
    """Return the folders of which Python imports something at its start."""
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [Path(path) for path in named if path and Path(path, "sitecustomize.py").is_file()]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _communicate(
    stdin: io.FileIO, outputs: Sequence[io.FileIO], data: bytes, timeout: float
) -> list[bytes]:
    """Write the input and read the outputs to their ends."""
    said: dict[int, list[bytes]] = {output.fileno(): [] for output in outputs}
    left = memoryview(data)
    ends = time.monotonic() + timeout
    os.set_blocking(stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        for output in outputs:
            selector.register(output, selectors.EVENT_READ)
        selector.register(stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, ends - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if key.fileobj is stdin:
                    try:
                        left = left[stdin.write(left[:65536]) or 0 :] if left else left
                    except BrokenPipeError:  # it reads no more
                        left = left[:0]
                    if not left:
                        selector.unregister(stdin)
                        stdin.close()
                elif piece := os.read(key.fd, 1 << 16):
                    said[key.fd].append(piece)
                else:
                    selector.unregister(key.fileobj)
    return [b"".join(pieces) for pieces in said.values()]


# --- the process that forks -----------------------------------------------------------------


def _serve(line: socket.socket) -> dict[str, Any]:
    """Fork for each request. Returns in the processes that are to carry one out."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                pid, answer = running.pop(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(pid, 0)
                with answer, contextlib.suppress(OSError):
                    answer.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            message, given, _, _ = socket.recv_fds(line, _MOST, 4)
            if not message:
                os._exit(0)
            answer = socket.socket(fileno=given[3])
            if (pid := os.fork()) == 0:
                for number in range(3):
                    os.dup2(given[number], number)
                for number in (*given[:3], *running):
                    os.close(number)
                for each in (line, answer, *(one for _, one in running.values())):
                    each.close()
                request: dict[str, Any] = json.loads(message)
                return request
            for number in given[:3]:
                os.close(number)
            answer.send(str(pid).encode())
            number = os.pidfd_open(pid)
            poll.register(number, select.POLLIN)
            running[number] = (pid, answer)


def _become(request: dict[str, Any]) -> NoReturn:
    """Be what `python -m snapvault` would have been."""
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    sys.argv = ["snapvault", *request["words"]]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    named = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    rest = [path for path in sys.path[1:] if path not in named]
    sys.path[:] = [request["folder"], *filter(None, named), *rest]
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, _stream(name))
        setattr(sys, f"__{name}__", getattr(sys, name))
    if _customized(os.environ):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    runpy.run_module("snapvault", run_name="__main__", alter_sys=True)
    sys.exit()


def _stream(name: str) -> Any:
    number = ("stdin", "stdout", "stderr").index(name)
    return open(
        number,
        "w" if number else "r",
        buffering=-1 if number < 2 else 1,
        encoding="utf-8",
        errors="surrogateescape" if number < 2 else "backslashreplace",
        closefd=False,
    )


def _main() -> NoReturn:
    line = socket.socket(fileno=int(sys.argv[1]))
    for library in _LIBRARIES.split():
        importlib.import_module(library)
    for module in pkgutil.walk_packages(snapvault.__path__, "snapvault."):
        if not module.name.endswith(("emergency.restore", "__main__")):
            with contextlib.suppress(ImportError, OSError):  # what is missing is the run's matter
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # so that forks share it
    request = _serve(line)
    _become(request)


if __name__ == "__main__":
    _main()
