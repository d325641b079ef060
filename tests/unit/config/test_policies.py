# SPDX-License-Identifier: Apache-2.0
"""The folder of policy files."""

from collections.abc import Callable
from dataclasses import replace
from datetime import time, timedelta
from pathlib import Path

import pytest

from snapvault.config.policies import (
    check_policies,
    load_policies,
    policy_schema,
    read_policies,
    select_sources,
    settings_schema,
)
from snapvault.config.settings import check_settings
from snapvault.errors import ConfigError
from snapvault.model.policy import (
    CommandSpec,
    ImageSpec,
    Limits,
    LvmSpec,
    MysqlSpec,
    Objectives,
    Policy,
    Retention,
    Retry,
    Schedule,
    SourceSpec,
    StreamSpec,
    Window,
)
from snapvault.model.settings import NotifierSettings, PingSettings, Settings

Write = Callable[[str, str], Path]

DESIGNED = """\
# policies/nightly.yaml
vault: offsite
schedule: {cron: "30 1 * * *", timezone: Europe/Paris, jitter: 10m, catch_up: true}
objectives: {rpo: 26h, rto: 30m}
retention: {last: 3, daily: 7, weekly: 5, monthly: 12, yearly: 3}
sources:
  web01:                                  # a machine: several streams, one restore point
    streams:
      root: {lvm: {volume: vg0/web01-root}}
      data: {image: {path: /var/lib/libvirt/images/web01-data.raw}}
  shop:                                   # one stream: its kind directly
    mysql: {defaults_file: /etc/snapvault/my.cnf, databases: [shop]}
  etc:
    command: {run: [tar, --sort=name, -cf, "-", /etc]}
"""
SMALLEST = "vault: offsite\nsources:\n  web: {image: {path: /srv/web.raw}}\n"


def test_the_designed_policy_is_read(host: Settings, write: Write) -> None:
    path = write("policies/nightly.yaml", DESIGNED)

    policies = load_policies(host)

    assert policies == (
        Policy(
            name="nightly",
            path=path,
            vault="offsite",
            schedule=Schedule(
                cron="30 1 * * *", timezone="Europe/Paris", jitter=timedelta(minutes=10)
            ),
            objectives=Objectives(rpo=timedelta(hours=26), rto=timedelta(minutes=30)),
            retention=Retention(last=3, daily=7, weekly=5, monthly=12, yearly=3),
            sources=(
                SourceSpec(
                    "web01",
                    (
                        StreamSpec("root", LvmSpec("vg0/web01-root")),
                        StreamSpec(
                            "data", ImageSpec(Path("/var/lib/libvirt/images/web01-data.raw"))
                        ),
                    ),
                ),
                SourceSpec(
                    "shop",
                    (
                        StreamSpec(
                            "mysql",
                            MysqlSpec(Path("/etc/snapvault/my.cnf"), databases=("shop",)),
                        ),
                    ),
                    single=True,
                ),
                SourceSpec(
                    "etc",
                    (
                        StreamSpec(
                            "command", CommandSpec(("tar", "--sort=name", "-cf", "-", "/etc"))
                        ),
                    ),
                    single=True,
                ),
            ),
        ),
    )


def test_everything_that_can_be_left_out_has_a_default(host: Settings, write: Write) -> None:
    write("policies/p.yaml", SMALLEST)

    (policy,) = load_policies(host)

    assert policy == Policy(
        name="p",
        path=host.policies_dir / "p.yaml",
        vault="offsite",
        sources=(
            SourceSpec("web", (StreamSpec("image", ImageSpec(Path("/srv/web.raw"))),), single=True),
        ),
        schedule=None,
        objectives=Objectives(None, None),
        retention=None,
        volume_size=64 * 1024 * 1024,
        compression_level=3,
        enabled=True,
    )


def test_every_other_key_is_read(host: Settings, write: Write) -> None:
    write(
        "policies/p.yaml",
        """\
vault: second
schedule: {every: 6h, window: 22:00-06:00, catch_up: false}
retention: {within: 2d, hourly: 24}
volume_size: 32 MiB
compression_level: 19
enabled: false
sources:
  db:
    streams:
      dump:
        command:
          run: [./dump, "5"]
          allow_empty: true
          environment: {PGPASSWORD: hunter2}
          working_directory: a folder/ü
          timeout: 1h
""",
    )

    (policy,) = load_policies(host)

    assert policy.schedule == Schedule(
        every=timedelta(hours=6), window=Window(time(22), time(6)), catch_up=False
    )
    assert policy.retention == Retention(within=timedelta(days=2), hourly=24)
    assert (policy.volume_size, policy.compression_level) == (32 * 1024 * 1024, 19)
    assert not policy.enabled
    assert policy.sources[0].streams[0].spec == CommandSpec(
        run=("./dump", "5"),
        allow_empty=True,
        environment={"PGPASSWORD": "hunter2"},
        working_directory=host.policies_dir / "a folder/ü",
        timeout=timedelta(hours=1),
    )
    assert "hunter2" not in repr(policy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("vault: offsite", "vault: ofsite", 'field "vault": expected a vault of the settings'),
        ("vault: offsite", "vault: 5", "expected text, found the number 5"),
        ("vault: offsite", "", 'line 2, field "vault": expected a value, found no such key'),
        ("web:", "Web:", 'field "sources.Web": expected a name of at most 64'),
        ("web:", "../etc:", 'field "sources.../etc": expected a name of at most 64'),
        ("web:", "a" * 65 + ":", "expected a name of at most 64"),
        ("image:", "imgae:", 'field "sources.web.imgae": unknown source kind "imgae"'),
        ("path: /srv/web.raw", "path: 5", 'line 3, field "sources.web.image.path": expected text'),
        ("path: /srv/web.raw", "path:", "expected text, found nothing"),
        ("path: /srv/web.raw", 'path: " "', 'expected a path, found " "'),
        ("path: /srv/web.raw", "path: '~nobody-here/x'", "whose home folder is unknown"),
        ("path: /srv/web.raw", "", 'field "sources.web.image.path": expected a value'),
        ("{path: /srv/web.raw}", "/srv/web.raw", 'expected a mapping, found "/srv/web.raw"'),
        ("{path: /srv/web.raw}", "", 'field "sources.web": expected what "image" is to be'),
        ("image: {path: /srv/web.raw}", "streams: {}", "expected at least one entry, found none"),
        ("image: {path: /srv/web.raw}", "streams: {a: {}}", "found none"),
        ("image: {path: /srv/web.raw}", "streams: {A: {image: {path: a}}}", "expected a name of"),
        ("image: {path: /srv/web.raw}", "command: {run: []}", "expected at least one entry"),
        ("image: {path: /srv/web.raw}", 'command: {run: [""]}', "expected the name of a program"),
        ("image: {path: /srv/web.raw}", "command: {run: tar}", 'expected a list, found "tar"'),
        (
            "image: {path: /srv/web.raw}",
            "image: {path: a}, command: {run: [b]}",
            (
                'exactly one of "command", "directory", "ebs", "image", "lvm", "mariadb", "mysql",'
                ' "postgresql", "qemu", "streams", found "image" and "command"'
            ),
        ),
        (
            "image: {path: /srv/web.raw}",
            "command: {run: [a], environment: {A: 80}}",
            'environment.A": expected text, found a number',
        ),
        (
            "image: {path: /srv/web.raw}",
            'command: {run: [a], environment: {"A=B": c}}',
            'expected names of variables without "="',
        ),
        ("image: {path: /srv/web.raw}", "command: {run: [a], timeout: 0s}", "longer than zero"),
    ],
)
def test_wrong_values_are_refused_with_their_field(
    host: Settings, write: Write, old: str, new: str, message: str
) -> None:
    assert old in SMALLEST
    path = write("policies/p.yaml", SMALLEST.replace(old, new))

    with pytest.raises(ConfigError) as refusal:
        load_policies(host)

    assert str(refusal.value).startswith(f'file "{path}", line ')
    assert message in str(refusal.value)
    assert refusal.value.exit_status == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedule: {}", 'expected exactly one of "cron" and "every", found none'),
        ('schedule: {cron: "0 1 * * *", every: 1h}', 'and "every", found both'),
        ('schedule: {cron: "0 1 * *"}', "expected five cron fields .* found 4"),
        ('schedule: {cron: "60 1 * * *"}', 'expected a cron minute from 0 to 59, found "60"'),
        ('schedule: {cron: "0 5-1 * * *"}', 'expected a cron hour from 0 to 23, found "5-1"'),
        ('schedule: {cron: "0 1 0 * *"}', "expected a cron day of month from 1 to 31"),
        ('schedule: {cron: "0 1 * thirteenth *"}', "expected a cron month from 1 to 12"),
        ('schedule: {cron: "0 5/2 * * *"}', "expected a cron hour"),
        ("schedule: {every: 10}", "expected a duration .* found the number 10"),
        ("schedule: {every: 10 minutes}", 'expected a duration .* found "10 minutes"'),
        ("schedule: {every: 1h, jitter:}", "expected a duration .* found nothing"),
        ("schedule: {every: 1h, timezone: Europe/Pariss}", "expected a time zone such as"),
        ("schedule: {every: 1h, timezone: ../../etc/passwd}", "expected a time zone such as"),
        ("schedule: {every: 1h, catch_up: yes}", 'expected true or false, found "yes"'),
        ("schedule: {every: 1h, window: 22-6}", "expected a span of the day such as"),
        ("schedule: {every: 1h, window: 22:00-22:00}", "expected a span of the day such as"),
        ("objectives: {rto: 0s}", "expected a duration longer than zero"),
        ("retention: {}", "expected a rule that keeps at least one restore point, found none"),
        ("retention: {last: 0, daily: 0}", "keeps at least one restore point, found none"),
        ("retention: {daily: -1}", "expected a number of at least 0, found the number -1"),
        ("retention: {daily: '7'}", 'expected a whole number, found "7"'),
        ("retention: {daily: 1.5}", r"expected a whole number, found the number 1\.5"),
        ("retention: {daily: true}", "expected a whole number, found true"),
        ("volume_size: 64", "expected a size .* found the number 64"),
        ("volume_size: 64 K", 'expected a size .* found "64 K"'),
        ("volume_size: 1 KiB", r"expected a size from 1\.0 MiB to 1\.0 GiB"),
        ("compression_level: 20", "expected a number of at most 19"),
        ("enabled: 1", "expected true or false, found the number 1"),
        ("vault: offsite", 'column 1: key "vault" is already on line 1'),
        ("volumesize: 1 GiB", 'unknown key "volumesize"'),
        ('schedule: {cron: "0 1 30 2 *"}', "expected a day that comes, found day 30 of months"),
        ('schedule: {cron: "0 1 31 feb,apr *"}', "expected a day that comes, found day 31"),
        ("schedule: {every: 900ms}", "expected a duration of at least 1s"),
        ("schedule: {every: 1h, jitter: 8d}", 'expected a duration of at most 7d, found "8d"'),
        ("schedule: {every: 1h, jitter: 5000w}", "expected a duration of at most 7d"),
        ("objectives: {rpo: 900000w}", "expected a duration of at most 36500d"),
        ("objectives: {drill: 0d}", "expected a duration longer than zero"),
        ("objectives: {min_size: 0 B}", 'expected a size above zero, found "0 B"'),
        ("objectives: {min_size: 5}", "expected a size .* found the number 5"),
        ("objectives: {min_size: small}", 'expected a size .* a percentage .* found "small"'),
        ("objectives: {min_size: 101%}", "expected a percentage above 0% and up to 100%"),
        ("max_jobs: 0", "expected a number of at least 1"),
        ("retry: {attempts: 0}", "expected a number of at least 1"),
        ("retry: {attempts: 101}", "expected a number of at most 100"),
        ("retry: {delay: 8d}", "expected a duration of at most 7d"),
        ("retry: {delay: 2h, max_delay: 1h}", 'expected "max_delay" to be at least "delay", 2h'),
        ("limits: {upload: 5 MB}", 'expected a rate .* found "5 MB"'),
        ("limits: {uploads: []}", 'unknown key "uploads"'),
        ("notify: ops", 'expected a list, found "ops"'),
        ("notify: [Ops Mail]", r'field "notify\[0\]": expected a name'),
        ("notify: [ops, ops]", "expected each entry once"),
    ],
)
def test_wrong_keys_of_a_policy_are_refused(
    host: Settings, write: Write, line: str, message: str
) -> None:
    write("policies/p.yaml", SMALLEST + line + "\n")

    with pytest.raises(ConfigError, match=message) as refusal:
        load_policies(host)

    assert "line 4" in str(refusal.value)


@pytest.mark.parametrize("cron", ["0 0 1 1 7", "*/15 * * * *", "0 9-17/2,22 * JAN-mar mon-fri,0"])
def test_the_usual_cron_expressions_are_read(host: Settings, write: Write, cron: str) -> None:
    write("policies/p.yaml", SMALLEST + f'schedule: {{cron: "{cron}"}}\n')

    (policy,) = load_policies(host)

    assert policy.schedule == Schedule(cron=cron)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("vault: offsite", "vault: Offsite", 'Did you mean "offsite"?'),
        ("vault: offsite", "vault: x", 'The vaults here are "offsite", "second".'),
        ("image:", "imgae:", 'Did you mean "image"?'),
        ("path:", "patch:", 'Did you mean "path"?'),
        ("path: /srv/web.raw", "path: 12", "Put it in quotes to make it text."),
        ("sources:", "enabled: yes\nsources:", "Write true or false, without quotes."),
        ("sources:", "enabled: 'false'\nsources:", "Write true or false, without quotes."),
        ("sources:", "rpo: 26h\nsources:", 'It belongs under "objectives"'),
        ("sources:", "hooks: {before: [a]}\nsources:", 'under a name in "sources"'),
        ("sources:", "schedule: daily\nsources:", 'Its keys are "cron", "every"'),
        ("sources:", "schedule: {every: 1h, timezone: paris}\nsources:", None),
        ("sources:", "schedule: {every: 1h, timezone: europe/pariss}\nsources:", '"Europe/Paris"'),
        ("web:", "Web 01:", 'Write "web-01".'),
        ("sources:", "retention: {last: '3'}\nsources:", "Write it without quotes"),
    ],
)
def test_hints_say_what_was_meant(
    host: Settings, write: Write, old: str, new: str, hint: str | None
) -> None:
    write("policies/p.yaml", SMALLEST.replace(old, new))

    (problem, *_) = check_policies(host)

    assert (problem.hint is None) == (hint is None)
    assert (hint or "") in (problem.hint or "")


def test_a_misspelled_key_is_not_told_to_be_missing_too(host: Settings, write: Write) -> None:
    path = write("policies/p.yaml", "vault: offsite\nsource: {web: {image: {paths: /x}}}\n")

    (misspelled,) = check_policies(host)
    path.write_text("vault: offsite\nelse: {}\n")
    both = check_policies(host)

    assert misspelled.message == 'unknown key "source"'
    assert [problem.field for problem in both] == ["sources", "else"]


def test_no_hint_shows_what_may_be_secret(host: Settings, write: Write) -> None:
    settings = write(
        "wrong.yaml",
        "vaults: {}\nnotify:\n  hook: {webhook: {url: https://h/hunter2, headers: hunter2},"
        " on: hunter2}\n  mail: {mail: {host: h, from: a@b, to: hunter2}}\n",
    )

    problems = check_settings(settings)

    assert len(problems) > 3
    assert "hunter2" not in "".join(f"{each} {each.hint}" for each in problems)
    assert "Put it in brackets." in [each.hint for each in problems]


def test_every_key_for_the_daemon_is_read(host: Settings, write: Write) -> None:
    settings = replace(host, notify={"ops": NotifierSettings("ops", PingSettings(url="http://h"))})
    write(
        "policies/p.yaml",
        SMALLEST
        + """\
objectives: {drill: 90d, min_size: 1 GiB}
max_jobs: 1
retry: {attempts: 5, delay: 1m, max_delay: 30m}
limits: {upload: 10 MB/s, read: 100 MB/s, nice: 19, io: idle}
notify: [ops]
""",
    )

    (policy,) = load_policies(settings)

    assert policy.objectives == Objectives(drill=timedelta(days=90), min_size=1 << 30)
    assert policy.max_jobs == 1
    assert policy.retry == Retry(5, timedelta(minutes=1), timedelta(minutes=30))
    assert policy.limits == Limits(10_000_000, 100_000_000, 19, "idle")
    assert policy.notify == ("ops",)


def test_a_size_can_be_a_part_and_a_pause_outgrow_the_usual(host: Settings, write: Write) -> None:
    lines = "objectives: {min_size: 50%}\nretry: {delay: 2h}\nnotify: []\n"
    write("policies/p.yaml", SMALLEST + lines)

    (policy,) = load_policies(host)

    assert policy.objectives == Objectives(min_size_percent=50.0)
    assert policy.retry == Retry(delay=timedelta(hours=2), max_delay=timedelta(hours=2))
    assert policy.notify == ()


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["ops-mail", "hook"], 'Did you mean "ops-mail"?'),
        (["hook"], 'The notifiers here are "hook".'),
        ([], 'The settings have none: name them under "notify" there.'),
    ],
)
def test_whom_to_tell_is_in_the_settings(
    host: Settings, write: Write, known: list[str], hint: str
) -> None:
    notify = {name: NotifierSettings(name, PingSettings(url="http://h")) for name in known}
    path = write("policies/p.yaml", SMALLEST + "notify: [opsmail]\n")

    (problem,) = check_policies(replace(host, notify=notify))

    assert str(problem) == (
        f'file "{path}", line 4, field "notify[0]": expected a notifier of the settings, found'
        ' "opsmail"'
    )
    assert problem.hint == hint


def test_an_unreadable_folder_is_refused(host: Settings, tmp_path: Path) -> None:
    # A name too long is refused to root as well.
    unreadable = replace(host, policies_dir=tmp_path / ("a" * 300))

    with pytest.raises(ConfigError, match="could not list it: file name too long"):
        load_policies(unreadable)


def test_an_unreadable_policy_is_one_problem_among_whole_ones(host: Settings, write: Write) -> None:
    whole = write("policies/a.yaml", SMALLEST)
    (host.policies_dir / "b.yaml").symlink_to("b.yaml")

    policies, problems = read_policies(host)

    assert [policy.path for policy in policies] == [whole]
    assert ["could not read it" in problem.message for problem in problems] == [True]


def test_a_source_is_unique_in_its_vault(host: Settings, write: Write) -> None:
    first = write("policies/a.yaml", SMALLEST)
    second = write("policies/b.yaml", "enabled: false\n" + SMALLEST)
    write("policies/c.yaml", SMALLEST.replace("offsite", "second"))

    problems = check_policies(host)

    assert [str(problem) for problem in problems] == [
        (
            f'file "{second}", line 4, field "sources.web": source "web" is already in vault'
            f' "offsite": file "{first}", line 3'
        )
    ]


def test_of_two_policies_with_one_source_the_enabled_one_has_it(
    host: Settings, write: Write
) -> None:
    first = write("policies/a.yaml", "enabled: false\n" + SMALLEST)
    second = write("policies/b.yaml", SMALLEST)
    write("policies/c.yaml", "sources: 5\n")

    policies, problems = read_policies(host)

    assert [policy.path for policy in policies] == [second]
    assert [problem.path.name for problem in problems] == ["a.yaml", "c.yaml", "c.yaml"]
    assert str(problems[0]).startswith(f'file "{first}", line 4, field "sources.web"')
    assert str(problems[0]).endswith(f'file "{second}", line 3')


def test_two_files_cannot_make_one_policy(host: Settings, write: Write) -> None:
    write("policies/a.yaml", SMALLEST)
    write("policies/a.yml", SMALLEST.replace("web", "db"))

    with pytest.raises(ConfigError, match='policy "a" is already file'):
        load_policies(host)


def test_policies_are_sorted_and_other_files_left_alone(host: Settings, write: Write) -> None:
    write("policies/b.yaml", SMALLEST)
    write("policies/a nightly ü.yml", SMALLEST.replace("web", "db"))
    for name in (".hidden.yaml", "README.md", "c.yaml~", "below/d.yaml"):
        write(f"policies/{name}", "not a policy")

    assert [policy.name for policy in load_policies(host)] == ["a nightly ü", "b"]


def test_an_empty_folder_has_no_policies(host: Settings) -> None:
    assert load_policies(host) == ()


def test_a_missing_folder_and_a_file_in_its_place_are_refused(
    host: Settings, write: Write, tmp_path: Path
) -> None:
    missing = replace(host, policies_dir=tmp_path / "gone")
    file = replace(host, policies_dir=write("file", ""))

    with pytest.raises(ConfigError, match=r'file ".*/gone": there is no such folder'):
        load_policies(missing)
    with pytest.raises(ConfigError, match="expected a folder of policies, found a file"):
        load_policies(file)


def test_a_folder_named_like_a_policy_is_refused(host: Settings, write: Write) -> None:
    write("policies/a.yaml/b.yaml", SMALLEST)

    with pytest.raises(ConfigError, match=r'a\.yaml": expected a file, found a folder'):
        load_policies(host)


def test_whole_policies_are_read_beside_wrong_ones(host: Settings, write: Write) -> None:
    write("policies/a.yaml", "vault: offsite\nsources: 5\nenabled: 5\n")
    write("policies/b.yaml", SMALLEST)
    write("policies/c.yaml", "\t")

    policies, problems = read_policies(host)

    assert [policy.name for policy in policies] == ["b"]
    assert [(problem.path.name, problem.field) for problem in problems] == [
        ("a.yaml", "sources"),
        ("a.yaml", "enabled"),
        ("c.yaml", None),
    ]


def test_sources_are_picked_by_name(host: Settings, write: Write) -> None:
    write("policies/a.yaml", SMALLEST + "  db: {image: {path: db.raw}}\n")
    write("policies/b.yaml", SMALLEST.replace("offsite", "second"))
    policies = load_policies(host)

    def picked(*names: str) -> list[tuple[str, str]]:
        return [(policy.name, source.name) for policy, source in select_sources(policies, names)]

    assert picked() == [("a", "web"), ("a", "db"), ("b", "web")]
    assert picked("db", "web", "db") == [("a", "db"), ("a", "web"), ("b", "web")]
    with pytest.raises(ConfigError, match='no policy has a source "webb"') as refusal:
        picked("webb")
    assert refusal.value.hint == 'Did you mean "web"?'


def test_schemas_name_every_key() -> None:
    assert set(policy_schema()["properties"]) >= {"vault", "schedule", "sources", "retention"}
    assert set(settings_schema()["properties"]) == {
        *("state_dir", "policies", "vaults", "daemon", "limits", "notify"),
    }
