#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
#   scripts/setup.sh                   makes .venv: SnapVault as it stands here, with its tests'
#                                      and its developers' tools; and the guest of the tests
#   scripts/setup.sh --runtime FOLDER  makes FOLDER: a copy of SnapVault and what it needs to
#                                      run, started as FOLDER/bin/snapvault
#
# System programs that are missing are installed with apt-get as root, and otherwise named
# with the command that installs them. Quick when nothing changed, and safe to repeat after
# an interruption. PYTHON names the Python to use; without it, what runs as a service is made
# with the system's.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }
usage() {
    say "usage: scripts/setup.sh [--runtime FOLDER]"
    exit 2
}

start=$PWD
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/sbin" # an ordinary user's path often lacks mkfs.ext4

case "$#:${1-}" in
0:) purpose=develop venv=$PWD/.venv ;;
2:--runtime)
    purpose=run
    case "$2" in
    "" | -*) usage ;;
    /*) venv=$(realpath -m "$2") ;;
    *) venv=$(realpath -m "$start/$2") ;;
    esac
    umask 022 # others than who installs SnapVault run it
    ;;
*) usage ;;
esac
stamp=$venv/setup.stamp

# --- the system ---------------------------------------------------------------------------

# Print the first Python that is new enough, not as a virtual environment names it, for that
# may be the one to be made again; fail when there is none.
find_python() {
    local candidate first=python3
    [ "$purpose" = develop ] || first=/usr/bin/python3
    for candidate in "${PYTHON:-$first}" /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
    return 1
}

# Tell whether something lies in somebody's home, wherever a link to it is.
is_at_home() {
    local home place
    place=$(realpath -m "$1")
    for home in /home /root /run/user "${HOME-}"; do
        [ "${#home}" -le 1 ] || [[ "$place" != "${home%/}"/* ]] || return 0
    done
    return 1
}

# A service is kept out of people's homes (ProtectHome=), and so is every user but their owner.
refuse_python_at_home() {
    local python
    if is_at_home "$venv" || ! python=$(find_python) || ! is_at_home "$python"; then return 0; fi
    say "Python \"$(realpath "$python")\" lies in a home folder, where a service cannot reach it"
    say "Name another with PYTHON=/path/to/python3, or install one: sudo apt-get install python3 python3-venv"
    exit 1
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
    need zstd zstd # reads volumes without SnapVault
    [ "$purpose" = develop ] || return 0
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
    # Disks that machines start from, with a boot loader for each firmware.
    need grub-mkimage grub-common
    [ -d /usr/lib/grub/i386-pc ] || echo grub-pc-bin
    [ -d /usr/lib/grub/x86_64-efi ] || echo grub-efi-amd64-bin
    [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || echo ovmf
    need mkfs.vfat dosfstools
    need mcopy mtools
    need lvm lvm2
    need thin_delta thin-provisioning-tools
    need virsh libvirt-clients
    # File systems of all sorts, made without mounting; and the mounting of backups.
    need mkfs.xfs xfsprogs
    need mkntfs ntfs-3g
    need sfdisk fdisk
    need fusermount3 fuse3
    need nbdinfo libnbd-bin # looks at what is served
    # Servers of databases, of which the tests start their own.
    need mariadbd mariadb-server-core # without the service that mariadb-server brings
    need mariadb-dump mariadb-client
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || echo postgresql
    need chromium chromium # looks at the status page
    need systemd-analyze systemd # judges the units; nothing is started
}

policy=/usr/sbin/policy-rc.d # asked before any service is started; 101 means no
policy_mark="# made by SnapVault's setup, for as long as it runs"
cluster=/etc/postgresql-common/createcluster.d/snapvault-setup.conf

# Remove what held services back, if it is ours; a killed run may have left it.
let_services_start() {
    if grep -qsxF "$policy_mark" "$policy"; then rm -f "$policy"; fi
    rm -f "$cluster"
    rmdir "${cluster%/*}" "${cluster%/*/*}" 2>/dev/null || true
}

hold_services_back() {
    [ -e "$policy" ] || printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy" || return
    grep -qxF "$policy_mark" "$policy" && chmod 755 "$policy"
    mkdir -p "${cluster%/*}" && echo 'create_main_cluster = false' >"$cluster"
}

# Run the command so that no package it installs starts a service or makes a cluster of
# PostgreSQL's, which would be served after the next boot. Holds the lock of file 7, as long
# as the command lives.
without_services() (
    flock 7
    trap let_services_start EXIT
    trap 'exit 1' HUP INT TERM
    hold_services_back && "$@"
)

# Install the packages; what an earlier apt-get was killed at is brought to its end first.
apt_install() {
    local command=(apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@")
    "${command[@]}" >&2 || { dpkg --configure -a >&2 && "${command[@]}" >&2; }
}

install_missing() {
    local packages
    exec 7<"${policy%/*}"
    if [ "$(id -u)" -eq 0 ] && flock -n 7; then
        let_services_start
        flock -u 7
    fi
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update >&2 || say "could not refresh the package lists, going on with the old ones"
        without_services apt_install "${packages[@]}" || say "apt-get did not install everything"
        mapfile -t packages < <(missing_packages)
        [ "${#packages[@]}" -gt 0 ] || return 0
        say "still missing after apt-get installed what it has: ${packages[*]}"
        say "Mend what apt-get says above and run this again; or give a Python 3.11 or later that has venv: PYTHON=/path/to/python3"
        exit 1
    fi
    say "missing on this machine: ${packages[*]} (names of Debian packages)"
    say "Install with: sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}"
    exit 1
}

# --- the virtual environment --------------------------------------------------------------

# Print what the environment has to be made anew for: its place and its Python.
place() { echo "$venv $("$python" -c 'import sys; print(sys.version, sys.base_prefix)' | tr '\n' ' ')"; }

# Print what the environment has to be updated for: its dependencies, and what it has a copy of.
content() {
    {
        cat pyproject.toml setup.py scripts/setup.sh
        [ "$purpose" = develop ] || find snapvault README.md LICENSE -type f ! -name '*.pyc' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum
}

try_pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

pip_install() {
    try_pip "$@" && return
    say "pip could not install everything; mend what it says above and run this again"
    exit 1
}

# Install a copy of SnapVault. It is built outside of this folder: building in it would leave
# files behind, and pack those that the build of another version left.
install_copy() (
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    cp -R pyproject.toml setup.py README.md LICENSE snapvault "$copy"
    # What looks into file systems must be compiled on some platforms; backups do not need it.
    try_pip "${copy}[files]" || {
        say "without what looks into file systems: files and mount will not work"
        pip_install "$copy"
    }
)

# SAFETY: only a folder that this program made, and marked so before anything else, is emptied.
if [ "$purpose" = run ] && ! [ -e "$stamp" ] && [ -e "$venv" ] && [ -n "$(ls -A "$venv")" ]; then
    say "folder \"$venv\" holds something that setup did not make"
    say "Name a folder that is empty or does not exist."
    exit 1
fi

[ "$purpose" = develop ] || refuse_python_at_home
install_missing
if [ "$purpose" = develop ]; then
    scripts/guest/build.sh || say "going on without the guest; the tests that run in it will fail"
fi
mkdir -p "$venv"
exec 8<"$venv"
flock -n 8 || { say "waiting for another setup of $venv" && flock 8; }
python=$(find_python)
wanted=$(place && content)

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c ''; then
    exit 0
fi
if [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$(place)" ] || ! "$venv/bin/python" -c ''; then
    say "making $venv with $python"
    echo unfinished >"$stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${stamp##*/}" -exec rm -rf {} +
    "$python" -m venv "$venv"
fi
echo unfinished >"$stamp"
say "installing SnapVault into $venv"
if [ "$purpose" = develop ]; then
    pip_install --editable '.[files,test,dev]'
else
    install_copy
fi
printf '%s\n' "$wanted" >"$stamp"
say "done: $venv/bin/snapvault"
