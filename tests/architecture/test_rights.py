# SPDX-License-Identifier: Apache-2.0
"""The policies in docs/iam give each role what the store asks for, and nothing that destroys."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IAM = ROOT / "docs/iam"
STORES = ROOT / "snapvault/adapters/stores"

# What AWS wants for each call of ours ("Actions, resources, and condition keys for Amazon S3").
READ = {"s3:GetObject", "s3:GetObjectVersion"}
NEEDED: dict[str, set[str]] = {
    "get_object": READ,
    "head_object": {*READ, "s3:GetObjectRetention"},  # it names locks to who may see them
    "list_objects_v2": {"s3:ListBucket"},
    "list_object_versions": {"s3:ListBucketVersions"},
    "put_object": {"s3:PutObject", "s3:PutObjectRetention"},
    "put_object_retention": {"s3:PutObjectRetention"},
    "copy_object": {"s3:PutObject", *READ},
    "delete_object": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "delete_objects": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "restore_object": {"s3:RestoreObject"},
}
DELETES = {"delete_object", "delete_objects"}
THAWS = {"restore_object"}
CHANGES = {"put_object", "put_object_retention", "copy_object"}
DESTROYS = (
    "s3:Delete*",
    "s3:Bypass*",
    "s3:PutBucket*",
    "s3:PutLifecycle*",
    "s3:PutObjectLegalHold",
    "s3:PutObjectAcl",
    "s3:PutReplication*",
)


def statements(role: str) -> list[dict[str, Any]]:
    document = json.loads((IAM / f"{role}.json").read_text())
    assert document["Version"] == "2012-10-17"
    found: list[dict[str, Any]] = document["Statement"]
    return found


def allowed(role: str) -> set[str]:
    return {
        action
        for each in statements(role)
        if each["Effect"] == "Allow"
        for action in each["Action"]
    }


def calls() -> set[str]:
    """Return the requests that our code makes of S3, as boto3 names them."""
    text = "\n".join(path.read_text() for path in STORES.glob("s3*.py"))
    return set(re.findall(r"client\.([a-z0-9_]+)\(", text))


def needed(of: set[str]) -> set[str]:
    return {action for call in of for action in NEEDED[call]}


def test_every_call_of_the_store_is_known_here() -> None:
    found = calls()

    assert found - NEEDED.keys() == set()
    assert {"put_object", "put_object_retention", "list_object_versions"} <= found


@pytest.mark.parametrize(
    ("role", "without"),
    [("write", DELETES | THAWS), ("prune", THAWS), ("restore", DELETES | CHANGES)],
)
def test_a_role_may_do_what_its_commands_ask_for_and_no_more(role: str, without: set[str]) -> None:
    asked = needed(set(NEEDED) - without)

    assert asked <= allowed(role)
    assert allowed(role) - asked <= {"s3:GetObjectLegalHold"}


@pytest.mark.parametrize("role", ["write", "restore"])
@pytest.mark.parametrize("pattern", DESTROYS)
def test_the_roles_of_hosts_cannot_destroy(role: str, pattern: str) -> None:
    assert [action for action in allowed(role) if fnmatchcase(action, pattern)] == []


@pytest.mark.parametrize("pattern", [each for each in DESTROYS if each != "s3:Delete*"])
def test_who_prunes_ends_no_lock_and_changes_no_bucket(pattern: str) -> None:
    assert [action for action in allowed("prune") if fnmatchcase(action, pattern)] == []


@pytest.mark.parametrize("role", ["write", "prune", "restore"])
def test_no_right_is_given_by_a_pattern(role: str) -> None:
    assert [action for action in allowed(role) if "*" in action or "?" in action] == []


@pytest.mark.parametrize("role", ["write", "prune", "restore"])
def test_rights_end_at_the_vault_and_locks_cannot_be_set_for_ever(role: str) -> None:
    for each in statements(role):
        of_bucket = all("Bucket" in action for action in each["Action"])
        assert each["Resource"] == "arn:aws:s3:::backups" + ("" if of_bucket else "/vault1/*")
        if "s3:PutObjectRetention" in each["Action"]:
            (days,) = each["Condition"]["NumericLessThanEquals"].values()
            assert int(days) == 2 * 30 + 10


def test_the_lifecycle_clears_probes_and_nothing_that_is_there() -> None:
    rules = json.loads((IAM / "lifecycle.json").read_text())["Rules"]

    for each in rules:
        is_of_probes = each["Filter"]["Prefix"] == "vault1/probe/"
        assert each["Status"] == "Enabled"
        assert ("Days" in each["Expiration"]) is is_of_probes
    assert [each["NoncurrentVersionExpiration"]["NoncurrentDays"] for each in rules] == [1, 90]
