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

from snapvault.config.document import read_document
from snapvault.config.drills import DrillShape
from snapvault.config.kinds import HooksShape, MysqlShape, SourceShape, StreamShape
from snapvault.config.policies import check_policies, load_policies, policy_schema, settings_schema
from snapvault.config.schedules import ScheduleShape
from snapvault.config.settings import load_settings
from snapvault.config.shapes import PolicyShape, SettingsShape, VaultShape
from snapvault.config.strict import Shape
from snapvault.model.policy import KINDS
from snapvault.units import format_duration

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "policies").glob("*.yaml"))
MANUAL = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL)
SETTINGS_PART, POLICIES_PART = MANUAL.split("\n## Settings\n")[1].split("\n## Policies\n")

# What a kind needs beside the key that an example is of.
SMALLEST: dict[str, dict[str, Any]] = {
    "image": {"path": "a"},
    "command": {"run": ["x"]},
    "lvm": {"volume": "vg0/a"},
    "ebs": {"instance": "i-0123456789abcdef0"},
    "qemu": {"qmp": "a", "domain": "a"},
    "mysql": {},
    "postgresql": {},
    "directory": {"path": "a"},
}

# What a way of telling somebody needs.
SMALLEST_WAYS: dict[str, dict[str, Any]] = {
    "mail": {"host": "h", "from": "a@h", "to": ["b@h"]},
    "webhook": {"url": "https://h"},
    "ping": {"url": "https://h"},
}

# What a drill is for, and what it needs.
SMALLEST_DRILLS: dict[str, tuple[str, dict[str, Any]]] = {
    "boot": ("image", {"checks": [{"agent": True}]}),
    "database": ("mysql", {"checks": [{"sql": "x", "at_least": 1}]}),
    "files": ("directory", {}),
}

HOOKS = tuple(HooksShape.model_fields)
JSON_TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}


def keys_of(shape: type[Shape], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key as the manual writes it, with its default."""
    for name, field in shape.model_fields.items():
        key = prefix + (field.alias or name)
        default = (
            field.default_factory()  # type: ignore[call-arg]  # ours take no arguments
            if field.default_factory
            else field.default
        )
        yield key, "*required*" if field.is_required() else written(default)
        inner = field.annotation
        if get_origin(inner) is types.UnionType:
            inner = next(each for each in get_args(inner) if each is not type(None))
        while get_origin(inner) in (dict, list):
            key += ".NAME" if get_origin(inner) is dict else "[]"
            inner = get_args(inner)[-1]
        if isinstance(inner, type) and issubclass(inner, Shape) and listed_here(shape, name):
            yield from keys_of(inner, f"{key}.")


def listed_here(shape: type[Shape], name: str) -> bool:
    """Tell whether the manual lists the keys of a mapping at this place; it does so once."""
    if shape is SourceShape:
        return name in ("streams", "hooks")
    if shape is StreamShape:
        return name != "mariadb"
    if shape is HooksShape:
        return name == "before"
    return (shape, name) not in (
        (MysqlShape, "lvm"),
        (DrillShape, "schedule"),
        (VaultShape, "prune"),
        (PolicyShape, "copy_retention"),
    )


def written(default: object) -> str:
    match default:
        case None | bool():
            return {None: "`null`", True: "`true`", False: "`false`"}[default]
        case timedelta():
            return f"`{format_duration(default)}`"
        case Shape():
            return "`daily`" if isinstance(default, ScheduleShape) else "`{}`"
        case list():
            return f"`[{', '.join(default)}]`"
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
    vault: dict[str, Any] = {"store": "s3://bucket", "recipients": ["r"], "signer": "s"}
    document: dict[str, Any] = {"vaults": {"NAME": vault}}
    if match := re.fullmatch(r"notify\.NAME\.(\w+)(?:\.(\w+))?", key):
        way = match[1] if match[2] else "mail"
        beside = dict(SMALLEST_WAYS[way])
        if match[2] in ("user", "password_file", "password_credential"):
            beside |= {"password_file": "a"} if match[2] == "user" else {"user": "a"}
        if (match[2] or "").startswith("url_"):
            del beside["url"]
        document["notify"] = {
            "NAME": {} if match[1] in SMALLEST_WAYS and not match[2] else {way: beside}
        }
    if key.startswith("limits.uploads[]."):
        document["limits"] = {"uploads": [{"window": "08:00-18:00", "upload": "1 MB/s"}]}
    place = key
    if ".classes.NAME." in key:
        vault["prices"] = {"classes": {"STANDARD": {"storage": 1}}}
        place = key.replace(".classes.NAME.", ".classes.STANDARD.")
    put_example(document, place, rows_of(SETTINGS_PART)[key][3])
    (tmp_path / "snapvault.yaml").write_text(yaml.safe_dump(document).replace("NAME", "v"))

    load_settings(tmp_path / "snapvault.yaml")


@pytest.mark.parametrize("key", sorted(rows_of(POLICIES_PART)))
def test_the_manuals_example_of_a_policys_key_is_read(tmp_path: Path, key: str) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "snapvault.yaml").write_text(BLOCKS[0])
    document: dict[str, Any] = {"vault": "offsite", "sources": {"a": {"image": {"path": "a"}}}}
    if key.startswith("schedule."):
        document["schedule"] = {} if key in ("schedule.cron", "schedule.every") else {"every": "1h"}
    if match := re.fullmatch(r"sources\.NAME\.streams\.NAME\.(\w+)\.(\w+)", key):
        kind = {} if match[2] in ("instance", "volume") else dict(SMALLEST[match[1]])
        document["sources"]["NAME"] = {"streams": {"NAME": {match[1]: kind}}}
    if key.startswith("sources.NAME.hooks"):
        hooks = {"before": {"run": ["x"]}, "freeze": ["x"]}
        document["sources"]["NAME"] = {"lvm": SMALLEST["lvm"], "hooks": hooks}
    if key.startswith("drill"):
        put_drill(document, key)
    put_example(document, key, rows_of(POLICIES_PART)[key][3])
    (tmp_path / "policies/p.yaml").write_text(yaml.safe_dump(document).replace("NAME", "n"))

    load_policies(load_settings(tmp_path / "snapvault.yaml"))


def put_drill(document: dict[str, Any], key: str) -> None:
    """Put a drill around a key of one, without what the key's example stands in for."""
    match = re.fullmatch(r"drill\.steps\[\]\.NAME\.(\w+)(?:\.checks\[\]\.(\w+)|.*)", key)
    kind, drill = SMALLEST_DRILLS[match[1] if match else "files"]
    checks = {
        "console": {},
        "agent": {},
        "port": {},
        "run": {},
        "status": {"run": ["x"]},
        "output": {"run": ["x"]},
        "expect": {"sql": "x"},
    }
    if match and match[2] in checks:
        drill = {"checks": [checks[match[2]]]}
    document["sources"]["NAME"] = {kind: SMALLEST[kind]}
    step = {match[1] if match else "files": dict(drill)}
    document["drill"] = {"steps": [{"NAME": step}]}
    if key == "drill.within":
        document["drill"]["point"] = "random"


def put_example(document: dict[str, Any], key: str, example: str) -> None:
    """Set a dotted key to an example of the manual, if there is one."""
    if not example:
        return
    *parents, last = key.split(".")
    for parent in parents:
        if parent.endswith("[]"):
            document = document[parent.removesuffix("[]")][0]
        else:
            document = document.setdefault(parent, {})
    document[last] = yaml.load(example.strip("`"), Loader=yaml.BaseLoader)
    if document[last] in ("true", "false"):
        document[last] = document[last] == "true"
    elif example.strip("`").isdecimal():
        document[last] = int(document[last])
    elif re.fullmatch(r"[0-9]+\.[0-9]+", example.strip("`")):
        document[last] = float(document[last])


def test_the_example_settings_have_everything_and_are_read() -> None:
    example = ROOT / "examples/snapvault.yaml"
    value = read_document(example).value
    assert isinstance(value, dict)

    settings = load_settings(example)

    schema = settings_schema()
    assert list(misfits_of(value, schema, schema["$defs"])) == []
    assert set(value) == set(SettingsShape.model_fields)
    ways = {way for notifier in value["notify"].values() for way in notifier}
    assert ways >= set(SMALLEST_WAYS)
    assert settings.notify.keys() == {"ops-mail", "hook", "watchdog"}


def test_there_are_example_policies() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "directory",
        "dumps",
        "ebs",
        "lvm",
        "machine",
        "mysql",
        "postgresql",
        "qemu",
    ]


def test_the_example_policies_have_every_kind_and_hook(tmp_path: Path) -> None:
    (tmp_path / "snapvault.yaml").write_text(BLOCKS[0])
    (tmp_path / "policies").symlink_to(ROOT / "policies")

    policies = load_policies(load_settings(tmp_path / "snapvault.yaml"))

    sources = [source for policy in policies for source in policy.sources]
    assert {stream.kind for source in sources for stream in source.streams} == set(KINDS.values())
    hooks = [each for source in sources for each in HOOKS if getattr(source.hooks, each)]
    assert set(hooks) == set(HOOKS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_policy_fits_the_schema(example: Path) -> None:
    schema = policy_schema()

    misfits = list(misfits_of(read_document(example).value, schema, schema["$defs"]))

    assert misfits == []


def misfits_of(value: Any, schema: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    """Yield where a value is not as a JSON schema says, as far as ours go."""
    if "$ref" in schema:
        schema = shared[schema["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in schema:
        possible = [
            each for each in schema["anyOf"] if (each.get("type") == "null") == (value is None)
        ]
        yield from min((list(misfits_of(value, each, shared)) for each in possible), key=len)
        return
    if not isinstance(value, JSON_TYPES[schema["type"]]):
        yield f"{value!r} is not of type {schema['type']}"
    elif isinstance(value, dict):
        yield from (f"{key} is missing" for key in schema.get("required", ()) if key not in value)
        for key, inner in value.items():
            rest = schema.get("additionalProperties", False)
            if key not in schema.get("properties", {}) and rest is False:
                yield f"{key} is unknown"
            else:
                yield from misfits_of(inner, schema.get("properties", {}).get(key, rest), shared)
    elif isinstance(value, list):
        for inner in value:
            yield from misfits_of(inner, schema["items"], shared)


def test_the_schema_refuses_what_policies_do() -> None:
    schema = policy_schema()
    wrong = {"sources": {"web01": {"lvm": {"volume": 5, "size": "1 GiB"}, "hooks": {"before": 5}}}}

    misfits = list(misfits_of(wrong, schema, schema["$defs"]))

    assert misfits == [
        "vault is missing",
        "5 is not of type string",
        "size is unknown",
        "5 is not of type object",
    ]


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
