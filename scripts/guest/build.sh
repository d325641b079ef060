#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Build what the tests' guest boots from: a kernel of Debian's, taken from its package and
# never installed, and a small initramfs; and the same for disks that the tests start, where a
# boot loader wants the kernel as it is packed. Kept in .guest/current; nothing to do when it is
# there. Safe to interrupt and to run twice at once. Needs no root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.guest
PATH="$PATH:/usr/sbin:/sbin" # an ordinary user's path often lacks depmod
modules="virtio_pci virtio_blk virtio_console 9pnet_virtio 9p overlay dm-mod dm-snapshot dm-thin-pool ext4 loop"
disk_modules="virtio_pci virtio_blk virtio_console virtio_net e1000e ahci sd_mod ext4"
needs="The build needs room for 500 MB in .guest, and Debian 12's linux-image-amd64."

say() { printf 'setup: %s\n' "$*" >&2; }
stop() {
    say "$1"
    say "$2"
    exit 1
}

# Print what the cache depends on besides the kernel, which stays as long as these do.
inputs() { { echo "$modules $disk_modules" && cat "$here/build.sh" "$here/init"; } | sha256sum | cut -c1-16; }

# Print the name of the package that holds the newest kernel; nothing when the lists lack it.
kernel_package() {
    LC_ALL=C apt-cache depends linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}

# Fetch the kernel's package into the folder $1, refreshing the lists where that is allowed.
fetch() {
    local package
    for attempt in 1 2; do
        package=$(kernel_package)
        if [ -n "$package" ] && (cd "$1" && apt-get -q -o APT::Sandbox::User=root download "$package" >/dev/null); then
            printf '%s\n' "$package"
            return
        fi
        [ "$attempt" -eq 1 ] && [ "$(id -u)" -eq 0 ] || break
        apt-get -q update >&2 || true
    done
    stop "could not download the guest's kernel, package linux-image-amd64" \
        "Run: sudo apt-get update && scripts/guest/build.sh"
}

# Unpack the kernel image $1 as the ELF file $2: it boots in half the time of the packed one.
unpack_kernel() {
    local start
    # -a -b -o: the byte offsets of all places that look like the start of an XZ stream
    start=$(LC_ALL=C grep -abo -m1 -F $'\xfd7zXZ' "$1" | head -n 1 | cut -d: -f1) || start=0
    xz -dc --single-stream >"$2" < <(tail -c "+$((start + 1))" "$1" 2>/dev/null) &&
        [ "$(head -c 4 "$2" | tail -c 3)" = ELF ] ||
        stop "could not unpack the kernel with xz: $1" \
            "$needs"
}

# Pack the initramfs $3 from busybox, init and the modules $4 of kernel version $2 under $1.
pack_initramfs() {
    local tree=$3.tree kind file
    mkdir -p "$tree"/{bin,proc,sys,dev,ro,rw,newroot,modules}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    install -m 755 "$here/init" "$tree/init"
    # shellcheck disable=SC2086  # a list of words
    modprobe -d "$1/package" -S "$2" --show-depends -a $4 | while read -r kind file _; do
        [ "$kind" = insmod ] && ! [ -e "$tree/modules/${file##*/}" ] || continue
        cp "$file" "$tree/modules/"
        echo "${file##*/}" >>"$tree/order"
    done
    (cd "$tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$3"
    rm -rf "$tree"
}

build() {
    local work=$cache/build.$$ package version said
    rm -rf "$cache"/build.* # of builds that were killed; those that live hold the lock
    mkdir -p "$work/deb"
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf '$work'" EXIT
    say "building the tests' guest in .guest (downloads 70 MB)"
    [ "$(dpkg --print-architecture)" = amd64 ] || stop "the tests' guest needs a machine of type amd64" \
        "Run the tests on Debian 12 for amd64."
    ldd "$(command -v busybox)" >/dev/null 2>&1 && stop "the guest needs a busybox without libraries" \
        "Install with: sudo apt-get install busybox-static"
    package=$(fetch "$work/deb")
    version=${package#linux-image-}
    said=$(dpkg-deb -x "$work"/deb/*.deb "$work/package" 2>&1) || stop \
        "could not unpack the kernel's package: ${said%%$'\n'*}" "$needs"
    mkdir "$work/built"
    unpack_kernel "$work/package/boot/vmlinuz-$version" "$work/built/vmlinux"
    cp "$work/package/boot/vmlinuz-$version" "$work/built/vmlinuz"
    depmod -b "$work/package" "$version"
    pack_initramfs "$work" "$version" "$work/built/initramfs.gz" "$modules"
    pack_initramfs "$work" "$version" "$work/built/disk.gz" "$disk_modules"
    inputs >"$work/built/inputs"
    # ORDER: `current` names a folder only once all of it is there.
    local name
    name="$version-$(cat "$work/built/inputs")"
    rm -rf "${cache:?}/$name"
    mv "$work/built" "$cache/$name"
    ln -s "$name" "$work/current"
    mv -T "$work/current" "$cache/current"
    find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$name" -exec rm -rf {} +
}

is_there() { [ "$(cat "$cache/current/inputs" 2>/dev/null)" = "$(inputs)" ]; }

is_there && exit 0
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "waiting for another build of the tests' guest" && flock 9; }
is_there || build
