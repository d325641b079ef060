# SPDX-License-Identifier: Apache-2.0
"""Signals that come at the worst moment, to real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snapvault import clock

pytestmark = pytest.mark.integration

PATIENCE = 60.0  # seconds

# A signal that the kernel gives to another thread is noted down by Python as one is that comes
# right before a call that blocks: the call does not see it.
SCRIPT = """
import os, select, signal, sys, threading
from snapvault.adapters.hearing import hear_signals

def end(*_):
    sys.exit(3)

signal.signal(signal.SIGTERM, end)
hear_signals()
hear_signals()
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
ends = os.pipe()
lock = threading.Lock()
lock.acquire()
waits = {
    "poll": lambda: select.select([ends[0]], [], []),
    "read": lambda: os.read(ends[0], 1),
    "lock": lock.acquire,
}
print("ready", flush=True)
waits[sys.argv[1]]()
"""


def is_asleep(pid: int) -> bool:
    """Tell whether a process's main thread waits in the kernel."""
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return rest.split()[0] == "S"


@pytest.mark.parametrize("wait", ["poll", "read", "lock"])
def test_a_signal_that_the_main_thread_cannot_see_is_heard(wait: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, wait], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not is_asleep(process.pid):
            clock.sleep(0.01)

        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(PATIENCE)
        finally:
            process.kill()

    assert status == 3
