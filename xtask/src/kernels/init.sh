#!/bin/busybox sh
# First process of the virtual machine: this machine's files, read-only, below a layer in memory; then inside.sh.
run() { /bin/busybox "$@"; }
fail() { echo "the virtual machine: $1"; run poweroff -f; }
run mount -t proc none /proc
run mount -t sysfs none /sys
run mount -t devtmpfs none /dev
while read -r module; do
  run insmod "/modules/$module" || echo "the virtual machine: $module cannot be loaded"
done </modules/order
run mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host || fail "the host's files cannot be mounted"
run mount -t tmpfs -o size=75% none /layer
run mkdir /layer/changed /layer/work
run mount -t overlay -o lowerdir=/host,upperdir=/layer/changed,workdir=/layer/work none /root || fail "no layer over the host's files"
run mkdir -p /root/run/bowline-guest
run mount -t tmpfs none /root/run
run mkdir -p /root/run/shared
run mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 shared /root/run/shared || fail "what is shared cannot be mounted"
run mount --move /dev /root/dev
run umount /sys
run umount /proc
exec /bin/busybox switch_root /root /run/shared/inside
