# SPDX-License-Identifier: Apache-2.0
"""What `snapvault keys` says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapvault import clock
from snapvault.units import format_count, format_size

if TYPE_CHECKING:
    from snapvault.engine.readable import Share
    from snapvault.engine.rekey import Plan
    from snapvault.engine.vault import Inventory, Vault
    from snapvault.model.notes import KeyChange
    from snapvault.ports.sealer import Sealer


@dataclass(frozen=True, slots=True)
class Names:
    """User ids by fingerprint, as far as they are known."""

    known: Mapping[str, str]

    def of(self, key: str) -> str:
        """Return a key as people read it: fingerprint or id, and whose it is."""
        name = self.known.get(key, "")
        return f"{key} {name}" if name else key


def document_of(
    vault: "Vault",
    inventory: "Inventory",
    changes: "Sequence[KeyChange]",
    shares: "Sequence[Share] | None",
    names: Names,
    *,
    is_behind: bool,
) -> dict[str, Any]:
    """Return the keys of a vault as programs read them; `shares` None: nobody knows."""
    sealer = vault.sealer
    hosts = {held.signer for held in inventory.held} | sealer.trusted
    readers = {key for share in shares or () for key in share.keys}
    former = sorted(readers - set(sealer.recipients) - hosts)
    return {
        "vault": vault.name,
        "in_line": not is_behind,
        "recipients": [
            {**_reader(key, shares, names), "since": _since(key, changes)}
            for key in sealer.recipients
        ],
        "former": [_reader(key, shares, names) for key in former],
        "hosts": [_host(key, vault, inventory, names) for key in sorted(hosts)],
    }


def lines_of(document: dict[str, Any]) -> list[str]:
    """Return the same for people."""
    name = document["vault"]
    lines = [
        f'vault "{name}" is in line with the settings'
        if document["in_line"]
        else f'vault "{name}" is not in line with the settings: run "snapvault keys apply {name}"'
    ]
    for reader in document["recipients"]:
        since = f", since {_told(reader['since'])}" if reader["since"] else ""
        lines.append(f"  recipient  {_named(reader)}{since}")
        lines += _opened(reader["points"])
    for reader in document["former"]:
        lines.append(f"  no recipient any more, and opens what it opened  {_named(reader)}")
        lines += _opened(reader["points"])
    for host in document["hosts"]:
        role = "signs here" if host["signs_here"] else "trusted"
        made = format_count(host["points"], "restore point")
        lines.append(f"  host       {_named(host)}, {role}, signed {made}")
    return lines


def applied_lines(
    vault: str, sealer: "Sealer", work: "Plan", names: Names, *, is_rehearsal: bool
) -> list[str]:
    """Say what `keys apply` did, or would do."""
    if work.is_done:
        return [f'vault "{vault}" is in line with the settings: there is nothing to do']
    done = "would be" if is_rehearsal else "was"
    lines = []
    if work.base is not None:
        readers = ", ".join(names.of(key) for key in (*sealer.recipients, sealer.signer))
        lines.append(f"the key for block hashes {done} sealed to {readers}")
    if work.replaced is not None:
        sources = ", ".join(held.point.source for held in work.heads)
        lines.append(
            f"the newest points of {sources} {done} handed over from host {names.of(work.replaced)}"
        )
    lines += [f"public key {names.of(key)} {done} stored" for key in work.keys]
    lines += [
        f"{names.of(key)} can restore what is stored from now on, and the newest points as far as "
        '"snapvault keys list" says; "snapvault backup --full" stores everything again'
        for key in work.added
    ]
    lines += [
        f"{names.of(key)} goes on to open what is stored; nothing new is sealed to it"
        for key in work.removed
    ]
    return [f'vault "{vault}":', *(f"  {line}" for line in lines)]


def _reader(key: str, shares: "Sequence[Share] | None", names: Names) -> dict[str, Any]:
    points = None
    if shares is not None:
        points = [
            {
                "source": share.held.point.source,
                "id": share.held.point.point,
                "data_bytes": share.data_bytes,
                "opened_bytes": share.opened_bytes.get(key, 0),
                "opens_maps": key in share.metadata,
                "restores": share.restores(key),
            }
            for share in shares
        ]
    return {"fingerprint": key, "user_id": names.known.get(key), "points": points}


def _told(since: str) -> str:
    return f"{clock.from_text(since):%Y-%m-%d %H:%M:%S} UTC"


def _since(key: str, changes: "Iterable[KeyChange]") -> str | None:
    """Return when a key became a recipient; None: when the vault was made, as far as it knows."""
    times = [clock.to_text(change.at) for change in changes if key in change.added]
    return max(times, default=None)


def _host(key: str, vault: "Vault", inventory: "Inventory", names: Names) -> dict[str, Any]:
    made = [held for held in inventory.held if held.signer == key and not held.missing]
    newest = max((held.point.taken_at for held in made), default=None)
    return {
        "fingerprint": key,
        "user_id": names.known.get(key),
        "signs_here": key == vault.sealer.signer,
        "points": len(made),
        "newest_at": None if newest is None else clock.to_text(newest),
    }


def _named(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['fingerprint']} {entry['user_id']}" if entry["user_id"] else entry["fingerprint"]
    )


def _opened(points: "Sequence[Mapping[str, Any]] | None") -> list[str]:
    if points is None:
        return []
    whole = [point["source"] for point in points if point["restores"]]
    lines = [f"    restores alone: {', '.join(whole)}"] if whole else []
    for point in points:
        if point["restores"]:
            continue
        if not point["opened_bytes"] and not point["opens_maps"]:
            lines.append(f"    {point['source']}: opens nothing of the newest restore point")
            continue
        # Rounded down: what lacks anything is not 100 %.
        percent = 100 * point["opened_bytes"] // point["data_bytes"] if point["data_bytes"] else 100
        maps = "" if point["opens_maps"] else ", and no map, so it restores nothing of it"
        lines.append(
            f"    {point['source']}: opens {percent} % of the newest restore point's data, "
            f"{format_size(point['opened_bytes'])} of {format_size(point['data_bytes'])}{maps}"
        )
    return lines
