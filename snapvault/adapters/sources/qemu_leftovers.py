# SPDX-License-Identifier: Apache-2.0
"""Taking down what a dead run left in a machine, and getting its bitmaps back into use."""

from collections.abc import Mapping, Sequence
from typing import Any

from snapvault.adapters.qmp import Qmp, QmpError
from snapvault.adapters.sources.qemu_disks import Bitmap, MachineDisk, Mark, bitmaps
from snapvault.errors import SourceError
from snapvault.ports.events import Events

Action = dict[str, Any]


def take_down(qmp: Qmp, tag: str) -> bool:
    """Remove our exports, jobs, nodes and file descriptors; tell whether there were any.

    Disks and their bitmaps are as before afterwards; the NBD server goes on. Safe to repeat.
    """
    exports = _ours(qmp.execute("query-block-exports"), "id", tag)
    for export in exports:
        if not export.get("shutting-down"):
            qmp.execute("block-export-del", {"id": export["id"], "mode": "hard"})
    qmp.poll(lambda: not _ours(qmp.execute("query-block-exports"), "id", tag), "end an export")
    jobs = _ours(qmp.execute("query-jobs"), "id", tag)
    for job in jobs:
        if job.get("status") in ("created", "running", "paused", "ready", "standby"):
            _unless_gone(qmp, "block-job-cancel", {"device": job["id"], "force": True})
    qmp.poll(lambda: not _ours(qmp.execute("query-jobs"), "id", tag), "end a backup job")
    nodes = _ours(qmp.execute("query-named-block-nodes", {"flat": True}), "node-name", tag)
    for node in nodes:
        qmp.execute("blockdev-del", {"node-name": node["node-name"]})
    sets = [
        found["fdset-id"]
        for found in qmp.execute("query-fdsets")
        if any(str(each.get("opaque", "")).startswith(tag) for each in found.get("fds", ()))
    ]
    for number in sets:
        _unless_gone(qmp, "remove-fd", {"fdset-id": number})
    return bool(exports or jobs or nodes or sets)


def settle(
    qmp: Qmp,
    tag: str,
    disks: Mapping[str, MachineDisk],
    marks: Mapping[str, str],
    events: Events,
) -> dict[str, Mark]:
    """Leave each disk with the bitmap of its mark alone, recording, and return the usable marks.

    `disks` are by stream name. What a dead run's bitmap noted is merged into the marked one,
    which did not record meanwhile.

    Raises:
        SourceError: a bitmap is in use by somebody.
    """
    found = bitmaps(qmp, tag)
    for bitmap in found:
        if bitmap.busy:
            raise SourceError(
                f'bitmap "{bitmap.name}" of node "{bitmap.node}" is in use',
                hint="Wait until the job or the export in QEMU that uses it has ended.",
            )
    usable: dict[str, Mark] = {}
    chosen = {disk.node: stream for stream, disk in disks.items()}
    for stream, disk in disks.items():
        ours = [bitmap for bitmap in found if bitmap.node == disk.node]
        mark, why = _judge(disk, marks.get(stream), ours)
        if why is not None:
            events.warn(
                "hint.lost",
                f'stream "{stream}" is read in full: {why}',
                stream=stream,
            )
        _transact(qmp, _clear(disk.node, ours, mark))
        if mark is not None:
            usable[stream] = mark
    for bitmap in found:
        if bitmap.node not in chosen:
            # On a disk that is not backed up anymore, or in a backing file that nobody can change.
            _unless_gone(
                qmp, "block-dirty-bitmap-remove", {"node": bitmap.node, "name": bitmap.name}
            )
    return usable


def merged(node: str, into: str, others: Sequence[str]) -> list[Action]:
    """Return the actions that give a bitmap what others noted, set it going and remove them."""
    target = {"node": node, "name": into}
    return [
        _action("block-dirty-bitmap-merge", node=node, target=into, bitmaps=list(others)),
        {"type": "block-dirty-bitmap-enable", "data": target},
        *(removed(node, other) for other in others),
    ]


def removed(node: str, name: str) -> Action:
    """Return the action that removes a bitmap."""
    return _action("block-dirty-bitmap-remove", node=node, name=name)


def _judge(
    disk: MachineDisk, text: str | None, ours: Sequence[Bitmap]
) -> tuple[Mark | None, str | None]:
    """Return the mark if it can be relied upon, and otherwise why not; neither: there was none."""
    if text is None:
        return None, None
    mark = Mark.parse(text)
    if mark is None or mark.identity != disk.identity:
        return None, "another image is behind this disk now"
    bitmap = next((each for each in ours if each.name == mark.bitmap), None)
    if bitmap is None:
        restarted = "" if disk.keeps_bitmaps else "; this format keeps none when QEMU ends"
        return None, f"its dirty bitmap is gone{restarted}"
    if bitmap.inconsistent:
        return None, "its dirty bitmap is inconsistent, QEMU did not end in an orderly way"
    others = [each for each in ours if each.name != mark.bitmap]
    if not bitmap.recording and (
        not others or any(each.inconsistent or not each.recording for each in others)
    ):
        return None, "its dirty bitmap did not record all the time"
    return mark, None


def _clear(node: str, ours: Sequence[Bitmap], mark: Mark | None) -> list[Action]:
    others = [each for each in ours if mark is None or each.name != mark.bitmap]
    marked = next((each for each in ours if mark is not None and each.name == mark.bitmap), None)
    if marked is not None and not marked.recording:
        return merged(node, marked.name, [each.name for each in others])
    return [removed(node, each.name) for each in others]


def _transact(qmp: Qmp, actions: Sequence[Action]) -> None:
    if actions:
        qmp.execute("transaction", {"actions": list(actions)})


def _action(kind: str, **data: object) -> Action:
    return {"type": kind, "data": data}


def _ours(found: Any, key: str, tag: str) -> list[dict[str, Any]]:
    return [each for each in found if str(each.get(key, "")).startswith(tag)]


def _unless_gone(qmp: Qmp, command: str, arguments: Mapping[str, object]) -> None:
    """Run a command that QEMU refuses where there is nothing to do."""
    try:
        qmp.execute(command, arguments)
    except QmpError:
        return
