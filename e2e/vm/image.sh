#!/usr/bin/env bash
# Makes the disk image of the virtual machines: Debian 12 with systemd, Docker and a stock kernel, from Debian's archive alone.
#
# usage: image.sh DIRECTORY
#
# Prints the folder below DIRECTORY that holds the image: base.img, vmlinuz, initrd.img, rootfs.tar and the key for root. Its
# name is a digest of this script, so that a changed recipe makes a new image and an unchanged one is reused.
set -euo pipefail

[ "$#" -eq 1 ] || { echo "usage: image.sh DIRECTORY" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "image.sh: needs root, to make a root file system" >&2; exit 77; }

# What a prepared box has, so that provisioning needs no archive. Docker needs apparmor's parser on Debian's kernel.
packages=(
    systemd-sysv systemd udev dbus libpam-systemd openssh-server sudo kmod procps
    iproute2 iputils-ping iptables nftables ca-certificates apparmor docker.io
    initramfs-tools linux-image-cloud-amd64 zstd rsync extlinux syslinux-common
)

here=$(cd "$(dirname "$0")" && pwd)
digest=$(sha256sum <"$here/image.sh" | cut -c1-12)
image=$(mkdir -p "$1" && cd "$1" && pwd)/$digest
if [ -e "$image/complete" ]; then
    echo "$image"
    exit 0
fi

draft=$image.draft
rm -rf "$draft"
mkdir -p "$draft"
trap 'rm -rf "$draft"' EXIT
ssh-keygen -q -t ed25519 -N '' -C weft-vm -f "$draft/key"

# The rest runs on the new root file system, as mmdebstrap's hook.
cat >"$draft/customize" <<'CUSTOMIZE'
#!/bin/sh
set -eu
root=$1
# An initial RAM disk with what these machines need and nothing else: it is unpacked by an emulated processor.
printf '%s\n' virtio_pci virtio_blk virtio_net >"$root/etc/initramfs-tools/modules"
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
sed -i 's/^COMPRESS=.*/COMPRESS=zstd/' "$root/etc/initramfs-tools/initramfs.conf"
chroot "$root" update-initramfs -u -k all

mkdir -p -m 700 "$root/root/.ssh"
install -m 600 "$KEY" "$root/root/.ssh/authorized_keys"
# The user that Vagrant expects of a box; its key is public and known to everybody, which Vagrant then replaces.
chroot "$root" useradd -m -s /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
# Making keys takes an emulated processor long.
chroot "$root" ssh-keygen -A
echo 'UseDNS no' >>"$root/etc/ssh/sshd_config"

# The first interface is behind a NAT that gives every machine the same address, as VirtualBox does.
cat >"$root/etc/systemd/network/95-nat.network" <<X
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
X
chroot "$root" systemctl enable systemd-networkd ssh docker
chroot "$root" systemctl mask systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer getty@tty1.service
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=32M\n' >"$root/etc/systemd/journald.conf.d/size.conf"
echo 'LABEL=vmroot / ext4 noatime 0 1' >"$root/etc/fstab"
# All machines have one machine id, as clones of a disk do.
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo weft-vm >"$root/etc/hostname"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
CUSTOMIZE
chmod 755 "$draft/customize"

list=$(IFS=,; echo "${packages[*]}")
# A machine that is Debian 12 itself knows its nearest archive.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    if grep -qs bookworm "$file"; then
        sources=("$file")
        break
    fi
done
export KEY=$draft/key.pub
# A clock that is ahead of the archive's signatures is no reason to do without.
mmdebstrap --quiet --mode=root --variant=minbase --format=tar --include="$list" \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"; echo COMPRESS=zstd >"$1/etc/initramfs-tools/conf.d/fast"' \
    --customize-hook="$draft/customize \"\$1\"" \
    bookworm "$draft/rootfs.tar" "${sources[@]}" >"$draft/log" 2>&1 ||
    { tail -n 40 "$draft/log" >&2; echo "image.sh: making the root file system failed" >&2; exit 1; }

mkdir "$draft/root"
# With its extended attributes, or ping would not work for ordinary users.
tar -C "$draft/root" --numeric-owner --xattrs --xattrs-include='*' -xf "$draft/rootfs.tar"
cp "$draft"/root/boot/vmlinuz-* "$draft/vmlinuz"
cp "$draft"/root/boot/initrd.img-* "$draft/initrd.img"
truncate -s 4G "$draft/base.img"
mke2fs -q -t ext4 -L vmroot -m 0 -E lazy_itable_init=1,lazy_journal_init=1 -d "$draft/root" "$draft/base.img"
rm -rf "$draft/root" "$draft/customize"
touch "$draft/complete"
mv "$draft" "$image"
echo "$image"
