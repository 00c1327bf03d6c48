#!/usr/bin/env bash
# Installs what is missing for a purpose, by its package's name on Debian and Ubuntu, and says so.
# usage: need.sh build|store|lab|docker|dist|vm|vagrant|vagrant-libvirt|test ...
set -euo pipefail

declare -A wanted=()
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || wanted[$2]=1
}
need_file() { # FILE PACKAGE
    [ -e "$1" ] || wanted[$2]=1
}

for purpose in "$@"; do
    case $purpose in
    build)
        need cc gcc
        need protoc protobuf-compiler
        # Only recommended by protoc's package, and recommendations are not installed.
        need_file /usr/include/google/protobuf/descriptor.proto libprotobuf-dev
        command -v cargo >/dev/null || { echo "need: Rust is missing; install it from https://rustup.rs" >&2; exit 1; }
        ;;
    store)
        need openssl openssl
        need etcd etcd-server
        need etcdctl etcd-client
        ;;
    lab)
        need ip iproute2
        need nft nftables
        need iptables iptables
        need ping iputils-ping
        need unshare util-linux
        ;;
    docker)
        need dockerd docker.io
        need busybox busybox-static
        ;;
    dist)
        need busybox busybox-static
        need readelf binutils
        ;;
    vagrant)
        need vagrant vagrant
        ;;
    vagrant-libvirt)
        need vagrant vagrant
        need_file /usr/share/doc/vagrant-libvirt vagrant-libvirt
        need libvirtd libvirt-daemon
        need virsh libvirt-clients
        need_file /usr/share/doc/libvirt-daemon-system libvirt-daemon-system
        need_file /usr/share/doc/libvirt-daemon-driver-qemu libvirt-daemon-driver-qemu
        need dnsmasq dnsmasq-base
        need rsync rsync
        need sfdisk fdisk
        need qemu-img qemu-utils
        ;;
    vm)
        need mmdebstrap mmdebstrap
        need qemu-system-x86_64 qemu-system-x86
        need mke2fs e2fsprogs
        need ssh openssh-client
        need busybox busybox-static
        need ip iproute2
        need nft nftables
        ;;
    test)
        need tcpdump tcpdump
        need python3 python3
        need ethtool ethtool
        ;;
    *)
        echo "need: unknown purpose $purpose" >&2
        exit 2
        ;;
    esac
done

[ ${#wanted[@]} -eq 0 ] && exit 0
packages=$(printf '%s\n' "${!wanted[@]}" | sort | tr '\n' ' ')
echo "need: installing $packages"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "need: run as root, or install: $packages" >&2; exit 1; }
    as_root=(sudo)
fi
# Debian starts a packaged etcd or Docker at once; the lab runs its own, so they are kept from starting.
policy=/usr/sbin/policy-rc.d
made_policy=
if [[ $packages == *etcd-server* || $packages == *docker.io* ]] && [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made_policy=1
fi
finish() { [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"; }
trap finish EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of package names
"${as_root[@]}" apt-get install -y -qq --no-install-recommends $packages >/dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq --no-install-recommends $packages >/dev/null; }
