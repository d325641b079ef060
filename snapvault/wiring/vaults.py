# SPDX-License-Identifier: Apache-2.0
"""Vaults: made, or opened with their keys, store, catalog and this host's state."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from snapvault import clock
from snapvault.adapters.ending import Ending
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.adapters.stores.opening import (
    StoreOptions,
    open_archive,
    open_store,
    open_versions,
)
from snapvault.adapters.throttle import Traffic
from snapvault.engine import notes
from snapvault.engine.vault import Inventory, Vault, create, read_record, sync
from snapvault.errors import ConfigError, StoreError
from snapvault.formats.vault import VaultRecord
from snapvault.model.settings import Settings, VaultSettings
from snapvault.ports.archive import Archive
from snapvault.ports.events import Events
from snapvault.ports.sealer import Addressees, Sealer
from snapvault.ports.store import Store, StoreTraits
from snapvault.ports.throttle import Throttle
from snapvault.ports.versions import LockProof, StoreVersions
from snapvault.wiring.catalogs import known_vaults, open_catalog
from snapvault.wiring.state import make_private, naming_state

if TYPE_CHECKING:
    from snapvault.adapters.sealers.facts import KeyFacts


def init(settings: VaultSettings) -> tuple[VaultRecord, StoreTraits]:
    """Create the vault that the settings describe, or join this host to it.

    Raises:
        ConfigError: this host has initialized it before.
        KeyMissingError, StoreError: keys or store are not as they must be; it does not lock.
    """
    sealer = open_keys(settings)
    if settings.object_lock is not None:
        # ORDER: before anything is stored that could not be removed again.
        prove_lock(settings)
    return create(settings.name, open_objects(settings), sealer)


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
        metered = MeteredStore(reach(), traffic)
        record = read_record(metered)
        if record is None:
            raise ConfigError(
                f'there is no vault at {chosen.store} ("vault.json" is missing)',
                hint=f'Run "snapvault init {name}" to create it, or correct "store" in the '
                "settings.",
            )
        if not record.create_only and chosen.create_only is None:
            metered = MeteredStore(reach(create_only=False), traffic, before=metered.usage())
        state = settings.state_dir / record.place
        make_private(state)
        known_vaults(settings).remember(chosen, record.place)
        with open_catalog(state, name, events) as catalog, naming_state(state):
            underneath = open_underneath(
                chosen, sleep=traffic.ending.sleep, count=metered.count_call
            )
            yield Vault(
                name,
                record,
                metered,
                sealer,
                catalog,
                events,
                state,
                underneath,
                chosen.object_lock,
                partial(open_addressees, chosen),
            )


@contextmanager
def _limited(settings: Settings, events: Events) -> Iterator[Traffic]:
    """Return what the limits of this host let pass: nothing more once the process shall end."""
    ending = Ending()
    traffic = Traffic(settings.limits, settings.state_dir / "limits", ending, events)
    with ending.noticed(), closing(traffic):
        yield traffic


def rebuild_catalog(vault: Vault) -> Inventory:
    """Forget the local index and read it from the vault again."""
    vault.catalog.clear()
    notes.forget(vault)
    return sync(vault)


def open_keys(settings: VaultSettings) -> Sealer:
    """Return GnuPG with the keys that the settings name; nothing is proven yet.

    Raises:
        KeyMissingError, ConfigError, SealError: as `open_sealer`.
    """
    from snapvault.adapters.sealers.gnupg import open_sealer

    return open_sealer(
        gnupg_home(settings),
        recipients=settings.recipients,
        signer=settings.signer,
        trusted_signers=settings.trusted_signers,
        passphrase_file=str(settings.passphrase_file) if settings.passphrase_file else None,
    )


def open_report_keys(settings: VaultSettings, vault_keys: Sealer) -> Sealer:
    """Return the keys of drill reports of a vault; as the adapter's.

    Raises:
        KeyMissingError, ConfigError, SealError: as `open_report_sealer`.
    """
    from snapvault.adapters.sealers.reports import open_report_sealer

    return open_report_sealer(
        gnupg_home(settings),
        vault_keys,
        passphrase_file=str(settings.passphrase_file) if settings.passphrase_file else None,
    )


def open_addressees(settings: VaultSettings) -> Addressees:
    """Return what tells whom sealed objects are addressed to.

    Raises:
        ConfigError, SealError: the folder of the keys or gpg cannot be used.
    """
    from snapvault.adapters.sealers.addressees import GnupgAddressees

    return GnupgAddressees(gnupg_home(settings))


def gnupg_home(settings: VaultSettings) -> Path:
    """Return the folder of the keys."""
    return settings.gnupg_home or Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")


def gnupg_version(settings: VaultSettings) -> str:
    """Return the version of the gpg program."""
    from snapvault.adapters.sealers import facts

    return facts.gnupg_version(gnupg_home(settings))


def key_facts(settings: VaultSettings, sealer: Sealer) -> "dict[str, KeyFacts]":
    """Return what is known of the recipients' and the signer's keys, by fingerprint."""
    from snapvault.adapters.sealers import facts

    return facts.read_facts(gnupg_home(settings), {*sealer.recipients, sealer.signer})


def open_objects(
    settings: VaultSettings,
    *,
    create_only: bool | None = None,
    throttle: Throttle | None = None,
    sleep: Callable[[float], None] = clock.sleep,
) -> Store:
    """Return the store that the settings name, as `open_store`; nothing is asked of it yet."""
    options = _store_options(settings, create_only=create_only)
    return open_store(settings.store, options, throttle=throttle, sleep=sleep)


def open_underneath(
    settings: VaultSettings,
    *,
    sleep: Callable[[float], None] = clock.sleep,
    count: Callable[[str, int], None] = lambda _kind, _amount: None,
) -> StoreVersions | None:
    """Return what shows the versions of objects in the store that the settings name."""
    return open_versions(settings.store, _store_options(settings), sleep=sleep, count=count)


def prove_lock(settings: VaultSettings) -> LockProof:
    """Prove on a small object that the store locks what it is asked to lock.

    Raises:
        StoreError: it does not.
    """
    versions = open_underneath(settings)
    if versions is None:
        raise StoreError(f'store "{settings.store}" has no Object Lock')
    proof = versions.prove_lock()
    if not proof.holds:
        raise StoreError(
            f'store "{settings.store}" does not lock: {proof.trouble}',
            hint='Use a store that honors S3 Object Lock, or leave out "object_lock": what is '
            "stored can be deleted there.",
        )
    return proof


def open_frozen(settings: VaultSettings, vault: Vault | None = None) -> Archive | None:
    """Return what thaws objects of the store that the settings name; None: there is no archive.

    What it asks counts as asked of the vault.
    """
    options = _store_options(settings)
    if vault is not None and isinstance(vault.store, MeteredStore):
        return open_archive(settings.store, options, count=vault.store.count_call)
    return open_archive(settings.store, options)


def _store_options(settings: VaultSettings, *, create_only: bool | None = None) -> StoreOptions:
    options = StoreOptions(
        endpoint_url=settings.endpoint_url,
        region=settings.region,
        profile=settings.profile,
        storage_class=settings.storage_class,
        volume_storage_class=settings.volume_storage_class,
        ca_bundle=settings.ca_bundle,
        create_only=_first(settings.create_only, create_only, True),
        lock=settings.object_lock,
    )
    if settings.request_checksum_calculation is not None:
        options = replace(
            options, request_checksum_calculation=settings.request_checksum_calculation
        )
    if settings.response_checksum_validation is not None:
        options = replace(
            options, response_checksum_validation=settings.response_checksum_validation
        )
    return options


def _first(*values: bool | None) -> bool:
    return next(value for value in values if value is not None)
