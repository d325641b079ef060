# SPDX-License-Identifier: Apache-2.0
"""What one run of the program works with: the shared options, the settings, the vaults."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from snapvault.cli.console import Console
from snapvault.errors import ConfigError

if TYPE_CHECKING:
    from snapvault.engine.vault import Vault
    from snapvault.model.settings import Settings, VaultSettings

DEFAULT_CONFIG = "/etc/snapvault/snapvault.yaml"


@dataclass(slots=True)
class Session:
    """The options that all commands share, and what they lead to."""

    config: Path
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    _settings: "Settings | None" = None
    _console: Console | None = None

    @property
    def settings(self) -> "Settings":
        """The settings, read once."""
        if self._settings is None:
            from snapvault.config.settings import load_settings

            self._settings = load_settings(self.config)
        return self._settings

    @property
    def console(self) -> Console:
        """Where messages, events and progress go."""
        if self._console is None:
            self._console = Console(
                progress=not (self.json or self.quiet),
                notes=not (self.json or self.quiet),
                events=self.verbose,
            )
        return self._console

    def vault(self, name: str | None) -> "VaultSettings":
        """Return the vault of that name, or the only one.

        Raises:
            ConfigError: there is none of that name, or there are several and none was named.
        """
        vaults = self.settings.vaults
        if name is not None:
            return vaults[self.vault_names(name)[0]]
        if len(vaults) > 1:
            raise ConfigError(
                f'file "{self.settings.path}" has {len(vaults)} vaults, and none was named',
                hint=f"Name one of them: {', '.join(vaults)}.",
            )
        return next(iter(vaults.values()))

    def vault_names(self, name: str | None) -> tuple[str, ...]:
        """Return the name of a vault, checked, or all names.

        Raises:
            ConfigError: there is no vault of that name.
        """
        vaults = self.settings.vaults
        if name is None:
            return tuple(vaults)
        if name not in vaults:
            from snapvault.config.problems import nearest_hint

            raise ConfigError(
                f'the settings have no vault "{name}"',
                hint=nearest_hint(name, vaults, what="vaults"),
            )
        return (name,)

    @contextmanager
    def open(self, name: str) -> "Iterator[Vault]":
        """Open a vault; messages of it go to the console."""
        from snapvault.wiring import vaults

        with vaults.open_vault(self.settings, name, self.console) as vault:
            yield vault

    def report(self, document: Any, lines: Sequence[str]) -> None:
        """Print the report: the JSON document if one is wanted, or else the lines."""
        if self.json:
            import json

            print(json.dumps(document, indent=2))
        else:
            for line in lines:
                print(line)


def session(context: typer.Context) -> Session:
    """Return the session of a command."""
    found = context.obj
    assert isinstance(found, Session)  # noqa: S101 - app.options puts it there
    return found
