# SPDX-License-Identifier: Apache-2.0
"""Restores onto block devices: real loop devices where this user may make them."""

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvault.adapters.targets.device import DeviceTarget
from snapvault.adapters.targets.opening import TargetKind, kind_of, open_target
from snapvault.errors import RestoreError, TargetNotEmptyError
from tests.unit.adapters.targets.devices import block_device

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with block_device(tmp_path / "backing", SIZE, monkeypatch) as (path, _):
        yield path


@pytest.fixture
def busy_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with block_device(tmp_path / "backing", SIZE, monkeypatch) as (path, is_real):
        if is_real:
            holder = os.open(path, os.O_RDWR | os.O_EXCL)
            yield path
            os.close(holder)
        else:
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", _refuse)
                yield path


def _refuse(*arguments: object) -> int:
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def test_a_device_is_never_overwritten_without_force(device: Path) -> None:
    with pytest.raises(TargetNotEmptyError, match="would be overwritten") as caught:
        open_target(device, SIZE, SIZE, force=False)

    assert "--force" in (caught.value.hint or "")
    assert device.read_bytes() == b"\xaa" * SIZE


def test_a_device_is_told_from_a_file_also_through_a_link(device: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(device)

    assert kind_of(link) is TargetKind.DEVICE


def test_a_device_in_use_is_refused(busy_device: Path) -> None:
    with pytest.raises(RestoreError, match="is in use"):
        DeviceTarget.open(busy_device, SIZE, force=True)


def test_a_device_that_is_too_small_is_refused_with_both_sizes(device: Path) -> None:
    with pytest.raises(RestoreError, match=r"too small.*4194304 bytes.*4194305 bytes"):
        DeviceTarget.open(device, SIZE + 1, force=True)

    DeviceTarget.open(device, SIZE, force=True).abort()  # the refusal let go of it


@pytest.mark.parametrize("size", [SIZE - 1, SIZE - 4096, 100, 0])
def test_what_lies_beyond_the_stream_stays(device: Path, size: int) -> None:
    target = DeviceTarget.open(device, size, force=True)
    data = memoryview(mmap.mmap(-1, SIZE))[:size]

    target.write(0, data)
    target.commit()

    assert device.read_bytes() == bytes(size) + b"\xaa" * (SIZE - size)
    assert target.bytes_beyond == SIZE - size


def test_zeroing_touches_nothing_around_the_range(device: Path) -> None:
    target = DeviceTarget.open(device, SIZE, force=True)

    target.zero(513, 2 * MIB)
    target.zero(SIZE - 7, 3)
    target.commit()

    expected = bytearray(b"\xaa" * SIZE)
    expected[513 : 513 + 2 * MIB] = bytes(2 * MIB)
    expected[SIZE - 7 : SIZE - 4] = bytes(3)
    assert device.read_bytes() == expected


def test_writing_beyond_the_stream_is_a_mistake_of_the_caller(device: Path) -> None:
    target = DeviceTarget.open(device, 4096, force=True)

    with pytest.raises(ValueError, match="not within 4096 bytes"):
        target.write(4096, memoryview(b"x"))

    target.abort()
    assert device.read_bytes() == b"\xaa" * SIZE


def test_a_file_is_not_taken_for_a_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RestoreError, match="not a block device"):
        DeviceTarget.open(tmp_path / "file", 0, force=True)


def test_a_device_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match=r'open block device ".*/missing": no such file'):
        DeviceTarget.open(tmp_path / "missing", 0, force=True)
