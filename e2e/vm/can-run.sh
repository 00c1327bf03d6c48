#!/usr/bin/env bash
# Whether this machine can run virtual machines: ends with 0 where it can.
#
# Where it cannot it says why, in words that cannot be missed, and ends with 75; with 1 where REQUIRE_VM=1 says that it must.
set -euo pipefail

why=
if [ "$(uname -m)" != x86_64 ]; then
    why="the machines are x86-64, and this one is $(uname -m)"
elif [ "$(id -u)" -ne 0 ]; then
    why="making taps and namespaces needs root"
elif ! [ -c /dev/net/tun ]; then
    why="there is no /dev/net/tun"
elif ! unshare --net true 2>/dev/null; then
    why="network namespaces cannot be made here"
elif ! command -v apt-get >/dev/null; then
    why="QEMU and mmdebstrap are installed with apt-get, which is not here"
fi
[ -n "$why" ] || exit 0
cat >&2 <<X
****************************************************************
vm-test: NOT RUN: $why
****************************************************************
X
[ "${REQUIRE_VM:-}" != 1 ] || exit 1
exit 75
