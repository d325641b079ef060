# SPDX-License-Identifier: Apache-2.0
"""Drills: restores are rehearsed as on another host, with nothing of this one but its settings."""

import os
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from snapvault import clock
from snapvault.adapters.own_folder import own_folder
from snapvault.engine.drill_choice import Pick
from snapvault.engine.drill_notes import Tools, failure_of
from snapvault.errors import ConfigError, NoRestorePointError, SnapVaultError
from snapvault.formats import names
from snapvault.model.drills import DrillReport, StepReport
from snapvault.model.policy import DrillSpec, Policy
from snapvault.model.rehearsal import Choice, DatabaseDrill, DrillStep
from snapvault.model.settings import HostLimits, Settings
from snapvault.ports.events import Events
from snapvault.ports.serving import ServedDisk
from snapvault.ports.target import Target
from snapvault.wiring import runs, vaults, versions

MANUAL: Final = "manual"
SCHEDULED: Final = "schedule"

# LIMIT: bytes of a unix socket's path (Linux); what is put into the folder has at most so many.
_LONGEST_SOCKET: Final = 107
_SOCKET_NAME: Final = 20

# What begins so and belongs to no process is removed: the name must be nobody else's.
_FOLDER: Final = "snapvault-drill-"
_KEPT: Final = "snapvault-kept-"
_TEMPORARY: Final = Path("/var/tmp")  # noqa: S108 - see where it is used
_SCRATCH: Final = "snapvault-drills-"
_OTHERS_MAY_ENTER: Final = 0o711
"""A scratch server's user must get to its own folder; every folder beside it is private."""

_SEEDS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks of a drill beside what its policy says.

    `sources` of the policy; none: its steps. `point` is an id or the beginning of one, `moment`
    picks the newest point at that time. `seed` None: any. With `keep`, what was restored stays.
    """

    sources: tuple[str, ...] = ()
    point: str | None = None
    moment: datetime | None = None
    seed: int | None = None
    keep: bool = False
    trigger: str = MANUAL


def run_drill(
    settings: Settings, policy: Policy, events: Events, wish: Wish = Wish()
) -> DrillReport:
    """Rehearse what a policy says, now, and return what came of it, whatever that is.

    It works with a state folder of its own, the recovery key from where the policy says, and a
    store that it cannot change. All that it makes is gone on return, and when an exception that
    asks this process to end passes through; what a killed one left goes with the next drill.

    Raises:
        NoRestorePointError: there is no such point as was wished for by id or time.
    """
    from snapvault.engine import drill

    started = clock.now()
    spec = policy.drill or DrillSpec(())
    seed = secrets.randbelow(_SEEDS) if wish.seed is None else wish.seed
    pick = Pick(spec.choice, started, seed, spec.within, wish.point, wish.moment)
    if policy.drill is None:
        pick = replace(pick, choice=Choice.LATEST)
    steps = drill.steps_for(policy, wish.sources)
    problem: str | None = None
    reports: tuple[StepReport, ...]
    try:
        reports = _rehearsed(settings, policy, spec, steps, pick, events, wish)
    except (SnapVaultError, OSError) as error:
        if isinstance(error, NoRestorePointError) and pick.is_by_hand:
            raise
        failure = failure_of(error)
        problem = failure.reason
        reports = tuple(
            drill.not_begun(
                policy, step, problem, started, failure=failure if number == 0 else None
            )
            for number, step in enumerate(steps)
        )
    return DrillReport(
        id=names.new_drill_id(),
        policy=policy.name,
        vault=policy.vault,
        host=os.uname().nodename or "unknown",
        version=versions.tool(),
        trigger=wish.trigger,
        started=started,
        ended=clock.now(),
        choice=pick.name,
        seed=seed,
        steps=reports,
        problem=problem,
    )


def _rehearsed(
    settings: Settings,
    policy: Policy,
    spec: DrillSpec,
    steps: tuple[DrillStep, ...],
    pick: Pick,
    events: Events,
    wish: Wish,
) -> tuple[StepReport, ...]:
    from snapvault.adapters.sealers.agent import agent_ends
    from snapvault.engine import drill

    with ExitStack() as stack:
        folder = _enter_scratch(stack, spec)
        if spec.gnupg_home is not None and spec.gnupg_home.is_dir():
            stack.enter_context(agent_ends(spec.gnupg_home))
        own = _elsewhere(settings, policy.vault, spec, folder)
        with (
            vaults.open_vault(own, policy.vault, events) as vault,
            runs.counting_requests(settings, vault, events, verb="drill"),
        ):
            tools = _tools(events, steps)
            work = drill.Drill(vault, policy, steps, pick, tools, folder, keep=wish.keep)
            reports = work.run()
        if wish.keep:
            kept = _keep(folder, own.state_dir)
            events.warn("drill.kept", f'what was restored is kept, in clear, in folder "{kept}"')
        return reports


def _elsewhere(settings: Settings, vault: str, spec: DrillSpec, folder: Path) -> Settings:
    """Return the settings of a host that has never seen the vault, with the recovery key."""
    chosen = settings.vaults[vault]
    if spec.gnupg_home is not None:
        chosen = replace(chosen, gnupg_home=spec.gnupg_home, passphrase_file=None)
    if spec.passphrase_file is not None:
        chosen = replace(chosen, passphrase_file=spec.passphrase_file)
    state = folder / "state"
    state.mkdir(mode=0o700)
    return replace(settings, state_dir=state, vaults={vault: chosen}, limits=HostLimits())


def _keep(folder: Path, state: Path) -> Path:
    """Take a drill's folder out of what is removed; the state in it is nothing to keep."""
    import shutil

    shutil.rmtree(state, ignore_errors=True)
    kept = folder.with_name(_KEPT + folder.name.removeprefix(_FOLDER))
    folder.rename(kept)
    kept.chmod(0o700)
    return kept


# --- where it happens -------------------------------------------------------------------------


def _enter_scratch(stack: ExitStack, spec: DrillSpec) -> Path:
    """Make a private folder that is gone with the stack, and remove those of killed drills."""
    while True:
        scratch = _scratch(spec)
        if spec.scratch is None:
            stack.callback(_remove_if_empty, scratch)
        try:
            folder = stack.enter_context(own_folder(scratch, _FOLDER))
        except FileNotFoundError:
            continue  # the drill before has just removed the folder that nobody named
        except OSError as error:
            raise _unusable(scratch, error) from error
        folder.chmod(_OTHERS_MAY_ENTER)
        return folder


def _remove_if_empty(scratch: Path) -> None:
    with suppress(OSError):
        scratch.rmdir()


def _scratch(spec: DrillSpec) -> Path:
    """Return the folder for scratch folders: there, and nobody else's.

    Raises:
        ConfigError: it cannot be made, or somebody else can change what is in it.
    """
    scratch = spec.scratch or _TEMPORARY / f"{_SCRATCH}{os.geteuid()}"
    try:
        scratch.mkdir(mode=_OTHERS_MAY_ENTER, parents=spec.scratch is not None, exist_ok=True)
        found = scratch.stat() if spec.scratch else scratch.lstat()
    except OSError as error:
        raise _unusable(scratch, error) from error
    # SAFETY: everybody can make the folder that nobody named before we do.
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if spec.scratch is None:
        if not is_ours or found.st_mode & 0o022:
            raise ConfigError(
                f'folder "{scratch}" for drills belongs to somebody else',
                hint='Remove it, or name another one with "scratch" under "drill" in the policy.',
            )
        scratch.chmod(_OTHERS_MAY_ENTER)  # whatever the umask made of it
    return scratch


def _unusable(scratch: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f'could not use folder "{scratch}" for drills: {(error.strerror or str(error)).lower()}',
        hint='Name another one with "scratch" under "drill" in the policy.',
    )


@contextmanager
def _sockets(folder: Path) -> Iterator[Path]:
    """Give a folder that sockets fit into: this one, or a private one with a short path."""
    if len(os.fsencode(folder)) + _SOCKET_NAME <= _LONGEST_SOCKET:
        yield folder
        return
    with own_folder(Path(tempfile.gettempdir()), "snapvault-sockets-") as short:
        yield short


# --- what it works with -----------------------------------------------------------------------


def _tools(events: Events, steps: Sequence[DrillStep]) -> Tools:
    from snapvault.wiring import restoring
    from snapvault.wiring.databases import scratch_databases
    from snapvault.wiring.machines import machines

    # A drill ends its server when its time is over, but a dump can have a client wait for more.
    limits = [step.kind.timeout for step in steps if isinstance(step.kind, DatabaseDrill)]
    return Tools(
        machines=machines(),
        databases=scratch_databases(max(limits, default=None)),
        open_target=_target,
        serve=partial(_served, events),
        sockets=_sockets,
        require_room=restoring.require_room,
    )


def _target(path: Path, size: int, data_bytes: int) -> Target:
    from snapvault.adapters.targets.file import FileTarget

    del data_bytes  # there is room for all streams together, which was looked at before
    return FileTarget.create(path, size, force=False)


@contextmanager
def _served(events: Events, disks: Sequence[ServedDisk], folder: Path) -> Iterator[Sequence[str]]:
    """Show disks over NBD, on a socket in a folder; yield their addresses."""
    from snapvault.adapters import nbd_server

    path = folder / "nbd"
    listener: socket.socket = nbd_server.listen_unix(path)
    try:
        with nbd_server.NbdServer(listener, disks, events):
            yield [
                f"nbd+unix:///{quote(disk.name, safe='')}?socket={quote(str(path), safe='/')}"
                for disk in disks
            ]
    finally:
        listener.close()
        path.unlink(missing_ok=True)
