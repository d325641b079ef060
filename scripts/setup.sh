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

# Print the Debian packages whose programs or libraries are missing, one a line.
missing_packages() {
    local python
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
        "$python" -c 'import ctypes; ctypes.CDLL("librsync.so.2")' 2>/dev/null || echo librsync2
    else
        printf '%s\n' python3 python3-venv librsync2
    fi
    { command -v gpg && command -v gpg-agent; } >/dev/null || echo gnupg
    command -v zstd >/dev/null || echo zstd           # reads volumes without SnapVault
    command -v mkfs.ext4 >/dev/null || echo e2fsprogs # the demo's and the tests' disks
    command -v openssl >/dev/null || echo openssl     # the tests' certificates
}

install_missing() {
    local packages
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update >&2 || say "could not refresh the package lists, going on with the old ones"
        apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "${packages[@]}" >&2
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
