# SPDX-License-Identifier: Apache-2.0
"""Bringing into overlays, while a machine runs, what they lie over."""

from dataclasses import dataclass
from typing import Any

from snapvault.adapters.qmp import Qmp
from snapvault.errors import MachineError, SourceError


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far a disk is: bytes looked at, of how many; whether it needs nothing else any more."""

    done: int
    total: int
    is_whole: bool
    is_at_work: bool


class Fetching:
    """The jobs that fetch. Safe from several threads."""

    def __init__(self, qmp: Qmp, disks: int) -> None:
        self._qmp = qmp
        self._disks = disks

    def start(self, disk: int) -> None:
        """Begin, or go on after a failure; what is there is not fetched again.

        Raises:
            MachineError: QEMU refuses.
        """
        arguments = {"device": f"disk{disk}", "job-id": f"fetch{disk}", "on-error": "report"}
        try:
            self._qmp.execute("block-stream", arguments)
        except SourceError as error:
            raise MachineError(f"could not fetch in the background: {error}") from error

    def state(self) -> list[Fetched]:
        """Tell how far each disk is.

        Raises:
            MachineError: QEMU does not say.
        """
        try:
            jobs = {job["device"]: job for job in self._qmp.execute("query-block-jobs")}
            nodes = {
                node["node-name"]: node for node in self._qmp.execute("query-named-block-nodes")
            }
        except SourceError as error:
            raise MachineError(f"could not see what is fetched: {error}") from error
        return [
            _state(jobs.get(f"fetch{number}"), nodes[f"disk{number}"])
            for number in range(self._disks)
        ]


def _state(job: dict[str, Any] | None, node: dict[str, Any]) -> Fetched:
    size = int(node["image"]["virtual-size"])
    is_whole = job is None and not node.get("backing_file")
    if job is None:
        return Fetched(size if is_whole else 0, size, is_whole=is_whole, is_at_work=False)
    return Fetched(int(job["offset"]), int(job["len"]), is_whole=False, is_at_work=True)
