# SPDX-License-Identifier: Apache-2.0
"""How places for new logical volumes are written, and what the volumes are called."""

import pytest

from snapvault.adapters.targets.lvm_address import LvmPlace, parse
from snapvault.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("lvm:vg0", LvmPlace("vg0")),
        ("lvm:vg-0/web.01_root+", LvmPlace("vg-0", "web.01_root+")),
        ("lvm:vg0?thin=pool0", LvmPlace("vg0", pool="pool0")),
        ("lvm:vg0/root?thin=pool0", LvmPlace("vg0", "root", pool="pool0")),
        ("lvm:vg0?thin=pool0&prefix=new%2B", LvmPlace("vg0", pool="pool0", prefix="new+")),
        ("lvm:vg0?prefix=", LvmPlace("vg0", prefix="")),
    ],
)
def test_addresses_are_read(text: str, place: LvmPlace) -> None:
    assert parse(text) == place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lvm:", "names no volume group"),
        ("lvm:-vg0", "names no volume group"),
        ("lvm:vg0/", "names no volume group"),
        ("lvm:vg0/a/b", "names no volume group"),
        ("lvm:vg 0", "names no volume group"),
        ("lvm:vg0?", 'unknown key ""'),
        ("lvm:vg0?pool=a", 'unknown key "pool"'),
        ("lvm:vg0?thin=a&thin=b", "is there twice"),
        ("lvm:vg0?thin=", "no name of a thin pool"),
        ("lvm:vg0?thin=../a", "no name of a thin pool"),
        ("lvm:vg0?prefix=a/b", "cannot begin the name"),
        ("lvm:vg0/root?prefix=a", "a name and a prefix"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lvm:vg0", "web01-root"),
        ("lvm:vg0/disk", "disk"),
        ("lvm:vg0?prefix=new-", "new-root"),
        ("lvm:vg0?prefix=", "root"),
    ],
)
def test_a_volume_is_named_after_its_source_and_stream_or_as_told(text: str, name: str) -> None:
    assert parse(text).name_of("web01", "root") == name
