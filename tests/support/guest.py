# SPDX-License-Identifier: Apache-2.0
"""A machine with a kernel of its own, for what the kernel of this one may lack: LVM, mounts.

QEMU emulates it, so it needs no KVM and no rights. Its root is this machine's file system,
read-only under a layer in its memory: the checkout, the Python that runs the tests and all
installed programs are at the same paths. The folder `share` is `/guest` in there, writable.
"""

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.seaweed import _die_with_parent

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 1 << 30
OUTCOMES = "GUEST_OUTCOMES"  # the variable with the file for how the tests inside ended

_IMAGE = REPOSITORY / ".guest" / "current"
_SCRIPTS = REPOSITORY / "scripts" / "guest"
_BOOT_SECONDS = 300.0  # it takes 4 on a machine that does nothing else
_CONSOLE_SHOWN = 3000  # characters


class GuestError(Exception):
    """The guest could not be started, or did not do what it should; the message says more."""


class GuestDiedError(GuestError):
    """The guest has ended before its time; the message has the end of its console."""


class Result(NamedTuple):
    """What a command in the guest left; `status` is None when its time was up."""

    status: int | None
    out: bytes
    err: bytes


class Guest:
    """A running guest; `close` ends it and removes its folder.

    `disks` are sparse disks of their own, in bytes: /dev/vda and so on. `qemu_arguments` are
    added to QEMU's command line, after them; `kernel_arguments` to the kernel's. With `script`,
    a shell script, the guest runs that instead of waiting for commands, and powers off at its
    end: see `wait`. `/dev/virtio-ports/NAME` is there for each port, as qemu-ga wants it.
    """

    def __init__(
        self,
        *,
        disks: Sequence[int] = (),
        memory_mib: int = 1024,
        kernel_arguments: Sequence[str] = (),
        qemu_arguments: Sequence[str] = (),
        script: str | None = None,
    ) -> None:
        # LIMIT: a socket's path has at most 107 bytes (Linux), so not below the test's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="svg-", dir="/tmp"))
        self.share = self.folder / "share"
        self.share.mkdir()
        self.qmp_path = self.folder / "qmp"
        self._console = self.folder / "console"
        self._ids = itertools.count(1)
        self._one_command = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel, theirs = socket.socketpair()
        self._reader = self._channel.makefile("rb")
        try:
            start = "agent"
            if script is not None:
                (self.share / "script").write_text(script)
                start = "/guest/script"
            self._start(disks, memory_mib, start, kernel_arguments, qemu_arguments, theirs)
            if script is None:
                self.kernel: str = self._receive(_BOOT_SECONDS)["kernel"]
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 300,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run a command in the guest, killing it after `timeout` seconds; one at a time.

        What it starts in the background must have streams of its own, or it is waited for.

        Raises:
            GuestDiedError: the guest is gone, or says nothing.
        """
        request = {
            "id": next(self._ids),
            "argv": list(argv),
            "stdin": base64.b64encode(stdin).decode(),
            "timeout": timeout,
            "env": dict(env or {}),
            "cwd": cwd,
        }
        with self._one_command:
            try:
                self._channel.settimeout(60)
                self._channel.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise self._death("takes no command") from error
            answer = self._receive(timeout + 60)
        assert answer["id"] == request["id"]
        return Result(
            answer["status"], base64.b64decode(answer["out"]), base64.b64decode(answer["err"])
        )

    def must(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 300,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> bytes:
        """Run a command that succeeds, and return its stdout.

        Raises:
            GuestError: it fails; the message has what it says.
        """
        status, out, err = self.run(argv, stdin=stdin, timeout=timeout, env=env, cwd=cwd)
        if status != 0:
            said = (out + err).decode(errors="replace")
            raise GuestError(f"in the guest, {argv} ended with status {status}: {said}")
        return out

    def qmp(self, execute: str, **arguments: object) -> Any:
        """Run a command of QEMU's monitor and return what it returns.

        Raises:
            GuestError: it answers with an error.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.qmp_path))
            with connection.makefile("rwb") as stream:
                answer: dict[str, Any] = {}
                for number, (name, given) in enumerate(
                    (("qmp_capabilities", {}), (execute, arguments))
                ):
                    request = {"execute": name, "arguments": given, "id": number}
                    stream.write(json.dumps(request).encode() + b"\n")
                    stream.flush()
                    # Events may come between, even before QEMU's greeting.
                    while answer.get("id") != number:
                        answer = json.loads(stream.readline())
        if "error" in answer:
            raise GuestError(f'QEMU refuses "{execute}": {answer["error"]["desc"]}')
        return answer["return"]

    def wait(self, timeout: float = 300) -> tuple[int, str]:
        """Wait for the end of `script`; return its exit status and what it wrote.

        Raises:
            GuestDiedError: the guest ended before it, or takes too long.
        """
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self._death(f"has not ended after {timeout:g} seconds") from error
        try:
            status = int((self.share / "status").read_text())
        except (OSError, ValueError) as error:
            raise self._death("ended before its script") from error
        return status, (self.share / "out").read_text(errors="replace")

    @property
    def console(self) -> str:
        """What the guest's kernel has written so far."""
        try:
            return self._console.read_text(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """End the guest as a power cut does, and remove its folder; safe to repeat."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._reader.close()
        self._channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self,
        disks: Sequence[int],
        memory_mib: int,
        start: str,
        kernel_arguments: Sequence[str],
        qemu_arguments: Sequence[str],
        channel: socket.socket,
    ) -> None:
        qemu = _find_qemu()
        command_line = [
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on",
            f"snapvault.boot={_SCRIPTS / 'boot.sh'} snapvault.python={sys.executable}",
            f"snapvault.start={start}",
            *kernel_arguments,
        ]
        arguments = [
            *(qemu, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"),
            *("-m", str(memory_mib), "-machine", "q35", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-no-reboot"),
            *("-kernel", str(_IMAGE / "vmlinux"), "-initrd", str(_IMAGE / "initramfs.gz")),
            *("-append", " ".join(command_line)),
            *("-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console"),
            *("-qmp", f"unix:{self.qmp_path},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,fd={channel.fileno()}"),
            *("-device", "virtserialport,chardev=agent,name=snapvault.agent"),
            "-virtfs",
            "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap",
            *("-virtfs", f"local,path={self.share},mount_tag=share,security_model=none"),
        ]
        for number, size in enumerate(disks):
            disk = self.folder / f"disk{number}"
            disk.touch()
            os.truncate(disk, size)
            arguments += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
        with (self.folder / "qemu").open("wb") as output:
            self._process = subprocess.Popen(
                [*_die_with_parent(), *arguments, *qemu_arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[channel.fileno()],
            )

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        self._channel.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            line = self._reader.readline()
        except OSError as error:  # the time is up
            raise self._death(f"says nothing for {seconds:g} seconds") from error
        if not line.endswith(b"\n"):
            raise self._death("has died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _death(self, what: str) -> GuestDiedError:
        status = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # it may live on, and only be silent
                status = self._process.wait(1)
        said = (self.folder / "qemu").read_text(errors="replace").strip()
        return GuestDiedError(
            f"the guest {what}; status of QEMU: {status}; it said: {said or 'nothing'}; "
            f"the end of the console:\n{self.console[-_CONSOLE_SHOWN:]}"
        )


def _find_qemu() -> str:
    """Return QEMU's path, once all that a guest needs is there.

    Raises:
        GuestError: it is not; the message says what installs it.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise GuestError(
            '"qemu-system-x86_64" is not installed; install it with: '
            "apt-get install --no-install-recommends qemu-system-x86"
        )
    if not (_IMAGE / "initramfs.gz").exists():
        raise GuestError(f"the guest's kernel is not built; build it with: {_SCRIPTS / 'build.sh'}")
    return qemu
