# SPDX-License-Identifier: Apache-2.0
"""The settings file, read into model values."""

import os
from pathlib import Path
from typing import Final

from snapvault.config.daemon import DaemonShape, daemon_settings
from snapvault.config.document import Document, Location, read_document
from snapvault.config.limits import host_limits
from snapvault.config.locking import object_lock
from snapvault.config.notify import NotifierShape, notifier_settings
from snapvault.config.paths import absolute, resolve
from snapvault.config.prices import own_prices
from snapvault.config.problems import Problem, ProblemError, quoted
from snapvault.config.shapes import SettingsShape, VaultShape
from snapvault.config.validate import problem_at, validate
from snapvault.model.policy import Schedule
from snapvault.model.settings import NotifierSettings, Settings, VaultSettings

# Where systemd puts the credentials of our service, for commands run outside of it.
_SERVICE_CREDENTIALS: Final = "/run/credentials/snapvault.service"
_USUAL_NAME: Final = "snapvault.yaml"
_MISSING_HINT: Final = "Write it, or name another with --config or SNAPVAULT_CONFIG."


def load_settings(path: Path) -> Settings:
    """Read the settings file.

    Raises:
        ConfigError: it is not there or wrong; the first problem in the file's order.
    """
    result = _read(path)
    if isinstance(result, Settings):
        return result
    raise ProblemError(result[0])


def check_settings(path: Path) -> tuple[Problem, ...]:
    """Return everything that is wrong with the settings file, in its order; empty: nothing."""
    result = _read(path)
    return () if isinstance(result, Settings) else result


def _read(path: Path) -> Settings | tuple[Problem, ...]:
    try:
        path = absolute(path)
        if path.is_dir():
            hint = f"Name the file in it: {quoted(str(path / _USUAL_NAME))}."
            return (Problem(path, "expected the file of settings, found a folder", hint),)
        document = read_document(path, hint_when_missing=_MISSING_HINT)
    except ProblemError as error:
        return (error.problem,)
    except RuntimeError:  # "~nobody"
        return (Problem(path, "there is no such home folder"),)
    shape = validate(document, SettingsShape)
    if isinstance(shape, tuple):
        return shape
    try:
        return Settings(
            path=document.path,
            state_dir=_path(document, ("state_dir",), shape.state_dir),
            policies_dir=_path(document, ("policies",), shape.policies),
            vaults={name: _vault(document, name, vault) for name, vault in shape.vaults.items()},
            daemon=daemon_settings(shape.daemon, _token_file(document, shape.daemon)),
            notify={name: _notifier(document, name, each) for name, each in shape.notify.items()},
            limits=host_limits(shape.limits),
        )
    except ProblemError as error:
        return (error.problem,)


def _vault(document: Document, name: str, shape: VaultShape) -> VaultSettings:
    def path(key: str, text: str | None) -> Path | None:
        return None if text is None else _path(document, ("vaults", name, key), text)

    passphrase_file = path("passphrase_file", shape.passphrase_file)
    if shape.passphrase_credential is not None:
        passphrase_file = _credential(shape.passphrase_credential)
    return VaultSettings(
        name=name,
        store=shape.store,
        recipients=tuple(shape.recipients),
        signer=shape.signer,
        trusted_signers=tuple(shape.trusted_signers),
        gnupg_home=path("gnupg_home", shape.gnupg_home),
        passphrase_file=passphrase_file,
        endpoint_url=shape.endpoint_url,
        region=shape.region,
        profile=shape.profile,
        storage_class=shape.storage_class,
        volume_storage_class=shape.volume_storage_class,
        request_checksum_calculation=shape.request_checksum_calculation,
        response_checksum_validation=shape.response_checksum_validation,
        ca_bundle=path("ca_bundle", shape.ca_bundle),
        create_only=shape.create_only,
        prune=Schedule(**dict(shape.prune)) if shape.prune else None,
        prune_grace=shape.prune_grace,
        object_lock=object_lock(shape.object_lock),
        prune_early=shape.prune_early,
        prices=own_prices(shape.prices),
    )


def _token_file(document: Document, shape: DaemonShape) -> Path | None:
    if shape.token_credential is not None:
        return _credential(shape.token_credential)
    if shape.token_file is None:
        return None
    return _path(document, ("daemon", "token_file"), shape.token_file)


def _notifier(document: Document, name: str, shape: NotifierShape) -> NotifierSettings:
    def path_of(key: str, text: str | None, credential: str | None) -> Path | None:
        if credential is not None:
            return _credential(credential)
        location = ("notify", name, *key.split("."))
        return None if text is None else _path(document, location, text)

    return notifier_settings(name, shape, path_of)


def _credential(name: str) -> Path:
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or _SERVICE_CREDENTIALS) / name


def _path(document: Document, location: Location, text: str) -> Path:
    try:
        return resolve(text, beside=document.path)
    except ValueError as error:
        raise ProblemError(problem_at(document, location, str(error))) from error
