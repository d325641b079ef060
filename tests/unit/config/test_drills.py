# SPDX-License-Identifier: Apache-2.0
"""The drill of a policy, as it is written and as it is refused."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.cli.policy_words import policy_document, policy_lines
from snapvault.config.policies import check_policies, load_policies
from snapvault.model.policy import DrillSpec, Schedule
from snapvault.model.rehearsal import (
    AgentCheck,
    BootDrill,
    Choice,
    CommandCheck,
    ConsoleCheck,
    DatabaseDrill,
    DrillStep,
    FilesDrill,
    PortCheck,
    SqlCheck,
)
from snapvault.model.settings import Settings

Write = Callable[[str, str], Path]

SOURCES = """\
vault: offsite
sources:
  shop: {mysql: {databases: [shop]}}
  web01: {image: {path: /srv/web01.raw}}
  etc: {directory: {path: /etc}}
  dump: {command: {run: [dump]}}
  data: {mysql: {lvm: {volume: vg0/mysql}}}
  both: {streams: {a: {mysql: {}}, b: {postgresql: {}}}}
"""
WHOLE = (
    SOURCES
    + """\
drill:
  schedule: {cron: "0 5 * * sun", timezone: Europe/Paris}
  point: random
  within: 30d
  gnupg_home: /media/escrow/gnupg
  passphrase_file: passphrase
  scratch: /var/tmp/drills
  steps:
    - shop: {database: {checks: [{sql: SELECT 1, database: shop, at_least: 1}], timeout: 5m}}
    - web01:
        boot:
          memory: 512MiB
          instant: true
          checks:
            - {console: "login:"}
            - {agent: true}
            - {port: 22}
            - {run: [systemctl, is-system-running], status: 1, output: degraded}
    - etc: {files: {sample: 5%, paths: [hostname], compare_live: true}}
"""
)


def test_a_whole_drill_is_read(host: Settings, write: Write) -> None:
    path = write("policies/nightly.yaml", WHOLE)

    (policy,) = load_policies(host)

    assert policy.drill == DrillSpec(
        steps=(
            DrillStep(
                "shop",
                DatabaseDrill(
                    (SqlCheck("SELECT 1", "shop", at_least=1.0),), timeout=timedelta(minutes=5)
                ),
            ),
            DrillStep(
                "web01",
                BootDrill(
                    (
                        ConsoleCheck("login:"),
                        AgentCheck(),
                        PortCheck(22),
                        CommandCheck(("systemctl", "is-system-running"), 1, "degraded"),
                    ),
                    memory=512 << 20,
                    instant=True,
                ),
            ),
            DrillStep("etc", FilesDrill(5.0, ("hostname",), compare_live=True)),
        ),
        schedule=Schedule(cron="0 5 * * sun", timezone="Europe/Paris"),
        choice=Choice.RANDOM,
        within=timedelta(days=30),
        gnupg_home=Path("/media/escrow/gnupg"),
        passphrase_file=path.parent / "passphrase",
        scratch=Path("/var/tmp/drills"),
    )


def test_a_policy_without_a_drill_rehearses_nothing(host: Settings, write: Write) -> None:
    write("policies/nightly.yaml", SOURCES)

    (policy,) = load_policies(host)

    assert policy.drill is None
    assert policy_document(policy, host)["drill"] is None


@pytest.mark.parametrize(
    ("drill", "expected"),
    [
        ("{steps: []}", "expected at least one entry, found none"),
        ("{steps: [{web02: {files: {}}}]}", 'expected a source of this policy, found "web02"'),
        (
            "{steps: [{shop: {files: {}}, etc: {files: {}}}]}",
            'expected one source in each step, found "shop" and "etc"',
        ),
        (
            "{steps: [{web01: {}}]}",
            'expected exactly one of "boot", "database" and "files", found none',
        ),
        (
            "{steps: [{etc: {files: {}}}], within: 7d}",
            'expected "within" with point "random" only, found it with "latest"',
        ),
        ("{steps: [{web01: {boot: {checks: []}}}]}", "expected at least one entry, found none"),
        (
            "{steps: [{web01: {boot: {checks: [{port: 22, agent: true}]}}}]}",
            'expected exactly one of "agent", "console", "port" and "run", found "agent" and "po',
        ),
        (
            "{steps: [{web01: {boot: {checks: [{agent: false}]}}}]}",
            'expected exactly one of "agent", "console", "port" and "run", found none',
        ),
        (
            "{steps: [{web01: {boot: {checks: [{port: 22, status: 1}]}}}]}",
            'expected "status" with "run" only, found it with "port"',
        ),
        (
            '{steps: [{web01: {boot: {checks: [{console: "a("}]}}}]}',
            'expected a regular expression, found "a("',
        ),
        (
            "{steps: [{web01: {boot: {checks: [{agent: true}], memory: 1MiB}}}]}",
            "expected a size from 16.0 MiB to 1.0 TiB",
        ),
        (
            "{steps: [{shop: {database: {checks: [{sql: SELECT 1}]}}}]}",
            'expected exactly one of "expect" and "at_least", found none',
        ),
        (
            "{steps: [{shop: {database: {checks: [{sql: SELECT 1, at_least: many}]}}}]}",
            'expected a number, found "many"',
        ),
        (
            "{steps: [{dump: {boot: {checks: [{agent: true}]}}}]}",
            "expected a source with a disk to start from, found one without",
        ),
        (
            "{steps: [{data: {database: {}}}]}",
            "expected a source with dumps of a database server, found one without",
        ),
        (
            "{steps: [{both: {database: {}}}]}",
            "expected a source with dumps of a database server, found dumps of several servers",
        ),
        (
            "{steps: [{web01: {files: {paths: [etc/hostname]}}}]}",
            'expected "paths" for a source with a "directory", found one without',
        ),
        ("{steps: [{etc: {files: {samples: 5%}}}]}", 'unknown key "samples"'),
    ],
)
def test_a_wrong_drill_is_refused_in_its_own_words(
    host: Settings, write: Write, drill: str, expected: str
) -> None:
    write("policies/nightly.yaml", f"{SOURCES}drill: {drill}\n")

    (problem,) = check_policies(host)

    assert expected in problem.message
    assert (problem.field or "").startswith("drill")


def test_the_words_of_a_policy_say_what_is_rehearsed(host: Settings, write: Write) -> None:
    write("policies/nightly.yaml", WHOLE)
    (policy,) = load_policies(host)

    lines = policy_lines(policy, host, [])

    start = lines.index('  rehearses     cron "0 5 * * sun" (Europe/Paris)')
    assert lines[start + 1 : start + 7] == [
        "                any restore point of the last 30d",
        '                with the recovery key in "/media/escrow/gnupg"',
        '                in folder "/var/tmp/drills"',
        "                shop: is loaded into a private server: tables as at the backup, SELECT 1",
        (
            "                web01: starts at once, from the vault (512.0 MiB, 1 processor):"
            ' console shows "login:", guest agent answers, port 22 answers,'
            " systemctl is-system-running ends with 1"
        ),
        (
            '                etc: 5% of the data is proven, "hostname" is there, files are compared'
            " with the live ones"
        ),
    ]


def test_json_has_what_is_rehearsed(host: Settings, write: Write) -> None:
    write("policies/nightly.yaml", WHOLE)
    (policy,) = load_policies(host)

    drill = policy_document(policy, host)["drill"]

    assert drill["schedule"]["cron"] == "0 5 * * sun"
    assert (drill["point"], drill["within_seconds"]) == ("random", 2592000.0)
    assert [(step["source"], step["kind"]) for step in drill["steps"]] == [
        ("shop", "database"),
        ("web01", "boot"),
        ("etc", "files"),
    ]
    assert drill["steps"][0]["timeout_seconds"] == 300.0
    assert drill["steps"][1]["checks"][2] == {"check": "port", "port": 22}
