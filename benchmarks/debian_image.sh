#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the disk of a Debian 12 server for benchmarks.recovery: MBR, GRUB, one ext4 partition, systemd,
# a web server, a database and compilers, a login line on the serial console; and as many MiB of files
# in /srv that nobody reads as are asked for. Needs root and Debian's packages: mmdebstrap, grub-pc-bin,
# grub-common, e2fsprogs and fdisk.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: benchmarks/debian_image.sh DISK [MIB]" >&2
    exit 2
fi
disk=$1
files=${2:-0}
size=$((2048 + files * 9 / 8)) # MiB
grub=/usr/lib/grub/i386-pc
packages=systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,zstd,e2fsprogs
packages=$packages,openssh-server,cron,rsyslog,logrotate,iproute2,ifupdown,isc-dhcp-client,ca-certificates
packages=$packages,nginx-light,mariadb-server,python3,git,vim,build-essential,locales,man-db,less,curl

for program in mmdebstrap grub-mkimage mkfs.ext4 sfdisk; do
    if ! PATH=$PATH:/sbin:/usr/sbin command -v "$program" >/dev/null; then
        echo "$program is missing: apt-get install mmdebstrap grub-common grub-pc-bin e2fsprogs fdisk" >&2
        exit 1
    fi
done

work=$(mktemp -d /var/tmp/svd-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# From where this machine gets its own packages, if that is written as Debian does it.
sources=/etc/apt/sources.list.d/debian.sources
if [ ! -e "$sources" ]; then
    sources=/etc/apt/sources.list
fi
# The words of the hooks are for a shell of mmdebstrap's, "$1" is the new system.
# shellcheck disable=SC2016
mmdebstrap --quiet --variant=minbase --include="$packages" \
    --aptopt='APT::Install-Recommends "false"' \
    --customize-hook='echo debian12 >"$1/etc/hostname"' \
    --customize-hook='echo "127.0.1.1 debian12" >>"$1/etc/hosts"' \
    --customize-hook='echo "/dev/vda1 / ext4 errors=remount-ro 0 1" >"$1/etc/fstab"' \
    --customize-hook='echo "root:drill" | chroot "$1" chpasswd' \
    --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
    bookworm "$work/tree" "$sources"

number=0
while [ "$number" -lt "$files" ]; do
    head -c 1M /dev/urandom >"$work/tree/srv/$number"
    number=$((number + 1))
done

cat >"$work/grub.cfg" <<'E'
search.file /vmlinuz root
linux /vmlinuz root=/dev/vda1 ro console=tty0 console=ttyS0,115200 quiet
initrd /initrd.img
boot
E
grub-mkimage -O i386-pc -o "$work/core" -c "$work/grub.cfg" -p /boot \
    part_msdos ext2 linux search search_fs_file biosdisk boot minicmd

# The partition as a file of its own: then nothing needs to be mounted.
truncate -s "$((size - 1))M" "$work/root"
/sbin/mkfs.ext4 -q -F -b 4096 -d "$work/tree" "$work/root"
truncate -s "${size}M" "$work/disk"
echo 'start=2048, type=83, bootable' | /sbin/sfdisk -q --label dos "$work/disk"
dd if="$grub/boot.img" of="$work/disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core" of="$work/disk" bs=512 seek=1 conv=notrunc status=none
dd if="$work/root" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none
mv "$work/disk" "$disk"
du -h "$disk"
