#!/usr/bin/env bash
# Makes a Vagrant box for libvirt of the machines' root file system: the same system on a disk that boots by itself.
#
# usage: box.sh IMAGE-FOLDER
#
# Prints the box's path, IMAGE-FOLDER/weft.box. One that is there is used again.
set -euo pipefail

[ "$#" -eq 1 ] || { echo "usage: box.sh IMAGE-FOLDER" >&2; exit 2; }
image=$1
box=$image/weft.box
if [ -e "$box" ]; then
    echo "$box"
    exit 0
fi

readonly GIGABYTES=8
draft=$(mktemp -d "$image/box.XXXXXX")
loop=
finish() {
    if mountpoint -q "$draft/mnt"; then umount "$draft/mnt"; fi
    if [ -n "$loop" ]; then losetup -d "$loop"; fi
    rm -rf "$draft"
}
trap finish EXIT

mkdir "$draft/root" "$draft/mnt" "$draft/box"
tar -C "$draft/root" --numeric-owner --xattrs --xattrs-include='*' -xf "$image/rootfs.tar"
# The key that every box is published with; Vagrant puts one of its own in its place at the first login.
key=$(find /usr/share /opt/vagrant -path '*/keys/vagrant.pub' -print -quit 2>/dev/null || true)
[ -n "$key" ] || { echo "box.sh: Vagrant's public key is not found" >&2; exit 1; }
install -D -m 600 "$key" "$draft/root/home/vagrant/.ssh/authorized_keys"
chroot "$draft/root" chown -R vagrant:vagrant /home/vagrant/.ssh
chmod 700 "$draft/root/home/vagrant/.ssh"

truncate -s "${GIGABYTES}G" "$draft/disk"
echo 'start=2048, type=83, bootable' | sfdisk -q "$draft/disk"
# Without what extlinux cannot read.
mke2fs -q -t ext4 -L vmroot -m 0 -O ^64bit,^metadata_csum,^orphan_file -E offset=1048576 \
    -d "$draft/root" "$draft/disk" $((GIGABYTES * 1024 - 1))M
dd if="$draft/root/usr/lib/EXTLINUX/mbr.bin" of="$draft/disk" conv=notrunc bs=440 count=1 status=none
loop=$(losetup -f --show -o 1048576 "$draft/disk")
mount "$loop" "$draft/mnt"
mkdir -p "$draft/mnt/boot/extlinux"
cat >"$draft/mnt/boot/extlinux/extlinux.conf" <<X
DEFAULT linux
PROMPT 0
TIMEOUT 1
LABEL linux
  LINUX /boot/$(cd "$draft/mnt/boot" && echo vmlinuz-*)
  INITRD /boot/$(cd "$draft/mnt/boot" && echo initrd.img-*)
  APPEND root=LABEL=vmroot rw net.ifnames=0 console=tty0 console=ttyS0 nokaslr nopti mitigations=off
X
"$draft/root/usr/bin/extlinux" --install "$draft/mnt/boot/extlinux" >"$draft/log" 2>&1 ||
    { cat "$draft/log" >&2; echo "box.sh: installing the boot loader failed" >&2; exit 1; }
umount "$draft/mnt"
losetup -d "$loop"
loop=

qemu-img convert -O qcow2 "$draft/disk" "$draft/box/box.img"
printf '{"provider":"libvirt","format":"qcow2","virtual_size":%d,"architecture":"amd64"}\n' "$GIGABYTES" >"$draft/box/metadata.json"
printf 'Vagrant.configure("2") { |config| config.vm.provider(:libvirt) { |v| v.disk_bus = "virtio" } }\n' >"$draft/box/Vagrantfile"
tar -C "$draft/box" -cf "$draft/weft.box" metadata.json Vagrantfile box.img
mv "$draft/weft.box" "$box"
echo "$box"
