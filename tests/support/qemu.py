# SPDX-License-Identifier: Apache-2.0
"""QEMU's own programs: images made, written and read by them, and machines that run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from snapvault.adapters.qmp import Qmp
from snapvault.ports.source import Consistency
from tests.support.seaweed import _die_with_parent

DEADLINE = 60.0  # seconds, for anything that takes a moment


def program(name: str) -> str:
    """Return the path of a program of Debian's QEMU; fails when it is not there."""
    path = shutil.which(name)
    assert path, f"{name} is missing: apt-get install qemu-utils qemu-system-x86"
    return path


def qemu_img(*arguments: str) -> bytes:
    """Run qemu-img and return what it said."""
    return subprocess.run([program("qemu-img"), *arguments], check=True, capture_output=True).stdout


def make_image(path: Path, size: int) -> Path:
    """Make an empty qcow2 image."""
    qemu_img("create", "-q", "-f", "qcow2", str(path), str(size))
    return path


def qemu_io(path: Path, *commands: str) -> None:
    """Run qemu-io's commands on a qcow2 image."""
    wanted = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        [program("qemu-io"), "-f", "qcow2", *wanted, str(path)], check=True, capture_output=True
    )
    # It ends with status 0 also when a command failed.
    assert b"failed" not in done.stdout, done.stdout


def raw_of(path: Path) -> bytes:
    """Return the disk in a qcow2 image as qemu-img sees it."""
    out = path.with_name(path.name + ".out")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", str(path), str(out))
    content = out.read_bytes()
    out.unlink()
    return content


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Have another process keep an image open for writing, as a machine does."""
    process = subprocess.Popen(
        [program("qemu-io"), "-f", "qcow2", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.read(1)  # it prompts once the image is open
        yield
    finally:
        process.communicate(b"quit\n")


def until(deadline: float = DEADLINE) -> Iterator[None]:
    """Yield every 20 ms until the deadline (seconds from now), then fail."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
    raise AssertionError("it took too long")


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """Give a folder on a file system of its own with `size` bytes; needs no rights.

    Who is not root needs namespaces of users instead, which Debian allows everybody.
    """
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        mount = f"mount -t tmpfs -o mode=700,size={size} none {folder} && echo ready && exec cat"
        with subprocess.Popen(
            ["unshare", *as_root, "--mount", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as keeper:
            assert keeper.stdout
            assert keeper.stdout.readline() == b"ready\n", (
                "users may make no namespaces here (a chroot or container?); run the test as root, "
                "or allow them with: sysctl kernel.unprivileged_userns_clone=1"
            )
            # As it sees it: nobody else has it mounted, and it goes with its keeper.
            yield Path(f"/proc/{keeper.pid}/root{folder}")
            keeper.communicate()


class Machine:
    """A machine without an operating system; `write` does what one would do to its disks.

    `disks` are images by device id; their format is the ending of their name. `qmp` is the socket
    for whom we test, `own` a second one. Leaving the context ends it.
    """

    def __init__(self, disks: dict[str, Path], arguments: Sequence[str] = ()) -> None:
        self.disks = disks
        self.arguments = list(arguments)
        self.folder = Path(tempfile.mkdtemp(prefix="svq-", dir="/tmp"))
        self.qmp = self.folder / "qmp"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Switch it on."""
        argv = [program("qemu-system-x86_64"), "-accel", "tcg", "-nodefaults"]
        argv += ["-display", "none", "-m", "64"]
        for name in ("qmp", "own"):
            argv += ["-qmp", f"unix:{self.folder / name},server=on,wait=off"]
        for number, (name, path) in enumerate(self.disks.items()):
            file = {"driver": "file", "filename": str(path)}
            node = {"driver": path.suffix[1:], "node-name": f"node{number}", "file": file}
            argv += ["-blockdev", json.dumps(node)]
            argv += ["-device", f"virtio-blk-pci,drive=node{number},id={name}"]
        self.process = subprocess.Popen(
            [*_die_with_parent(), *argv, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            restore_signals=False,  # a file limit of a test is an error then, not a signal
        )
        for _ in until():
            assert self.process.poll() is None, self.process.communicate()[1]
            with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.folder / "own"))
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Switch it off."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.communicate(timeout=DEADLINE)
            self.process = None

    def ask(self, name: str, arguments: dict[str, object] | None = None) -> Any:
        """Run a command over the second socket."""
        with Qmp(self.folder / "own") as qmp:
            return qmp.execute(name, arguments)

    def write(self, disk: str, offset: int, length: int, pattern: int) -> None:
        """Write through a device, as a guest's driver does."""
        device = f"/machine/peripheral/{disk}/virtio-backend"
        what = f"write -P {pattern} {offset} {length}" if pattern else f"write -z {offset} {length}"
        said = self.ask("human-monitor-command", {"command-line": f'qemu-io -d {device} "{what}"'})
        assert said == "", said  # how the write went is printed where nobody sees it

    def flush(self, disk: str) -> None:
        """Have what was written survive the death of QEMU."""
        device = f"/machine/peripheral/{disk}/virtio-backend"
        self.ask("human-monitor-command", {"command-line": f'qemu-io -d {device} "flush"'})

    def left(self) -> dict[str, list[str]]:
        """Return the names of whatever SnapVault has in it."""
        nodes = self.ask("query-named-block-nodes", {"flat": True})
        found = {
            "bitmaps": [
                f"{bitmap['name']}{'' if bitmap['recording'] else ' (off)'}"
                for node in nodes
                for bitmap in node.get("dirty-bitmaps", ())
                if "name" in bitmap
            ],
            "nodes": [node["node-name"] for node in nodes],
            "jobs": [job["id"] for job in self.ask("query-jobs")],
            "exports": [export["id"] for export in self.ask("query-block-exports")],
            "files": [
                descriptor.get("opaque", "")
                for found in self.ask("query-fdsets")
                for descriptor in found["fds"]
            ],
        }
        return {
            kind: [name for name in names if "snapvault" in name] for kind, names in found.items()
        }


class FakeAgent:
    """A guest agent that keeps a state and can be silent from some command on."""

    def __init__(self, folder: Path, *, silent_at: str | None = None) -> None:
        self.path = folder / "agent"
        self.silent_at = silent_at
        self.state = "thawed"
        self.heard: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._listener.close()
        self.path.unlink()

    def hang_up(self) -> None:
        """End the conversation with whoever is connected; the next one is let in."""
        assert self._peer is not None
        self._peer.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._peer = peer = self._listener.accept()[0]
                with peer, peer.makefile("rb") as lines, suppress(OSError):
                    peer.sendall(b'{"return": "of an earlier conversation"}\n')
                    for line in lines:
                        self._answer(peer, json.loads(line.lstrip(b"\xff")))

    def _answer(self, peer: socket.socket, request: dict[str, Any]) -> None:
        name = request["execute"]
        self.heard.append(name)
        answer: object = {}
        mark = b""
        if name == "guest-sync-delimited":
            answer, mark = request["arguments"]["id"], b"\xff"
        elif name == "guest-fsfreeze-freeze":
            self.state, answer = "frozen", 1
        elif name == "guest-fsfreeze-thaw":
            self.state, answer = "thawed", 1
        elif name == "guest-fsfreeze-status":
            answer = self.state
        if name != self.silent_at:
            peer.sendall(mark + json.dumps({"return": answer}).encode() + b"\n")


@contextmanager
def stopped_for_a_copy(machine: Machine, disk: str, to: Path) -> Iterator[Consistency]:
    """Stop a machine and have QEMU copy a disk, by a job of its own: a `Quiesce` for references."""
    machine.ask("stop")
    try:
        node = f"node{list(machine.disks).index(disk)}"
        job = {"job-id": "reference", "device": node, "target": str(to), "format": "raw"}
        machine.ask("drive-backup", {**job, "sync": "full", "auto-dismiss": False})
        for _ in until():
            copying = next(job for job in machine.ask("query-jobs") if job["id"] == "reference")
            assert "error" not in copying, copying
            if copying["status"] == "concluded":
                break
        machine.ask("job-dismiss", {"id": "reference"})
        yield Consistency.CRASH
    finally:
        machine.ask("cont")
