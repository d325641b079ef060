# SPDX-License-Identifier: Apache-2.0
"""Statuses of hosts that never were: quiet ones, new ones, large ones and burning ones.

All of them stand at `NOW`, and are the same each time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from snapvault.model import drills
from snapvault.model.drills import DrillSummary
from snapvault.model.notices import NotifierStanding
from snapvault.model.objectives import (
    DAMAGED,
    DRILL_FAILED,
    NEVER,
    RPO,
    Finding,
    RpoState,
    Verdict,
)
from snapvault.model.prunes import PruneState, PruneSummary
from snapvault.model.runs import (
    Alarm,
    Failure,
    PointSummary,
    Progress,
    Run,
    RunState,
    SourceKey,
    Trigger,
)
from snapvault.model.status import SourceStatus, Status, VaultStatus
from snapvault.model.verifies import VerifySummary
from snapvault.units import GIB, KIB, MIB

NOW = datetime(2026, 11, 20, 9, 12, 44, tzinfo=UTC)
DAYS = 35

Change = Callable[[SourceStatus], SourceStatus]


def a_point(key: SourceKey, taken_at: datetime, **changes: Any) -> PointSummary:
    """Build a restore point of 40 GiB that added 120 MiB."""
    base = PointSummary(
        key=key,
        point=f"{taken_at:%Y%m%dT%H%M%SZ}-{hash_of(str(key)) % 0xFFFF:04x}",
        taken_at=taken_at,
        size=40 * GIB,
        stored=120 * MIB,
        consistency="file-system",
    )
    return replace(base, **changes)


def a_run(key: SourceKey, **changes: Any) -> Run:
    """Build a run of last night that succeeded."""
    started = NOW - timedelta(hours=7, minutes=40)
    base = Run(
        id=f"r-{hash_of(str(key)):08x}",
        key=key,
        policy="nightly",
        state=RunState.SUCCEEDED,
        trigger=Trigger.SCHEDULE,
        started=started,
        due=started - timedelta(minutes=2),
        ended=started + timedelta(minutes=6, seconds=12),
        point=f"{started:%Y%m%dT%H%M%SZ}-0001",
        taken_at=started,
        size=40 * GIB,
        counters={
            "read_bytes": 2 * GIB + 300 * MIB,
            "changed_bytes": 190 * MIB,
            "stored_bytes": 120 * MIB,
            "new_volumes": 3,
        },
    )
    return replace(base, **changes)


def a_failure(**changes: Any) -> Failure:
    """Build a failure that trying again may mend."""
    base = Failure(
        message='could not snapshot logical volume "vg0/orders": no free extents',
        hint='Free at least 2.0 GiB in volume group "vg0", or lower snapshot_size.',
        exit_status=15,
        retryable=True,
    )
    return replace(base, **changes)


def an_alarm(subject: str, **changes: Any) -> Alarm:
    """Build an alarm that has been up for three hours."""
    base = Alarm(
        subject=subject,
        kind=RPO,
        message=f'newest restore point of source "{subject}" is 1d 5h old, its RPO is 1d 2h',
        hint=f'Look at its last run, then run "snapvault backup {subject.rpartition("/")[2]}".',
        raised=NOW - timedelta(hours=3),
    )
    return replace(base, **changes)


def a_source(name: str = "web01", *, vault: str = "offsite", **changes: Any) -> SourceStatus:
    """Build a source that is backed up each night and has all its points."""
    key = SourceKey(vault, name)
    dice = random.Random(ascii(key))
    last_night = NOW - timedelta(hours=7, minutes=40)
    scale = dice.choice([4 * MIB, 60 * MIB, 120 * MIB, 700 * MIB])
    points = tuple(
        a_point(
            key,
            last_night - timedelta(days=ago),
            stored=int(scale * dice.uniform(0.6, 1.9)),
            size=int(GIB * (38 - ago * 0.05)),
        )
        for ago in range(DAYS - 1, -1, -1)
    )
    age = (NOW - last_night).total_seconds()
    last = a_run(key)
    base = SourceStatus(
        key=key,
        policy="nightly",
        kinds=("lvm",),
        enabled=True,
        rpo=timedelta(hours=26),
        verdict=Verdict(RpoState.MET, age, last_night + timedelta(hours=26), ()),
        newest=points[-1],
        points=points,
        last=last,
        success=last,
        running=None,
        progress=None,
        retry_at=None,
        next_start=NOW + timedelta(hours=16, minutes=dice.randrange(18, 31)),
        alarms=(),
    )
    return replace(base, **changes)


def running(source: SourceStatus, *, done: int = 13 * GIB, total: int | None = 40 * GIB) -> Any:
    """Return a source that is being backed up."""
    run = a_run(
        source.key,
        id=f"r-{hash_of(str(source.key)):08x}-now",
        policy=source.policy,
        state=RunState.RUNNING,
        started=NOW - timedelta(minutes=11, seconds=5),
        ended=None,
        point=None,
        taken_at=None,
        size=None,
        counters={},
        pid=4711,
    )
    progress = Progress(run.id, "reading root", done, total, NOW - timedelta(seconds=2))
    return replace(source, running=run, progress=progress)


def failing(source: SourceStatus, **changes: Any) -> SourceStatus:
    """Return a source whose last run failed an hour ago, and is tried again."""
    run = a_run(
        source.key,
        id=f"r-{hash_of(str(source.key)):08x}-bad",
        policy=source.policy,
        state=RunState.FAILED,
        started=NOW - timedelta(hours=1),
        ended=NOW - timedelta(minutes=59),
        point=None,
        size=None,
        counters={},
        attempt=2,
        failure=a_failure(**changes),
    )
    return replace(source, last=run, retry_at=NOW + timedelta(minutes=20))


def breached(source: SourceStatus) -> SourceStatus:
    """Return a source whose newest point is three days too old."""
    points = source.points[:-3]
    age = (NOW - points[-1].taken_at).total_seconds()
    alarm = an_alarm(str(source.key))
    finding = Finding(alarm.kind, alarm.message, alarm.hint)
    return replace(
        failing(source, retryable=False),
        points=points,
        newest=points[-1],
        verdict=Verdict(RpoState.BREACHED, age, NOW - timedelta(days=2), (finding,)),
        alarms=(alarm,),
        retry_at=None,
    )


def never(source: SourceStatus) -> SourceStatus:
    """Return a source that should have been backed up long ago and never was."""
    alarm = an_alarm(
        str(source.key),
        kind=NEVER,
        message=f'source "{source.key.source}" was never backed up',
        hint=None,
    )
    verdict = Verdict(RpoState.BREACHED, None, None, (Finding(NEVER, alarm.message),))
    return replace(
        source,
        points=(),
        newest=None,
        last=None,
        success=None,
        verdict=verdict,
        alarms=(alarm,),
    )


def waiting(source: SourceStatus) -> SourceStatus:
    """Return a source that was added an hour ago."""
    verdict = Verdict(RpoState.WAITING, None, NOW + timedelta(hours=25), ())
    return replace(source, points=(), newest=None, last=None, success=None, verdict=verdict)


def a_drill(key: SourceKey, **changes: Any) -> DrillSummary:
    """Build a drill of this morning that passed."""
    base = DrillSummary(
        id=f"{NOW:%Y%m%d}T040000Z-{hash_of(str(key)) % 0xFFFF:04x}",
        key=key,
        kind="boot",
        point=f"{NOW:%Y%m%dT013244Z}-0001",
        ended=NOW - timedelta(hours=5),
        verdict=drills.Verdict.PASSED,
        seconds_to_ready=252.0,
        age=9150.0,
        reason="all 3 checks passed",
    )
    return replace(base, **changes)


def drilled(source: SourceStatus, **changes: Any) -> SourceStatus:
    """Return a source that is rehearsed each week, with what its last drill came to."""
    drill = a_drill(source.key, **changes)
    if drill.verdict is drills.Verdict.PASSED:
        return replace(source, rto=timedelta(minutes=30), drill=drill, good_drill=drill)
    good = a_drill(source.key, id="20261113T040000Z-77aa", ended=NOW - timedelta(days=7))
    alarms = source.alarms
    if drill.verdict is drills.Verdict.FAILED:
        alarm = an_alarm(
            str(source.key),
            kind=DRILL_FAILED,
            message=f'{drill.kind} drill "{drill.id}" failed: {drill.reason}',
            hint=f'"snapvault drill report {drill.id}" shows what it saw.',
            raised=drill.ended,
        )
        alarms = (*alarms, alarm)
    return replace(source, rto=timedelta(minutes=30), drill=drill, good_drill=good, alarms=alarms)


def a_verify(vault: str = "offsite", **changes: Any) -> VerifySummary:
    """Build a verify of yesterday that found nothing."""
    base = VerifySummary(
        id="20261119T050000Z-0e0e",
        vault=vault,
        source=None,
        level="data",
        share=10.0,
        ended=NOW - timedelta(days=1, hours=4),
        seconds=2700.0,
        points=210,
        findings=0,
        requests=4200,
    )
    return replace(base, **changes)


def a_standing(name: str = "ops", **changes: Any) -> NotifierStanding:
    """Build a notifier that heard something this night."""
    base = NotifierStanding(name, delivered_at=NOW - timedelta(hours=7), delivered=41)
    return replace(base, **changes)


def deaf(name: str = "chat", **changes: Any) -> NotifierStanding:
    """Build a notifier that cannot be told anything since an hour."""
    base = a_standing(
        name,
        is_up=False,
        failed_at=NOW - timedelta(minutes=9),
        problem='could not post to webhook "chat": the server answered 503 (service unavailable)',
        failures=12,
        lost=2,
        waiting=3,
    )
    return replace(base, **changes)


def a_status(*sources: SourceStatus, **changes: Any) -> Status:
    """Build a host with a daemon and these sources, and what follows from them."""
    runs = [run for one in sources for run in (one.running, one.last, one.success) if run]
    runs = sorted(_unique(runs), key=_started, reverse=True)
    base = Status(
        at=NOW,
        host="backup1.example.org",
        version="0.1.0",
        days=DAYS,
        daemon_pid=812,
        daemon_since=NOW - timedelta(days=12, hours=4),
        sources=tuple(sorted(sources, key=lambda one: (one.policy, one.key))),
        vaults=_vaults(sources),
        runs=tuple(runs),
        failures=tuple(run for run in runs if run.failure),
        alarms=tuple(alarm for one in sources for alarm in one.alarms),
        problems=(),
        drills=tuple(
            sorted(
                (one.drill for one in sources if one.drill is not None),
                key=lambda drill: drill.ended,
                reverse=True,
            )
        ),
    )
    return replace(base, **changes)


def hash_of(text: str) -> int:
    """Return a number that is the same in every process."""
    return random.Random(ascii(text)).getrandbits(32)


def _started(run: Run) -> datetime:
    return run.started


def _unique(runs: Sequence[Run]) -> list[Run]:
    return list({run.id: run for run in runs}.values())


def _vaults(sources: Sequence[SourceStatus]) -> tuple[VaultStatus, ...]:
    found = []
    for name in sorted({one.key.vault for one in sources}):
        points = [point for one in sources if one.key.vault == name for point in one.points]
        stored = sum(point.stored for point in points) + 40 * GIB * bool(points)
        found.append(VaultStatus(name, f"s3://acme-{name}/vault1", len(points), stored, None))
    return tuple(found)


# --- whole hosts ----------------------------------------------------------------------------


def quiet_host() -> Status:
    """A small company's host on a good morning: one of seven is at work."""
    shop = a_source("shop", policy="databases", kinds=("mysql",), rpo=timedelta(hours=6))
    every_four_hours = tuple(
        a_point(shop.key, NOW - timedelta(hours=2 + 4 * n), size=3 * GIB, stored=9 * MIB + n * KIB)
        for n in range(24 * DAYS // 4 - 3, -1, -1)
    )
    age = timedelta(hours=2).total_seconds()
    shop = replace(
        shop,
        points=every_four_hours,
        newest=every_four_hours[-1],
        verdict=Verdict(RpoState.MET, age, NOW + timedelta(hours=4), ()),
        next_start=NOW + timedelta(hours=2),
    )
    ledger = a_source("ledger", policy="databases", kinds=("postgresql",), vault="second-site")
    mail = a_source("mail")
    new = a_source("wiki", kinds=("directory",))
    new = replace(new, points=new.points[-9:])
    return a_status(
        shop,
        ledger,
        a_source("web01", kinds=("lvm", "image")),
        running(a_source("web02", kinds=("qemu",))),
        mail,
        new,
        a_source("archive", policy="by-hand", rpo=None, next_start=None, kinds=("directory",)),
    )


def mixed_host() -> Status:
    """A host with a bit of everything."""
    quiet = quiet_host()
    extra = (
        breached(a_source("orders")),
        failing(a_source("crm", policy="databases", kinds=("mysql",))),
        waiting(a_source("newbie")),
        never(a_source("forgotten", policy="by-hand")),
        a_source("old", policy="retired", enabled=False, next_start=None),
    )
    return a_status(*quiet.sources, *extra)


def rehearsed_host() -> Status:
    """A host with drills, verifies and notifiers, some of which went wrong."""
    slow = drilled(
        a_source("web01"), seconds_to_ready=2520.0, ended=NOW - timedelta(hours=5, minutes=40)
    )
    skipped = drilled(
        a_source("mail"),
        verdict=drills.Verdict.SKIPPED,
        seconds_to_ready=None,
        age=None,
        point=None,
        reason='the step before it, of source "web02", failed',
        ended=NOW - timedelta(days=2),
    )
    failed = drilled(
        a_source("web02"),
        verdict=drills.Verdict.FAILED,
        seconds_to_ready=None,
        age=99000.0,
        reason='no line of the console matched "login:" within 10m',
        ended=NOW - timedelta(days=2, minutes=4),
    )
    shop = drilled(a_source("shop", policy="databases", kinds=("mysql",)), kind="database")
    base = a_status(slow, skipped, failed, shop, a_source("ledger", vault="second-site"))
    whole = a_verify(level="objects", share=100.0, ended=NOW - timedelta(hours=3))
    damaged = a_verify(level="data", findings=2, message='volume "5f/5f3a" is damaged', share=100.0)
    damage = an_alarm(
        "offsite",
        kind=DAMAGED,
        message='verify of vault "offsite" at level data came to 2 findings: volume "5f/5f3a" is'
        " damaged: SHA-256 differs from the manifest",
        hint='It is over when "snapvault verify --level data", without a sample, finds nothing.',
        raised=damaged.ended,
    )
    pruned = PruneSummary(
        "20261119T091200Z-1a2b3c4d",
        "second-site",
        NOW - timedelta(days=1),
        41.5,
        PruneState.DONE,
        removed=3,
        deleted=120,
        deleted_bytes=5 * GIB,
        waiting=7,
        waiting_bytes=300 * MIB,
    )
    refused = replace(
        pruned,
        vault="offsite",
        state=PruneState.REFUSED,
        reasons=(
            'restore point "3f2a9c0d1e4b5a67" of source "web02" was in the vault and is gone',
        ),
    )
    near, far = base.vaults
    return replace(
        base,
        alarms=(damage, *base.alarms),
        vaults=(
            replace(near, requests=1_284_311, verifies=(whole, damaged), prune=refused),
            replace(far, requests=20_412, pruned_at=pruned.ended, prune=pruned),
        ),
        notifiers=(deaf(), a_standing(), NotifierStanding("pager")),
    )


def empty_host() -> Status:
    """A host that was just set up."""
    return a_status(
        daemon_since=NOW - timedelta(seconds=40),
        vaults=(VaultStatus("offsite", "s3://backups/vault1", 0, 0, None),),
    )


def large_host(count: int = 200) -> Status:
    """A hosting company's host, with few problems."""
    policies = ("databases", "hourly", "nightly-a", "nightly-b", "weekly")
    sources = []
    for number in range(count):
        source = a_source(
            f"customer-{number:03d}",
            policy=policies[number % 5],
            kinds=(("lvm", "mysql")[number % 2],),
        )
        if number % 67 == 3:
            source = breached(source)
        elif number % 61 == 5:
            source = failing(source)
        elif number % 90 == 7:
            source = running(source, done=number * GIB // 10)
        sources.append(source)
    return a_status(*sources)


def burning_host() -> Status:
    """A host where nothing is right."""
    sources = [breached(a_source(f"machine-{n:02d}")) for n in range(24)]
    sources += [never(a_source(f"fresh-{n}", policy="databases")) for n in range(3)]
    sources += [failing(a_source(f"db-{n}", policy="databases")) for n in range(4)]
    base = a_status(*sources)
    daemon = Alarm(
        "daemon",
        "daemon",
        'could not write "/var/lib/snapvault/history.sqlite": disk full',
        "Free some space. Backups go on meanwhile.",
        NOW - timedelta(minutes=5),
    )
    policy = Alarm(
        "nightly",
        "broken-policy",
        'policy file "/etc/snapvault/policies/nightly.yaml", line 12: unknown key "retenton"',
        'Write "retention". The policy as it was before counts until then.',
        NOW - timedelta(days=1),
    )
    vault = replace(
        base.vaults[0], problem='could not list bucket "acme-offsite": access was denied'
    )
    return replace(
        base,
        daemon_pid=None,
        daemon_since=None,
        vaults=(vault,),
        alarms=(daemon, policy, *base.alarms),
        problems=("the history of this host was damaged and has been started anew",),
    )
