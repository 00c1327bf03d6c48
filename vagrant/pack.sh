#!/usr/bin/env bash
# Puts into dist/ what provisioning installs: a static weft, its systemd units, and an image that needs no registry.
#
# usage: pack.sh WEFT
set -euo pipefail

[ "$#" -eq 1 ] || { echo "usage: pack.sh WEFT" >&2; exit 2; }
weft=$(realpath "$1")
cd "$(dirname "$0")"

# A program that asks for a loader runs only where the C library is as new as here.
check_static() { # PROGRAM REMEDY
    local headers
    headers=$(readelf -lW "$1")
    if [[ $headers == *INTERP* ]]; then
        echo "pack.sh: $1 is not static; $2" >&2
        exit 1
    fi
}
busybox=$(command -v busybox)
check_static "$weft" "build it with -C target-feature=+crt-static"
check_static "$busybox" "install busybox-static"

draft=$(mktemp -d .dist.XXXXXX)
image=$(mktemp -d)
trap 'rm -rf "$draft" "$image"' EXIT
install -m 755 "$weft" "$draft/weft"
strip "$draft/weft"
install -m 644 units/weft.service units/weft-controller.service "$draft/"

mkdir -p "$image"/{bin,etc,proc,sys,tmp,www}
install -m 755 "$busybox" "$image/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$image/bin/$applet"
done
tar -C "$image" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 -cf "$draft/busybox-lab.tar" .

chmod 755 "$draft"
rm -rf dist
mv "$draft" dist
ls -l dist
