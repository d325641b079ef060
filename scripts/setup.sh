#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Make .venv with SnapVault, its tests' and its developers' tools in it. System programs
# that are missing are installed with apt-get as root, and otherwise named with the command
# that installs them. Quick when nothing changed, and safe to repeat after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/sbin" # an ordinary user's path often lacks mkfs.ext4

say() { printf 'setup: %s\n' "$*" >&2; }

# --- the system ---------------------------------------------------------------------------

# Print the first Python that is new enough; fail when there is none.
find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Print the packages after the first word when the program it names is missing.
need() { command -v "$1" >/dev/null || printf '%s\n' "${@:2}"; }

# Print the Debian packages whose programs or libraries are missing, one a line.
missing_packages() {
    local python
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
        "$python" -c 'import ctypes; ctypes.CDLL("librsync.so.2")' 2>/dev/null || echo librsync2
    else
        printf '%s\n' python3 python3-venv librsync2
    fi
    need gpg gnupg
    need gpg-agent gpg-agent
    need zstd zstd           # reads volumes without SnapVault
    need mkfs.ext4 e2fsprogs # the demo's and the tests' disks
    need openssl openssl     # the tests' certificates
    # The guest of the tests, a machine with a kernel of its own, and what runs in it.
    need qemu-system-x86_64 qemu-system-x86
    need qemu-img qemu-utils
    need qemu-ga qemu-guest-agent
    dpkg-query -W -f '${db:Status-Status}' busybox-static 2>/dev/null | grep -q '^installed$' ||
        echo busybox-static
    need cpio cpio
    need depmod kmod
    need xz xz-utils
    need lvm lvm2
    need thin_delta thin-provisioning-tools
    need virsh libvirt-clients
    # Servers of databases, of which the tests start their own.
    need mariadbd mariadb-server-core # without the service that mariadb-server brings
    need mariadb-dump mariadb-client
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
    need chromium chromium # looks at the status page
}

# Run the command so that no package it installs starts a service or makes a cluster of
# PostgreSQL's, which would be served after the next boot.
without_services() (
    policy=/usr/sbin/policy-rc.d # asked before any service is started; 101 means no
    cluster=/etc/postgresql-common/createcluster.d/snapvault-setup.conf
    made=()
    trap '[ "${#made[@]}" -eq 0 ] || rm -f "${made[@]}"' EXIT
    trap 'exit 1' HUP INT TERM
    if ! [ -e "$policy" ]; then
        made+=("$policy")
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    made+=("$cluster")
    mkdir -p "${cluster%/*}"
    echo 'create_main_cluster = false' >"$cluster"
    "$@"
)

install_missing() {
    local packages
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update >&2 || say "could not refresh the package lists, going on with the old ones"
        without_services apt-get -q install -y --no-install-recommends \
            -o DPkg::Lock::Timeout=120 "${packages[@]}" >&2
        mapfile -t packages < <(missing_packages)
        [ "${#packages[@]}" -gt 0 ] || return 0
        say "still missing after apt-get installed what it has: ${packages[*]}"
        say "Give a Python 3.11 or later that has venv: make setup PYTHON=/path/to/python3"
        exit 1
    fi
    say "missing on this machine: ${packages[*]} (names of Debian packages)"
    say "Install with: sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}"
    exit 1
}

# --- the virtual environment --------------------------------------------------------------

install_missing
scripts/guest/build.sh || say "going on without the guest; the tests that run in it will fail"
python=$(find_python)

# A moved tree or another Python needs a new environment; other dependencies only an update.
place="$(pwd) $("$python" -c 'import sys; print(sys.version, sys.base_prefix)' | tr '\n' ' ')"
content=$(cat pyproject.toml setup.py scripts/setup.sh | sha256sum)
stamp=.venv/setup.stamp

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$place"$'\n'"$content" ] && .venv/bin/python -c ''; then
    exit 0
fi
if ! [ -e "$stamp" ] || [ "$(head -n 1 "$stamp")" != "$place" ] || ! .venv/bin/python -c ''; then
    say "making .venv with $python"
    rm -rf .venv
    "$python" -m venv .venv
fi
say "installing SnapVault and its tools into .venv"
rm -f "$stamp"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
printf '%s\n%s\n' "$place" "$content" >"$stamp"
say "done: .venv/bin/snapvault"
