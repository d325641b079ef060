# SPDX-License-Identifier: Apache-2.0
"""The composition root: which adapter stands for what, and errors of this host's state."""

import errno
import os
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.adapters.ending import Ending
from snapvault.adapters.sources.command import CommandSource
from snapvault.adapters.sources.directory import DirectorySource
from snapvault.adapters.sources.ebs import EbsSource
from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.lvm import LvmSource
from snapvault.adapters.sources.mysql import MysqlSource
from snapvault.adapters.sources.mysql_quiesce import MysqlLvmSource
from snapvault.adapters.sources.postgresql import PostgresqlSource
from snapvault.adapters.sources.qcow2 import Qcow2Source
from snapvault.adapters.sources.qemu import QemuSource
from snapvault.adapters.sources.whole import WholeSource
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.adapters.stores.metered import MeteredStore
from snapvault.adapters.throttle import Traffic
from snapvault.errors import SealError, SourceError, StateError
from snapvault.model.policy import (
    KINDS,
    CommandSpec,
    DirectorySpec,
    EbsSpec,
    HookSpec,
    HooksSpec,
    ImageSpec,
    KindSpec,
    Limits,
    LvmSpec,
    MysqlSpec,
    Policy,
    PostgresqlSpec,
    QemuSpec,
    SourceSpec,
    StreamSpec,
)
from snapvault.model.settings import HostLimits, Settings, VaultSettings
from snapvault.ports.sealer import Readers
from snapvault.ports.source import Source
from snapvault.wiring.runs import back_up
from snapvault.wiring.sources import check_source, source_of
from tests.support.events import RecordedEvents
from tests.support.sealers import PaperSealer
from tests.support.throttles import Time
from tests.support.vaults import VaultKit

NO_HOOKS = HooksSpec()


class Sources:
    """Makes sources as a backup does."""

    def __init__(self, folder: Path) -> None:
        self.events = RecordedEvents()
        self._folder = folder

    def of(self, *specs: KindSpec, hooks: HooksSpec = NO_HOOKS) -> Source:
        streams = tuple(
            StreamSpec(f"{KINDS[type(spec)]}{number}", spec) for number, spec in enumerate(specs)
        )
        return source_of(
            SourceSpec("web01", streams, hooks=hooks),
            policy="nightly",
            vault="offsite",
            vault_id="0" * 32,
            folder=self._folder,
            events=self.events,
        )


def unguarded(source: Source) -> Source:
    """Return a source without what refuses half-restored disks."""
    return source.inner if isinstance(source, WholeSource) else source


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path)


class NoRoom(PaperSealer):
    """Fails as gpg and the operating system do when the state folder is full."""

    def __init__(self, error: Exception) -> None:
        super().__init__(holds="host")
        self._error = error

    def seal_to_file(self, chunks: Iterable[bytes], path: Path, readers: Readers) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        SealError("could not encrypt: error writing to file: No space left on device"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
    ids=["gpg", "system"],
)
def test_a_source_that_finds_the_state_folder_full_names_the_folder(
    tmp_path: Path, error: Exception
) -> None:
    kit = VaultKit(tmp_path)
    image = tmp_path / "image.raw"
    image.write_bytes(b"data" * 5000)
    spec = SourceSpec("web01", (StreamSpec("root", ImageSpec(image)),))
    policy = Policy("nightly", tmp_path, "offsite", (spec,))
    vault = replace(kit.host(), sealer=NoRoom(error))

    with pytest.raises(StateError, match="no space left") as caught:
        back_up(vault, policy, spec)

    assert str(vault.state) in str(caught.value)
    assert "state_dir" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (Limits(read=1_000_000), 8),
        (Limits(upload=1_000_000), 8),
        (Limits(read=4_000_000), 2),
        (Limits(), 0),
    ],
)
def test_a_run_keeps_to_the_limits_of_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, seconds: float
) -> None:
    time = Time.instead_of_ours(monkeypatch)
    events = RecordedEvents()
    traffic = Traffic(HostLimits(), tmp_path / "limits", Ending(), events)
    store = MeteredStore(DirectoryStore(tmp_path / "vault", traffic.upload), traffic)
    kit = VaultKit(tmp_path, store=store)
    image = tmp_path / "image.raw"
    image.write_bytes(random.Random(1).randbytes(8_000_000))
    spec = SourceSpec("web01", (StreamSpec("root", ImageSpec(image)),))
    policy = Policy("nightly", tmp_path, "offsite", (spec,), volume_size=1 << 20, limits=limits)

    back_up(kit.host(), policy, spec)

    assert time.passed == pytest.approx(seconds, rel=0.15, abs=0.1)


@pytest.mark.parametrize(
    ("spec", "adapter"),
    [
        (ImageSpec(Path("/a")), ImageSource),
        (ImageSpec(Path("/a"), "raw"), ImageSource),
        (ImageSpec(Path("/a"), "qcow2"), Qcow2Source),
        (CommandSpec(("dump",)), CommandSource),
        (EbsSpec(volume="vol-01234567"), EbsSource),
        (MysqlSpec(), MysqlSource),
        (MysqlSpec(lvm=LvmSpec("vg0/a")), MysqlLvmSource),
        (LvmSpec("vg0/a"), LvmSource),
        (DirectorySpec(Path("/a")), DirectorySource),
        (QemuSpec(Path("/a")), QemuSource),
        (PostgresqlSpec(), PostgresqlSource),
    ],
)
def test_every_kind_has_its_adapter(
    sources: Sources, spec: KindSpec, adapter: type[Source]
) -> None:
    source = sources.of(spec)

    assert type(unguarded(source)) is adapter
    assert source.name == "web01"


def test_logical_volumes_are_one_part_also_when_a_server_is_locked_for_one(
    sources: Sources,
) -> None:
    plain = sources.of(LvmSpec("vg0/a"), LvmSpec("vg0/b"))
    locked = sources.of(LvmSpec("vg0/a"), MysqlSpec(lvm=LvmSpec("vg0/b")), LvmSpec("vg0/c"))

    assert type(unguarded(plain)) is LvmSource
    assert type(unguarded(locked)) is MysqlLvmSource


def test_disks_that_one_adapter_reads_are_opened_together(sources: Sources, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(4096))

    source = sources.of(ImageSpec(tmp_path / "a"), ImageSpec(tmp_path / "b", "raw"))

    view = source.open()
    assert type(unguarded(source)) is ImageSource
    assert [stream.name for stream in view.streams] == ["image0", "image1"]
    view.close()


def test_a_disk_that_looks_like_another_format_is_read_only_when_the_policy_says_raw(
    sources: Sources, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"QFI\xfb" + bytes(4092))

    with pytest.raises(SourceError, match="is not raw"):
        sources.of(ImageSpec(disk)).open()
    sources.of(ImageSpec(disk, "raw")).open().close()


def test_parts_of_different_kinds_are_one_source(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))

    source = sources.of(ImageSpec(tmp_path / "a"), CommandSpec(("true",)))

    view = source.open()
    assert [stream.name for stream in view.streams] == ["image0", "command1"]
    view.close()


def test_hooks_are_around_all_parts_and_looked_at_with_them(
    sources: Sources, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))
    hooks = HooksSpec(before=HookSpec(("no-such-program",)), after=HookSpec(("true",)))

    source = sources.of(ImageSpec(tmp_path / "a"), CommandSpec(("true",)), hooks=hooks)

    findings = {finding.check: finding.error for finding in source.check()}
    assert list(findings) == ['hook "before"', 'hook "after"', "image0", "command1"]
    assert [check for check, error in findings.items() if error] == ['hook "before"']


def test_a_source_is_looked_at_though_its_vault_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(4096))
    spec = SourceSpec("web01", (StreamSpec("root", ImageSpec(tmp_path / "a")),))
    policy = Policy("nightly", tmp_path, "offsite", (spec,))
    vault = VaultSettings("offsite", f"file://{tmp_path}/gone", ("r",), "s")
    settings = Settings(tmp_path, tmp_path / "state", tmp_path, {"offsite": vault})

    findings = list(check_source(settings, policy, spec, RecordedEvents()))

    assert [(finding.check, finding.error) for finding in findings] == [("root", None)]
    assert not (tmp_path / "state").exists()
