# SPDX-License-Identifier: Apache-2.0
"""One night of one disk image and one dump, run by itself so that a test can kill it.

Arguments: a GnuPG home, a vault's folder, a state folder, a folder with `root` and `dump`.
"""

import sys
from pathlib import Path

from snapvault.adapters.librsync import LibRsync
from snapvault.adapters.sealers.gnupg import open_sealer
from snapvault.adapters.stores.directory import DirectoryStore
from snapvault.engine.backup import BackupJob, BackupOptions
from snapvault.engine.vault import Vault, read_record
from tests.support.catalogs import MemoryCatalog
from tests.support.events import RecordedEvents
from tests.support.keys import HOST, RECOVERY
from tests.support.vaults import MixedSource


def report(word: str) -> None:
    """Tell the test how far the run is."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(home: str, vault: str, state: str, folder: str) -> None:
    """Back up once."""
    store = DirectoryStore(Path(vault))
    sealer = open_sealer(Path(home), recipients=[RECOVERY], signer=HOST)
    record = read_record(store)
    assert record is not None
    opened = Vault("offsite", record, store, sealer, MemoryCatalog(), RecordedEvents(), Path(state))
    source = MixedSource(
        disks={"root": bytearray(Path(folder, "root").read_bytes())},
        streams={"dump": Path(folder, "dump").read_bytes()},
    )
    options = BackupOptions(256 << 10, 1, "host.example.org", "snapvault test")
    job = BackupJob(opened, source, LibRsync(), Path(state) / "sources" / "web01", options)
    report("started")
    job.run()
    report("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
