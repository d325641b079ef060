# SPDX-License-Identifier: Apache-2.0
"""What a user gets wrong, and what the program says to it."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import ROOT, Host, image, shell
from tests.support import keys

pytestmark = pytest.mark.integration


# --- the keyboard ---------------------------------------------------------------------------

# Python imports this at its start: signals come at once when a module is about to be imported.
IMPATIENT = """\
import os, signal, sys
class Impatient:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.pthread_sigmask(signal.SIG_BLOCK, {numbers})
            for number in {numbers}:
                os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {numbers})
sys.meta_path.insert(0, Impatient())
"""


@pytest.mark.parametrize(
    ("module", "numbers"),
    [("cli.boundary", [2]), ("cli.app", [2, 15]), ("wiring.vaults", [1, 2, 15])],
)
def test_signals_that_come_early_and_at_once_are_no_bug(
    module: str, numbers: list[int], used: Host, tmp_path: Path
) -> None:
    text = IMPATIENT.format(module=f"snapvault.{module}", numbers=numbers)
    (tmp_path / "sitecustomize.py").write_text(text)
    used.environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    ended = used.run("list")

    assert abs(ended.status) % 128 in numbers
    assert ended.raw == b""
    assert "Traceback" not in ended.stderr


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("vault: offsite\nsources: {web01: {image: {path: 5}}}\n", 2, "sources.web01.image.path"),
        ("vault: offsite\nsources: {a: {image: {path: /x}}}\nretain: {}\n", 3, "retain"),
        ("vault: ofsite\nsources: {a: {image: {path: /x}}}\n", 1, "vault"),
        ("vault: offsite\nsources:\n  a: [\n", 4, None),
    ],
)
def test_a_wrong_policy_is_named_with_file_line_and_field(
    text: str, line: int, field: str | None, host: Host
) -> None:
    path = host.folder / "policies" / "nightly.yaml"
    path.write_text(text)

    said = host.fails(10, "policy", "check")

    assert f'file "{path}", line {line}' in said
    if field:
        assert f'field "{field}"' in said


WRONG = "vault: offsite\nsources: {db: 5}\n"
TORN = "vault: offsite\nsources:\n  files: [\n"


def broken(host: Host, **files: str) -> None:
    """Put wrong policies beside a right one, `nightly` with the source `web01`."""
    host.protect({"web01": shell("echo web")})
    for name, text in files.items():
        (host.folder / "policies" / f"{name}.yaml").write_text(text)


def test_wrong_policies_alone_are_the_operators_to_mend(host: Host) -> None:
    (host.folder / "policies" / "nightly.yaml").write_text("vault: offsite\nsources: 5\n")

    for command in (["backup"], ["policy", "list"], ["policy", "show", "nightly"]):
        assert 'line 2, field "sources"' in host.fails(10, *command)


def test_a_wrong_policy_keeps_no_other_from_being_followed(host: Host) -> None:
    broken(host, a=WRONG, z=TORN)
    host.does("init")

    ended = host.run("backup")

    assert ended.status == 3
    problems = [line for line in ended.stderr.splitlines() if line.startswith("snapvault: ")]
    assert [Path(line.split('"')[1]).name for line in problems] == ["a.yaml", "z.yaml"]
    assert 'backed up source "web01"' in ended.stdout
    assert [point["source"] for point in host.points()] == ["web01"]


def test_the_status_of_a_backup_is_that_of_its_sources_where_policies_are_wrong_too(
    host: Host,
) -> None:
    broken(host, a=WRONG)
    host.protect({"web01": shell("exit 1")})
    host.does("init")

    assert 'field "sources.db"' in host.fails(15, "backup")


def test_a_source_is_backed_up_by_name_whatever_is_wrong_elsewhere(host: Host) -> None:
    broken(host, a=WRONG, z=TORN)
    host.does("init")

    said = host.does("backup", "web01").stderr

    assert 'a.yaml", line 2, field "sources.db": expected a mapping' in said
    assert 'z.yaml", line 4' in said


def test_a_source_of_a_wrong_policy_is_not_said_to_be_nowhere(host: Host) -> None:
    broken(host, a=WRONG)
    host.does("init")

    named = host.fails(10, "backup", "web01", "db")
    nowhere = host.fails(10, "backup", "dx")
    broken(host, z=TORN)
    perhaps = host.fails(10, "backup", "files")

    folder = host.folder / "policies"
    assert f'source "db" is in a policy that is wrong: file "{folder}/a.yaml"\n' in named
    assert 'no policy has a source "dx"' in nowhere
    assert 'no policy that can be read has a source "files"' in perhaps
    assert f'It may be in "{folder}/z.yaml", which is wrong' in perhaps
    assert host.points() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [("x", "expected a number"), ("0", "must be at least 1"), ("65536", "must be at most 65535")],
)
def test_a_wrong_number_is_told_in_plain_words(given: str, said: str, host: Host) -> None:
    refusal = host.fails(2, "run", "web01", "--forward", given)

    assert f'invalid value for "--forward": {said}\n' in refusal


def test_what_a_drill_cannot_find_in_the_named_policy_is_said_of_that_policy(host: Host) -> None:
    host.protect({"web01": shell("echo web01")}, name="a")
    host.protect({"db": shell("echo db")}, name="z")

    elsewhere = host.fails(10, "drill", "run", "web01", "--policy", "z")
    without = host.fails(10, "drill", "run", "--policy", "z")

    assert 'policy "z" has no source "web01"' in elsewhere
    assert 'policy "z" has no drill' in without


def test_a_source_that_two_policies_claim_is_backed_up_by_the_first(host: Host) -> None:
    broken(host)
    host.protect({"web01": shell("echo other"), "db": shell("echo db")}, name="z")
    host.does("init")

    everything = host.run("backup", "--json")
    by_name = host.run("backup", "web01", "--json")

    for ended in (everything, by_name):
        assert ended.status == 3
        assert 'z.yaml", line 1, field "sources.web01": source "web01" is already' in ended.stderr
        assert [(each["source"], each["error"]) for each in ended.json] == [("web01", None)]


def test_a_folder_of_policies_that_is_not_there_hides_every_source(host: Host) -> None:
    broken(host)
    folder = host.folder / "policies"
    folder.rename(host.folder / "elsewhere")

    for command in (["backup"], ["backup", "web01"], ["policy", "show", "nightly"]):
        said = host.fails(10, *command)

        assert f'file "{folder}": there is no such folder of policies' in said
        assert "hint: Make it, or name another" in said


def test_right_policies_are_shown_beside_wrong_ones(host: Host) -> None:
    broken(host, a=WRONG, z=TORN)

    listed = host.run("policy", "list", "--json")
    shown = host.does("policy", "show", "nightly")
    wrong = host.fails(10, "policy", "show", "a")

    assert listed.status == 3
    assert [policy["name"] for policy in listed.json] == ["nightly"]
    assert shown.stdout.startswith('policy "nightly"')
    for said in (listed.stderr, shown.stderr):
        assert 'a.yaml", line 2, field "sources.db"' in said
        assert 'z.yaml", line 4' in said
    assert 'a.yaml", line 2, field "sources.db"' in wrong
    assert "z.yaml" not in wrong


def test_policy_check_names_every_problem_and_its_report_is_for_programs_too(host: Host) -> None:
    policies = host.folder / "policies"
    (policies / "a.yaml").write_text("vault: offsite\nsources: {}\nvolume_size: 5\n")
    (policies / "b.yaml").write_text("vault: offsite\n")

    said = host.fails(10, "policy", "check")
    ended = host.run("policy", "check", "--json")

    assert said.count("snapvault: file") >= 3
    assert ended.status == 10
    assert {(Path(each["file"]).name, each["field"]) for each in ended.json} >= {
        ("a.yaml", "volume_size"),
        ("b.yaml", "sources"),
    }


def test_wrong_settings_are_named_with_file_line_and_field(host: Host) -> None:
    host.settings.write_text("state_dir: state\nvaults:\n  offsite:\n    stor: file:///x\n")

    for command in ("list", "init"):
        said = host.fails(10, command)

        assert f'file "{host.settings}", line' in said
        assert "vaults.offsite" in said


def test_missing_settings_say_how_to_name_others(host: Host) -> None:
    host.settings.unlink()

    said = host.fails(10, "list")

    assert str(host.settings) in said
    assert "--config" in said


def test_nothing_to_back_up_is_an_error(host: Host) -> None:
    host.does("init")
    none = host.fails(10, "backup")
    host.protect({"etc": shell("echo x")}, enabled=False)

    disabled = host.fails(10, "backup")

    assert "no policy" in none
    assert "disabled" in disabled
    assert host.does("backup", "etc", "--json").json[0]["error"] is None


# --- vaults ---------------------------------------------------------------------------------


def test_a_vault_is_not_initialized_twice(used: Host) -> None:
    said = used.fails(10, "init")

    assert "already initialized" in said
    assert len(used.points()) == 2


@pytest.mark.parametrize("command", ["list", "backup"])
def test_a_place_without_a_vault_is_an_error_that_names_init(command: str, host: Host) -> None:
    host.protect({"etc": shell("echo x")})
    (Path(host.folder).parent / "vault").mkdir()
    (Path(host.folder).parent / "vault" / "holiday.jpg").write_bytes(b"not a vault")

    said = host.fails(10, command)

    assert "there is no vault" in said
    assert "snapvault init offsite" in said


def test_a_vault_of_a_newer_format_is_left_alone(used: Host) -> None:
    record = used.folder.parent / "vault" / "vault.json"
    document = json.loads(record.read_text())
    record.chmod(0o644)
    record.write_text(json.dumps({**document, "format": 2}))

    for command in (["backup"], ["restore", "web01", "--to", "x"], ["init"]):
        said = used.fails(13, *command)

        assert "format 2" in said
        assert "newer" in said


def test_an_unknown_vault_names_the_nearest(used: Host) -> None:
    said = used.fails(10, "list", "--vault", "ofsite")

    assert 'Did you mean "offsite"?' in said


# --- sources --------------------------------------------------------------------------------


def test_an_unknown_source_names_the_nearest(used: Host) -> None:
    assert 'Did you mean "web01"?' in used.fails(10, "backup", "web1")
    assert 'Did you mean "web01"?' in used.fails(16, "list", "web1")
    assert 'Did you mean "web01"?' in used.fails(16, "verify", "web1")
    assert 'Did you mean "web01"?' in used.fails(16, "restore", "web1", "--to", "x")


def test_an_empty_output_makes_no_restore_point_unless_it_may(host: Host, recovery: Host) -> None:
    host.protect({"dump": shell("true"), "log": shell("true", allow_empty=True)})
    host.does("init")

    ended = host.run("backup", "--json")

    assert ended.status == 3
    assert [each["error"] is None for each in ended.json] == [False, True]
    assert "dump" in ended.stderr
    assert [point["source"] for point in host.points()] == ["log"]
    recovery.does("restore", "log", "--to", str(host.folder / "log"))
    assert (host.folder / "log").read_bytes() == b""


def test_a_source_that_fails_leaves_the_others_their_points(host: Host, tmp_path: Path) -> None:
    host.protect(
        {
            "gone": image(tmp_path / "not there.img"),
            "broken": shell("echo half; echo disk on fire >&2; exit 3"),
            "fine": shell("echo all"),
        }
    )
    host.does("init")

    ended = host.run("backup", "--json")
    alone = host.run("backup", "broken")

    assert ended.status == 3
    by_source = {each["source"]: each for each in ended.json}
    assert len({tuple(each) for each in ended.json}) == 1  # the same keys everywhere
    assert by_source["fine"]["error"] is None
    assert "not there.img" in by_source["gone"]["error"]["message"]
    assert "disk on fire" in by_source["broken"]["error"]["message"]
    assert by_source["broken"]["id"] is None
    assert alone.status == 15
    assert [point["source"] for point in host.points()] == ["fine"]


# --- restore points -------------------------------------------------------------------------


def test_a_point_that_does_not_exist_names_the_nearest(used: Host) -> None:
    point = used.points("web01")[0]["id"]

    for command in (["restore", "web01", "--to", "x", "--point"], ["show"]):
        said = used.fails(16, *command, point[:5] + "zzz")

        assert point in said
    assert "Or name a source: shop, web01." in used.fails(16, "show", "web02")


def test_show_takes_a_source_for_its_newest_point_unless_that_is_unknown(used: Host) -> None:
    used.does("backup", "web01")
    newest = used.points("web01")[-1]["id"]

    shown = used.does("show", "web01", "--json").json
    points = used.folder.parent / "vault/points"
    (points / "web01/20990101T000000Z-0123456789abcdef.point").write_bytes(b"nonsense")
    said = used.fails(13, "show", "web01")
    other = used.does("show", "shop", "--json").json

    assert shown["id"] == newest
    assert 'cannot tell which restore point of source "web01" is the newest' in said
    assert other["source"] == "shop"


def test_the_vaults_own_script_takes_a_slash_for_a_folder(
    used: Host, recovery_home: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"

    def restore(source: str, to: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, f"{vault}/restore.py", str(vault), source, "--to", to]
        environment = {**os.environ, "GNUPGHOME": str(recovery_home)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    alone = restore("web01", "tx/")
    several = restore("shop", "ty/")

    assert alone.returncode == 16
    assert 'target "tx" is meant to be a folder, but stream "image" alone' in alone.stderr
    assert 'make the folder and name "tx/image"' in alone.stderr
    assert not (tmp_path / "tx").exists()
    assert several.returncode == 0, several.stderr
    assert (tmp_path / "ty/tables").read_text() == "tables\n"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2124-01-01", "in the future"),
        ("tomorrow", "2026-11-20"),
        ("2026-02-30", "no such day"),
        ("", "write it like"),
    ],
)
def test_a_time_that_makes_no_sense_is_wrong_usage(at: str, expected: str, used: Host) -> None:
    assert expected in used.fails(2, "restore", "web01", "--to", "x", "--at", at)


def test_a_time_before_the_first_point_names_the_oldest(used: Host) -> None:
    said = used.fails(16, "restore", "web01", "--to", "x", "--at", "2020-01-01")

    assert used.points("web01")[0]["id"] in said


def test_a_time_and_a_point_together_are_wrong_usage(used: Host) -> None:
    said = used.fails(2, "restore", "web01", "--to", "x", "--at", "now", "--point", "a")

    assert "not both" in said


# --- targets --------------------------------------------------------------------------------


def test_a_folder_where_a_file_is_meant_is_refused(used: Host, recovery: Host) -> None:
    said = recovery.fails(16, "restore", "web01", "--to", str(used.folder))

    assert "it is a folder, a file is meant" in said
    assert "hint: Name a file in it" in said


def test_a_file_where_a_folder_is_meant_is_refused(used: Host, recovery: Host) -> None:
    said = recovery.fails(16, "restore", "shop", "--to", str(used.settings))

    assert "2 streams" in said
    assert "--stream" in said


def test_an_unknown_stream_names_the_streams(used: Host, recovery: Host) -> None:
    said = recovery.fails(16, "restore", "shop", "--stream", "table", "--to", "x")

    assert "tables, files" in said
    assert 'Did you mean "tables"?' in said


def test_nothing_is_overwritten_without_force(used: Host, recovery: Host) -> None:
    folder = used.folder / "out"
    folder.mkdir()
    (folder / "files").write_text("mine")
    target = used.folder / "disk.img"
    target.write_text("mine")

    to_file = ["restore", "web01", "--to", str(target)]
    to_folder = ["restore", "shop", "--to", str(folder)]

    assert "--force" in recovery.fails(16, *to_file)
    assert "--force" in recovery.fails(16, *to_folder)
    assert target.read_text() == "mine"
    assert [path.name for path in folder.iterdir()] == ["files"]
    assert (folder / "files").read_text() == "mine"

    recovery.does(*to_file, "--force")
    recovery.does(*to_folder, "--force")

    assert (folder / "files").read_text() == "files\n"
    assert target.read_bytes() == b"content" * 10_000


def test_a_missing_folder_around_a_file_is_named(used: Host, recovery: Host) -> None:
    said = recovery.fails(16, "restore", "web01", "--to", str(used.folder / "no" / "disk.img"))

    assert f'"{used.folder}/no"' in said


def test_a_terminal_is_not_flooded_with_bytes(used: Host, recovery: Host) -> None:
    ours, theirs = pty.openpty()
    try:
        ended = subprocess.run(
            recovery.command("restore", "web01", "--to", "-"),
            env=recovery.surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)

    assert ended.returncode == 2
    assert b"terminal" in ended.stderr


def test_the_report_and_the_data_do_not_share_stdout(used: Host, recovery: Host) -> None:
    assert "--json" in recovery.fails(2, "restore", "web01", "--to", "-", "--json")


# --- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lst"], "list"),
        (["policy", "schemas"], '"schema"'),
        (["restore", "web01", "--too", "x"], "--to"),
        (["verify", "--level", "deep"], "objects"),
        (["verify", "--sample", "0", "--level", "data"], "percentage"),
        (["verify", "--sample", "101", "--level", "data"], "percentage"),
        (["verify", "--sample", "nan", "--level", "data"], "percentage"),
        (["verify", "--sample", "10"], "objects"),
        (["restore", "web01"], "--to"),
        (["restore"], "SOURCE"),
        (["show"], "POINT"),
        (["policy", "show"], "NAME"),
        (["init", "one", "two"], "two"),
    ],
)
def test_wrong_words_are_wrong_usage_with_a_way_out(
    words: list[str], expected: str, host: Host
) -> None:
    said = host.fails(2, *words)

    assert said.startswith("snapvault: ")
    assert expected in said


def test_shared_options_stand_before_or_after_the_command(used: Host) -> None:
    program = used.command()

    before = subprocess.run(
        [*program, "--json", "list"], env=used.surroundings(), capture_output=True, check=True
    )
    after = subprocess.run(
        [*program[:3], "list", "--json", "--config", str(used.settings)],
        env=used.surroundings(),
        capture_output=True,
        check=True,
    )
    named = subprocess.run(
        [*program[:3], "list", "--json"],
        env={**used.surroundings(), "SNAPVAULT_CONFIG": str(used.settings)},
        capture_output=True,
        check=True,
    )

    assert before.stdout == after.stdout == named.stdout


def every_help() -> Iterator[list[str]]:
    commands = [
        "init",
        "backup",
        "list",
        "status",
        "show",
        "restore",
        "verify",
        "doctor",
        "policy",
        "catalog",
    ]
    yield []
    yield from ([command] for command in commands)
    yield from (["policy", command] for command in ("check", "list", "show", "schema"))
    yield ["catalog", "rebuild"]


@pytest.mark.parametrize("words", list(every_help()), ids=" ".join)
def test_every_command_explains_itself(words: list[str], host: Host) -> None:
    said = host.does(*words, "--help").stdout

    assert said.startswith("Usage: snapvault")
    if len(words) == 2 or (words and words[0] not in {"policy", "catalog"}):
        assert "\n    snapvault " in said  # an example


def test_a_signer_nobody_trusts_counts_for_nothing(used: Host) -> None:
    with keys.gnupg_home(secret=["host2"], public=["recovery", "host"]) as other:
        used.home, used.signer = other, keys.HOST2
        used.set_up()

        listed = used.run("list", "--json")
        said = used.fails(13, "restore", "web01", "--to", "x")

    assert listed.status == 0
    assert listed.json == []
    assert keys.HOST in listed.stderr
    assert "trusted_signers" in said or keys.HOST in said
