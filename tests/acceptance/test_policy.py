# SPDX-License-Identifier: Apache-2.0
"""What an operator is told about policies, right ones and wrong ones."""

import json

from tests.acceptance.program import Host, shell


def test_a_policy_says_when_it_runs_next_and_who_is_told(host: Host) -> None:
    settings = json.loads(host.settings.read_text())
    settings["notify"] = {"hook": {"webhook": {"url": "https://hooks.example.org/hunter2"}}}
    host.settings.write_text(json.dumps(settings))
    host.protect(
        {"shop": shell("dump")},
        schedule={"cron": "30 1 * * *", "timezone": "Asia/Tokyo", "jitter": "10m"},
        objectives={"drill": "90d", "min_size": "50%"},
        notify=["hook"],
    )

    shown = host.does("policy", "show", "nightly").stdout
    document = host.does("policy", "show", "nightly", "--json").json
    listed = host.does("policy", "list", "--json").json

    assert shown.count("between 01:30 and 01:40 JST") == 5
    assert [run["earliest_at"][11:] for run in document["next_runs"]] == ["16:30:00.000000Z"] * 5
    assert [run["latest_at"][11:] for run in document["next_runs"]] == ["16:40:00.000000Z"] * 5
    assert document["objectives"]["drill_seconds"] == 90 * 86400
    assert "hook of failure, recovery, breach" in shown
    assert listed == [{key: document[key] for key in listed[0]}]
    assert "hunter2" not in shown + json.dumps(document)


def test_a_policy_that_tells_nobody_we_know_is_wrong(host: Host) -> None:
    host.protect({"shop": shell("dump")}, notify=["hok"])

    said = host.fails(10, "policy", "show", "nightly")

    assert 'field "notify[0]": expected a notifier of the settings, found "hok"' in said


def test_everything_wrong_with_a_folder_of_policies_is_said_at_once(host: Host) -> None:
    host.protect({"shop": shell("dump")}, name="a")
    host.protect({"shop": shell("dump"), "web": shell("dump")}, name="b")
    host.protect({"db": shell("dump")}, name="c", schedule={"every": "1h", "timezone": "Mars/Base"})
    (host.folder / "policies" / "d.yaml").symlink_to("d.yaml")

    checked = host.run("policy", "check")

    assert checked.status == 10
    problems = [line for line in checked.stderr.splitlines() if line.startswith("snapvault: ")]
    folder = host.folder / "policies"
    assert problems == [
        (
            f'snapvault: file "{folder}/b.yaml", line 1, field "sources.shop": source "shop" is'
            f' already in vault "offsite": file "{folder}/a.yaml", line 1'
        ),
        (
            f'snapvault: file "{folder}/c.yaml", line 1, field "schedule.timezone": expected a time'
            ' zone such as "Europe/Paris" or "UTC", found "Mars/Base"'
        ),
        (
            f'snapvault: file "{folder}/d.yaml": could not read it: too many levels of symbolic'
            " links"
        ),
    ]


def test_a_folder_without_policies_is_right_and_one_that_cannot_be_listed_is_not(
    host: Host,
) -> None:
    empty = host.does("policy", "list")
    folder = host.folder / "policies"
    folder.rmdir()
    folder.symlink_to("policies")

    unreadable = host.fails(10, "policy", "list")

    assert f'folder "{folder}" has no policies' in empty.stderr
    assert f'file "{folder}": could not list it: too many levels of symbolic links' in unreadable


def test_a_page_for_everybody_needs_a_token(host: Host) -> None:
    settings = json.loads(host.settings.read_text())
    settings["daemon"] = {"listen": "0.0.0.0:9797"}
    host.settings.write_text(json.dumps(settings))

    said = host.fails(10, "policy", "check", "--quiet")

    assert 'field "daemon.listen": expected a loopback address' in said
    assert "hint: Write a long random token into a file" in said
