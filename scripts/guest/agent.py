# SPDX-License-Identifier: Apache-2.0
"""Runs commands inside the guest: JSON lines over a virtio-serial port.

A request holds `id`, `argv`, and optionally `stdin` (base64), `timeout` (seconds), `env` and
`cwd`. The answer holds `id`, `status` (None when the time was up) and `out` and `err` (base64).
Whoever starts something in the background must give it streams of its own.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer requests, one after another, for as long as the guest runs."""
    port = os.open(sys.argv[1], os.O_RDWR)
    _send(port, {"kernel": os.uname().release})
    received: list[bytes] = []
    while True:
        data = os.read(port, 1 << 16)
        if not data:  # nobody is connected on the host
            time.sleep(0.05)
            continue
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = b"".join((*received, end))
            received = []
            _send(port, _answer(json.loads(line)))
        received.append(rest)


def _send(port: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        process = subprocess.Popen(
            request["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **request.get("env", {})},
            cwd=request.get("cwd"),
            start_new_session=True,
        )
    except OSError as error:
        return _reply(request, 127, b"", str(error).encode())
    status: int | None
    try:
        stdin = base64.b64decode(request.get("stdin", ""))
        out, err = process.communicate(stdin, timeout=request.get("timeout"))
        status = process.returncode
    except subprocess.TimeoutExpired:
        Path("/proc/sysrq-trigger").write_text("w")  # blocked tasks go to the console
        os.killpg(process.pid, signal.SIGKILL)
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # it hangs in the kernel, or has left its group
            out, err = b"", b"(cannot be killed)"
        status = None
    return _reply(request, status, out, err)


def _reply(request: dict[str, Any], status: int | None, out: bytes, err: bytes) -> dict[str, Any]:
    return {
        "id": request["id"],
        "status": status,
        "out": base64.b64encode(out).decode(),
        "err": base64.b64encode(err).decode(),
    }


if __name__ == "__main__":
    main()
