# SPDX-License-Identifier: Apache-2.0
"""qcow2 images as a source, made and held against by QEMU's own programs."""

import random
import re
import subprocess
from pathlib import Path

import pytest

from snapvault.adapters.sources.image import ImageSource
from snapvault.adapters.sources.qcow2 import Qcow2Source
from snapvault.errors import SourceError
from snapvault.ports.source import Consistency, DiskStream
from tests.support.qemu import make_image, qemu_img, qemu_io, raw_of, write_lock
from tests.support.vaults import VaultKit

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 24 * MIB


def layered(folder: Path) -> Path:
    """Make an image over a backing file: data, zeros over data, and compressed clusters."""
    base = make_image(folder / "base of all.qcow2", SIZE)
    qemu_io(base, "write -P 1 0 1M", "write -P 2 3M 320k", "write -P 3 8M 2M", "write -P 9 20M 1M")
    top = folder / "top,:.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", str(top))
    qemu_io(
        top,
        "write -P 4 512k 64k",
        "write -z 8M 1M",
        "write -c -P 5 12M 64k",
        "write -P 6 24512k 64k",
    )
    return top


def whole(disk: DiskStream) -> bytes:
    content = bytearray(disk.size)
    for start, end in disk.data_ranges():
        disk.read_into(start, memoryview(content)[start:end])
    return bytes(content)


def test_an_image_over_a_backing_file_reads_as_its_disk(tmp_path: Path) -> None:
    path = layered(tmp_path)

    view = Qcow2Source("web01", {"root": path}).open()
    content = whole(view.streams[0])
    outcome = view.finish()
    view.close()

    assert content == raw_of(path)
    assert outcome.consistency is Consistency.CRASH


def test_what_is_not_allocated_or_zero_is_a_hole(tmp_path: Path) -> None:
    view = Qcow2Source("web01", {"root": layered(tmp_path)}).open()

    ranges = list(view.streams[0].data_ranges())
    view.close()

    assert ranges == [
        (0, MIB),
        (3 * MIB, 3 * MIB + 320 * 1024),
        (9 * MIB, 10 * MIB),
        (12 * MIB, 12 * MIB + 65536),
        (20 * MIB, 21 * MIB),
        (SIZE - 65536, SIZE),
    ]


def test_a_restore_point_of_an_image_gives_its_disk_back(tmp_path: Path) -> None:
    path = layered(tmp_path)
    kit = VaultKit(tmp_path / "vault", block_size=16384, volume_size=MIB)

    held = kit.night(Qcow2Source("web01", {"root": path}))

    assert kit.restored(held.point) == {"root": raw_of(path)}


def test_an_image_in_use_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.qcow2", SIZE)

    with write_lock(path), pytest.raises(SourceError, match="is in use") as caught:
        Qcow2Source("web01", {"root": path}).open()

    assert "with qemu" in str(caught.value.hint)
    Qcow2Source("web01", {"root": path}).open().close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (random.Random(1).randbytes(100_000), "not in qcow2 format"),
        (b"QFI\xfb\0\0\0\3" + bytes(100), "cluster size"),
        (b"", "not in qcow2 format"),
    ],
)
def test_what_is_no_sound_image_is_refused_in_one_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(content)

    with pytest.raises(SourceError, match=said) as caught:
        Qcow2Source("web01", {"root": path}).open()

    assert str(caught.value).startswith(f'could not open image "{path}": ')
    assert "\n" not in str(caught.value)


def test_a_missing_image_and_a_missing_backing_file_are_named(tmp_path: Path) -> None:
    path = layered(tmp_path)
    (tmp_path / "base of all.qcow2").unlink()

    with pytest.raises(SourceError, match=re.escape(str(path))):
        Qcow2Source("web01", {"root": path}).open()
    with pytest.raises(SourceError, match="it is not there"):
        Qcow2Source("web01", {"root": tmp_path / "gone"}).open()


def test_an_encrypted_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.qcow2"
    # AES and not LUKS: for LUKS qemu-img measures the processor, which fails on some machines.
    qemu_img(
        *("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc"),
        *("-o", "encrypt.format=aes,encrypt.key-secret=s", str(path), "1M"),
    )

    with pytest.raises(SourceError, match="encrypted"):
        Qcow2Source("web01", {"root": path}).open()


def test_an_image_whose_tables_are_damaged_cannot_be_read(tmp_path: Path) -> None:
    path = layered(tmp_path)
    with path.open("r+b") as file:  # the L1 table, by the qcow2 specification of QEMU
        file.seek(40)
        table = int.from_bytes(file.read(8), "big")
        file.seek(table)
        file.write(b"\x80\xff\xff\xff\xff\xff\xfe\x00")

    view = Qcow2Source("web01", {"root": path}).open()
    with pytest.raises(SourceError, match=f'could not read image "{re.escape(str(path))}"'):
        whole(view.streams[0])
    view.close()


def test_an_image_that_changed_meanwhile_is_worth_nothing(tmp_path: Path) -> None:
    path = layered(tmp_path)
    view = Qcow2Source("web01", {"root": path}).open()

    with (tmp_path / "base of all.qcow2").open("ab") as file:
        file.write(b"x")
    outcome = view.finish()
    view.close()

    assert outcome.consistency is Consistency.NONE


def test_no_machine_gets_an_image_while_it_is_read(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.qcow2", SIZE)
    view = Qcow2Source("web01", {"root": path}).open()

    with pytest.raises(subprocess.CalledProcessError):
        qemu_io(path, "write 0 512")
    view.close()

    qemu_io(path, "write 0 512")


def test_check_tells_of_each_image(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.qcow2", SIZE)

    good, bad = Qcow2Source("web01", {"root": path, "data": tmp_path / "gone"}).check()

    assert good.error is None
    assert "24.0 MiB" in good.message
    assert isinstance(bad.error, SourceError)


def test_a_raw_disk_that_looks_like_qcow2_is_read_raw_when_the_policy_says_so(
    tmp_path: Path,
) -> None:
    path = make_image(tmp_path / "a.raw", SIZE)

    with pytest.raises(SourceError, match="is not raw") as caught:
        ImageSource("web01", {"root": path}).open()
    view = ImageSource("web01", {"root": path}, surely_raw=["root"]).open()
    content = whole(view.streams[0])
    view.close()

    assert "format: qcow2" in str(caught.value.hint)
    assert content == path.read_bytes()
