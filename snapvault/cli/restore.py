# SPDX-License-Identifier: Apache-2.0
"""`snapvault restore`: bring a source back as it was."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapvault import clock
from snapvault.cli import (
    foreseen,
    in_order,
    points,
    restore_ebs,
    restore_in_place,
    restore_lvm,
    restore_machine,
    restore_new,
    restore_tree,
    target_paths,
    thawing,
)
from snapvault.cli.disks import AtOption
from snapvault.cli.restored import Restored, report
from snapvault.cli.session import Session, session
from snapvault.cli.words import local
from snapvault.errors import (
    IntegrityError,
    KeyMissingError,
    ObjectArchivedError,
    RestoreError,
    SnapVaultError,
)
from snapvault.ports.archive import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from snapvault.adapters.targets.ebs_service import EbsPlace
    from snapvault.adapters.targets.lvm_address import LvmPlace
    from snapvault.engine.vault import Held, Inventory, Vault
    from snapvault.model.point import StreamRecord


def command(  # noqa: PLR0917 - the parser passes them by name
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source to restore.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TARGET",
            help='A file, block device or pipe, or "-" for stdout; for several streams a folder;'
            " lvm:GROUP for new logical volumes, ebs:REGION for new EBS snapshots.",
        ),
    ],
    at: AtOption = None,
    point: Annotated[
        str | None,
        typer.Option(
            "--point",
            metavar="ID",
            help="Restore this point; the beginning of its id is enough.",
            show_default=False,
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="Restore only this stream of a source with several.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATH",
            help="Restore only this file or folder of a folder tree, into the folder TARGET;"
            " can be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace files that exist; overwrite a block device."),
    ] = False,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Make TARGET, which is there, what it was: fetch and write only what differs.",
        ),
    ] = False,
    image_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What disks are written as, in files: raw or qcow2.",
        ),
    ] = restore_machine.RAW,
    definition: Annotated[
        Path | None,
        typer.Option(
            "--definition",
            metavar="FILE",
            help="With lvm:GROUP, where the definition of the machine goes, with the new volumes.",
            show_default=False,
        ),
    ] = None,
    tier: thawing.TierOption = None,
    thaw_days: thawing.DaysOption = thawing.DEFAULT_DAYS,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be fetched and what it costs; write nothing."
        ),
    ] = False,
    vault: Annotated[
        str | None,
        typer.Option(
            "--vault",
            metavar="NAME",
            help="Restore from this vault; needed only if several have the source.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Restore a source as it was: the newest restore point, or the one at a time.

    The secret half of a recovery key must be on this machine, and the public key of the
    host that made the backup; policies are not needed. A source with one stream is restored
    to the file, block device or pipe that TARGET names. One with several is restored to a folder,
    in files named like the streams; a folder that is missing is made.

    A file appears under its name only when all of it is proven to be what was backed up.
    A block device and stdout cannot wait for that: only exit status 0 says that what is
    there is right.

    A folder tree (a source of kind directory) is restored to a file as the tar archive that it is
    stored as, and unpacked if TARGET is a folder, or ends in a slash. With --path only what is
    named is unpacked, with the folders above it: a path relative to the tree, or as it was on the
    machine. What is in the folder already stays; a file of the same name stops the restore, unless
    --force is given. As root, owners and devices come back too.

    A disk is written as a raw image, or with --format qcow2 as a qcow2 image; in a folder
    that is called STREAM.qcow2. With the definition of a libvirt machine among the streams,
    the folder also gets a domain.xml that names the restored disks: virsh define makes the machine.

    With lvm:GROUP each disk becomes a new logical volume SOURCE-STREAM, and with
    lvm:GROUP/NAME the one disk that volume. Behind a question mark, joined by an ampersand:
    thin=POOL makes them in a thin pool, prefix=TEXT replaces SOURCE-. With --force or --in-place
    volumes of these names that are there are overwritten. --definition FILE has the definition.

    With ebs:REGION each disk becomes a new EBS snapshot in that region, rounded up to whole
    GiB. Behind a question mark, joined by ampersands: zone=ZONE also makes a volume of each there
    (volume_type=gp3, gp2, st1, sc1, standard); encrypted=yes and kms_key=ARN encrypt;
    profile=NAME, role=ARN and endpoint=URL say who and where; timeout=6h bounds the wait
    for AWS. An encrypted snapshot takes longer: all of it is written, zeros too.
    A file of such a name is ./ebs:REGION.

    With --in-place a disk that is there, an image file or a block device, is compared block by
    block with the point's checksums, and only the volumes with blocks that differ are fetched.
    A file gets the size that it had; what a larger device has beyond the disk stays. What is
    mounted or in use is refused. While it runs, and after it was interrupted, the disk is half
    restored: a file .NAME.snapvault-restoring beside it says so (for a device, one in the
    state folder), and backups refuse it. Run the same again: it goes on with what still differs.
    Dumps and folder trees cannot be restored in place. --force follows a symbolic link to a
    file, and takes an image that looks like qcow2 for a raw one.

    Volumes that lie in an archive class (GLACIER, DEEP_ARCHIVE) are thawed: all that are needed are
    asked for at once, with what that costs and how long it takes said before, and waited for.
    Interrupted, the same command goes on waiting. --tier says how fast.

    A time without a zone is this machine's local time. Day, minute and second mean their end:
    --at 2026-11-20 includes that night's points.

    Examples:
      snapvault restore web01 --to /srv/restored
      snapvault restore web01 --to /srv/restored --dry-run
      snapvault restore web01 --stream root --to /dev/vg0/new --force
      snapvault restore web01 --stream root --to /dev/vg0/root --in-place
      snapvault restore etc --at yesterday --to - | tar -tf -
      snapvault restore etc --path ssh --path hosts --to /srv/restored/
      snapvault restore web01 --to /srv/web01 --format qcow2
      snapvault restore web01 --to "lvm:vg0?thin=pool0" --definition web01.xml
      snapvault restore web01 --to "ebs:eu-west-1?zone=eu-west-1a&encrypted=yes"
    """
    from snapvault.wiring import runs

    run = session(context)
    if at is not None and point is not None:
        raise typer.BadParameter("name a time or a point, not both", param_hint="--at/--point")
    moment = points.moment_of(at)
    if not to:
        raise typer.BadParameter("expected a path or -, found nothing", param_hint="--to")
    if to == in_order.STDOUT:
        _check_stdout(run, force=force)
    place = restore_ebs.place_of(to, path)
    volumes = restore_lvm.place_of(to, path)
    is_path = place is None and volumes is None and to != in_order.STDOUT
    if is_path:
        target_paths.require_path(to, places=("lvm", "ebs"))
    chosen = _one_of(stream or [])
    restore_machine.require_format(image_format, is_file=is_path and not path, in_place=in_place)
    if definition is not None and (volumes is None or in_place or chosen is not None):
        raise typer.BadParameter(
            "only a whole machine that goes to new logical volumes needs a file for it",
            param_hint="--definition",
        )
    if in_place:
        restore_in_place.require_possible(to, is_ebs=place is not None, paths=path)
    started = clock.monotonic()
    name = points.find_vault(run, vault, source)
    with (
        run.open(name) as opened,
        runs.counting_requests(
            run.settings, opened, run.console, verb="cost" if dry_run else "restore"
        ),
    ):
        held = _choose(run, opened, source, moment, point)
        streams = _streams(held, chosen)
        if dry_run:
            foreseen.restore(run, opened, held, streams, is_bound=in_place or bool(path))
            return
        run.console.subject = source
        wish = _Wish(
            to,
            place,
            volumes,
            path or (),
            image_format,
            definition,
            in_place,
            force,
            chosen,
            tier,
            thaw_days,
        )
        try:
            done = _thawed(run, opened, held, streams, wish)
        except KeyMissingError as error:
            raise _without_key(error, opened) from error
    report(run, name, held, done, started)


@dataclass(frozen=True, slots=True)
class _Wish:
    """Where to restore to, and how; `place` and `volumes` are what `to` says of EBS and LVM."""

    to: str
    place: "EbsPlace | None"
    volumes: "LvmPlace | None"
    path: "Sequence[str]"
    image_format: str
    definition: Path | None
    in_place: bool
    force: bool
    stream: str | None
    tier: Tier | None
    thaw_days: int


def _thawed(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    wish: _Wish,
) -> Restored:
    """Restore; where volumes lie in an archive, ask for all that are needed, and wait."""
    from snapvault.wiring import restoring

    def thaw() -> None:
        tier = wish.tier or Tier.STANDARD
        thawing.thaw(run, vault, held, streams, tier=tier, days=wish.thaw_days)

    if thawing.is_likely(run, vault.name, wish.tier):
        thaw()
        return _bring_back(run, vault, held, streams, wish)
    try:
        return _bring_back(run, vault, held, streams, wish)
    except ObjectArchivedError as error:
        is_path = wish.place is None and wish.volumes is None
        if wish.to == in_order.STDOUT or (
            is_path and restoring.target_kind(Path(wish.to)) == "stream"
        ):
            raise thawing.in_vain(error) from error
        thaw()
        return _bring_back(run, vault, held, streams, wish)


def _bring_back(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    wish: _Wish,
) -> Restored:
    """Restore in the way that the wish asks for."""
    named, force = wish.stream is not None, wish.force
    if wish.place is not None:
        return restore_ebs.restore(run, vault, held, streams, wish.place, named=named)
    if wish.volumes is not None:
        return restore_lvm.restore(
            run,
            vault,
            held,
            streams,
            wish.volumes,
            named=named,
            in_place=wish.in_place,
            force=force,
            definition=wish.definition,
        )
    if wish.in_place:
        return restore_in_place.restore(
            run, vault, held, streams, wish.to, named=named, force=force
        )
    if paths := restore_tree.wanted(held, streams, wish.to, wish.path):
        return restore_tree.restore(run, vault, held, streams, wish.to, paths, force=force)
    return _restore(run, vault, held, streams, wish.to, wish.image_format, named=named, force=force)


def _one_of(names: list[str]) -> str | None:
    """Return the stream that was named; with several somebody expects them all."""
    if len(set(names)) > 1:
        raise typer.BadParameter(
            f"expected one stream, found {len(names)}: restore one after the other, or leave it"
            " out to restore all",
            param_hint="--stream",
        )
    return names[0] if names else None


def _check_stdout(run: Session, *, force: bool) -> None:
    import sys

    if run.json:
        raise typer.BadParameter(
            "stdout takes either the data or the report: leave out --json", param_hint="--to"
        )
    if sys.__stdout__ is None:
        raise RestoreError(
            "cannot restore to stdout: it is closed", hint="Send it into a file or a program."
        )
    if sys.stdout.isatty() and not force:
        raise typer.BadParameter(
            "stdout is a terminal, and the data are bytes: send them into a file or a program,"
            " or use --force",
            param_hint="--to",
        )


def _choose(
    run: Session, vault: "Vault", source: str, moment: "datetime | None", point: str | None
) -> "Held":
    from snapvault.engine import vault as vaults
    from snapvault.model import selection

    inventory: Inventory = vaults.sync(vault, source)
    held = inventory.of(source)
    if not held and not inventory.problems:
        known = vaults.sync(vault).sources()
        raise points.no_such_source(source, known, vault.name)
    if point is None and moment is None and inventory.problems:
        raise IntegrityError(
            f'cannot tell which restore point of source "{source}" is the newest: '
            f"{inventory.problems[0]}",
            hint=f'Look at "snapvault list {source}", then choose with --point or --at.',
        )
    points.warn_of_problems(run, inventory)
    there = [each.point for each in held]
    if point is not None:
        chosen = selection.by_id(there, point.lower(), source)
    elif moment is not None:
        chosen = selection.at(there, source, moment)
    else:
        chosen = selection.newest(there, source)
    return next(each for each in held if each.point is chosen)


def _streams(held: "Held", wanted: str | None) -> "tuple[StreamRecord, ...]":
    if wanted is None:
        return held.point.streams
    found = held.point.stream(wanted)
    if found is None:
        from snapvault.config.problems import nearest_hint, quoted

        names = [stream.name for stream in held.point.streams]
        hint = nearest_hint(wanted, names, what="streams")
        raise RestoreError(
            f'source "{held.point.source}" has no stream {quoted(wanted)} at restore point '
            f"{held.point.point}; its streams are: {', '.join(names)}",
            hint=hint if hint and hint.startswith("Did") else None,
        )
    return (found,)


def _restore(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    to: str,
    image_format: str,
    *,
    named: bool,
    force: bool,
) -> Restored:
    """Restore to a file, a device or what takes bytes in order; or several streams to a folder."""
    from snapvault.wiring import restoring

    as_file = named or len(streams) == 1
    kind = "stream" if to == in_order.STDOUT else restoring.target_kind(Path(to))
    if as_file:
        _refuse_folder(held, streams[0], to, kind)
        if image_format != restore_machine.RAW:
            restore_machine.require_disks(held, streams, become=f"a {image_format} image")
    elif kind not in {"folder", "missing"}:
        raise RestoreError(
            f'source "{held.point.source}" has {len(streams)} streams, which need a folder: '
            f'"{to}" is {"stdout" if to == in_order.STDOUT else f"a {kind}"}',
            hint="Name a folder, or choose one with --stream: "
            + ", ".join(stream.name for stream in streams)
            + ".",
        )
    run.console.note(
        f'restoring source "{held.point.source}" from restore point {held.point.point}, '
        f"taken {local(held.point.taken_at)}"
    )
    if as_file and kind == "stream" and image_format == restore_machine.RAW:
        in_order.restore(run, vault, held, streams, to)
        return Restored(streams, [to])
    return _to_files(run, vault, held, streams, to, image_format, as_file=as_file, force=force)


def _to_files(
    run: Session,
    vault: "Vault",
    held: "Held",
    streams: "tuple[StreamRecord, ...]",
    to: str,
    image_format: str,
    *,
    as_file: bool,
    force: bool,
) -> Restored:
    from snapvault.engine.contents import look_up

    folder = None if as_file else Path(to)
    paths = [Path(to)]
    if folder is not None:
        paths = [folder / restore_machine.file_name(stream, image_format) for stream in streams]
        restore_machine.require_free(folder, streams, force=force)
    formats = [restore_machine.format_of(stream, image_format) for stream in streams]
    contents = look_up(vault, held.point, streams)
    restore_new.restore(run, vault, contents, paths, folder=folder, force=force, formats=formats)
    done = Restored(streams, [str(path) for path in paths])
    if folder is not None:
        files = restore_machine.definition_files(folder, streams)
        done.lines, done.document, done.each = restore_machine.finish(
            run, streams, paths, image_format, definitions=files, force=force
        )
    return done


def _refuse_folder(held: "Held", stream: "StreamRecord", to: str, kind: str) -> None:
    if kind == "folder" or to.endswith("/"):
        raise RestoreError(
            f'cannot restore stream "{stream.name}" of source "{held.point.source}" to "{to}": '
            "it is a folder, a file is meant",
            hint=f'Name a file in it, such as "{Path(to) / f"{held.point.source}-{stream.name}"}".',
        )


def _without_key(error: SnapVaultError, vault: "Vault") -> KeyMissingError:
    readers = ", ".join(vault.sealer.recipients)
    return KeyMissingError(
        f'cannot open the data of vault "{vault.name}" on this machine: {error}',
        hint="That is how it should be on a backup host. Restore on a machine whose gnupg_home has "
        f"the secret half of a recovery key: {readers}.",
    )
