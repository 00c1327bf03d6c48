#!/usr/bin/env bash
# The real `vagrant up` of vagrant/, through libvirt with emulated processors, and the lab in it.
#
# usage: vagrant-test.sh DIRECTORY [NODES]
#
# Everything is in namespaces of its own: libvirtd, its bridges and rules, the machines. DIRECTORY keeps image and box.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
directory=$(mkdir -p "$1" && cd "$1" && pwd)
nodes=${2:-2}

if [ -z "${WEFT_LAB_ISOLATED:-}" ]; then
    image=$("$here/image.sh" "$directory")
    box=$("$here/box.sh" "$image")
    export BOX=$box
    exec "$here/../run-isolated.sh" "$0" "$directory" "$nodes"
fi

state=$directory/vagrant
rm -rf "$state"
mkdir -p "$state"/{etc,lib,cache,log,home}
cp -a /etc/libvirt/. "$state/etc/"
# No service manager, no control groups, no security driver here.
cat >"$state/etc/qemu.conf" <<X
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
security_default_confined = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
X
cat >"$state/etc/libvirtd.conf" <<X
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_rw_perms = "0700"
log_level = 3
log_outputs = "3:file:$state/log/libvirtd.log"
X
mkdir -p /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt
mount --bind "$state/etc" /etc/libvirt
mount --bind "$state/lib" /var/lib/libvirt
mount --bind "$state/cache" /var/cache/libvirt
mount --bind "$state/log" /var/log/libvirt
echo 1 >/proc/sys/net/ipv4/ip_forward

export HOME=$state/home VAGRANT_HOME=$state/vagrant.d LIBVIRT_DEFAULT_URI=qemu:///system
export VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DOTFILE_PATH=$state/dotfile NODES=$nodes
mkdir -p "$VAGRANT_HOME"
# What belongs to this machine and not to the project: it has no virtualisation of its own.
cat >"$VAGRANT_HOME/Vagrantfile" <<'X'
Vagrant.configure("2") do |config|
  config.vm.boot_timeout = 900
  config.vm.provider :libvirt do |v|
    v.driver = "qemu"
    v.cpu_mode = "custom"
    v.cpu_model = "qemu64"
    v.graphics_type = "none"
    v.disk_driver :cache => "unsafe"
    v.random :model => "random"
  end
end
X

libvirtd -d -p "$state/libvirtd.pid"
for _ in $(seq 100); do
    if virsh list >/dev/null 2>&1; then break; fi
    sleep 0.1
done
virsh list >/dev/null || { tail -n 30 "$state/log/libvirtd.log" >&2; exit 1; }

cd "$here/../../vagrant"
finish() {
    vagrant destroy -f >/dev/null 2>&1 || true
    kill "$(cat "$state/libvirtd.pid")" 2>/dev/null || true
}
trap finish EXIT

say() { printf '\n== %s\n' "$*"; }
on() { # NODE SCRIPT, as the user vagrant
    printf '%s$ %s\n' "$1" "$2"
    vagrant ssh "$1" -c "$2" 2>/dev/null
}

say "vagrant up, $nodes nodes"
vagrant box add --name debian/bookworm64 "$BOX" | grep --line-buffered -v Progress
time vagrant up 2>&1 | grep --line-buffered -v Progress
say "The lab"
on node1 'docker network create -d weft net1 && docker run -d --name ct1 --net net1 busybox:lab sleep infinity'
on node2 'docker run --rm --net net1 busybox:lab ping -c 3 ct1' | tee "$state/ping"
grep -q '3 packets received' "$state/ping"
on node1 'weft node ls; weft endpoint ls' | tee "$state/tables"
for number in $(seq "$nodes"); do
    grep -Eq "node$number .*192\.168\.56\.1$number .*ready" "$state/tables"
done
grep -q 'ct1 .*net1 .*node1' "$state/tables"
say "Provisioning again changes nothing"
vagrant provision node1 2>&1 | grep --line-buffered -v Progress | tail -n 3
on node1 'docker exec ct1 true && weft plan' | grep -q 'nothing to do'
say "All of it did what it says"
