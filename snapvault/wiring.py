# SPDX-License-Identifier: Apache-2.0
"""The composition root: turns settings and policies into vaults, sources and targets.

The only module that knows which adapter stands behind which port. What only some commands need
is imported where it is needed, so that a small night stays cheap.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snapvault import clock
from snapvault.adapters.ending import Ending
from snapvault.adapters.locks import SourceLock, holder_of
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.adapters.stores.opening import StoreOptions, open_store
from snapvault.adapters.throttle import Traffic
from snapvault.engine import status as statuses
from snapvault.engine import vault as vaults
from snapvault.engine.status import VaultPoints
from snapvault.engine.vault import Held, Inventory, Vault
from snapvault.errors import ConfigError, SealError, SnapVaultError
from snapvault.formats.vault import VaultRecord
from snapvault.model.policy import Policy, SourceSpec
from snapvault.model.runs import PointSummary, Run, RunState, SourceKey, Trigger
from snapvault.model.settings import Settings, VaultSettings
from snapvault.model.status import Status
from snapvault.ports.events import Events
from snapvault.ports.history import History
from snapvault.ports.jobs import Order
from snapvault.ports.sealer import Sealer
from snapvault.ports.source import Finding, Source
from snapvault.ports.store import Store, StoreTraits
from snapvault.ports.target import Target
from snapvault.ports.throttle import Throttle

if TYPE_CHECKING:
    from snapvault.adapters.catalogs.known import KnownVaults
    from snapvault.adapters.catalogs.sqlite import SqliteCatalog
    from snapvault.adapters.catalogs.summaries import CatalogPoints
    from snapvault.adapters.histories.sqlite import SqliteHistory
    from snapvault.adapters.recording import Recording
    from snapvault.adapters.run_logs import FolderRunLogs
    from snapvault.adapters.sealers.facts import KeyFacts
    from snapvault.adapters.targets.ebs import EbsRestore
    from snapvault.adapters.targets.ebs_service import EbsPlace
    from snapvault.adapters.targets.tree import TreeTarget

# What the operating system says when a state folder is full, read-only or somebody else's.
_FORESEEABLE: Final = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}

# Stands for the id of a vault that is not there yet; no vault has it.
_NO_VAULT: Final = "no-vault"

_HISTORY: Final = "history.sqlite"


@cache
def tool() -> str:
    """Return SnapVault's name and version, as manifests carry it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"snapvault {version('snapvault')}"
    except PackageNotFoundError:
        return "snapvault"


def open_keys(settings: VaultSettings) -> Sealer:
    """Return GnuPG with the keys that the settings name; nothing is proven yet.

    Raises:
        KeyMissingError, ConfigError, SealError: as `open_sealer`.
    """
    from snapvault.adapters.sealers.gnupg import open_sealer

    return open_sealer(
        _gnupg_home(settings),
        recipients=settings.recipients,
        signer=settings.signer,
        trusted_signers=settings.trusted_signers,
        passphrase_file=str(settings.passphrase_file) if settings.passphrase_file else None,
    )


def _gnupg_home(settings: VaultSettings) -> Path:
    return settings.gnupg_home or Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")


def gnupg_version(settings: VaultSettings) -> str:
    """Return the version of the gpg program."""
    from snapvault.adapters.sealers import facts

    return facts.gnupg_version(_gnupg_home(settings))


def key_facts(settings: VaultSettings, sealer: Sealer) -> "dict[str, KeyFacts]":
    """Return what is known of the recipients' and the signer's keys, by fingerprint."""
    from snapvault.adapters.sealers import facts

    return facts.read_facts(_gnupg_home(settings), {*sealer.recipients, sealer.signer})


def librsync_version() -> str:
    """Return the version of the system's librsync.

    Raises:
        ConfigError: it is missing or too old.
    """
    from snapvault.adapters.librsync import LibRsync

    return LibRsync().version()


def open_objects(
    settings: VaultSettings,
    *,
    create_only: bool | None = None,
    throttle: Throttle | None = None,
    sleep: Callable[[float], None] = clock.sleep,
) -> Store:
    """Return the store that the settings name, as `open_store`; nothing is asked of it yet."""
    options = StoreOptions(
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        storage_class=settings.storage_class,
        ca_bundle=settings.ca_bundle,
        create_only=_first(settings.create_only, create_only, True),
    )
    if settings.request_checksum_calculation is not None:
        options = replace(
            options, request_checksum_calculation=settings.request_checksum_calculation
        )
    if settings.response_checksum_validation is not None:
        options = replace(
            options, response_checksum_validation=settings.response_checksum_validation
        )
    return open_store(settings.store, options, throttle=throttle, sleep=sleep)


def _first(*values: bool | None) -> bool:
    return next(value for value in values if value is not None)


def init(settings: VaultSettings) -> tuple[VaultRecord, StoreTraits]:
    """Create the vault that the settings describe, or join this host to it.

    Raises:
        ConfigError: this host has initialized it before.
        KeyMissingError, StoreError: keys or store are not as they must be.
    """
    sealer = open_keys(settings)
    return vaults.create(settings.name, open_objects(settings), sealer)


@contextmanager
def _limited(settings: Settings, events: Events) -> Iterator[Traffic]:
    """Return what the limits of this host let pass: nothing more once the process shall end."""
    ending = Ending()
    traffic = Traffic(settings.limits, settings.state_dir / "limits", ending, events)
    with ending.noticed(), closing(traffic):
        yield traffic


@contextmanager
def open_vault(settings: Settings, name: str, events: Events) -> Iterator[Vault]:
    """Open one vault of the settings with its keys, its catalog and this host's state.

    Its store counts requests and bytes, and keeps to the host's limits: `Vault.store` is a
    MeteredStore. While it is open, a signal that asks the process to end ends waits of all
    threads too.

    Raises:
        ConfigError: there is no vault yet, or the settings are wrong.
        IntegrityError: the vault cannot be read by this release.
    """
    chosen = settings.vaults[name]
    sealer = open_keys(chosen)
    with _limited(settings, events) as traffic:
        reach = partial(open_objects, chosen, throttle=traffic.upload, sleep=traffic.ending.sleep)
        store = reach()
        record = vaults.read_record(store)
        if record is None:
            raise ConfigError(
                f'there is no vault at {chosen.store} ("vault.json" is missing)',
                hint=f'Run "snapvault init {name}" to create it, or correct "store" in the '
                "settings.",
            )
        if not record.create_only and chosen.create_only is None:
            store = reach(create_only=False)
        metered = MeteredStore(store, traffic)
        state = settings.state_dir / record.vault
        _make_private(state)
        _known_vaults(settings).remember(chosen, record.vault)
        with _open_catalog(state, name, events) as catalog, _naming_state(state):
            yield Vault(name, record, metered, sealer, catalog, events, state)


@contextmanager
def _open_catalog(state: Path, name: str, events: Events) -> "Iterator[SqliteCatalog]":
    from snapvault.adapters.catalogs.sqlite import SqliteCatalog

    with closing(SqliteCatalog(state / "catalog.sqlite")) as catalog:
        if catalog.was_reset:
            events.warn(
                "catalog.reset",
                f'catalog of vault "{name}" was damaged and is rebuilt: {catalog.reset_reason}',
            )
        yield catalog


@contextmanager
def _naming_state(state: Path) -> Iterator[None]:
    """Turn what the operating system says of the state folder into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FORESEEABLE:
            raise
        raise _state_failed(state, error) from error
    except SealError as error:
        # gpg itself writes what it sealed into the state folder; only its words tell why not.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise _state_failed(state, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error


def _known_vaults(settings: Settings) -> "KnownVaults":
    from snapvault.adapters.catalogs.known import KnownVaults

    return KnownVaults(settings.state_dir / "vaults")


def try_state(settings: Settings) -> int:
    """Write into the state folder and return the bytes that are free there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    import shutil
    import tempfile

    folder = settings.state_dir
    _make_private(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise _state_failed(folder, error) from error


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _state_failed(folder, error) from error


def _state_failed(folder: Path, error: OSError) -> ConfigError:
    reason = (error.strerror or str(error)).lower()
    name = error.filename if isinstance(error.filename, str | Path) else folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "Free room there, or set state_dir in the settings to a folder that has more."
    else:
        hint = "Run as the user who owns it, or set state_dir in the settings to another folder."
    where = "" if str(name) == str(folder) else f': "{name}"'
    return ConfigError(f'could not work in state folder "{folder}": {reason}{where}', hint=hint)


def source_of(
    spec: SourceSpec, *, policy: str, vault: str, vault_id: str, folder: Path, events: Events
) -> Source:
    """Return the source that a policy describes; nothing is opened yet.

    `policy` and `vault` are names; `folder` is this source's own, in the vault's state.
    """
    from snapvault.adapters.sources.opening import Around, open_source

    return open_source(Around(spec, policy, vault, vault_id, folder, events))


def check_source(
    settings: Settings, policy: Policy, spec: SourceSpec, events: Events
) -> Iterator[Finding]:
    """Look at everything that a backup of a source needs, without making one; changes nothing.

    Works without a vault too: what is wrong with that is not the source's.
    """
    vault_id = _vault_id(settings.vaults[policy.vault])
    source = source_of(
        spec,
        policy=policy.name,
        vault=policy.vault,
        vault_id=vault_id,
        folder=settings.state_dir / vault_id / "sources" / spec.name,
        events=events,
    )
    yield from source.check()


def _vault_id(settings: VaultSettings) -> str:
    with suppress(SnapVaultError):
        record = vaults.read_record(open_objects(settings))
        if record is not None:
            return record.vault
    return _NO_VAULT


def back_up(vault: Vault, policy: Policy, spec: SourceSpec) -> Held:
    """Make one restore point of a source, as its policy says; one run of a source at a time.

    It takes what its limits and those of the host let it take of the network and the disks. What
    they say of processor time is up to whoever started this process.

    Raises:
        LockHeldError: another run has the source.
        and all that `BackupJob.run` raises.
    """
    from snapvault.adapters.librsync import LibRsync
    from snapvault.adapters.sources.throttled import ThrottledSource
    from snapvault.engine.backup import BackupJob, BackupOptions

    folder = vault.state / "sources" / spec.name
    _make_private(folder)
    # Here too, so that one source's failure is told as such, and the next source has its turn.
    with (
        _naming_state(vault.state),
        SourceLock(folder / "lock", source=spec.name) as lock,
        ExitStack() as stack,
    ):
        if lock.left_by is not None:
            vault.events.emit("lock.taken_over", source=spec.name, pid=lock.left_by.pid)
        source = source_of(
            spec,
            policy=policy.name,
            vault=vault.name,
            vault_id=vault.record.vault,
            folder=folder,
            events=vault.events,
        )
        if isinstance(vault.store, MeteredStore) and vault.store.traffic is not None:
            stack.enter_context(vault.store.traffic.of_run(policy.limits))
            source = ThrottledSource(source, vault.store.traffic.read)
        return BackupJob(
            vault=vault,
            source=source,
            rsync=LibRsync(),
            folder=folder,
            options=BackupOptions(
                volume_size=policy.volume_size,
                compression_level=policy.compression_level,
                host=os.uname().nodename or "unknown",
                tool=tool(),
                hints=policy.hints,
            ),
        ).run()


def open_history(
    settings: Settings, events: Events | None = None, *, must_open: bool = True
) -> "SqliteHistory":
    """Open what this host remembers of its runs; closed by the caller, or as a context manager.

    Raises:
        ConfigError: the state folder cannot be used, and the history `must_open` now.
    """
    from snapvault.adapters.histories.sqlite import SqliteHistory

    history = SqliteHistory(
        settings.state_dir / _HISTORY,
        expire_logs=run_logs(settings).expire,
        must_open=must_open,
    )
    if history.was_reset and events is not None:
        events.warn("history.reset", f"history was damaged and begins anew: {history.reset_reason}")
    return history


def run_logs(settings: Settings) -> "FolderRunLogs":
    """Return the logs of this host's runs."""
    from snapvault.adapters.run_logs import FolderRunLogs

    return FolderRunLogs(settings.state_dir / "runs")


def run_of(settings: Settings, point: str) -> Run | None:
    """Return the run that made a restore point; None if this host does not remember it.

    Raises:
        ConfigError: the history cannot be used.
    """
    if not (settings.state_dir / _HISTORY).exists():
        return None  # looking makes none
    with open_history(settings) as history:
        return history.of_point(point)


def new_run(policy: Policy, spec: SourceSpec, trigger: Trigger = Trigger.MANUAL) -> Run:
    """Return a run of a source that starts now, asked for by hand unless said otherwise."""
    from snapvault.adapters.recording import new_run_id

    now = clock.now()
    key = SourceKey(policy.vault, spec.name)
    return Run(new_run_id(now), key, policy.name, RunState.RUNNING, trigger, now)


def recorded(settings: Settings, run: Run, events: Events) -> "Recording":
    """Return what records a run around the work; history that cannot be written fails nothing."""
    from snapvault.adapters.recording import Recording

    return Recording(
        run,
        history=lambda: open_history(settings, events),
        logs=run_logs(settings),
        events=events,
    )


def back_up_recorded(
    recording: "Recording", vault: Vault, policy: Policy, spec: SourceSpec
) -> Held:
    """Make a restore point as `back_up`, and tell the recording what came of it."""
    before = _requests(vault)
    held = back_up(replace(vault, events=recording.events), policy, spec)
    recording.made(
        held.point, stored_bytes=held.stored_bytes, more={"requests": _requests(vault) - before}
    )
    return held


def _requests(vault: Vault) -> int:
    """Return how often this process has asked the vault's store for something."""
    if not isinstance(vault.store, MeteredStore):
        return 0
    counts = vault.store.counts()
    return counts.stats + counts.fetches + counts.listings + counts.puts + counts.probes


def record_failure(settings: Settings, run: Run, error: SnapVaultError, events: Events) -> None:
    """Record a run that failed before it could start."""
    with suppress(SnapVaultError), recorded(settings, run, events):
        raise error


def run_order(order: Order, events: Events) -> Run:
    """Carry out an order, record it, and return the run as it ended, whatever happened to it.

    An exception that asks this process to end interrupts the run, and goes no further either.
    """
    recording = recorded(order.settings, order.run, events)
    # What it was is in the run.
    with suppress(BaseException), recording:
        name = order.policy.vault
        with open_vault(order.settings, name, recording.events) as vault:
            back_up_recorded(recording, vault, order.policy, order.source)
    return recording.run


def known_points(settings: Settings, name: str) -> VaultPoints:
    """Return what this host knows of a vault's restore points, without asking store or GnuPG.

    That is what was there when a command last opened the vault: nothing before the first time.
    """
    chosen = settings.vaults[name]
    vault = _known_vaults(settings).find(chosen)
    if vault is None:
        return VaultPoints(chosen.store, (), is_known=False)
    reader = _points_of(settings.state_dir / vault / "catalog.sqlite", name)
    try:
        return VaultPoints(chosen.store, reader.read())
    except ConfigError as error:
        return VaultPoints(chosen.store, reader.last, problem=str(error))


@cache
def _points_of(catalog: Path, name: str) -> "CatalogPoints":
    from snapvault.adapters.catalogs.summaries import CatalogPoints

    return CatalogPoints(catalog, name)


def point_summaries(settings: Settings, name: str) -> tuple[PointSummary, ...]:
    """Return the restore points of a vault that this host knows of, by source and time."""
    return known_points(settings, name).points


def status(
    settings: Settings,
    policies: Sequence[Policy],
    problems: Sequence[str],
    *,
    now: datetime | None = None,
    history: History | None = None,
    next_starts: Mapping[SourceKey, datetime] | None = None,
    retries: Mapping[SourceKey, datetime] | None = None,
) -> Status:
    """Return the status of this host; `problems` are those of its policies.

    Asks neither stores nor GnuPG. Without `history` it is opened for the moment; one that cannot
    be used is a problem in what is shown. Without `next_starts` the schedules alone count.
    """
    from snapvault.adapters.recording import is_at_work, lost
    from snapvault.config.zones import zone_named

    moment = now or clock.now()
    told = list(problems)

    def settled(run: Run) -> Run:
        is_gone = run.state is RunState.RUNNING and run.pid is not None and not is_at_work(run)
        return lost(run, moment) if is_gone else run

    memory = statuses.Memory()
    try:
        with ExitStack() as stack:
            opened = history or stack.enter_context(open_history(settings))
            memory = statuses.remember(opened, run_logs(settings), settled)
    except SnapVaultError as error:
        told.append(str(error))
    daemon = holder_of(settings.state_dir / "daemon.lock")
    return statuses.assemble(
        statuses.Host(
            name=os.uname().nodename or "unknown",
            version=tool().removeprefix("snapvault").strip(),
            daemon_pid=daemon.pid if daemon else None,
            daemon_since=daemon.started if daemon else None,
        ),
        policies,
        {name: known_points(settings, name) for name in settings.vaults},
        memory,
        statuses.Outlook(zone_named, next_starts, retries or {}),
        now=moment,
        problems=told,
    )


def target_kind(path: Path) -> str:
    """Tell what a path stands for: `file`, `block device`, `folder`, `stream` or `missing`.

    Raises:
        RestoreError: that cannot be found out.
    """
    from snapvault.adapters.targets.opening import kind_of

    return kind_of(path).value


def target_of(path: Path, size: int, data_bytes: int, *, force: bool) -> Target:
    """Open the file or block device that a stream is restored to; as `open_target`."""
    from snapvault.adapters.targets.opening import open_target

    return open_target(path, size, data_bytes, force=force)


def tree_target(folder: Path, paths: Sequence[str], *, force: bool, events: Events) -> "TreeTarget":
    """Return what unpacks paths of an archive into a folder; as the adapter's."""
    from snapvault.adapters.targets.tree import TreeTarget

    return TreeTarget(folder, paths, force=force, events=events)


def require_room(folder: Path, needed: int, *, what: str) -> None:
    """Make sure that a folder has room; as the adapter's."""
    from snapvault.adapters.targets import opening

    opening.require_room(folder, needed, what=what)


def rebuild_catalog(vault: Vault) -> Inventory:
    """Forget the local index and read it from the vault again."""
    vault.catalog.clear()
    return vaults.sync(vault)


def ebs_place(address: str) -> "EbsPlace":
    """Read where in AWS disks are restored to: `ebs:REGION?key=value`; as the adapter's.

    Raises:
        ConfigError: it makes no sense.
    """
    from snapvault.adapters.targets.ebs_address import parse

    return parse(address)


def ebs_restore(place: "EbsPlace") -> "EbsRestore":
    """Return what makes EBS snapshots there; closed by the caller."""
    from snapvault.adapters.targets.ebs import EbsRestore

    return EbsRestore(place)
