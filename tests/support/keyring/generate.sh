#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the test keys anew: run it in this folder, once; the keys it leaves are committed.
# They protect nothing. Every key has NAME.public.asc and NAME.secret.asc; fingerprints.txt
# lists "NAME FINGERPRINT". The tests' own date for "expired" is 2020-06-01.
set -eu
home=$(mktemp -d /tmp/svk.XXXXXX)
trap 'gpgconf --homedir "$home" --kill all; rm -rf "$home"' EXIT
gpg() { command gpg --homedir "$home" --batch --no-tty --no-options --quiet --pinentry-mode loopback "$@"; }
rm -f ./*.asc fingerprints.txt

# make NAME "USER ID" PRIMARY-USAGE SUBKEY(or -) EXPIRY PASSPHRASE [extra gpg options]
make() {
    name=$1 uid=$2 usage=$3 subkey=$4 expiry=$5 passphrase=$6
    shift 6
    gpg "$@" --passphrase "$passphrase" --quick-gen-key "$uid" ed25519 "$usage" "$expiry"
    fingerprint=$(gpg --list-keys --with-colons | awk -F: '/^pub/{p=1} /^fpr/&&p{f=$10;p=0} END{print f}')
    if [ "$subkey" != - ]; then
        gpg "$@" --passphrase "$passphrase" --quick-add-key "$fingerprint" "$subkey" encr "$expiry"
    fi
    if [ "$name" = revoked ]; then
        sed 's/^:---/---/' "$home/openpgp-revocs.d/$fingerprint.rev" | gpg --import
    fi
    echo "$name $fingerprint" >> fingerprints.txt
    gpg --armor --export "$fingerprint" > "$name.public.asc"
    gpg --armor --passphrase "$passphrase" --export-secret-keys "$fingerprint" > "$name.secret.asc"
}

make recovery     "Recovery <recovery@example.org>"           sign,cert cv25519 never ""
make recovery2    "Second Recovery <recovery2@example.org>"   sign,cert cv25519 never ""
make host         "Backup of host1 <backup@host1.example.org>" sign,cert cv25519 never ""
make host2        "Backup of host2 <backup@host2.example.org>" sign,cert cv25519 never ""
make expired      "Expired <expired@example.org>"             sign,cert cv25519 2020-06-01 "" --faked-system-time 20200101T000000
make revoked      "Revoked <revoked@example.org>"             sign,cert cv25519 never ""
make sign-only    "Sign Only <sign-only@example.org>"         sign,cert -       never ""
make encrypt-only "Encrypt Only <encrypt-only@example.org>"   cert      cv25519 never ""
make protected    "Protected <protected@example.org>"         sign,cert cv25519 never "correct horse"
make shared-a     "Alice <shared@example.org>"                sign,cert cv25519 never ""
make shared-b     "Bob <shared@example.org>"                  sign,cert cv25519 never ""
