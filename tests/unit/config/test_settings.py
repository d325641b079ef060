# SPDX-License-Identifier: Apache-2.0
"""The settings file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from snapvault.config.settings import check_settings, load_settings
from snapvault.errors import ConfigError
from snapvault.model.prices import ClassPrices, OwnPrices
from snapvault.model.settings import Settings, VaultSettings

Write = Callable[[str, str], Path]

DESIGNED = """\
# snapvault.yaml
state_dir: /var/lib/snapvault
policies: policies                        # folder, relative to this file
vaults:
  offsite:
    store: s3://backups/vault1            # or file:///srv/vault
    endpoint_url: http://127.0.0.1:8333   # any S3; left out: AWS
    region: eu-west-1
    gnupg_home: gnupg                     # relative to this file
    recipients: [recovery@example.org]    # who can restore; only public keys are needed here
    signer: backup@host1.example.org      # this host's own key: signs manifests, reads maps and signatures
    trusted_signers: []                   # other hosts that write into this vault
    passphrase_file: null                 # for keys that have one
"""  # noqa: E501 - the design's text as it stands

SMALLEST = "vaults: {v: {store: 'file:///srv/v', recipients: [r], signer: s%s}}\n"


def test_the_designed_settings_are_read(write: Write, tmp_path: Path) -> None:
    path = write("snapvault.yaml", DESIGNED)

    settings = load_settings(path)

    assert settings == Settings(
        path=path,
        state_dir=Path("/var/lib/snapvault"),
        policies_dir=tmp_path / "policies",
        vaults={
            "offsite": VaultSettings(
                name="offsite",
                store="s3://backups/vault1",
                recipients=("recovery@example.org",),
                signer="backup@host1.example.org",
                gnupg_home=tmp_path / "gnupg",
                endpoint_url="http://127.0.0.1:8333",
                region="eu-west-1",
            )
        },
    )


def test_everything_that_can_be_left_out_has_a_default(write: Write, tmp_path: Path) -> None:
    settings = load_settings(write("s.yaml", SMALLEST % ""))

    assert settings.state_dir == Path("/var/lib/snapvault")
    assert settings.policies_dir == tmp_path / "policies"
    assert settings.vaults["v"] == VaultSettings("v", "file:///srv/v", ("r",), "s")


def test_paths_are_from_home_from_the_root_or_beside_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    write(
        "etc ü/s.yaml",
        "state_dir: ~/state\npolicies: ../my policies\n"
        + SMALLEST % ", gnupg_home: /srv/gnupg, ca_bundle: zertifikate/größe.pem",
    )

    settings = load_settings(Path("etc ü/s.yaml"))

    assert settings.path == tmp_path / "etc ü/s.yaml"
    assert settings.state_dir == Path("/home/me/state")
    assert settings.policies_dir == tmp_path / "etc ü/../my policies"
    assert settings.vaults["v"].gnupg_home == Path("/srv/gnupg")
    assert settings.vaults["v"].ca_bundle == tmp_path / "etc ü/zertifikate/größe.pem"


def test_a_credential_is_a_file_where_systemd_puts_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("s.yaml", SMALLEST % ", passphrase_credential: pass")

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/x.service")
    inside = load_settings(path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    outside = load_settings(path)

    assert inside.vaults["v"].passphrase_file == Path("/run/credentials/x.service/pass")
    assert outside.vaults["v"].passphrase_file == Path("/run/credentials/snapvault.service/pass")


def test_every_s3_key_is_read(write: Write) -> None:
    text = SMALLEST.replace("file:///srv/v", "s3://bucket/a/b/") % (
        ", storage_class: STANDARD_IA, create_only: false, trusted_signers: [a, b],"
        " request_checksum_calculation: when_required, response_checksum_validation: when_supported"
    )

    vault = load_settings(write("s.yaml", text)).vaults["v"]

    assert vault.store == "s3://bucket/a/b"
    assert vault.storage_class == "STANDARD_IA"
    assert vault.create_only is False
    assert vault.trusted_signers == ("a", "b")
    assert vault.request_checksum_calculation == "when_required"
    assert vault.response_checksum_validation == "when_supported"


def test_volumes_may_lie_in_an_archive_and_prices_be_the_vaults_own(write: Write) -> None:
    text = SMALLEST % (
        ", volume_storage_class: GLACIER, prune_early: true, prices: {currency: EUR, egress: 0,"
        " source: contract, classes: {GLACIER: {storage: 0.002, put: 1, minimum_days: 60,"
        " minimum_kib: 128}}}"
    )

    vault = load_settings(write("s.yaml", text)).vaults["v"]

    assert (vault.storage_class, vault.volumes_class) == (None, "GLACIER")
    assert vault.prune_early
    own = ClassPrices(storage=0.002, put=1.0, minimum_days=60, minimum_size=128 << 10)
    assert vault.prices == OwnPrices("EUR", 0.0, "contract", {"GLACIER": own})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (", regionn: x", 'field "vaults.v.regionn": unknown key "regionn"'),
        (
            ", region: x y",
            'region": expected the name of a region such as "eu-west-1", found "x y"',
        ),
        (", region: '123'", "expected the name of a region"),
        (", region: 1", 'field "vaults.v.region": expected text, found the number 1'),
        (", create_only: yes", 'create_only": expected true or false, found "yes"'),
        (", endpoint_url: localhost:8333", "expected an address such as"),
        (", endpoint_url: 'http://[::1'", "expected an address such as"),
        (", endpoint_url: 'http://me:secret@h'", "expected an address without user and password"),
        (", storage_class: GLACIER", "expected a storage class whose objects can be read at once"),
        (", volume_storage_class: glacier", "expected a storage class such as"),
        (", volume_storage_class: GLACIR", "expected a storage class, found"),
        (", storage_class: STANDRD_IA", "expected a storage class, found"),
        (", prices: {egress: -1}", "egress"),
        (", prices: {classes: {STANDARD: {put: 1}}}", "storage"),
        (", prices: {classes: {standard: {storage: 1}}}", "expected a storage class such as"),
        (", request_checksum_calculation: never", 'expected "when_supported" or'),
        (", trusted_signers: x", 'expected a list, found "x"'),
        (", trusted_signers: [a, '']", 'field "vaults.v.trusted_signers[1]": expected a fingerp'),
        (", gnupg_home: ''", 'expected a path, found ""'),
        (", gnupg_home: '~nobody-here/x'", "whose home folder is unknown"),
        (", passphrase_file: a, passphrase_credential: b", "expected at most one of"),
    ],
)
def test_wrong_values_of_a_vault_are_refused(write: Write, extra: str, message: str) -> None:
    path = write("s.yaml", SMALLEST % extra)

    with pytest.raises(ConfigError) as refusal:
        load_settings(path)

    assert str(refusal.value).startswith(f'file "{path}", line 1, field "vaults.v')
    assert message in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "store",
    ["backups", "file://srv", "https://bucket", "s3:/bucket", "file:srv/v"],
)
def test_wrong_stores_are_refused(write: Write, store: str) -> None:
    with pytest.raises(ConfigError, match="expected a store such as"):
        load_settings(write("s.yaml", (SMALLEST % "").replace("file:///srv/v", store)))


@pytest.mark.parametrize(
    ("store", "hint"),
    [
        ("/srv/vault", 'Write "file:///srv/vault".'),
        ("file://srv/v", "three slashes"),
        ("https://s3.example.org/b", '"endpoint_url"'),
        ("s3://", "A bucket's name has 3 to 63 of a-z, 0-9, dots and hyphens"),
        ("s3://ü", "A bucket's name"),
        ("s3://UPPER_case", "A bucket's name"),
        ("s3://under_score/v", "A bucket's name"),
        ("s3://ab", "A bucket's name"),
        ("s3://ends-", "A bucket's name"),
        ("s3://bucket/../c", "A prefix has at most 100"),
        ("s3://bucket//c", "A prefix has"),
        ("s3://bucket/vault 1", "A prefix has"),
        ("s3://bucket/" + "x" * 101, "A prefix has"),
        ("file:///srv/v?x", 'cannot have "?" or "#"'),
    ],
)
def test_a_store_that_cannot_be_is_refused_with_what_it_may_be(
    write: Write, store: str, hint: str
) -> None:
    path = write("s.yaml", SMALLEST.replace("file:///srv/v", store) % "")

    with pytest.raises(ConfigError) as refusal:
        load_settings(path)

    assert f'file "{path}", line 1, field "vaults.v.store": expected' in str(refusal.value)
    assert hint in str(refusal.value.hint)


@pytest.mark.parametrize("store", ["s3://my.bucket-1", "s3://abc/a/b_c", "file:///srv/ü 1"])
def test_a_store_that_can_be_is_read(write: Write, store: str) -> None:
    path = write("s.yaml", SMALLEST.replace("file:///srv/v", store) % "")

    assert load_settings(path).vaults["v"].store == store


def test_a_folder_in_place_of_the_settings_names_the_file_that_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the file of settings, found a folder") as told:
        load_settings(tmp_path)

    assert told.value.hint == f'Name the file in it: "{tmp_path}/snapvault.yaml".'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", 'unknown key "a"'),
        ("state_dir: /x", 'field "vaults": expected a value, found no such key'),
        ("vaults: {}", "expected at least one entry, found none"),
        ("vaults:", "expected a mapping, found nothing"),
        ("- a", "line 1: expected a mapping, found a list"),
        ("vaults: {V: {store: 'file:///s', recipients: [r], signer: s}}", "expected a name of at"),
        ("vaults: {v: {store: 'file:///s', recipients: [], signer: s}}", "at least one entry"),
        ("vaults: {v: {store: 'file:///s', recipients: [r]}}", '"vaults.v.signer": expected a'),
    ],
)
def test_wrong_settings_are_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(write("s.yaml", text))


def test_missing_settings_come_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as refusal:
        load_settings(tmp_path / "s.yaml")

    assert refusal.value.exit_status == 10
    assert "--config" in str(refusal.value.hint)


def test_a_check_reports_everything_in_the_files_order(write: Write) -> None:
    path = write("s.yaml", "extra: 1\nstate_dir: 5\nvaults:\n  v:\n    store: x\n")

    problems = check_settings(path)

    assert [(problem.line, problem.field) for problem in problems] == [
        (1, "extra"),
        (2, "state_dir"),
        (4, "vaults.v.recipients"),
        (4, "vaults.v.signer"),
        (5, "vaults.v.store"),
    ]
    assert check_settings(write("good.yaml", DESIGNED)) == ()
