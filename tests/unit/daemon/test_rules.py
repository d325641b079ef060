# SPDX-License-Identifier: Apache-2.0
"""Which files count after they were read again."""

import json
from pathlib import Path
from typing import Any

import pytest

from snapvault.daemon import rules

VAULT = {"store": "file:///srv/vault", "recipients": ["A" * 40], "signer": "B" * 40}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    write(tmp_path, "nightly", "web01", "shop")
    set_up(tmp_path)
    return tmp_path / "snapvault.yaml"


def set_up(folder: Path, **settings: Any) -> None:
    document = {"state_dir": "state", "vaults": {"offsite": VAULT}, **settings}
    (folder / "snapvault.yaml").write_text(json.dumps(document))


def write(folder: Path, policy: str, *sources: str) -> None:
    each = {name: {"command": {"run": ["true"]}} for name in sources}
    document = json.dumps({"vault": "offsite", "sources": each})
    (folder / "policies" / f"{policy}.yaml").write_text(document)


def named(found: rules.Rules) -> dict[str, list[str]]:
    return {each.name: [source.name for source in each.sources] for each in found.policies}


def test_another_state_folder_waits_for_a_restart(config: Path) -> None:
    before = rules.read(config)
    set_up(config.parent, state_dir="elsewhere")

    after = rules.read_again(before)

    assert after.settings == before.settings
    assert after.policies == before.policies
    assert "elsewhere" in after.texts[0]


def test_a_broken_policy_keeps_its_old_self_without_what_others_have_taken_over(
    config: Path,
) -> None:
    before = rules.read(config)
    (config.parent / "policies" / "nightly.yaml").write_text("vault: offsite\nsorces: {}\n")
    write(config.parent, "other", "shop")

    after = rules.read_again(before)

    assert named(after) == {"nightly": ["web01"], "other": ["shop"]}
    assert "nightly.yaml" in after.texts[0]


def test_a_source_moves_from_one_policy_to_another(config: Path) -> None:
    before = rules.read(config)
    write(config.parent, "nightly", "web01")
    write(config.parent, "other", "shop")

    after = rules.read_again(before)

    assert named(after) == {"nightly": ["web01"], "other": ["shop"]}
    assert after.problems == ()


def test_a_policy_whose_vault_is_gone_does_not_keep_its_old_self(config: Path) -> None:
    before = rules.read(config)
    set_up(config.parent, vaults={"other": VAULT})

    after = rules.read_again(before)

    assert after.policies == ()
    assert "offsite" in after.texts[0]


def test_a_removed_policy_is_gone_and_a_removed_folder_is_not(config: Path) -> None:
    before = rules.read(config)
    path = config.parent / "policies" / "nightly.yaml"
    path.unlink()
    assert rules.read_again(before).policies == ()
    (config.parent / "policies").rmdir()

    after = rules.read_again(before)

    assert after.policies == before.policies
    assert len(after.problems) == 1
