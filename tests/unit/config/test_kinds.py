# SPDX-License-Identifier: Apache-2.0
"""The kinds of sources, hooks and hints in policies."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.config.policies import check_policies, load_policies, policy_schema
from snapvault.errors import ConfigError
from snapvault.model.policy import (
    DirectorySpec,
    EbsSpec,
    Hints,
    HookSpec,
    HooksSpec,
    ImageSpec,
    KindSpec,
    LvmSpec,
    MysqlSpec,
    Policy,
    PostgresqlSpec,
    QemuSpec,
)
from snapvault.model.settings import Settings

Write = Callable[[str, str], Path]

INSTANCE = "i-0123456789abcdef0"
VOLUME = "vol-0123456789abcdef0"


@pytest.fixture
def read(host: Settings, write: Write) -> Callable[[str], Policy]:
    """Reads a policy with one source, `web`, written as one line of YAML."""

    def read_policy(source: str) -> Policy:
        write("policies/p.yaml", f"vault: offsite\nsources:\n  web: {source}\n")
        (policy,) = load_policies(host)
        return policy

    return read_policy


@pytest.mark.parametrize(
    ("written", "spec"),
    [
        ("image: {path: /a, format: qcow2}", ImageSpec(Path("/a"), "qcow2")),
        ("lvm: {volume: vg0/root}", LvmSpec("vg0/root", snapshot_percent=20)),
        ("lvm: {volume: a+b/_.x, snapshot_size: 5%}", LvmSpec("a+b/_.x", snapshot_percent=5)),
        ("lvm: {volume: a/b, snapshot_size: 10 GiB}", LvmSpec("a/b", snapshot_size=10 << 30)),
        (f"ebs: {{instance: {INSTANCE}}}", EbsSpec(instance=INSTANCE)),
        (
            (
                f"ebs: {{volume: {VOLUME}, region: r, profile: p, keep_snapshots: 3, timeout: 1h,"
                " requests_per_second: 9, endpoint_url: 'http://[::1]:80/',"
                " role_arn: 'arn:aws:iam::123456789012:role/a/b'}"
            ),
            EbsSpec(
                volume=VOLUME,
                region="r",
                profile="p",
                role_arn="arn:aws:iam::123456789012:role/a/b",
                endpoint_url="http://[::1]:80",
                keep_snapshots=3,
                requests_per_second=9,
                timeout=timedelta(hours=1),
            ),
        ),
        (
            f"ebs: {{instance: {INSTANCE}, devices: [/dev/sdf, {VOLUME}]}}",
            EbsSpec(instance=INSTANCE, devices=("/dev/sdf", VOLUME)),
        ),
        ("qemu: {qmp: /run/a}", QemuSpec(Path("/run/a"))),
        (
            "qemu: {qmp: /a, agent: /b, domain: d, libvirt_uri: u, disks: [x, y], scratch: /c}",
            QemuSpec(Path("/a"), Path("/b"), "d", "u", ("x", "y"), Path("/c")),
        ),
        ("mysql: {}", MysqlSpec()),
        (
            "mysql: {defaults_file: /a, databases: [x, y], per_database: true, timeout: 1h}",
            MysqlSpec(Path("/a"), ("x", "y"), per_database=True, timeout=timedelta(hours=1)),
        ),
        (
            "mysql: {lvm: {volume: a/b, snapshot_size: 1 GB}, lock_timeout: 5s}",
            MysqlSpec(lvm=LvmSpec("a/b", snapshot_size=10**9), lock_timeout=timedelta(seconds=5)),
        ),
        ("postgresql: {}", PostgresqlSpec()),
        (
            (
                "postgresql: {databases: [x], globals: false, host: h, port: 5433, user: u,"
                " password_file: /p, timeout: 1h}"
            ),
            PostgresqlSpec(
                databases=("x",),
                include_globals=False,
                host="h",
                port=5433,
                user="u",
                password_file=Path("/p"),
                timeout=timedelta(hours=1),
            ),
        ),
        (
            "postgresql: {base_backup: true, service: s}",
            PostgresqlSpec(base_backup=True, include_globals=False, service="s"),
        ),
        ("directory: {path: /a}", DirectorySpec(Path("/a"))),
        (
            "directory: {path: /a, exclude: ['*.o', b/c], one_file_system: true}",
            DirectorySpec(Path("/a"), ("*.o", "b/c"), one_file_system=True),
        ),
    ],
)
def test_every_kind_is_read(read: Callable[[str], Policy], written: str, spec: KindSpec) -> None:
    policy = read(f"{{{written}}}")

    (stream,) = policy.sources[0].streams
    assert stream.spec == spec
    assert policy.sources[0].single
    assert written.startswith(f"{stream.name}:")


def test_mariadb_is_another_spelling_of_mysql(read: Callable[[str], Policy]) -> None:
    policy = read("{mariadb: {databases: [shop]}}")

    assert policy.sources == read("{mysql: {databases: [shop]}}").sources


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ("image: {path: x}", "path"),
        ("qemu: {qmp: x}", "qmp"),
        ("qemu: {qmp: /a, agent: x}", "agent"),
        ("qemu: {qmp: /a, scratch: x}", "scratch"),
        ("mysql: {defaults_file: x}", "defaults_file"),
        ("postgresql: {password_file: x}", "password_file"),
        ("directory: {path: x}", "path"),
    ],
)
def test_paths_are_relative_to_the_policys_file(
    host: Settings, read: Callable[[str], Policy], written: str, field: str
) -> None:
    policy = read(f"{{{written}}}")

    spec = policy.sources[0].streams[0].spec
    assert getattr(spec, field) == host.policies_dir / "x"


def test_hooks_stand_beside_a_kind_and_beside_streams(read: Callable[[str], Policy]) -> None:
    hooks = """{
        before: [stop, "1"],
        freeze: {run: [freeze], timeout: 30s, on_failure: warn, environment: {TOKEN: hunter2}},
        thaw: {run: [thaw]},
        after: {run: [start], on_failure: warn}}"""
    expected = HooksSpec(
        before=HookSpec(("stop", "1")),
        freeze=HookSpec(("freeze",), timedelta(seconds=30), "warn", {"TOKEN": "hunter2"}),
        thaw=HookSpec(("thaw",), on_failure="warn"),
        after=HookSpec(("start",), on_failure="warn"),
    )

    direct = read(f"{{hooks: {hooks}, mysql: {{lvm: {{volume: a/b}}}}}}").sources[0]
    several = read(
        f"{{hooks: {hooks}, streams: {{a: {{image: {{path: b}}}}, c: {{lvm: {{volume: d/e}}}}}}}}"
    ).sources[0]

    assert (direct.hooks, direct.single) == (expected, True)
    assert [stream.name for stream in direct.streams] == ["mysql"]
    assert (several.hooks, several.single) == (expected, False)
    assert "hunter2" not in repr(direct)


@pytest.mark.parametrize(
    ("written", "hints"),
    [
        ("{}", Hints(0.1, timedelta(days=30))),
        ("{sample: 100%, full_read_every: 1w}", Hints(100.0, timedelta(days=7))),
        ("{sample: 0.001 %, full_read_every: never}", Hints(0.001, None)),
    ],
)
def test_hints_are_read(host: Settings, write: Write, written: str, hints: Hints) -> None:
    text = "vault: offsite\nsources: {web: {image: {path: a}}}\n"
    write("policies/p.yaml", f"{text}hints: {written}\n")

    (policy,) = load_policies(host)

    assert policy.hints == hints


SIZE = 'expected a size with its unit, such as "10 GiB", or a percentage'
LV = 'expected a logical volume such as "vg0/root", found'


@pytest.mark.parametrize(
    ("written", "field", "message"),
    [
        ("{image: {path: a, format: vmdk}}", "image.format", 'expected "raw" or "qcow2", found'),
        ("{lvm: {}}", "lvm.volume", "expected a value, found no such key"),
        ("{lvm: {volume: root}}", "lvm.volume", f'{LV} "root"'),
        ("{lvm: {volume: vg0/a/b}}", "lvm.volume", f'{LV} "vg0/a/b"'),
        ("{lvm: {volume: vg0/-a}}", "lvm.volume", f'{LV} "vg0/-a"'),
        ("{lvm: {volume: vg0/..}}", "lvm.volume", f'{LV} "vg0/.."'),
        ("{lvm: {volume: ./a}}", "lvm.volume", f'{LV} "./a"'),
        ("{lvm: {volume: vg0/a b}}", "lvm.volume", f'{LV} "vg0/a b"'),
        ("{lvm: {volume: vg0/ä}}", "lvm.volume", f'{LV} "vg0/ä"'),
        ("{lvm: {volume: a/b, snapshot_size: 20}}", "lvm.snapshot_size", "found the number 20"),
        ("{lvm: {volume: a/b, snapshot_size: 0%}}", "lvm.snapshot_size", "from 1% to 100%"),
        ("{lvm: {volume: a/b, snapshot_size: 101%}}", "lvm.snapshot_size", "from 1% to 100%"),
        ("{lvm: {volume: a/b, snapshot_size: 1.5%}}", "lvm.snapshot_size", "a whole percentage"),
        ("{lvm: {volume: a/b, snapshot_size: 10 G}}", "lvm.snapshot_size", SIZE),
        ("{lvm: {volume: a/b, snapshot_size: 0 B}}", "lvm.snapshot_size", "at least 1.0 MiB"),
        ("{ebs: {}}", "ebs", 'exactly one of "instance" and "volume", found none'),
        (
            f"{{ebs: {{instance: {INSTANCE}, volume: {VOLUME}}}}}",
            "ebs",
            'exactly one of "instance" and "volume", found both',
        ),
        (
            f"{{ebs: {{volume: {VOLUME}, devices: [a]}}}}",
            "ebs",
            'expected "devices" with "instance" only, found it with "volume"',
        ),
        ("{ebs: {instance: web01}}", "ebs.instance", "expected an instance id such as"),
        ("{ebs: {volume: i-01234567}}", "ebs.volume", "expected a volume id such as"),
        ("{ebs: {instance: I, role_arn: admin}}", "ebs.role_arn", "expected a role such as"),
        ("{ebs: {instance: I, keep_snapshots: 0}}", "ebs.keep_snapshots", "at least 1, found"),
        ("{ebs: {instance: I, devices: [a, b, a]}}", "ebs.devices", 'once, found "a" twice'),
        ("{ebs: {instance: I, devices: ['']}}", "ebs.devices[0]", "expected some text"),
        ("{ebs: {instance: I, endpoint_url: 'http://u:p@h'}}", "ebs.endpoint_url", "without user"),
        ("{ebs: {instance: I, timeout: 0s}}", "ebs.timeout", "longer than zero"),
        ("{qemu: {agent: a}}", "qemu.qmp", "expected a value, found no such key"),
        ("{qemu: {qmp: a, libvirt_uri: b}}", "qemu", '"libvirt_uri" with "domain" only'),
        (
            "{mysql: {lvm: {volume: a/b}, databases: [a]}}",
            "mysql",
            'expected at most one of "databases" and "lvm", found both',
        ),
        (
            "{mariadb: {lvm: {volume: a/b}, per_database: true}}",
            "mariadb",
            'expected at most one of "per_database" and "lvm", found both',
        ),
        ("{mysql: {lvm: {volume: a}}}", "mysql.lvm.volume", LV),
        ("{postgresql: {port: 0}}", "postgresql.port", "a number of at least 1"),
        ("{postgresql: {port: 65536}}", "postgresql.port", "a number of at most 65535"),
        (
            "{postgresql: {base_backup: true, databases: [a]}}",
            "postgresql",
            'at most one of "base_backup" and "databases", found both',
        ),
        (
            "{postgresql: {base_backup: true, globals: true}}",
            "postgresql",
            'at most one of "base_backup" and "globals", found both',
        ),
        ("{postgresql: {service: a, user: b}}", "postgresql", 'one of "service" and "user"'),
        ("{directory: {}}", "directory.path", "expected a value, found no such key"),
        ("{directory: {path: a, exclude: '*'}}", "directory.exclude", 'a list, found "*"'),
        ("{hooks: {before: []}, image: {path: a}}", "hooks.before.run", "at least one entry"),
        ("{hooks: {before: ['']}, image: {path: a}}", "hooks.before.run", "name of a program"),
        ("{hooks: {before: [a, 1]}, image: {path: a}}", "hooks.before.run[1]", "expected text"),
        ("{hooks: {before: sync}, image: {path: a}}", "hooks.before", "a list or a mapping"),
        ("{hooks: {after: {}}, image: {path: a}}", "hooks.after.run", "expected a value"),
        (
            "{hooks: {after: {run: [a], on_failure: abort}}, image: {path: a}}",
            "hooks.after.on_failure",
            'expected "warn", found "abort"',
        ),
        (
            "{hooks: {freeze: [a], thaw: {run: [a], on_failure: abort}}, lvm: {volume: a/b}}",
            "hooks.thaw.on_failure",
            "it is too late to abort",
        ),
        ("{hooks: {thaw: [a]}, lvm: {volume: a/b}}", "hooks", '"thaw" with "freeze" only'),
        (
            "{hooks: {freeze: [a]}, image: {path: a}}",
            "hooks.freeze",
            'expected "freeze" where a snapshot is taken, found a source without one',
        ),
        ("{hooks: {freeze: [a], thaw: [b]}, mysql: {}}", "hooks.freeze", "without one"),
        (
            "{streams: {a: {mysql: {lvm: {volume: a/b}}}, b: {mariadb: {lvm: {volume: a/c}}}}}",
            "streams.b",
            'expected one server with "lvm" in a source, found a second',
        ),
        (
            "{streams: {a: {lvm: {volume: a/b}}, b: {mysql: {lvm: {volume: a/b}}}}}",
            "streams.b",
            'logical volume "a/b" is already stream "a"',
        ),
        ("{hooks: {before: [a]}}", None, 'expected exactly one of "command", "directory"'),
        (
            "{hooks: {before: {run: [a], environment: {A: 5}}}, image: {path: a}}",
            "hooks.before.environment.A",
            "expected text, found a number",
        ),
    ],
)
def test_wrong_sources_are_refused_with_their_field(
    host: Settings, write: Write, written: str, field: str | None, message: str
) -> None:
    source = written.replace("instance: I,", f"instance: {INSTANCE},")
    write("policies/p.yaml", f"vault: offsite\nsources:\n  web: {source}\n")

    (problem,) = check_policies(host)

    assert (problem.line, problem.field) == (
        3,
        "sources.web" if field is None else f"sources.web.{field}",
    )
    assert message in problem.message


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("lvm: {volume: /dev/vg0/root}", LV, 'Write "vg0/root".'),
        ("lvm: {volume: /dev/mapper/vg0-root}", LV, "lvs lists both"),
        ("libvirt: {}", 'source kind "libvirt" is not in this release', 'Use "qemu"'),
        ("sqlite: {}", 'source kind "sqlite" is not in this release', 'Use "command"'),
        ("postgres: {}", 'unknown source kind "postgres"', 'Did you mean "postgresql"?'),
        ("files: {}", 'unknown source kind "files"', 'Did you mean "directory"?'),
        ("mysq: {}", 'unknown source kind "mysq"', 'Did you mean "mysql"?'),
        ("lvm: {volum: a/b}", 'unknown key "volum"', 'Did you mean "volume"?'),
        ("mysql: {lvm: {volume: a/b, size: 1}}", 'unknown key "size"', '"snapshot_size"'),
        ("streams: {a: {hooks: {}}}", 'unknown key "hooks"', "belongs to a source"),
        ("path: /x", 'unknown key "path"', 'belongs under "image" or "directory"'),
        ("retention: {daily: 1}", 'unknown key "retention"', "belongs at the top of the file"),
        ("streams: {a: {path: /x}}", 'unknown key "path"', 'under "image" or "directory"'),
        ("mysql: {password: x}", 'unknown key "password"', 'name that with "defaults_file"'),
        ("postgresql: {password: x}", 'unknown key "password"', 'with "password_file"'),
        ("ebs: {access_key: x}", 'unknown key "access_key"', "Credentials are not written here"),
        ("kind: image", 'unknown key "kind"', "The kind is itself the key"),
        ("image: /dev/x", 'expected a mapping, found "/dev/x"', 'Its keys are "path", "format".'),
        ("mysql: null", 'expected what "mysql" is to be', '"mysql: {}" leaves out every key'),
        ("mysql: {databases: shop}", "expected a list", 'in brackets: ["shop"].'),
        ("command: {run: dump -a 'b c'}", "expected a list", '["dump", "-a", "b c"]'),
        ("hooks: {befor: [a]}", 'unknown key "befor"', 'Did you mean "before"?'),
        ("hooks: {before: sync}", 'a list or a mapping, found "sync"', "as a list"),
        ("hooks: {freeze: [a]}, image: {path: a}", 'expected "freeze"', '"before" and "after"'),
        ("postgresql: {port: '5432'}", "expected a whole number", "without quotes"),
    ],
)
def test_hints_say_what_to_write(
    host: Settings, write: Write, written: str, message: str, hint: str
) -> None:
    write("policies/p.yaml", f"vault: offsite\nsources:\n  web: {{{written}}}\n")

    problems = check_policies(host)

    (problem,) = (each for each in problems if message in each.message)
    assert problem.hint is not None
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{sample: 0.1}", "expected a percentage .* found the number 0.1"),
        ("{sample: 0%}", "expected a percentage above 0% and up to 100%"),
        ("{sample: 100.1%}", "expected a percentage above 0% and up to 100%"),
        ("{sample: -1%}", "expected a percentage above 0% and up to 100%"),
        ("{full_read_every: }", "expected a duration .*, or .never., found nothing"),
        ("{full_read_every: 0s}", "expected a duration longer than zero"),
        ("{full_read_every: always}", "expected a duration"),
        ("{samples: 1%}", 'unknown key "samples"'),
    ],
)
def test_wrong_hints_are_refused(host: Settings, write: Write, written: str, message: str) -> None:
    text = "vault: offsite\nsources: {web: {image: {path: a}}}\n"
    write("policies/p.yaml", f"{text}hints: {written}\n")

    with pytest.raises(ConfigError, match=message):
        load_policies(host)


def test_the_schema_writes_defaults_as_policies_do() -> None:
    schema = policy_schema()

    assert schema["properties"]["volume_size"]["default"] == "64 MiB"
    assert schema["properties"]["hints"]["default"] == {"sample": "0.1%", "full_read_every": "30d"}
    assert schema["$defs"]["EbsShape"]["properties"]["timeout"]["default"] == "6h"


@pytest.mark.parametrize(
    ("written", "percent"), [("{}", 15.0), ("{budget: 0%}", 0.0), ("{budget: 7.5 %}", 7.5)]
)
def test_a_budget_of_rewriting_is_read_and_may_be_nothing(
    host: Settings, write: Write, written: str, percent: float
) -> None:
    text = "vault: offsite\nsources: {web: {image: {path: a}}}\n"
    write("policies/p.yaml", f"{text}rewriting: {written}\n")

    (policy,) = load_policies(host)

    assert policy.rewriting.budget_percent == percent


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{budget: 15}", "expected a percentage .* found the number 15"),
        ("{budget: 101%}", "expected a percentage from 0% to 100%"),
        ("{budget: -1%}", "expected a percentage from 0% to 100%"),
        ("{budjet: 1%}", 'unknown key "budjet"'),
    ],
)
def test_a_wrong_budget_of_rewriting_is_refused(
    host: Settings, write: Write, written: str, message: str
) -> None:
    text = "vault: offsite\nsources: {web: {image: {path: a}}}\n"
    write("policies/p.yaml", f"{text}rewriting: {written}\n")

    with pytest.raises(ConfigError, match=message):
        load_policies(host)
