# SPDX-License-Identifier: Apache-2.0
"""What every process begins with."""

import subprocess
import sys

_BUSY = """
import sys, threading
if sys.argv[1] == "lightly":
    from snapvault.wiring import start
    start.lightly()

def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096

before = address_space()
done = threading.Barrier(9)
def work():
    kept = [bytes(4096) for _ in range(100)]  # the C library's, not the interpreter's own
    done.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for each in threads:
    each.start()
done.wait()
grown = address_space() - before
for each in threads:
    each.join()
print(grown)
"""


def grown_by_eight_threads(how: str) -> int:
    """Return how many bytes of addresses eight threads took that hold some memory each."""
    done = subprocess.run(
        [sys.executable, "-c", _BUSY, how], capture_output=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_threads_share_what_memory_was_freed() -> None:
    arena = 64 << 20

    apart, together = (grown_by_eight_threads(how) for how in ("as it is", "lightly"))

    assert together < apart - 3 * arena
