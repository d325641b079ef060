# SPDX-License-Identifier: Apache-2.0
"""What happens in the demo, step by step."""

import json
import shutil
from dataclasses import dataclass, field
from typing import Any

from scripts.demo_material import DATABASE_ON_DISK, DUMP_PROGRAM, Disk, Shop
from scripts.demo_screen import DemoError
from scripts.demo_stage import BUCKET, PREFIX, Stage
from snapvault import clock
from snapvault.errors import SealError
from snapvault.units import format_count, format_duration, format_size

NIGHTS = 3
_HOST_KEY = "backup@host1.example.org"
_RECOVERY_KEY = "recovery@example.org"
_MAKE_KEY = (
    "gpg --homedir gnupg --batch --quiet --passphrase '' \\\n"
    "    --quick-generate-key {name} future-default default never"
)
_POLICY = """\
vault: offsite
sources:
  web01:                          # a virtual machine's disk
    image: {path: ../web01.raw}
  shop:                           # a database: what its dump program writes
    command: {run: [python3, dump.py, shop.db], working_directory: ..}
"""


@dataclass
class Story:
    """Tells it once. What it finds out on the way goes into the summary."""

    stage: Stage
    disk_size: int
    rows: int
    points: list[dict[str, Any]] = field(default_factory=list)
    nights: list[float] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    at: str = ""
    signer: str = ""

    def __post_init__(self) -> None:
        self.screen = self.stage.screen
        self.host, self.recovery = self.stage.host, self.stage.recovery
        self.shop = Shop(self.host.folder / "shop.db", self.rows)
        self.disk = Disk(self.host.folder / "web01.raw")

    def tell(self) -> None:
        """Play it all.

        Raises:
            DemoError: a step did not do what it should.
        """
        started = clock.monotonic()
        self._introduce()
        self._make_keys()
        self._make_material()
        self._make_vault()
        for night in range(1, NIGHTS + 1):
            self._night(night)
        self._look()
        self._host_cannot_restore()
        self._restore()
        self._verify()
        self._restore_by_hand()
        self._sum_up(clock.monotonic() - started)

    def _introduce(self) -> None:
        self.screen.say(
            "Two folders play two machines: host makes backups into an S3 server, which runs on "
            "127.0.0.1 for this demo; recovery stands for the machine that has the recovery key. "
            "After a prompt stands what is really run, in that machine's folder. SNAPVAULT_CONFIG "
            "names its snapvault.yaml, and the S3 credentials are in the environment."
        )

    def _make_keys(self) -> None:
        self.screen.title("Two keys")
        self.screen.say(
            "The recovery key opens backups. Only its public half goes to the host, whose own "
            "key signs what it makes. (No passphrases here; yours should have one.)"
        )
        self.recovery.run(_MAKE_KEY.format(name=_RECOVERY_KEY))
        self.recovery.run(f"gpg --homedir gnupg --export {_RECOVERY_KEY} > ../recovery.gpg")
        self.host.run(_MAKE_KEY.format(name=_HOST_KEY))
        self.host.run("gpg --homedir gnupg --quiet --import ../recovery.gpg")
        self.host.run(f"gpg --homedir gnupg --export {_HOST_KEY} > ../host1.gpg")
        self.recovery.run("gpg --homedir gnupg --quiet --import ../host1.gpg")
        shown = self.host.ask(f"gpg --homedir gnupg --with-colons --list-keys {_HOST_KEY}")
        self.signer = next(
            line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:")
        )

    def _make_material(self) -> None:
        self.screen.title("Something to back up")
        self.shop.create()
        (self.host.folder / "dump.py").write_text(DUMP_PROGRAM)
        tree = self.host.folder / "tree"
        size = self.shop.path.stat().st_size
        count, total = self.disk.gather(tree, self.shop.path, self.disk_size * 3 // 5 - size)
        self.screen.say(
            f"A database of {self.rows:,} orders ({format_size(size)}), and a disk of "
            f"{format_size(self.disk_size)} with {format_count(count, 'file')} of this machine, a "
            f"log and that database on it ({format_size(total)})."
        )
        self.host.run(
            f"mkfs.ext4 -q -b 4096 -i 8192 -d tree web01.raw {self.disk_size >> 20}M", show=False
        )
        shutil.rmtree(tree)
        used = self.disk.path.stat().st_blocks * 512
        self.facts.append(
            ("disk web01", f"{format_size(self.disk_size)}, {format_size(used)} without holes")
        )

    def _make_vault(self) -> None:
        self.screen.title("A vault")
        settings = (
            "state_dir: state\n"
            "vaults:\n"
            "  offsite:\n"
            f"    store: s3://{BUCKET}/{PREFIX}\n"
            f"    endpoint_url: {self.stage.server.endpoint_url}\n"
            f"    region: {self.stage.server.region}\n"
            "    gnupg_home: gnupg\n"
            f"    recipients: [{_RECOVERY_KEY}]    # can restore\n"
            f"    signer: {_HOST_KEY}      # signs\n"
        )
        for machine in (self.host, self.recovery):
            (machine.folder / "snapvault.yaml").write_text(settings)
        (self.host.folder / "policies" / "nightly.yaml").write_text(_POLICY)
        self.host.run("cat snapvault.yaml policies/nightly.yaml")
        self.host.run("snapvault policy check")
        self.host.run("snapvault init")

    def _night(self, night: int) -> None:
        self.screen.title(f"Night {night}")
        if night > 1:
            self._let_a_day_pass(night)
        self.nights.append(self.host.run("snapvault backup").seconds)
        if night == 2:
            self.screen.say("This night is the one to come back to.")
            shown = self.host.run(
                "sha256sum web01.raw && python3 dump.py shop.db | sha256sum"
            ).text.split()
            self.wanted = {"web01": shown[0], "shop": shown[2]}
            self.at = self.host.run("date '+%F %T'").text.strip()
            # Points of the next night are later by the second, as any next night's are.
            clock.sleep(1)

    def _let_a_day_pass(self, night: int) -> None:
        business = self.shop.change()
        script, files = self.disk.change(night, self.disk_size // 128)
        self.screen.say(
            f"A day of business: {business}, in the database and in its blocks on the disk. On the "
            f"disk {files}."
        )
        said = self.host.run(f"debugfs -w -f {script.name} web01.raw", show=False).text
        trouble = [
            line
            for line in said.splitlines()
            if line and not line.startswith(("debugfs", "Allocated inode"))
        ]
        if trouble:
            raise DemoError(f"debugfs could not change the disk: {trouble[0]}")
        extents = self.host.ask(f'debugfs -R "dump_extents -l {DATABASE_ON_DISK}" web01.raw')
        self.disk.write_database(self.shop.path, extents)

    def _look(self) -> None:
        self.screen.title("What is there")
        self.host.run("snapvault list")
        self.points = json.loads(self.host.ask("snapvault list --json 2>/dev/null"))

    def _host_cannot_restore(self) -> None:
        self.screen.title("The host cannot read its own backups")
        refused = SealError.exit_status
        self.host.run("snapvault restore web01 --to stolen.raw", expect=refused)
        if (self.host.folder / "stolen.raw").exists():
            raise DemoError("the refused restore left its target behind")
        self.screen.good(f"Refused with exit status {refused}, as it must be.")

    def _restore(self) -> None:
        self.screen.title("Back to the second night")
        took = self.recovery.run(f'snapvault restore web01 --at "{self.at}" --to web01.raw').seconds
        self._same("web01", self.recovery.run("sha256sum web01.raw").text)
        self.recovery.run("e2fsck -fn web01.raw")
        self.facts.append(("restored disk", f"in {format_duration(took)}, same SHA-256"))
        self.screen.say("The dump goes to standard output: into a database, or here a hash.")
        ran = self.recovery.run(f'snapvault restore shop --at "{self.at}" --to - | sha256sum')
        self._same("shop", ran.text)
        self.facts.append(("restored dump", f"in {format_duration(ran.seconds)}, same SHA-256"))

    def _same(self, source: str, shown: str) -> None:
        if self.wanted[source] not in shown.split():
            raise DemoError(f"{source} did not come back as it was on the second night")
        self.screen.good(f"The same as on the second night: {source} is back, byte for byte.")

    def _verify(self) -> None:
        self.screen.title("Is everything intact?")
        self.screen.say(
            "Whether all is there, and every stored byte as it was signed, needs no private key:"
        )
        self.host.run("snapvault verify")
        self.host.run("snapvault verify --level data")
        self.screen.say("With the recovery key, every point is decrypted and rebuilt:")
        self.recovery.run("snapvault verify --level full")

    def _restore_by_hand(self) -> None:
        self.screen.title("Without SnapVault")
        count, total = self.stage.fetch_bucket()
        self.stage.server.stop()
        self.screen.say(
            f"The bucket was copied into folder {PREFIX} ({format_count(count, 'object')}, "
            f"{format_size(total)}), as any S3 tool does it, and the S3 server is gone. restore.py "
            "came with the copy; it needs gpg, zstd and a Python without any package. --signer is "
            "the host's fingerprint, from the paper it is kept on."
        )
        ran = self.recovery.run(
            f"GNUPGHOME=gnupg python3 {PREFIX}/restore.py {PREFIX} web01 \\\n"
            f'    --at "{self.at}" --to byhand.raw \\\n'
            f"    --signer {self.signer}"
        )
        self._same("web01", self.recovery.run("sha256sum byhand.raw").text)
        self.facts.append(("with restore.py", f"in {format_duration(ran.seconds)}, same SHA-256"))
        self.facts.append(
            ("the whole vault", f"{format_size(total)} in {format_count(count, 'object')}")
        )

    def _sum_up(self, seconds: float) -> None:
        self.screen.title("What this showed")
        rows = [*self.facts[:1], *self._night_rows(), *self.facts[1:]]
        for name, text in rows:
            self.screen.line(f"{name:<16} {text}")
        self.screen.line()
        self.screen.good(
            f"All of it in {format_duration(seconds)}, on this machine, with the S3 server on it "
            "too: the times are no promise for yours."
        )

    def _night_rows(self) -> list[tuple[str, str]]:
        rows = []
        for night in range(NIGHTS):
            parts = []
            for source in ("web01", "shop"):
                points = [each for each in self.points if each["source"] == source]
                parts.append(f"{source} {format_size(points[night]['stored_bytes'])}")
            took = format_duration(self.nights[night])
            rows.append((f"night {night + 1} stored", f"{', '.join(parts)}; in {took}"))
        return rows
