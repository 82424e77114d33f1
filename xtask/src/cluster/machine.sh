# Makes a lab's machine one on which containerd and a kubelet run. It is in the node's namespaces and cgroups.
set -eu

# The node's own part of each cgroup hierarchy, where the machine has its own: v1 with the v2 tree at unified.
umount /sys/fs/cgroup
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for controller in $CONTROLLERS; do
  mkdir "/sys/fs/cgroup/$controller"
  mount -t cgroup -o "$(test "$controller" = systemd && echo none,name=)$controller" cgroup "/sys/fs/cgroup/$controller"
done
mkdir /sys/fs/cgroup/unified
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified

# A container's file system is an overlay, whose upper directory cannot be on the overlay that the root is.
for directory in containerd kubelet etcd; do
  mkdir -p "/var/lib/$directory"
  mount -t tmpfs -o mode=711 "$directory" "/var/lib/$directory"
done

# A kubelet sets these for the whole machine. Here it finds them set as it wants them, and the machine's are left alone.
mkdir -p /run/cluster/sysctl
while read -r key value; do
  echo "$value" >"/run/cluster/sysctl/$key"
  mount --bind "/run/cluster/sysctl/$key" "/proc/sys/$(echo "$key" | tr . /)"
done <<'END'
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
END

# What kubeadm's package kubernetes-cni puts on every machine: containerd 1.6 asks for a plugin of this name before the network's own.
mkdir -p /opt/cni/bin
cp /usr/lib/cni/loopback /opt/cni/bin/

# Volumes and network namespaces that are mounted later show in containers that ask for it.
mount --make-rshared /
