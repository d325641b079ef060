# SPDX-License-Identifier: Apache-2.0
"""The example policies and docs/policies.md agree with the code."""

import re
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from snapvault.config.policies import check_policies, load_policies
from snapvault.config.settings import load_settings
from snapvault.config.shapes import PolicyShape, SettingsShape, Shape, SourceShape
from snapvault.units import format_duration

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "policies").glob("*.yaml"))
MANUAL = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL)
SETTINGS_PART, POLICIES_PART = MANUAL.split("\n## Settings\n")[1].split("\n## Policies\n")


def keys_of(shape: type[Shape], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key as the manual writes it, with its default."""
    for name, field in shape.model_fields.items():
        key = prefix + name
        default = (
            field.default_factory()  # type: ignore[call-arg]  # ours take no arguments
            if field.default_factory
            else field.default
        )
        yield key, "*required*" if field.is_required() else written(default)
        inner = field.annotation
        if get_origin(inner) is types.UnionType:
            inner = next(each for each in get_args(inner) if each is not type(None))
        if get_origin(inner) is dict:
            key, inner = f"{key}.NAME", get_args(inner)[-1]
        # The keys of kinds are listed once, below streams.
        listed_elsewhere = shape is SourceShape and name != "streams"
        if isinstance(inner, type) and issubclass(inner, Shape) and not listed_elsewhere:
            yield from keys_of(inner, f"{key}.")


def written(default: object) -> str:
    match default:
        case None:
            return "`null`"
        case bool():
            return f"`{str(default).lower()}`"
        case timedelta():
            return f"`{format_duration(default)}`"
        case Shape():
            return "`{}`"
        case int() if default >= 1024 * 1024:
            return f"`{default // (1024 * 1024)} MiB`"
        case _:
            return f"`{default}`"


def rows_of(part: str) -> dict[str, list[str]]:
    """Return the cells after the key of each row of a table, by key."""
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip(" |") for cell in row[1:]] for row in rows}


@pytest.mark.parametrize(
    ("part", "shape"),
    [(SETTINGS_PART, SettingsShape), (POLICIES_PART, PolicyShape)],
    ids=["settings", "policies"],
)
def test_the_manual_has_every_key_and_its_default(part: str, shape: type[Shape]) -> None:
    documented = {key: cells[1] for key, cells in rows_of(part).items()}

    assert documented == dict(keys_of(shape))


@pytest.mark.parametrize(
    ("part", "shape"),
    [(SETTINGS_PART, SettingsShape), (POLICIES_PART, PolicyShape)],
    ids=["settings", "policies"],
)
def test_the_manuals_rows_have_type_and_meaning(part: str, shape: type[Shape]) -> None:
    incomplete = [key for key, cells in rows_of(part).items() if not (cells[0] and cells[2])]

    assert incomplete == []


def test_the_manuals_own_files_are_read(tmp_path: Path) -> None:
    settings_text, policy_text = BLOCKS
    (tmp_path / "policies").mkdir()
    (tmp_path / "snapvault.yaml").write_text(settings_text)
    (tmp_path / "policies/nightly.yaml").write_text(policy_text)

    settings = load_settings(tmp_path / "snapvault.yaml")

    assert check_policies(settings) == ()


@pytest.mark.parametrize("key", sorted(rows_of(SETTINGS_PART)))
def test_the_manuals_example_of_a_setting_is_read(tmp_path: Path, key: str) -> None:
    vault = {"store": "s3://bucket", "recipients": ["r"], "signer": "s"}
    document = {"vaults": {"NAME": vault}}
    put_example(document, key, rows_of(SETTINGS_PART)[key][3])
    (tmp_path / "snapvault.yaml").write_text(yaml.safe_dump(document).replace("NAME", "v"))

    load_settings(tmp_path / "snapvault.yaml")


@pytest.mark.parametrize("key", sorted(rows_of(POLICIES_PART)))
def test_the_manuals_example_of_a_policys_key_is_read(tmp_path: Path, key: str) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "snapvault.yaml").write_text(BLOCKS[0])
    document: dict[str, Any] = {"vault": "offsite", "sources": {"a": {"image": {"path": "a"}}}}
    if key.startswith("schedule."):
        document["schedule"] = {} if key in ("schedule.cron", "schedule.every") else {"every": "1h"}
    if key.startswith("sources.NAME.streams.NAME.command."):
        document["sources"]["NAME"] = {"streams": {"NAME": {"command": {"run": ["x"]}}}}
    put_example(document, key, rows_of(POLICIES_PART)[key][3])
    (tmp_path / "policies/p.yaml").write_text(yaml.safe_dump(document).replace("NAME", "n"))

    load_policies(load_settings(tmp_path / "snapvault.yaml"))


def put_example(document: dict[str, Any], key: str, example: str) -> None:
    """Set a dotted key to an example of the manual, if there is one."""
    if not example:
        return
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = yaml.load(example.strip("`"), Loader=yaml.BaseLoader)
    if document[last] in ("true", "false"):
        document[last] = document[last] == "true"
    elif example.strip("`").isdecimal():
        document[last] = int(document[last])


def test_there_are_example_policies() -> None:
    assert [path.name for path in EXAMPLES] == ["dumps.yaml", "machine.yaml"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_policy_is_read(tmp_path: Path, example: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "snapvault.yaml").write_text(BLOCKS[0])
    (tmp_path / "policies" / example.name).write_bytes(example.read_bytes())

    (policy,) = load_policies(load_settings(tmp_path / "snapvault.yaml"))

    assert policy.schedule is not None
    assert policy.retention is not None


def test_the_example_policies_live_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "snapvault.yaml").write_text(BLOCKS[0])
    (tmp_path / "policies").symlink_to(ROOT / "policies")

    assert check_policies(load_settings(tmp_path / "snapvault.yaml")) == ()
