# SPDX-License-Identifier: Apache-2.0
"""What makes disks a machine again: its definition, and which disk it starts from."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from snapvault.cli.session import Session
from snapvault.errors import RestoreError
from snapvault.model.point import StreamRecord

if TYPE_CHECKING:
    from snapvault.adapters.targets.domain import RestoredDisk, Rewritten
    from snapvault.engine.vault import Held

RAW = "raw"
QCOW2 = "qcow2"
DOMAIN = "domain.xml"

_DEFINITION = "definition"  # the last word of such a stream's name
# What AWS calls the device of a boot volume, for points that do not say which it is.
_BOOT_DEVICES = ("/dev/xvda", "/dev/sda1", "/dev/sda")


def require_format(image_format: str, *, is_file: bool, in_place: bool) -> None:
    """Refuse a format that is not known, or not for this target."""
    option = "--format"
    if image_format not in (RAW, QCOW2):
        raise typer.BadParameter(f'"{image_format}" is not known: raw or qcow2', param_hint=option)
    if image_format != RAW and in_place:
        raise typer.BadParameter(
            "a disk is restored in place as it is: leave out --format", param_hint=option
        )
    if image_format != RAW and not is_file:
        raise typer.BadParameter("only a file can be qcow2", param_hint=option)


def file_name(stream: StreamRecord, image_format: str) -> str:
    """Return the name of a stream's file in the folder that a machine is restored to."""
    is_image = stream.kind == "disk" and image_format == QCOW2
    return f"{stream.name}.{QCOW2}" if is_image else stream.name


def format_of(stream: StreamRecord, image_format: str) -> str:
    """Return the format of a stream's file: only disks can be anything but as they are."""
    return image_format if stream.kind == "disk" else RAW


def definition(held: "Held") -> StreamRecord:
    """Return the definition of the machine.

    Raises:
        RestoreError: the point has none, or several.
    """
    found = [stream for stream in held.point.streams if _is_definition(stream)]
    if len(found) != 1:
        names = ", ".join(stream.name for stream in found)
        has = f"{len(found)} definitions" if found else "no definition"
        raise RestoreError(
            f'source "{held.point.source}" has {has} of a machine at restore point '
            f"{held.point.point}",
            hint=f"Leave out --definition, and restore each with --stream: {names}."
            if found
            else "Leave out --definition.",
        )
    return found[0]


def disks(
    run: Session,
    held: "Held",
    streams: tuple[StreamRecord, ...],
    *,
    named: bool,
    quiet: bool = False,
) -> tuple[StreamRecord, ...]:
    """Return the streams without the machine's definition, which is told; a `named` one stays.

    So a machine can go where only disks can go. With `quiet` nothing is told.
    """
    if named or not any(stream.kind == "disk" for stream in streams):
        return streams
    for stream in streams:
        if _is_definition(stream) and not quiet:
            run.console.note(
                f'stream "{stream.name}" is the definition of the machine and no disk, and is left '
                f"out; to have it: snapvault restore {held.point.source} --point "
                f"{held.point.point} --stream {stream.name} --to FILE"
            )
    return tuple(stream for stream in streams if not _is_definition(stream))


def require_disks(held: "Held", streams: Sequence[StreamRecord], *, become: str) -> None:
    """Refuse a stream that is no disk.

    Raises:
        RestoreError: there is one; `become` says what it should have become.
    """
    known = [stream.name for stream in held.point.streams if stream.kind == "disk"]
    for stream in streams:
        if stream.kind != "disk":
            raise RestoreError(
                f'stream "{stream.name}" of source "{held.point.source}" is no disk, and cannot '
                f"become {become}",
                hint=f"Choose a disk with --stream: {', '.join(known)}."
                if known
                else "Restore it to a file.",
            )


def definition_files(folder: Path, streams: Sequence[StreamRecord]) -> dict[str, Path]:
    """Return the file for the new definition of each stream that is one; it may not be needed."""
    taken = {stream.name for stream in streams}
    found = {}
    for stream in streams:
        name = stream.name.removesuffix(_DEFINITION) + DOMAIN
        if _is_definition(stream) and name not in taken:
            found[stream.name] = folder / name
    return found


def require_free(folder: Path, streams: Sequence[StreamRecord], *, force: bool) -> None:
    """Refuse to begin where a new definition has no place.

    Raises:
        TargetNotEmptyError: without `force`, a file is there.
    """
    from snapvault.wiring import restoring

    for file in definition_files(folder, streams).values():
        restoring.require_free(file, force=force)


def finish(
    run: Session,
    streams: Sequence[StreamRecord],
    paths: Sequence[Path],
    image_format: str,
    *,
    definitions: Mapping[str, Path],
    force: bool,
    is_device: bool = False,
) -> tuple[list[str], dict[str, Any], list[dict[str, Any]]]:
    """Write the definitions of machines whose disks were restored; tell how to start them.

    `definitions` are the new files, by the streams that were the old ones. `is_device` says that
    the disks are block devices. Returns lines for people, and what programs are told: of all,
    and of each stream.
    """
    placed = list(zip(streams, paths, strict=True))
    lines: list[str] = []
    written: list[dict[str, Any]] = []
    for name, file in definitions.items():
        prefix = name.removesuffix(_DEFINITION)
        text = next(path for stream, path in placed if stream.name == name).read_bytes()
        disks = [
            _restored(stream, path, prefix, image_format, is_device=is_device)
            for stream, path in placed
            if stream.kind == "disk"
        ]
        told = _domain(run, text, name, disks, file, force=force)
        if told is not None:
            lines.append(
                f'definition of domain "{told.name}" with these disks: "{file}"; '
                f"to have the machine again: virsh define {shlex.quote(str(file))}"
            )
            written.append({"domain": told.name, "file": str(file), "left": list(told.left)})
    order, each = _order(placed, image_format)
    return lines + order, {"definitions": written} if written else {}, each


def _domain(
    run: Session,
    text: bytes,
    definition: str,
    disks: "Sequence[RestoredDisk]",
    file: Path,
    *,
    force: bool,
) -> "Rewritten | None":
    """Write a libvirt domain's new definition; None if it is no domain's, or cannot be changed."""
    from snapvault.wiring import restoring

    try:
        told = restoring.write_domain(text, disks, file, force=force)
    except RestoreError as error:
        run.console.warn(
            "machine.definition",
            f'could not change stream "{definition}" to name the restored disks: {error}',
        )
        return None
    if told is None:
        run.console.note(
            f'stream "{definition}" is the command line of the machine, an argument a line: '
            "name the restored disks there to start it"
        )
        return None
    for disk in told.left:
        run.console.warn(
            "machine.disk_left", f'"{file}" has a disk that was not restored, as it was: {disk}'
        )
    for stream in told.unused:
        run.console.warn(
            "machine.disk_unused", f'"{file}" has no disk that is stream "{stream}": add it there'
        )
    if told.has_nvram:
        run.console.warn(
            "machine.nvram",
            f'"{file}" names the variables of UEFI (nvram), which were not saved: libvirt makes '
            "new ones from its template if that file is not there",
        )
    return told


def _restored(
    stream: StreamRecord, path: Path, prefix: str, image_format: str, *, is_device: bool
) -> "RestoredDisk":
    from snapvault.adapters.targets.domain import RestoredDisk

    places = {stream.facts[key] for key in ("file", "device") if key in stream.facts}
    if volume := stream.facts.get("volume"):
        group, _, name = volume.partition("/")
        mapped = "-".join(part.replace("-", "--") for part in (group, name))
        places |= {f"/dev/{volume}", f"/dev/mapper/{mapped}"}
    return RestoredDisk(
        stream.name,
        stream.name.removeprefix(prefix),
        frozenset(places),
        path.absolute(),
        image_format,
        is_device,
    )


def _order(
    placed: Sequence[tuple[StreamRecord, Path]], image_format: str
) -> tuple[list[str], list[dict[str, Any]]]:
    """Tell the disks of an EBS instance in its order, and which it starts from."""
    devices = [(stream, path) for stream, path in placed if stream.facts.get("device")]
    boot = _boot_of([stream for stream, _ in devices])
    each = [
        {"device": stream.facts["device"], "boot": stream is boot}
        if stream.facts.get("device")
        else {}
        for stream, _ in placed
    ]
    if not devices:
        return [], each
    devices.sort(key=lambda row: row[0] is not boot)
    lines = [
        f'disk {number} of the machine: "{path}", which was {stream.facts["device"]}'
        + (", the one that it starts from" if stream is boot else "")
        for number, (stream, path) in enumerate(devices, 1)
    ]
    drives = " ".join(
        "-drive "
        + shlex.quote(
            f"file={str(path.absolute()).replace(',', ',,')},format={image_format},if=virtio"
        )
        for _, path in devices
    )
    return [*lines, f"to start it: qemu-system-x86_64 -m 2048 {drives}"], each


def _boot_of(streams: Sequence[StreamRecord]) -> StreamRecord | None:
    said = [stream for stream in streams if stream.facts.get("boot") == "yes"]
    guessed = [stream for stream in streams if stream.facts.get("device") in _BOOT_DEVICES]
    return next(iter(said or guessed), None)


def _is_definition(stream: StreamRecord) -> bool:
    last = stream.name.rpartition(".")[2]
    return stream.kind == "bytes" and last == _DEFINITION
