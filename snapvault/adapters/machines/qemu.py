# SPDX-License-Identifier: Apache-2.0
"""Starting machines with QEMU."""

import json
import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from snapvault import clock
from snapvault.adapters import spawning
from snapvault.adapters.machines import disks as drives
from snapvault.adapters.machines.console import Console
from snapvault.adapters.machines.firmware import Layout, uefi_files
from snapvault.adapters.machines.output import Output
from snapvault.adapters.machines.running import QemuMachine
from snapvault.adapters.qmp import Qmp
from snapvault.errors import MachineError, SourceError
from snapvault.ports.machine import Bus, Firmware, MachineDisk, MachineSpec
from snapvault.units import format_size

PROGRAM: Final = "qemu-system-x86_64"

_KVM = Path("/dev/kvm")
_INSTALL = "Install it with: apt-get install --no-install-recommends qemu-system-x86 qemu-utils"
_MIB = 1 << 20
_SANDBOX: Final = (
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
)
_START_LIMIT = 120.0  # seconds until QEMU listens; it takes a tenth of one
_LONGEST_SOCKET = 107  # LIMIT: bytes of a unix socket's path (Linux)
_SERIAL_PORT = b"\xf8\x03"  # of the first one, as SeaBIOS reads it


class QemuMachines:
    """Starts machines of the kind x86-64 with QEMU: with KVM where it works, emulated elsewhere.

    A machine has its disks, a serial console, a screen, a channel for a guest agent, and no
    network, or one in which only our connections to its forwarded ports exist. QEMU itself may
    neither start programs nor gain rights, where it can be kept from that, and ends when our
    process does, however that ends.
    """

    def __init__(self) -> None:
        self._is_emulated = False  # KVM was tried, in vain
        self._sandbox: Sequence[str] = _SANDBOX

    def check(self, *, memory: int = 0) -> None:
        """Make sure that QEMU is here, and as much memory as a machine is to get.

        Raises:
            MachineError: a program is missing; the hint is the command that installs it. Or the
                host has less memory.
        """
        for program in (PROGRAM, drives.IMAGE_TOOL):
            if shutil.which(program) is None:
                raise MachineError(
                    f'machines cannot be started: program "{program}" is missing', hint=_INSTALL
                )
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if memory > there:
            raise MachineError(
                f"a machine with {format_size(memory)} of memory cannot be started: this host has"
                f" {format_size(there)}",
                hint="Give it less memory, or start it on a larger host.",
            )

    def start(self, spec: MachineSpec, folder: Path) -> QemuMachine:
        """Start a machine; all that it needs is in a folder of its own, made in `folder`.

        Raises:
            MachineError: it cannot be started.
        """
        self.check(memory=spec.memory)
        if not spec.disks:
            raise ValueError("a machine has a disk")
        own = folder / f"m-{secrets.token_hex(3)}"
        if len(os.fsencode(own / "console")) > _LONGEST_SOCKET:
            raise ValueError(f'folder "{folder}" is too long for sockets')
        with ExitStack() as undo:
            try:
                own.mkdir(mode=0o700)
            except OSError as error:
                raise _no_room(error) from error
            undo.callback(shutil.rmtree, own, ignore_errors=True)
            try:
                machine = self._start(spec, own)
            except OSError as error:
                raise _no_room(error) from error
            undo.pop_all()
        return machine

    def _start(self, spec: MachineSpec, own: Path) -> QemuMachine:
        layout = drives.look_at(spec.disks[spec.boot_disk], own)
        if spec.firmware is not Firmware.AUTO:
            layout = replace(layout, firmware=spec.firmware)
        overlays: list[tuple[MachineDisk, Path]] = []
        for number, disk in enumerate(spec.disks):
            overlay = disk.overlay or own / f"overlay{number}"
            if not overlay.exists():
                drives.make_overlay(disk, overlay)
            overlays.append((disk, overlay))
        words = [
            *_machine_words(spec, own),
            *_firmware_words(layout.firmware, spec, own),
            *_disk_words(spec, overlays, layout),
            *_network_words(spec),
        ]
        with ExitStack() as undo:
            machine = self._run_somehow(words, spec, layout.firmware, own)
            undo.callback(machine.close)
            for disk, overlay in overlays:
                if disk.overlay is None:
                    # QEMU has it open; so nothing of it is left, however all of this ends.
                    overlay.unlink()
            undo.pop_all()
        return machine

    def _run_somehow(
        self, words: Sequence[str], spec: MachineSpec, firmware: Firmware, own: Path
    ) -> QemuMachine:
        # KVM may be there and not work, in a machine that is a virtual one itself, say.
        if not self._is_emulated and os.access(_KVM, os.R_OK | os.W_OK):
            try:
                return self._run_confined(["-accel", "kvm", *words], spec, firmware, own)
            except MachineError:
                self._is_emulated = True
        words = ["-accel", "tcg,thread=multi,tb-size=256", *words]
        return self._run_confined(words, spec, firmware, own)

    def _run_confined(
        self, words: Sequence[str], spec: MachineSpec, firmware: Firmware, own: Path
    ) -> QemuMachine:
        if self._sandbox:
            try:
                return self._run([*self._sandbox, *words], spec, firmware, own)
            except MachineError as error:
                # QUIRK: QEMU has no such option where it was built without it, or may not call
                # seccomp(2), as in a service whose own system calls are filtered.
                if "sandbox" not in str(error) and "seccomp" not in str(error):
                    raise
                self._sandbox = ()
        return self._run(words, spec, firmware, own)

    def _run(
        self, words: Sequence[str], spec: MachineSpec, firmware: Firmware, own: Path
    ) -> QemuMachine:
        """Start QEMU and get in touch with it, or leave nothing of it."""
        changed = threading.Condition()

        def notify() -> None:
            with changed:
                changed.notify_all()

        with ExitStack() as undo:
            for name in ("console", "qmp", "agent"):
                (own / name).unlink(missing_ok=True)
            console = Console(own / "console", notify)
            undo.callback(console.close)
            try:
                process = spawning.spawn(
                    [PROGRAM, *words], {**os.environ, "TMPDIR": str(own)}, own, is_merged=True
                )
            except SourceError as error:
                raise MachineError(str(error), hint=_INSTALL) from error
            output = Output(process)
            undo.callback(output.end)
            qmp = _connect(own / "qmp", output)
            undo.callback(qmp.close)
            machine = QemuMachine(
                spec, firmware, own, output=output, console=console, qmp=qmp, changed=changed
            )
            undo.pop_all()
        return machine


def _connect(path: Path, output: Output) -> Qmp:
    deadline = clock.monotonic() + _START_LIMIT
    while True:
        try:
            return Qmp(path)
        except SourceError as error:
            if output.has_ended:
                raise MachineError(f"could not start QEMU: {output.told()}") from error
            if clock.monotonic() > deadline:
                raise MachineError(f"could not start QEMU: {error}") from error
        clock.sleep(0.02)


def _machine_words(spec: MachineSpec, own: Path) -> list[str]:
    return [
        *("-no-user-config", "-nodefaults", "-machine", "q35", "-cpu", "max"),
        *("-smp", str(spec.cpus), "-m", f"{max(1, spec.memory // _MIB)}M"),
        # It stays, paused, when the guest powers off, so that its end can be looked at.
        *("-action", "shutdown=pause,panic=none,reboot=reset"),
        *("-display", "none", "-device", "VGA", "-device", "pvpanic"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng"),
        *("-chardev", f"socket,id=console,path={_quoted(own / 'console')}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,path={_quoted(own / 'qmp')},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={_quoted(own / 'agent')},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,id=agent,name=org.qemu.guest_agent.0"),
    ]


def _firmware_words(firmware: Firmware, spec: MachineSpec, own: Path) -> list[str]:
    if firmware is Firmware.BIOS:
        # What the BIOS and boot loaders show on the screen is on the console, too.
        (own / "serial").write_bytes(_SERIAL_PORT)
        return ["-fw_cfg", f"name=etc/sercon-port,file={_quoted(own / 'serial')}"]
    code, empty = uefi_files()
    variables = spec.variables or own / "variables"
    if not variables.exists():
        shutil.copyfile(empty, variables)
        variables.chmod(0o600)
    return [
        *("-drive", f"if=pflash,format=raw,readonly=on,file={_quoted(code)}"),
        *("-drive", f"if=pflash,format=raw,file={_quoted(variables)}"),
    ]


def _disk_words(
    spec: MachineSpec, overlays: Sequence[tuple[MachineDisk, Path]], layout: Layout
) -> list[str]:
    lasting = [disk.overlay is not None for disk, _ in overlays]
    nodes = drives.block_nodes(overlays, lasting=lasting)
    words = [word for node in nodes for word in ("-blockdev", json.dumps(node))]
    return words + drives.device_words(
        len(overlays), spec.bus, spec.on_error, first=spec.boot_disk, sector=layout.sector
    )


def _network_words(spec: MachineSpec) -> list[str]:
    if not spec.forwards:
        return ["-nic", "none"]
    # SAFETY: with restrict=on nothing of the guest gets out, not even to this machine.
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in dict.fromkeys(spec.forwards))
    card = "e1000e" if spec.bus is Bus.SATA else "virtio-net-pci"
    return [
        *("-netdev", f"user,id=net,restrict=on,ipv6=off{forwards}"),
        *("-device", f"{card},netdev=net,romfile="),
    ]


def _quoted(path: Path) -> str:
    """Write a path as a value among others: QEMU takes two commas for one."""
    return str(path).replace(",", ",,")


def _no_room(error: OSError) -> MachineError:
    reason = (error.strerror or str(error)).lower()
    where = f' "{error.filename}"' if error.filename else ""
    return MachineError(f"could not prepare a machine{where}: {reason}")
