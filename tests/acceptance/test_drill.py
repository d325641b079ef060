# SPDX-License-Identifier: Apache-2.0
"""`snapvault drill run`: restores are rehearsed for real, fail loudly, and leave nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import ROOT, Host, image
from tests.support import bootable, keys
from tests.support.mariadb import SHOP_GRANTS, MariadbServer
from tests.support.qemu import until

pytestmark = pytest.mark.integration

MIB = 1 << 20
BOOT = {"memory": "256MiB", "checks": [{"console": bootable.LOGIN}]}
SIGKILL, SIGTERM = signal.SIGKILL, signal.SIGTERM


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Make a folder that the user of a scratch server can get into; drills leave nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
        assert list(folder.iterdir()) == []
        assert processes_of(folder) == []
    finally:
        shutil.rmtree(folder)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended since
            continue
        if str(folder) in line:
            lines.append(line)
    return lines


@dataclass(frozen=True)
class Backed:
    """A vault with a night of a database, a machine and a folder, and two of a disk.

    `saying` is what the machine says when it is started from the right data.
    """

    folder: Path
    sources: dict[str, Any]
    saying: str
    data: tuple[str, str]


@pytest.fixture(scope="session")
def backed(tmp_path_factory: pytest.TempPathFactory, host_home: Path) -> Backed:
    """Make the vault that `host` gets a copy of."""
    folder = tmp_path_factory.mktemp("backed")
    chance = random.Random(1)
    saying = bootable.bios_disk(folder / "root.raw", filler=16 * MIB)
    (folder / "data.raw").write_bytes(chance.randbytes(6 * MIB))
    (folder / "etc/ssh").mkdir(parents=True)
    (folder / "etc/hostname").write_text("web01\n")
    (folder / "etc/ssh/config").write_text("Port 22\n")
    host = Host(folder / "host", host_home, {"store": f"file://{folder}/vault"}).set_up()
    with MariadbServer() as server:
        server.run(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, item TEXT);"
            "INSERT INTO shop.orders VALUES (1, 'tea'), (2, 'milk')"
        )
        options = server.create_account(*SHOP_GRANTS)
        sources = {
            "shop": {"mysql": {"defaults_file": str(options), "databases": ["shop"]}},
            "web01": image(folder / "root.raw"),
            "etc": {"directory": {"path": str(folder / "etc")}},
            "data": image(folder / "data.raw"),
        }
        host.protect(sources, volume_size="2MiB")
        host.does("init")
        made = host.does("backup", "--json").json
    with (folder / "data.raw").open("r+b") as file:
        file.write(b"changed")
    (again,) = host.does("backup", "--json", "data").json
    first = next(point for point in made if point["source"] == "data")
    return Backed(folder, sources, saying, (first["id"], again["id"]))


@pytest.fixture
def rehearsed(host: Host, backed: Backed, tmp_path: Path) -> Host:
    """Return a backup host, which has no recovery key, with a copy of the vault."""
    shutil.copytree(backed.folder / "vault", tmp_path / "vault")
    return host


def report_of(host: Host, status: int, *words: str) -> tuple[dict[str, Any], str]:
    """Run drills of one policy; return the report, and what else was said."""
    ended = host.run("--json", "drill", "run", *words)
    assert ended.status == status, (ended.status, ended.stdout, ended.stderr)
    assert "Traceback" not in ended.stderr
    (report,) = ended.json
    return dict(report), ended.stderr


def three(step: dict[str, Any]) -> list[str]:
    return [step[key]["verdict"] for key in ("restored", "validated", "cleaned")]


# --- that it works ----------------------------------------------------------------------------


def test_a_database_a_machine_and_a_folder_are_rehearsed(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path, tmp_path: Path
) -> None:
    asked = [{"sql": "SELECT item FROM orders WHERE id = 2", "expect": "milk"}]
    looked = [
        *[{"console": bootable.LOGIN}, {"console": backed.saying}, {"agent": True}, {"port": 80}],
        {"run": ["/bin/cat", "/var/boots"], "output": "^1$"},
    ]
    rehearsed.protect(
        backed.sources,
        objectives={"rto": "1h", "rpo": "1h"},
        drill={
            "gnupg_home": str(recovery_home),
            "scratch": str(scratch),
            "steps": [
                {"shop": {"database": {"checks": asked}}},
                {"web01": {"boot": {**BOOT, "checks": looked}}},
                {"etc": {"files": {"paths": ["hostname"], "compare_live": True}}},
            ],
        },
    )
    before = set((tmp_path / "vault").rglob("*"))

    report, said = report_of(rehearsed, 0)

    assert report["verdict"] == "passed"
    for step in report["steps"]:
        assert three(step) == ["passed"] * 3, step
        assert {check["verdict"] for check in step["checks"]} == {"passed"}, step
        assert step["seconds"] == pytest.approx(sum(step["phases"].values()), abs=1e-9)
        assert 0 < step["seconds_to_ready"] <= step["seconds"]
        assert step["commands"]
    _, web01, _ = report["steps"]
    assert backed.saying in web01["console"]
    assert web01["screenshot"]
    assert set(web01["phases"]) >= {
        *("locate", "fetch", "decrypt", "write", "verify", "boot", "ready", "clean-up")
    }
    assert said == ""
    # Nothing is written to the backups; the report alone is new.
    vault = tmp_path / "vault"
    new = {path.relative_to(vault).parts[0] for path in set(vault.rglob("*")) - before}
    assert new == {"drills"}


def test_a_machine_starts_at_once_from_the_vault(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path, tmp_path: Path
) -> None:
    # The first line that comes is one of the boot loader's.
    checks = [{"console": "."}]
    steps = [{"web01": {"boot": {**BOOT, "instant": True, "checks": checks}}}]
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch), "steps": steps}
    rehearsed.protect(backed.sources, drill=drill)

    report, _ = report_of(rehearsed, 0)

    (step,) = report["steps"]
    assert three(step) == ["passed"] * 3
    assert "started from the vault" in step["restored"]["reason"]
    assert step["counters"]["fetched_bytes"] < 16 * MIB  # which nobody reads


# --- that it fails loudly ---------------------------------------------------------------------


def files(*sources: str) -> list[dict[str, Any]]:
    """Return steps that restore sources in full."""
    return [{source: {"files": {}}} for source in sources]


def test_a_damaged_volume_fails_at_verify_and_names_whom_it_hits(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path, tmp_path: Path
) -> None:
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch)}
    rehearsed.protect(backed.sources, drill={**drill, "steps": files("data", "etc")})
    for path in (tmp_path / "vault").rglob("*.vol"):
        content = bytearray(path.read_bytes())
        if len(content) > MIB:
            content[len(content) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(content)

    report, said = report_of(rehearsed, 17)

    data, etc = report["steps"]
    assert three(data) == ["failed", "skipped", "passed"]
    assert three(etc) == ["skipped", "skipped", "passed"]
    older, newest = backed.data
    assert (data["point"], data["hits"]) == (newest, [older])
    assert data["facts"]["failed_in"] == "verify"
    assert 'volume "volumes/' in data["restored"]["reason"]
    assert "is damaged" in said


def test_a_missing_key_is_told_with_what_is_needed(
    rehearsed: Host, backed: Backed, scratch: Path
) -> None:
    rehearsed.protect(backed.sources, drill={"scratch": str(scratch), "steps": files("data")})

    report, said = report_of(rehearsed, 17)

    assert three(report["steps"][0]) == ["failed", "skipped", "passed"]
    assert report["steps"][0]["facts"]["failed_in"] == "decrypt"
    assert "hint: A drill needs the secret half of a recovery key: name its GnuPG folder" in said


def test_a_wrong_key_or_none_at_all_ends_the_drill_with_a_report(
    rehearsed: Host, backed: Backed, scratch: Path, tmp_path: Path
) -> None:
    drill = {"scratch": str(scratch), "steps": files("data")}
    with keys.gnupg_home(secret=["recovery2"], public=["host", "recovery"]) as wrong:
        keys.end_agent(wrong)
        rehearsed.protect(backed.sources, drill={**drill, "gnupg_home": str(wrong)})
        report, _ = report_of(rehearsed, 17)
        assert three(report["steps"][0]) == ["failed", "skipped", "passed"]
        assert not (wrong / "S.gpg-agent").exists()

    unplugged = tmp_path / "unplugged"
    rehearsed.protect(backed.sources, drill={**drill, "gnupg_home": str(unplugged)})
    report, said = report_of(rehearsed, 17)

    assert report["problem"] == f'gnupg_home "{unplugged}" is not a folder'
    assert not unplugged.exists()
    assert three(report["steps"][0]) == ["failed", "skipped", "passed"]
    assert "is not a folder" in said


def test_without_qemu_the_drill_says_what_installs_it(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gpg", "gpg-agent", "gpgconf", "gpg-connect-agent", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    rehearsed.environment = {"PATH": str(programs)}
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch)}
    rehearsed.protect(backed.sources, drill={**drill, "steps": [{"web01": {"boot": BOOT}}]})

    report, said = report_of(rehearsed, 17)

    (step,) = report["steps"]
    assert three(step) == ["skipped", "failed", "passed"]
    assert "qemu-system-x86_64" in step["validated"]["reason"]
    assert [check["verdict"] for check in step["checks"]] == ["skipped"]
    assert "apt-get install" in said


def test_a_full_scratch_folder_is_told_before_anything_is_fetched(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path
) -> None:
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch), "steps": files("data")}
    rehearsed.protect(backed.sources, drill=drill)
    # Who is not root needs namespaces of users, which Debian allows everybody.
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = 'mount -t tmpfs -o size=4m none "$0" && "$@"; status=$?; ls -A "$0" >&2; exit $status'
    words = ["unshare", *as_root, "--mount", "sh", "-c", script, str(scratch)]

    ended = subprocess.run(
        [*words, *rehearsed.command("--json", "drill", "run")],
        env=rehearsed.surroundings(),
        capture_output=True,
        check=False,
        timeout=120,
    )

    assert ended.returncode == 17, ended.stderr
    (step,) = json.loads(ended.stdout)[0]["steps"]
    assert three(step) == ["failed", "skipped", "passed"]
    assert "not enough room" in step["restored"]["reason"]
    assert step["counters"].get("written_bytes", 0) == 0
    assert ended.stderr.splitlines()[-1].startswith(b"hint: ")


# --- what is asked for ------------------------------------------------------------------------


def test_one_source_one_point_and_a_seed_can_be_asked_for_and_objectives_count(
    rehearsed: Host, backed: Backed, recovery_home: Path, scratch: Path
) -> None:
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch), "steps": files("etc")}
    rehearsed.protect(backed.sources, drill=drill, objectives={"rto": "1ms", "rpo": "1ms"})
    older = backed.data[0]

    report, said = report_of(rehearsed, 17, "data", "--point", older[:7], "--seed", "7", "--keep")

    mistyped = rehearsed.fails(16, "drill", "run", "data", "--point", "ffff")
    too_early = rehearsed.fails(16, "drill", "run", "data", "--at", "2020-01-01")

    assert "ffff" in mistyped
    assert "data" in too_early
    assert len(list((rehearsed.folder.parent / "vault").glob("drills/*"))) == 1
    (step,) = report["steps"]
    assert (report["verdict"], report["choice"], report["seed"]) == ("passed", "point", 7)
    assert (step["source"], step["kind"], step["point"]) == ("data", "files", older)
    assert three(step) == ["passed", "passed", "skipped"]
    # The objective for recovery points is of the newest one.
    (finding,) = report["findings"]
    assert finding.startswith("the recovery time of ")
    assert "exceeds the RTO" in said
    (kept,) = scratch.iterdir()
    assert f'is kept, in clear, in folder "{kept}"' in said
    assert (kept / "1/restored/image").stat().st_size == 6 * MIB
    assert kept.stat().st_mode & 0o077 == 0
    shutil.rmtree(kept)


def test_without_a_drill_what_is_named_is_rehearsed(
    rehearsed: Host, backed: Backed, recovery_home: Path, tmp_path: Path
) -> None:
    # Not /var/tmp itself, where drills of other tests may be at work.
    temporary, start = tmp_path / "temporary", tmp_path / "start"
    temporary.mkdir()
    start.mkdir()
    (start / "sitecustomize.py").write_text(
        "from pathlib import Path\nfrom snapvault.wiring import drills\n"
        f"drills._TEMPORARY = Path({str(temporary)!r})\n"
    )
    rehearsed.environment = {
        **rehearsed.environment,
        "PYTHONPATH": os.pathsep.join([str(start), str(ROOT)]),
    }
    rehearsed.protect(backed.sources)
    rehearsed.home = recovery_home
    rehearsed.set_up()

    refusal = rehearsed.fails(10, "drill", "run")
    report, _ = report_of(rehearsed, 0, "etc")

    assert "no policy has a drill" in refusal
    assert report["steps"][0]["kind"] == "files"
    assert list(temporary.iterdir()) == []


# --- that nothing is left ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind", "phase", "how"),
    [
        ("data", "files", "fetch", SIGKILL),
        ("shop", "database", "load", SIGKILL),
        ("web01", "boot", "boot", SIGKILL),
        ("web01", "boot", "boot", SIGTERM),
    ],
)
def test_a_drill_that_ends_early_leaves_nothing(
    source: str,
    kind: str,
    phase: str,
    how: signal.Signals,
    rehearsed: Host,
    backed: Backed,
    recovery_home: Path,
    scratch: Path,
) -> None:
    drill = {"gnupg_home": str(recovery_home), "scratch": str(scratch)}
    steps = [{source: {kind: BOOT if kind == "boot" else {}}}]
    rehearsed.protect(backed.sources, drill={**drill, "steps": steps})

    process = rehearsed.start("drill", "run")
    assert process.stdout
    assert process.stderr
    with process.stdout, process.stderr:
        for line in process.stderr:
            if f"{source}: {phase}\n".encode() == line:
                break
        if phase != "fetch":
            next(each for each in until() if processes_of(scratch))
        process.send_signal(how)
        said = process.stderr.read().decode()
        status = process.wait(60)

    assert status == (-how if how is SIGKILL else 128 + how), said
    assert "Traceback" not in said
    next(each for each in until() if not processes_of(scratch))
    if how is SIGKILL:
        (left,) = scratch.iterdir()
        assert left.name.startswith("snapvault-drill-")
        rehearsed.protect(backed.sources, drill={**drill, "steps": files("etc")})
        report_of(rehearsed, 0)
    assert list(scratch.iterdir()) == []


def test_a_wrong_policy_keeps_no_other_from_being_rehearsed(
    rehearsed: Host, backed: Backed, recovery_home: Path
) -> None:
    drill = {"gnupg_home": str(recovery_home), "steps": files("etc")}
    rehearsed.protect({"etc": backed.sources["etc"]}, name="right", drill=drill)
    wrong = rehearsed.folder / "policies" / "wrong.yaml"
    wrong.write_text(
        "vault: offsite\nsources: {other: {directory: {path: 7}}}\ndrill: {step: []}\n"
    )

    report, said = report_of(rehearsed, 3)
    refused = rehearsed.fails(10, "drill", "run", "other")

    assert report["verdict"] == "passed"
    assert str(wrong) in said
    assert str(wrong) in refused
