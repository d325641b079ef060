# SPDX-License-Identifier: Apache-2.0
"""Metrics, read back by Prometheus' own readers."""

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from snapvault.daemon.web.metrics import metrics
from snapvault.model.objectives import KINDS, RpoState
from snapvault.model.status import Status
from snapvault.units import GIB, MIB
from tests.support.status_builder import (
    NOW,
    a_source,
    a_status,
    breached,
    burning_host,
    empty_host,
    failing,
    large_host,
    never,
    quiet_host,
    rehearsed_host,
    running,
)

LABELS = ("vault", "level", "source", "policy", "notifier", "kind", "host", "version")


def read(status: Status) -> dict[tuple[str, ...], float]:
    """Return samples by name and the values of their labels."""
    body, _ = metrics(status, "")
    return {
        (
            sample.name,
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_a_source_tells_when_it_succeeded_what_that_took_and_how_it_stands() -> None:
    source = a_source()
    assert source.newest is not None

    samples = read(a_status(source))

    of_source = {
        name.removeprefix("snapvault_source_"): value
        for (name, *labels), value in samples.items()
        if labels == ["offsite", "web01", "nightly"]
    }
    assert of_source == {
        "last_success_timestamp_seconds": (
            NOW - timedelta(hours=7, minutes=40) + timedelta(minutes=6, seconds=12)
        ).timestamp(),
        "last_run_timestamp_seconds": (
            NOW - timedelta(hours=7, minutes=40) + timedelta(minutes=6, seconds=12)
        ).timestamp(),
        "last_run_duration_seconds": 372,
        "last_run_success": 1,
        "running": 0,
        "read_bytes": 2 * GIB + 300 * MIB,
        "changed_bytes": 190 * MIB,
        "new_volumes": 3,
        "size_bytes": source.newest.size,
        "stored_bytes": source.newest.stored,
        "newest_point_timestamp_seconds": (NOW - timedelta(hours=7, minutes=40)).timestamp(),
        "age_seconds": 27600,
        "rpo_seconds": 93600,
        "rpo_breached": 0,
        "alarms": 0,
        "next_start_timestamp_seconds": source.next_start.timestamp() if source.next_start else 0,
    }


def test_trouble_shows_in_numbers() -> None:
    samples = read(
        a_status(breached(a_source("old")), failing(a_source("bad")), running(a_source("busy")))
    )

    assert samples["snapvault_source_rpo_breached", "offsite", "old", "nightly"] == 1
    assert samples["snapvault_source_alarms", "offsite", "old", "nightly"] == 1
    assert samples["snapvault_source_last_run_success", "offsite", "bad", "nightly"] == 0
    assert samples["snapvault_source_running", "offsite", "busy", "nightly"] == 1
    assert samples["snapvault_alarms", "rpo"] == 1


def test_what_is_not_known_is_left_out_and_never_zero() -> None:
    samples = read(a_status(never(a_source()), a_source("free", rpo=None, next_start=None)))

    of_never = {name for name, *labels in samples if labels[1:2] == ["web01"]}
    assert "snapvault_source_age_seconds" not in of_never
    assert "snapvault_source_last_success_timestamp_seconds" not in of_never
    assert "snapvault_source_rpo_breached" in of_never
    of_free = {name for name, *labels in samples if labels[1:2] == ["free"]}
    assert "snapvault_source_rpo_seconds" not in of_free


def test_without_an_rpo_there_is_nothing_to_breach() -> None:
    source = a_source(rpo=None)
    source = replace(source, verdict=replace(source.verdict, rpo=RpoState.NONE))

    samples = read(a_status(source))

    assert not [name for name, *_ in samples if "rpo" in name and name != "snapvault_alarms"]


def test_every_kind_of_alarm_is_there_before_there_is_one() -> None:
    samples = read(empty_host())

    assert [samples["snapvault_alarms", kind] for kind in KINDS] == [0] * len(KINDS)


def test_vaults_and_the_daemon_are_told_of() -> None:
    samples = read(burning_host())

    assert samples["snapvault_vault_problem", "offsite"] == 1
    assert samples["snapvault_vault_points", "offsite"] == 24 * 32 + 4 * 35
    assert samples["snapvault_problems",] == 1
    assert ("snapvault_daemon_start_time_seconds",) not in samples
    quiet = read(quiet_host())
    assert quiet["snapvault_daemon_info", "backup1.example.org", "0.1.0"] == 1
    assert quiet["snapvault_daemon_start_time_seconds",] == pytest.approx(
        (NOW - timedelta(days=12, hours=4)).timestamp()
    )


def test_drills_are_told_of_with_what_they_measured() -> None:
    samples = read(rehearsed_host())

    def of(name: str, source: str) -> float | None:
        return samples.get((f"snapvault_source_{name}", "offsite", source, *policy_of(source)))

    def policy_of(source: str) -> tuple[str]:
        return ("databases",) if source == "shop" else ("nightly",)

    assert of("last_drill_passed", "shop") == 1
    assert of("last_drill_ready_seconds", "shop") == 252
    assert of("last_drill_age_seconds", "shop") == 9150
    assert of("rto_seconds", "shop") == 1800
    assert of("last_drill_timestamp_seconds", "shop") == (NOW - timedelta(hours=5)).timestamp()
    assert of("last_drill_passed", "web02") == of("last_drill_passed", "mail") == 0
    assert of("last_drill_ready_seconds", "web02") is None
    assert of("last_good_drill_timestamp_seconds", "web02") == (NOW - timedelta(days=7)).timestamp()
    assert samples["snapvault_alarms", "drill-failed"] == 1


def test_requests_verifies_and_prunes_of_a_vault_are_told_of() -> None:
    samples = read(rehearsed_host())

    assert samples["snapvault_vault_requests_total", "offsite"] == 1_284_311
    verify = "snapvault_vault_last_verify"
    ended = (NOW - timedelta(days=1, hours=4)).timestamp()
    assert samples[f"{verify}_timestamp_seconds", "offsite", "data"] == ended
    assert samples[f"{verify}_findings", "offsite", "data"] == 2
    assert samples[f"{verify}_findings", "offsite", "objects"] == 0
    assert samples[f"{verify}_sample_ratio", "offsite", "objects"] == 1
    assert samples[f"{verify}_duration_seconds", "offsite", "objects"] == 2700
    assert (f"{verify}_findings", "second-site", "data") not in samples
    pruned = "snapvault_vault_last_prune_timestamp_seconds"
    assert samples[pruned, "second-site"] == (NOW - timedelta(days=1)).timestamp()
    assert (pruned, "offsite") not in samples
    vault = "snapvault_vault"
    assert samples[f"{vault}_last_prune_success", "second-site"] == 1
    assert samples[f"{vault}_last_prune_success", "offsite"] == 0
    assert samples[f"{vault}_last_prune_deleted_bytes", "second-site"] == 5 << 30
    assert samples[f"{vault}_waiting_bytes", "second-site"] == 300 << 20


def test_a_verify_of_one_source_says_nothing_of_its_vault() -> None:
    status = rehearsed_host()
    vault = replace(
        status.vaults[0],
        verifies=tuple(replace(each, source="web01") for each in status.vaults[0].verifies),
    )

    samples = read(replace(status, vaults=(vault,)))

    assert not [name for name, *_ in samples if "last_verify" in name]


def test_how_notifiers_stand_is_told() -> None:
    samples = read(rehearsed_host())

    def of(name: str) -> float | None:
        return samples.get((f"snapvault_notifier_{name}", "chat"))

    assert of("up") == 0
    assert of("failures_total") == 12
    assert of("lost_total") == 2
    assert of("waiting") == 3
    assert of("delivered_total") == 41
    assert of("last_failure_timestamp_seconds") == (NOW - timedelta(minutes=9)).timestamp()
    assert of("last_success_timestamp_seconds") == (NOW - timedelta(hours=7)).timestamp()
    assert samples["snapvault_notifier_up", "ops"] == 1
    assert ("snapvault_notifier_last_success_timestamp_seconds", "pager") not in samples


@pytest.mark.parametrize("status", [burning_host(), rehearsed_host()], ids=["burning", "rehearsed"])
def test_names_follow_the_conventions(status: Status) -> None:
    body, _ = metrics(status, "")

    for family in text_string_to_metric_families(body.decode()):
        assert family.name.startswith("snapvault_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_total", "_count", "_milliseconds", "_kib"))


def test_who_asks_for_openmetrics_gets_it() -> None:
    body, media_type = metrics(quiet_host(), "application/openmetrics-text; version=1.0.0")

    assert media_type.startswith("application/openmetrics-text")
    families = openmetrics(body.decode())  # type: ignore[no-untyped-call] # it has no types
    assert "snapvault_daemon" in {family.name for family in families}


def test_labels_survive_whatever_is_in_them() -> None:
    samples = read(a_status(a_source('we"ird\\\n<b>', policy="ünï")))

    assert samples["snapvault_source_running", "offsite", 'we"ird\\\n<b>', "ünï"] == 0


def test_two_hundred_sources_are_told_of() -> None:
    samples = read(large_host())

    assert sum(name == "snapvault_source_age_seconds" for name, *_ in samples) == 200
    assert samples["snapvault_sources",] == 200
