# SPDX-License-Identifier: Apache-2.0
"""`snapvault run`: a machine, started from its backup without restoring it first."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from snapvault.cli import disks, points, run_disks, run_loop, run_report
from snapvault.cli.disks import AtOption
from snapvault.cli.list import VaultOption
from snapvault.cli.points import PointArgument
from snapvault.cli.run_disks import Wanted
from snapvault.cli.session import session
from snapvault.cli.short_folder import short_folder
from snapvault.model.rehearsal import LEAST_MEMORY, MOST_CPUS
from snapvault.ports.machine import (
    Bus,
    Firmware,
    MachineSpec,
    OnError,
)
from snapvault.units import format_size, parse_size

_FOLDER = "run-"
_LONGEST = 80  # bytes of a folder for sockets


def command(
    context: typer.Context,
    point: PointArgument,
    *,
    at: AtOption = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Give it only this disk; can be given several times. The first is started from.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="How much memory it gets.")
    ] = "1GiB",
    cpus: Annotated[
        int,
        typer.Option(
            "--cpus", metavar="COUNT", min=1, max=MOST_CPUS, help="How many processors it gets."
        ),
    ] = 1,
    firmware: Annotated[
        Firmware,
        typer.Option("--firmware", help="What starts it; auto looks at its first disk."),
    ] = Firmware.AUTO,
    bus: Annotated[
        Bus,
        typer.Option("--bus", help="How its disks are attached; sata needs no driver of its own."),
    ] = Bus.VIRTIO,
    forward: Annotated[
        list[int] | None,
        typer.Option(
            "--forward",
            metavar="PORT",
            min=1,
            max=65535,
            help="Make this TCP port of it reachable at a free port of 127.0.0.1; can be given"
            " several times. Without any it has no network.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="FOLDER",
            help="Keep what it writes in this folder, and go on from there the next time.",
            show_default=False,
        ),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="With --keep: fetch the rest of its disks into the folder while it runs, until it"
            " needs the vault no more.",
        ),
    ] = False,
    console: Annotated[
        bool,
        typer.Option(
            "--console",
            help="Connect this terminal to its serial console; Ctrl-] leaves it.",
        ),
    ] = False,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error",
            help="When a disk cannot be read for now: the machine stands still until it can, or"
            " gets an I/O error.",
        ),
    ] = OnError.WAIT,
    cache: Annotated[
        str,
        typer.Option(
            "--cache",
            metavar="SIZE",
            help="Keep this much of what was fetched, decrypted, below state_dir.",
        ),
    ] = "2GiB",
    vault: VaultOption = None,
) -> None:
    """Start a machine from its backup, in QEMU, without restoring it first.

    It runs within seconds: only what it reads is fetched. Nothing it does
    changes the backup: what it writes goes into overlays, which are gone when it ends, or stay in
    a folder with --keep. That is the place to rehearse an upgrade: the same command goes on with
    it, and refuses to lay what was written over another restore point.

    With --fetch the rest comes while it runs. Interrupted, the same command goes on with that, too.
    When all is there, the folder's disks need neither the vault nor SnapVault any more.

    Nothing of the machine gets out: it has no network, or one in which it can only answer at the
    ports that are forwarded, and takes its address by DHCP. It runs until it powers off, or this
    is told to end (Ctrl-C, SIGTERM), which is like a power cut to it.

    QEMU must be installed (on Debian: qemu-system-x86 and qemu-utils, and ovmf for UEFI), and
    the secret half of a recovery key be on this machine. The cache is as for "snapvault serve".

    Examples:
      snapvault run web01
      snapvault run web01 --at "2026-11-20 03:00" --memory 4GiB --cpus 2 --console
      snapvault run web01 --forward 22 --keep /srv/rehearsal
      snapvault run web01 --keep /srv/web01 --fetch
    """
    from snapvault.adapters.machines.kept import open_folder
    from snapvault.adapters.machines.relay import ConsoleRelay
    from snapvault.adapters.own_folder import own_folder
    from snapvault.wiring.machines import machines
    from snapvault.wiring.state import make_private

    run = session(context)
    wanted = Wanted(point, points.moment_of(at), vault, tuple(stream or ()))
    limit = disks.size_of(cache)
    if fetch and keep is None:
        raise typer.BadParameter("it needs --keep FOLDER to fetch into", param_hint="--fetch")
    if console and run.json:
        raise typer.BadParameter("it cannot be used with --json", param_hint="--console")
    size = _memory(memory)
    starter = machines()
    starter.check(memory=size)
    with ExitStack() as stack:
        kept = stack.enter_context(open_folder(keep.absolute())) if keep else None
        make_private(run.settings.state_dir)
        folder = stack.enter_context(own_folder(run.settings.state_dir, _FOLDER))
        sockets = _short(stack, folder)
        attached = run_disks.attach(
            stack, run, wanted, kept=kept, folder=folder, sockets=sockets, limit=limit
        )
        spec = MachineSpec(
            attached.disks,
            memory=size,
            cpus=cpus,
            firmware=firmware,
            bus=bus,
            forwards=tuple(dict.fromkeys(forward or ())),
            on_error=on_error,
            variables=kept.variables if kept else None,
        )
        machine = starter.start(spec, sockets)
        stack.callback(machine.close)
        relay = ConsoleRelay(machine, sockets / "console")
        stack.callback(relay.close)
        run_report.report(run, machine, spec, attached, kept=kept, console=relay.path)
        run_loop.follow(run, machine, kept=kept, fetches=fetch, at_terminal=console)


def _memory(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--memory") from error
    if size < LEAST_MEMORY:
        least = format_size(LEAST_MEMORY)
        raise typer.BadParameter(f"a machine needs {least} at the least", param_hint="--memory")
    return size


def _short(stack: ExitStack, folder: Path) -> Path:
    """Return a folder whose path is short enough for sockets: this one, or one of our own."""
    return folder if len(os.fsencode(folder)) <= _LONGEST else short_folder(stack)
