# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a vault is remembered on the host, until somebody finds it mended."""

from dataclasses import replace
from pathlib import Path

import pytest

from snapvault.engine import troubles
from snapvault.engine.vault import sync
from snapvault.formats import names
from tests.support.nights import Nights
from tests.support.versioned import GOVERNANCE, VersionedStore


@pytest.fixture
def store() -> VersionedStore:
    return VersionedStore(GOVERNANCE)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: VersionedStore) -> Nights:
    return Nights(tmp_path, monkeypatch, store=store)


def test_a_missing_head_is_a_trouble_from_the_first_look_until_it_is_back(
    nights: Nights, store: VersionedStore
) -> None:
    points = nights.nights(3)
    vault = replace(nights.kit.host(), versions=store)
    (head,) = (name for name in nights.kit.objects(names.POINTS) if points[2].point in name)
    store.delete([head])
    since = nights.now

    sync(vault)
    found = troubles.read(vault.state)
    nights.pass_days(1)
    sync(vault)
    later = troubles.read(vault.state)
    (marker,) = (each for each in store.versions(head) if each.is_marker)
    store.remove([marker])
    sync(vault)

    (message,) = found.messages
    assert f'restore point "{points[2].point}"' in message
    assert "was in the vault and is gone" in message
    assert later == found
    assert later.since == since
    assert troubles.read(vault.state) == troubles.Troubles()


def test_a_look_at_all_strikes_out_what_a_look_at_one_source_found(tmp_path: Path) -> None:
    troubles.note_manifests(tmp_path, "web01", ["one is gone"])
    troubles.note_manifests(tmp_path, "shop", ["two are gone"])
    troubles.note(tmp_path, troubles.LOCKS, ["locks could not be renewed:\nno"])
    before = troubles.read(tmp_path).messages

    troubles.note_manifests(tmp_path, None, ["two are gone"])

    assert set(before) == {"locks could not be renewed: no", "two are gone", "one is gone"}
    assert set(troubles.read(tmp_path).messages) == {
        "locks could not be renewed: no",
        "two are gone",
    }


def test_damaged_notes_are_as_good_as_none(tmp_path: Path) -> None:
    troubles.note(tmp_path, troubles.LOCKS, ["x"])
    (tmp_path / "troubles" / "locks").write_text("{")

    assert troubles.read(tmp_path) == troubles.Troubles()


def test_a_state_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "troubles").write_text("a file")

    troubles.note(tmp_path, troubles.LOCKS, ["x"])

    assert troubles.read(tmp_path) == troubles.Troubles()
