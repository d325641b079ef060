#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
#   scripts/install.sh             installs SnapVault on this host, or what changed of it
#   scripts/install.sh --remove    removes what that installed; settings, keys, state and vaults stay
#
# PREFIX (/opt/snapvault) gets the program with all that it needs of Python, BINDIR (/usr/local/bin)
# a link to it, and /usr/local the units and the manual. With DESTDIR everything goes below
# that folder, for packages, and this host's services and users are left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/opt/snapvault}
BINDIR=${BINDIR:-/usr/local/bin}
DESTDIR=${DESTDIR-}
UNITS=/usr/local/lib/systemd/system
USERS=/usr/local/lib/sysusers.d/snapvault.conf
FOLDERS=/usr/local/lib/tmpfiles.d/snapvault.conf
MANUAL=/usr/local/share/doc/snapvault
SETTINGS=/etc/snapvault

say() { printf 'install: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# Tell whether there is a systemd to talk to, and we are to.
has_systemd() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

install_program() {
    scripts/setup.sh --runtime "$DESTDIR$PREFIX"
    if [ -n "$DESTDIR" ]; then
        # They are started from there once the package is unpacked.
        grep -rlIZF "$DESTDIR$PREFIX" "$DESTDIR$PREFIX/bin" |
            xargs -0r sed -i "s|$DESTDIR$PREFIX|$PREFIX|g"
    fi
    mkdir -p "$DESTDIR$BINDIR"
    ln -sfn "$PREFIX/bin/snapvault" "$DESTDIR$BINDIR/snapvault"
}

install_units() {
    local unit
    mkdir -p "$DESTDIR$UNITS"
    for unit in systemd/*.service systemd/*.timer; do
        sed "s|/usr/local/bin/snapvault|$BINDIR/snapvault|" "$unit" >"$DESTDIR$UNITS/${unit##*/}"
    done
    install -D -m 644 systemd/sysusers.d/snapvault.conf "$DESTDIR$USERS"
    install -D -m 644 systemd/tmpfiles.d/snapvault.conf "$DESTDIR$FOLDERS"
}

install_manual() {
    rm -rf "$DESTDIR$MANUAL"
    mkdir -p "$DESTDIR$MANUAL"
    cp -R --no-preserve=ownership docs policies examples README.md CHANGELOG.md LICENSE "$DESTDIR$MANUAL"
    install -m 644 systemd/unprivileged.conf "$DESTDIR$MANUAL"
}

# Make what an operator goes on from. What is there is never touched.
install_settings() {
    local folder="$DESTDIR$SETTINGS"
    [ -d "$folder" ] || install -d -m 750 "$folder"
    [ -d "$folder/policies" ] || install -d -m 750 "$folder/policies"
    [ -e "$folder/snapvault.yaml" ] ||
        install -m 640 examples/first.yaml "$folder/snapvault.yaml"
}

apply_to_this_host() {
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers "$USERS"; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create "$FOLDERS"; fi
    has_systemd || return 0
    systemctl daemon-reload
    # Backups that it ends are resumed: old and new code do not work with one another.
    systemctl try-restart snapvault.service
}

say_next_steps() {
    cat <<END
SnapVault is installed. What is next ($MANUAL/docs/operations.md says more):

  1. Make this host's key, and import the public recovery key.
  2. Edit $SETTINGS/snapvault.yaml, and write a policy into $SETTINGS/policies.
  3. snapvault policy check && snapvault init && snapvault doctor
  4. systemctl enable --now snapvault
END
}

remove() {
    local unit
    if has_systemd; then
        systemctl disable --now snapvault.service snapvault-due.timer || true
    fi
    for unit in systemd/*.service systemd/*.timer; do
        rm -f "$DESTDIR$UNITS/${unit##*/}"
    done
    rm -f "$DESTDIR$USERS" "$DESTDIR$FOLDERS"
    if [ "$(readlink "$DESTDIR$BINDIR/snapvault")" = "$PREFIX/bin/snapvault" ]; then
        rm -f "$DESTDIR$BINDIR/snapvault"
    fi
    rm -rf "$DESTDIR$MANUAL"
    # SAFETY: setup.sh marks what it made, and nothing else is removed.
    if [ -e "$DESTDIR$PREFIX/setup.stamp" ]; then rm -rf "${DESTDIR:?}$PREFIX"; fi
    if has_systemd; then systemctl daemon-reload; fi
    say "removed; $SETTINGS, /var/lib/snapvault and user \"snapvault\" are as they were"
}

for folder in "$PREFIX" "$BINDIR" ${DESTDIR:+"$DESTDIR"}; do
    [[ "$folder" =~ ^/[A-Za-z0-9._/+-]+$ ]] ||
        fail "\"$folder\" is not an absolute path of letters, digits and ._+-"
done
if [ -z "$DESTDIR" ] && [ "$(id -u)" -ne 0 ]; then
    fail "only root can install SnapVault on this host; sudo make install"
fi
umask 022

case "$#:${1-}" in
0:)
    install_program
    install_units
    install_manual
    install_settings
    [ -n "$DESTDIR" ] || apply_to_this_host
    say_next_steps
    ;;
1:--remove) remove ;;
*)
    say "usage: scripts/install.sh [--remove]"
    exit 2
    ;;
esac
