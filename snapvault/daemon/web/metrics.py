# SPDX-License-Identifier: Apache-2.0
"""A status as metrics, named as Prometheus wants it: base units, the unit in the name."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from snapvault.model.objectives import KINDS, RpoState
from snapvault.model.runs import RunState
from snapvault.model.status import SourceStatus, Status, VaultStatus

Number = float | int | None


def metrics(status: Status, accept: str) -> tuple[bytes, str]:
    """Return all metrics in the format that an `Accept` header asks for, and its media type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class StatusCollector(Collector):
    """Gives the metrics of one status. What is not known is left out, never zero."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._host()
        for name, (text, of_source) in _SOURCES.items():
            family = GaugeMetricFamily(
                f"snapvault_source_{name}", text, labels=("vault", "source", "policy")
            )
            for source in self._status.sources:
                value = of_source(source)
                if value is not None:
                    labels = (source.key.vault, source.key.source, source.policy)
                    family.add_metric(labels, value)
            yield family
        for name, (text, of_vault) in _VAULTS.items():
            family = GaugeMetricFamily(f"snapvault_vault_{name}", text, labels=("vault",))
            for vault in self._status.vaults:
                family.add_metric((vault.name,), of_vault(vault))
            yield family

    def _host(self) -> Iterator[Metric]:
        status = self._status
        yield InfoMetricFamily(
            "snapvault_daemon",
            "The daemon and where it runs.",
            value={"version": status.version, "host": status.host},
        )
        if status.daemon_since is not None:
            yield GaugeMetricFamily(
                "snapvault_daemon_start_time_seconds",
                "Since when the daemon has been up, in seconds since 1970.",
                status.daemon_since.timestamp(),
            )
        yield GaugeMetricFamily(
            "snapvault_status_timestamp_seconds",
            "When what is told here was found out, in seconds since 1970.",
            status.at.timestamp(),
        )
        yield GaugeMetricFamily("snapvault_sources", "Sources in policies.", len(status.sources))
        yield GaugeMetricFamily(
            "snapvault_problems",
            "What keeps this status from being complete: vaults, histories that cannot be read.",
            len(status.problems),
        )
        alarms = GaugeMetricFamily(
            "snapvault_alarms", "Alarms that are up, by what they are about.", labels=("kind",)
        )
        counts = Counter(alarm.kind for alarm in status.alarms)
        for kind in (*KINDS, *sorted(set(counts) - set(KINDS))):
            alarms.add_metric((kind,), counts[kind])
        yield alarms


def _rpo_breached(source: SourceStatus) -> Number:
    rpo = source.verdict.rpo
    return None if rpo is RpoState.NONE else int(rpo is RpoState.BREACHED)


def _counter(name: str) -> Callable[[SourceStatus], Number]:
    return lambda source: source.success.counters.get(name) if source.success else None


_SOURCES: Final[Mapping[str, tuple[str, Callable[[SourceStatus], Number]]]] = {
    "last_success_timestamp_seconds": (
        "When the last successful run ended, in seconds since 1970.",
        lambda source: (
            source.success.ended.timestamp() if source.success and source.success.ended else None
        ),
    ),
    "last_run_timestamp_seconds": (
        "When the last run that is over ended, in seconds since 1970.",
        lambda source: source.last.ended.timestamp() if source.last and source.last.ended else None,
    ),
    "last_run_duration_seconds": (
        "How long the last run that is over took.",
        lambda source: source.last.seconds if source.last else None,
    ),
    "last_run_success": (
        "Whether the last run that is over made a restore point.",
        lambda source: int(source.last.state is RunState.SUCCEEDED) if source.last else None,
    ),
    "running": (
        "Whether the source is being backed up.",
        lambda source: int(source.running is not None),
    ),
    "read_bytes": (
        "What the last successful run read of the source.",
        _counter("read_bytes"),
    ),
    "changed_bytes": (
        "What the last successful run found changed.",
        _counter("changed_bytes"),
    ),
    "new_volumes": (
        "Volumes that the last successful run stored.",
        _counter("new_volumes"),
    ),
    "size_bytes": (
        "The size of the source at its newest restore point.",
        lambda source: source.newest.size if source.newest else None,
    ),
    "stored_bytes": (
        "What the newest restore point added to the vault.",
        lambda source: source.newest.stored if source.newest else None,
    ),
    "newest_point_timestamp_seconds": (
        "When the newest restore point was taken, in seconds since 1970.",
        lambda source: source.newest.taken_at.timestamp() if source.newest else None,
    ),
    "age_seconds": (
        "How old the newest restore point is.",
        lambda source: source.verdict.age,
    ),
    "rpo_seconds": (
        "How old the newest restore point may become.",
        lambda source: source.rpo.total_seconds() if source.rpo else None,
    ),
    "rpo_breached": (
        "Whether the newest restore point is older than it may be, or there is none.",
        _rpo_breached,
    ),
    "alarms": (
        "Alarms of the source that are up.",
        lambda source: len(source.alarms),
    ),
    "next_start_timestamp_seconds": (
        "When the source is backed up next, in seconds since 1970.",
        lambda source: source.next_start.timestamp() if source.next_start else None,
    ),
}
_VAULTS: Final[Mapping[str, tuple[str, Callable[[VaultStatus], float]]]] = {
    "points": ("Restore points in the vault.", lambda vault: vault.points),
    "stored_bytes": (
        "What the restore points of the vault added together.",
        lambda vault: vault.stored,
    ),
    "problem": (
        "Whether the vault could not be looked at.",
        lambda vault: vault.problem is not None,
    ),
}
