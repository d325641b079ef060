# SPDX-License-Identifier: Apache-2.0
"""Every program that makes logical volumes for restores: vgs, lvs, lvcreate, lvrename, lvremove.

LVM is asked for JSON, in bytes. What it writes to stderr while it succeeds are warnings to its
administrator, and no failure of ours.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from snapvault.adapters import command
from snapvault.errors import RestoreError, SourceError

TAG: Final = "snapvault.restoring"
"""The tag of a volume that is not all there yet."""

_SECONDS: Final = 600.0  # a program that takes longer waits for something that does not come


@dataclass(frozen=True, slots=True)
class Group:
    """A volume group; sizes in bytes."""

    name: str
    free: int
    extent: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume; sizes in bytes. `used_percent` and `chunk` are those of a thin pool."""

    group: str
    name: str
    size: int
    device: str
    layout: frozenset[str]
    tags: frozenset[str]
    used_percent: float
    chunk: int

    @property
    def full_name(self) -> str:
        """The name as LVM's programs take it: `group/volume`."""
        return f"{self.group}/{self.name}"

    @property
    def is_thin_pool(self) -> bool:
        """Whether thin volumes can be made in it."""
        return {"thin", "pool"} <= self.layout


def list_groups() -> list[Group]:
    """Return all volume groups.

    Raises:
        RestoreError: vgs is missing, or could not look.
    """
    rows = _report("vgs", "vg", "vg_name,vg_free,vg_extent_size")
    return [
        Group(str(row["vg_name"]), _number(row, "vg_free"), _number(row, "vg_extent_size"))
        for row in rows
    ]


def list_volumes(group: str) -> dict[str, Volume]:
    """Return the logical volumes of a group by their names, hidden ones too.

    Raises:
        RestoreError: lvs is missing, or could not look.
    """
    fields = "lv_name,lv_size,lv_dm_path,lv_layout,lv_tags,data_percent,chunk_size"
    volumes = [_volume(group, row) for row in _report("lvs", "lv", fields, "-a", group)]
    return {volume.name: volume for volume in volumes}


def create(group: str, name: str, size: int, *, pool: str | None) -> None:
    """Make a volume of at least `size` bytes, whole sectors, tagged; in a thin pool, or linear.

    Raises:
        RestoreError: LVM refuses.
    """
    kind = ["--type", "linear", "--size", f"{size}b", group]
    if pool is not None:
        kind = ["--type", "thin", "--virtualsize", f"{size}b", f"{group}/{pool}"]
    # What a linear one finds on its disks is overwritten, so that no signature there counts.
    argv = ["lvcreate", "--yes", "--wipesignatures", "n", "--addtag", TAG, "--name", name, *kind]
    _change(argv, f'could not make logical volume "{group}/{name}"')


def untag(volume: str) -> None:
    """Take the tag off a volume, by its full name.

    Raises:
        RestoreError: LVM refuses.
    """
    _change(["lvchange", "--deltag", TAG, volume], f'could not take the tag off "{volume}"')


def rename(group: str, old: str, new: str) -> None:
    """Give a volume another name; never one that another has.

    Raises:
        RestoreError: LVM refuses.
    """
    failure = f'could not rename logical volume "{group}/{old}" to "{new}"'
    _change(["lvrename", group, old, new], failure)


def remove(volume: str) -> None:
    """Remove a volume, by its full name; LVM refuses one that is open.

    Raises:
        RestoreError: LVM refuses.
    """
    _change(["lvremove", "--yes", volume], f'could not remove logical volume "{volume}"')


def _change(argv: Sequence[str], failure: str) -> None:
    """Run a program that changes something; whole, so that LVM is never left half-way."""
    try:
        done = command.run_whole(argv, environment=_environment(), timeout=_SECONDS, check=False)
    except SourceError as error:
        raise _missing(error) from error
    if done.status:
        raise RestoreError(f"{failure}: {_reason(done)}", hint=_hint_of_rights())


def _report(program: str, kind: str, fields: str, *more: str) -> list[Mapping[str, Any]]:
    argv = [program, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields, *more]
    try:
        done = command.run(argv, environment=_environment(), timeout=_SECONDS, check=False)
    except SourceError as error:
        raise _missing(error) from error
    # vgs fails if one group of several has a fault, and tells of the others all the same.
    if done.status and not done.stdout.strip():
        raise RestoreError(
            f'program "{program}" could not look: {_reason(done)}', hint=_hint_of_rights()
        )
    try:
        found = json.loads(done.stdout)
        return [row for part in found["report"] for row in part.get(kind, [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RestoreError(f'program "{program}" answers what we do not understand') from error


def _environment() -> dict[str, str]:
    """Return what is added to the environment: LVM's folders may be missing in a user's path."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": f"{path}:/usr/sbin:/sbin", "LVM_SUPPRESS_FD_WARNINGS": "1"}


def _missing(error: SourceError) -> RestoreError:
    hint = error.hint or 'Install package "lvm2".'
    return RestoreError(f"cannot restore to LVM: {error}", hint=hint)


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


def _volume(group: str, row: Mapping[str, Any]) -> Volume:
    return Volume(
        group=group,
        name=str(row["lv_name"]).strip("[]"),
        size=_number(row, "lv_size"),
        device=str(row["lv_dm_path"]),
        layout=_words(row["lv_layout"]),
        tags=_words(row["lv_tags"]),
        used_percent=float(row["data_percent"] or 0),
        chunk=_number(row, "chunk_size"),
    )


def _number(row: Mapping[str, Any], field: str) -> int:
    return int(row[field] or 0)


def _words(value: object) -> frozenset[str]:
    """Return a list; newer releases of LVM may give it as one, older ones as text."""
    words = value if isinstance(value, list) else str(value).split(",")
    return frozenset(str(word) for word in words if word)
