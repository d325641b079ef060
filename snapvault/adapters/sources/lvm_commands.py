# SPDX-License-Identifier: Apache-2.0
"""Every program that the LVM source runs: lvs, lvcreate, lvchange, lvremove.

LVM is asked for JSON, in bytes, and for 1 and 0 where it would write words. What it writes to
stderr while it succeeds are warnings to its administrator, and no failure of ours.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from snapvault.adapters import command
from snapvault.errors import SourceError

PROGRAMS: Final = ("lvs", "vgs", "lvcreate", "lvchange", "lvremove", "dmsetup")

_SECONDS: Final = 600.0  # a program that takes longer waits for something that does not come
_FIELDS: Final = (
    "lv_uuid,lv_name,lv_size,lv_dm_path,lv_active_locally,lv_kernel_major,lv_kernel_minor,"
    "lv_layout,lv_role,lv_tags,lv_permissions,lv_suspended,lv_merging,lv_health_status,lv_check_needed,"
    "lv_snapshot_invalid,data_percent,metadata_percent,pool_lv_uuid,thin_id,chunk_size,"
    "metadata_lv_uuid,vg_name,vg_free,vg_extent_size"
)


def environment() -> dict[str, str]:
    """Return what is added to the environment of LVM's programs.

    They lie in folders that the path of a service or a plain user may lack.
    """
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": f"{path}:/usr/sbin:/sbin", "LVM_SUPPRESS_FD_WARNINGS": "1"}


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume as LVM describes it; sizes are in bytes.

    `device` is its major and minor number, None unless it is active on this host. `pool` is the
    UUID of a thin volume's pool, `metadata` that of a pool's metadata; None for all others.
    Of a thick snapshot, `size` is its copy-on-write space.
    """

    group: str
    name: str
    uuid: str
    size: int
    path: str
    device: tuple[int, int] | None
    layout: frozenset[str] = frozenset()
    role: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    is_read_only: bool = False
    is_suspended: bool = False
    is_merging: bool = False
    is_invalid: bool = False
    needs_check: bool = False
    health: str = ""
    data_percent: float | None = None
    metadata_percent: float | None = None
    pool: str | None = None
    thin_id: int | None = None
    chunk_size: int = 0
    metadata: str | None = None
    group_free: int = 0
    extent_size: int = 1

    @property
    def full_name(self) -> str:
        """The name as LVM's programs take it: `group/volume`."""
        return f"{self.group}/{self.name}"

    @property
    def is_thin(self) -> bool:
        """Whether it lives in a thin pool."""
        return self.pool is not None


def list_volumes() -> list[Volume]:
    """Return all logical volumes of all groups, hidden ones too.

    Raises:
        SourceError: lvs is missing, or could not look.
    """
    argv = ["lvs", "-a", "--binary", "--reportformat", "json", "--units", "b", "--nosuffix"]
    return [_volume(row) for row in _report([*argv, "-o", _FIELDS], "lv")]


def list_groups() -> list[str]:
    """Return the names of all volume groups.

    Raises:
        SourceError: vgs is missing, or could not look.
    """
    rows = _report(["vgs", "--reportformat", "json", "-o", "vg_name"], "vg")
    return [_text(row, "vg_name") for row in rows]


def create_thick_snapshot(origin: Volume, name: str, size: int, tags: Iterable[str]) -> None:
    """Snapshot a thick volume, which LVM suspends for a moment, with `size` bytes for old data.

    Raises:
        SourceError: LVM refuses.
    """
    _create(origin, name, tags, ["--permission", "r", "--size", f"{size}b"])


def create_thin_snapshot(
    origin: Volume, name: str, tags: Iterable[str], *, is_active: bool
) -> None:
    """Snapshot a thin volume, which LVM suspends for a moment.

    The snapshot is not activated with its group when the host starts, where it would look
    like its origin to whoever finds file systems by their label.

    Raises:
        SourceError: LVM refuses.
    """
    active = ["--ignoreactivationskip", "--activate", "y"] if is_active else ["--activate", "n"]
    options = ["--permission", "r", "--setactivationskip", "y", *active]
    _create(origin, name, tags, options)


def activate(names: Sequence[str]) -> None:
    """Make devices for thin snapshots, by their full names.

    Raises:
        SourceError: LVM refuses.
    """
    done = _change(["lvchange", "--activate", "y", "--ignoreactivationskip", *names])
    _require(done, f"could not activate {_listed(names)}")


def deactivate(volumes: Iterable[Volume]) -> None:
    """Take the devices of snapshots away; nobody has them open.

    Raises:
        SourceError: LVM refuses one; all others have none.
    """
    names = [volume.full_name for volume in volumes]
    if names:
        done = _change(["lvchange", "--activate", "n", *names])
        _require(done, f"could not deactivate {_listed(names)}")


def remove(volumes: Iterable[Volume]) -> None:
    """Remove snapshots; those that are gone already are no failure.

    Raises:
        SourceError: LVM refuses one; all others are removed.
    """
    names = {volume.uuid: volume.full_name for volume in volumes}
    if not names:
        return
    done = _change(["lvremove", "--yes", *names.values()])  # goes on after one that fails
    if not done.status:
        return
    left = [names[volume.uuid] for volume in list_volumes() if volume.uuid in names]
    if left:
        raise SourceError(
            f"could not remove snapshot {_listed(left)}: {_reason(done)}",
            hint=_hint_of_rights()
            or "The next backup removes it; or find out who uses it, and run"
            f' "lvremove {left[0]}".',
        )


def tag(volume: Volume, name: str) -> None:
    """Put a tag on a volume; one that it has already is no failure.

    Raises:
        SourceError: LVM refuses.
    """
    done = _change(["lvchange", "--addtag", name, volume.full_name])
    _require(done, f'could not tag "{volume.full_name}"')


def untag(volume: Volume, name: str) -> None:
    """Take a tag off a volume.

    Raises:
        SourceError: LVM refuses.
    """
    done = _change(["lvchange", "--deltag", name, volume.full_name])
    _require(done, f'could not remove a tag of "{volume.full_name}"')


def require_programs() -> None:
    """Check that LVM's programs are there.

    Raises:
        SourceError: one is not.
    """
    for program in PROGRAMS:
        _require_program(program)


def _create(origin: Volume, name: str, tags: Iterable[str], options: Sequence[str]) -> None:
    tagged = [word for each in sorted(tags) for word in ("--addtag", each)]
    argv = ["lvcreate", "--yes", "--snapshot", "--name", name, *tagged, *options]
    # Another volume may be suspended by us: looking for physical volumes on it would never end.
    argv += ["--config", "devices/ignore_suspended_devices=1", origin.full_name]
    done = _change(argv)
    _require(done, f'could not snapshot logical volume "{origin.full_name}"')


def _change(argv: Sequence[str]) -> command.Finished:
    """Run a program that changes something.

    SAFETY: run whole. Killed half-way, it would leave suspended what it has suspended, and whoever
    uses that would wait for ever.
    """
    _require_program(argv[0])
    return command.run_whole(argv, environment=environment(), timeout=_SECONDS, check=False)


def _require_program(program: str) -> None:
    try:
        command.require([program], environment=environment())
    except SourceError as error:
        package = "dmsetup" if program == "dmsetup" else "lvm2"
        raise SourceError(
            str(error), hint=f'Install package "{package}", on the host that has the volumes.'
        ) from error


def _require(done: command.Finished, failure: str) -> None:
    if done.status:
        raise SourceError(f"{failure}: {_reason(done)}", hint=_hint_of_rights())


def _hint_of_rights() -> str | None:
    return None if os.geteuid() == 0 else "Run as root: LVM lets nobody else do this."


def _reason(done: command.Finished) -> str:
    """Return what LVM said about a failure, without its warnings about other things."""
    lines = [" ".join(line.split()) for line in done.stderr.decode(errors="replace").splitlines()]
    told = [line.rstrip(".") for line in lines if line and not line.startswith("WARNING")]
    text = "; ".join(told[-3:])
    printable = "".join(character if character.isprintable() else "?" for character in text)
    if not printable:
        return f"exit status {done.status}"
    return printable[0].lower() + printable[1:400]


def _report(argv: Sequence[str], kind: str) -> list[Mapping[str, Any]]:
    """Return the rows of a report.

    A group that LVM cannot look into makes its exit status a failure; the others
    are in the report all the same, and what is missing is missed by whoever looks for it.
    """
    _require_program(argv[0])
    done = command.run(argv, environment=environment(), timeout=_SECONDS, check=False)
    try:
        found = json.loads(done.stdout)
        rows = [row for part in found["report"] for row in part.get(kind, [])]
        if done.status == 0 or rows:
            return rows
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if done.status == 0:
            raise _not_understood(argv[0]) from error
    raise SourceError(
        f'program "{argv[0]}" could not look: {_reason(done)}', hint=_hint_of_rights()
    )


def _not_understood(program: str) -> SourceError:
    return SourceError(
        f'program "{program}" answers what we do not understand',
        hint="SnapVault needs LVM 2.02.171 or newer.",
    )


def _volume(row: Mapping[str, Any]) -> Volume:
    major, minor = _number(row, "lv_kernel_major"), _number(row, "lv_kernel_minor")
    layout = _words(row, "lv_layout")
    return Volume(
        group=_text(row, "vg_name"),
        name=_text(row, "lv_name").strip("[]"),
        uuid=_text(row, "lv_uuid"),
        size=_number(row, "lv_size") or 0,
        path=_text(row, "lv_dm_path"),
        device=None if major is None or minor is None or major < 0 else (major, minor),
        layout=layout,
        role=_words(row, "lv_role"),
        tags=_words(row, "lv_tags"),
        is_read_only=_text(row, "lv_permissions") == "read-only",
        is_suspended=_text(row, "lv_suspended") == "1",
        is_merging=_text(row, "lv_merging") == "1",
        is_invalid=_text(row, "lv_snapshot_invalid") == "1",
        needs_check=_text(row, "lv_check_needed") == "1",
        health=_text(row, "lv_health_status"),
        data_percent=_percent(row, "data_percent"),
        metadata_percent=_percent(row, "metadata_percent"),
        # A cached volume has a pool too, of its cache; it is thick all the same.
        pool=(_text(row, "pool_lv_uuid") or None) if "thin" in layout else None,
        thin_id=_number(row, "thin_id"),
        chunk_size=_number(row, "chunk_size") or 0,
        metadata=_text(row, "metadata_lv_uuid") or None,
        group_free=_number(row, "vg_free") or 0,
        extent_size=_number(row, "vg_extent_size") or 1,
    )


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        raise _not_understood("lvs")
    return str(value)


def _words(row: Mapping[str, Any], field: str) -> frozenset[str]:
    """Return a list; newer releases of LVM may give it as one, older ones as text."""
    value = row.get(field)
    words = value if isinstance(value, list) else _text(row, field).split(",")
    return frozenset(str(word) for word in words if word)


def _number(row: Mapping[str, Any], field: str) -> int | None:
    text = _text(row, field)
    try:
        return int(text) if text else None
    except ValueError as error:
        raise _not_understood("lvs") from error


def _percent(row: Mapping[str, Any], field: str) -> float | None:
    text = _text(row, field)
    try:
        return float(text) if text else None
    except ValueError as error:
        raise _not_understood("lvs") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
