# SPDX-License-Identifier: Apache-2.0
"""A status as metrics, named as Prometheus wants it: base units, the unit in the name."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from snapvault.model.drills import Verdict
from snapvault.model.notices import NotifierStanding
from snapvault.model.objectives import KINDS, RpoState
from snapvault.model.prunes import PruneState
from snapvault.model.runs import RunState
from snapvault.model.status import SourceStatus, Status, VaultStatus
from snapvault.model.verifies import VerifySummary

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
                value = of_vault(vault)
                if value is not None:
                    family.add_metric((vault.name,), value)
            yield family
        yield from self._vaults()
        yield from self._notifiers()

    def _vaults(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "snapvault_vault_requests",
            "What backups, verifies, restores, drills and prunes asked of the store.",
            labels=("vault",),
        )
        for vault in self._status.vaults:
            requests.add_metric((vault.name,), vault.requests)
        yield requests
        yield from self._usage()
        for name, (text, of_verify) in _VERIFIES.items():
            family = GaugeMetricFamily(
                f"snapvault_vault_last_verify_{name}", text, labels=("vault", "level")
            )
            for vault in self._status.vaults:
                for verify in vault.verifies:
                    if verify.source is None:  # of all sources; else it says little of the vault
                        family.add_metric((vault.name, verify.level), of_verify(verify))
            yield family

    def _usage(self) -> Iterator[Metric]:
        by_class = CounterMetricFamily(
            "snapvault_vault_class_requests",
            "The same by what they did, and by how stores bill them: put (PUT, COPY, POST, LIST),"
            " get (GET, HEAD), delete.",
            labels=("vault", "verb", "class"),
        )
        sent = CounterMetricFamily(
            "snapvault_vault_uploaded_bytes",
            "Bytes of objects sent to the store, as far as is known.",
            labels=("vault", "verb"),
        )
        fetched = CounterMetricFamily(
            "snapvault_vault_downloaded_bytes",
            "Bytes of objects fetched from the store, as far as is known.",
            labels=("vault", "verb"),
        )
        for vault in self._status.vaults:
            for verb, usage in sorted(vault.usage.items()):
                counts = {"put": usage.puts, "get": usage.gets, "delete": usage.deletes}
                for name, count in counts.items():
                    by_class.add_metric((vault.name, verb, name), count)
                sent.add_metric((vault.name, verb), usage.bytes_up)
                fetched.add_metric((vault.name, verb), usage.bytes_down)
        yield from (by_class, sent, fetched)

    def _notifiers(self) -> Iterator[Metric]:
        for name, (kind, text, of_notifier) in _NOTIFIERS.items():
            family = kind(f"snapvault_notifier_{name}", text, labels=("notifier",))
            for notifier in self._status.notifiers:
                value = of_notifier(notifier)
                if value is not None:
                    family.add_metric((notifier.name,), value)
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
    "rto_seconds": (
        "How long a recovery may take.",
        lambda source: source.rto.total_seconds() if source.rto else None,
    ),
    "last_drill_timestamp_seconds": (
        "When the last drill ended, in seconds since 1970.",
        lambda source: source.drill.ended.timestamp() if source.drill else None,
    ),
    "last_drill_passed": (
        "Whether the last drill passed; one that was skipped did not.",
        lambda source: int(source.drill.verdict is Verdict.PASSED) if source.drill else None,
    ),
    "last_drill_ready_seconds": (
        "The recovery time that the last drill measured.",
        lambda source: source.drill.seconds_to_ready if source.drill else None,
    ),
    "last_drill_age_seconds": (
        "How old the restore point of the last drill was: the recovery point it measured.",
        lambda source: source.drill.age if source.drill else None,
    ),
    "last_good_drill_timestamp_seconds": (
        "When the last drill that passed ended, in seconds since 1970.",
        lambda source: source.good_drill.ended.timestamp() if source.good_drill else None,
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
_VAULTS: Final[Mapping[str, tuple[str, Callable[[VaultStatus], Number]]]] = {
    "points": ("Restore points in the vault.", lambda vault: vault.points),
    "stored_bytes": (
        "What the restore points of the vault added together.",
        lambda vault: vault.stored,
    ),
    "problem": (
        "Whether the vault could not be looked at.",
        lambda vault: vault.problem is not None,
    ),
    "copy_behind_points": (
        "How many of the newest restore points a vault that is copied to lacks.",
        lambda vault: vault.copy.behind.points if vault.copy else None,
    ),
    "copy_behind_since_timestamp_seconds": (
        "When the oldest of these was taken, in seconds since 1970.",
        lambda vault: (
            since.timestamp() if vault.copy and (since := vault.copy.behind.since) else None
        ),
    ),
    "last_prune_timestamp_seconds": (
        "When the vault was pruned last, in seconds since 1970.",
        lambda vault: vault.pruned_at.timestamp() if vault.pruned_at else None,
    ),
    "last_prune_success": (
        "Whether the last prune neither refused nor failed.",
        lambda vault: int(vault.prune.state is PruneState.DONE) if vault.prune else None,
    ),
    "last_prune_duration_seconds": (
        "How long the last prune took.",
        lambda vault: vault.prune.seconds if vault.prune else None,
    ),
    "last_prune_deleted_bytes": (
        "What the last prune deleted.",
        lambda vault: vault.prune.deleted_bytes if vault.prune else None,
    ),
    "waiting_bytes": (
        "What no restore point needs any more and goes after the grace, by the last prune.",
        lambda vault: vault.prune.waiting_bytes if vault.prune else None,
    ),
    "orphan_bytes": (
        "What dead backups have left and is kept for now, by the last prune.",
        lambda vault: vault.prune.orphan_bytes if vault.prune else None,
    ),
}
_VERIFIES: Final[Mapping[str, tuple[str, Callable[[VerifySummary], float]]]] = {
    "timestamp_seconds": (
        "When the last verify at this level ended, in seconds since 1970.",
        lambda verify: verify.ended.timestamp(),
    ),
    "duration_seconds": (
        "How long the last verify at this level took.",
        lambda verify: verify.seconds,
    ),
    "sample_ratio": (
        "The part of the vault that the last verify at this level looked at.",
        lambda verify: verify.share / 100,
    ),
    "findings": (
        "What the last verify at this level found wrong.",
        lambda verify: verify.findings,
    ),
}
_NotifierFamily = type[GaugeMetricFamily] | type[CounterMetricFamily]
_NOTIFIERS: Final[
    Mapping[str, tuple[_NotifierFamily, str, Callable[[NotifierStanding], Number]]]
] = {
    "up": (
        GaugeMetricFamily,
        "Whether the last attempt to tell this notifier anything went well.",
        lambda notifier: int(notifier.is_up),
    ),
    "waiting": (
        GaugeMetricFamily,
        "Notices that this notifier has still to be told.",
        lambda notifier: notifier.waiting,
    ),
    "delivered": (
        CounterMetricFamily,
        "Notices that were delivered since the daemon started.",
        lambda notifier: notifier.delivered,
    ),
    "failures": (
        CounterMetricFamily,
        "Attempts to deliver a notice that failed since the daemon started.",
        lambda notifier: notifier.failures,
    ),
    "lost": (
        CounterMetricFamily,
        "Notices that were given up, or could not wait, since the daemon started.",
        lambda notifier: notifier.lost + notifier.dropped,
    ),
    "last_success_timestamp_seconds": (
        GaugeMetricFamily,
        "When a notice was delivered last, in seconds since 1970.",
        lambda notifier: notifier.delivered_at.timestamp() if notifier.delivered_at else None,
    ),
    "last_failure_timestamp_seconds": (
        GaugeMetricFamily,
        "When an attempt to deliver a notice failed last, in seconds since 1970.",
        lambda notifier: notifier.failed_at.timestamp() if notifier.failed_at else None,
    ),
}
