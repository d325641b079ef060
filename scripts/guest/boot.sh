#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The rest of the guest's start, in the host's file system: what udev and systemd would do on
# a machine, LVM's settings for a machine without them, and then the agent or a given script.
# Whatever it writes lands in the guest's memory, except below /guest, the folder that guest
# and host share.
bb=/run/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8

for word in $(cat /proc/cmdline); do
    case $word in
    snapvault.python=*) python=${word#*=} ;;
    snapvault.start=*) start=${word#*=} ;;
    esac
done

$bb mkdir -p /dev/pts /dev/shm /dev/virtio-ports /guest /run/home /run/lock/lvm /run/lvm
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs tmpfs /dev/shm
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /guest
$bb ln -s /proc/self/fd /dev/fd
for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name" && $bb ln -s "../${port##*/}" "/dev/virtio-ports/$name"
done
$bb ip link set lo up
$bb hostname guest
export HOME=/run/home
cd "$HOME" || exit 1

# No udev: LVM makes the nodes and links below /dev itself, and looks for devices itself.
$bb rm -rf /etc/lvm
$bb mkdir -p /etc/lvm
cat >/etc/lvm/lvm.conf <<'END'
activation { udev_sync=0 udev_rules=0 monitoring=0 }
devices {
    obtain_device_list_from_udev=0
    external_device_info_source="none"
    use_devicesfile=0
    filter=["a|^/dev/vd.*|", "r|.*|"]
}
backup { backup=0 archive=0 }
END
: >/run/snapvault-guest # tells the tests inside where they are

case $start in
agent) exec "$python" -I "${0%/*}/agent.py" /dev/virtio-ports/snapvault.agent ;;
*)
    /bin/sh "$start" </dev/null >/guest/out 2>&1
    echo $? >/guest/status
    ;;
esac
