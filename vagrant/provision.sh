#!/bin/sh
# Makes a Debian 12 machine a node of a Weft cluster with Docker. May be repeated; changes only what is not yet as it should be.
#
# usage: provision.sh NUMBER NODES NETWORK
#
#   NUMBER   which node this is, from 1; node 1 also runs the controller, which serves the cluster's store
#   NODES    how many nodes there are
#   NETWORK  the first three bytes of the nodes' private network; node N has NETWORK.(10+N)
#
# What to install is in /opt/weft (WEFT_DIST): what `make vagrant-dist` made. With Docker in the box no archive is needed.
set -eu

[ $# -eq 3 ] || { echo "usage: provision.sh NUMBER NODES NETWORK" >&2; exit 2; }
number=$1
nodes=$2
network=$3
case $number$nodes in *[!0-9]*) echo "provision.sh: NUMBER and NODES are numbers, not '$number' and '$nodes'" >&2; exit 2 ;; esac
[ "$number" -ge 1 ] && [ "$number" -le "$nodes" ] ||
    { echo "provision.sh: node $number of $nodes cannot be; NUMBER goes from 1 to NODES" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "provision.sh: needs root" >&2; exit 77; }

dist=${WEFT_DIST:-/opt/weft}
address=$network.$((10 + number))
store=$network.11:2379
[ -x "$dist/weft" ] || { echo "provision.sh: $dist/weft is missing; run \`make vagrant-dist\` on the host first" >&2; exit 1; }

# By its address: interfaces have other names in other boxes, and eth0 has the same address on every VirtualBox machine.
ip -o -4 address show | grep -qF " $address/" ||
    { echo "provision.sh: this machine does not have the address $address; it has:" >&2; ip -br -4 address >&2; exit 1; }

missing=
want() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
want dockerd docker.io
want apparmor_parser apparmor
want nft nftables
want iptables iptables
want ip iproute2
if [ -n "$missing" ]; then
    echo "provision.sh: installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of package names
    apt-get install -y -qq --no-install-recommends $missing
fi

changed=
place() { # SOURCE TARGET MODE: in one step, so that a program that runs keeps its old file
    if cmp -s "$1" "$2"; then return; fi
    install -D -m "$3" "$1" "$2.new"
    mv -f "$2.new" "$2"
    changed="$changed $2"
}
write() { # TARGET, content from standard input
    cat >"$1.draft"
    if cmp -s "$1.draft" "$1"; then rm "$1.draft"; return; fi
    mv -f "$1.draft" "$1"
    changed="$changed $1"
}

place "$dist/weft" /usr/local/bin/weft 755
place "$dist/weft.service" /etc/systemd/system/weft.service 644
# Who may ask the agent without being root: like Docker's group, this is as good as root.
getent group weft >/dev/null || groupadd --system weft
write /etc/default/weft <<X
WEFT_ETCD=http://$store
WEFT_UNDERLAY=$address
WEFT_SOCKET_GROUP=weft
X
if [ "$number" -eq 1 ]; then
    place "$dist/weft-controller.service" /etc/systemd/system/weft-controller.service 644
    write /etc/default/weft-controller <<X
WEFT_LISTEN=$store
X
fi
if getent passwd vagrant >/dev/null; then
    usermod -aG docker,weft vagrant
fi

systemctl daemon-reload
start() { # UNIT: running, at every boot too, and with what was just installed
    systemctl enable --quiet "$1"
    if [ -n "$changed" ]; then systemctl restart "$1"; else systemctl start "$1"; fi
}
[ "$number" -ne 1 ] || start weft-controller
start weft
systemctl enable --quiet docker
systemctl start docker
docker image inspect busybox:lab >/dev/null 2>&1 || docker import "$dist/busybox-lab.tar" busybox:lab >/dev/null

# The first node's controller may still be on its way up, when nodes are provisioned side by side.
seconds=0
until weft status --output json 2>/dev/null | grep -q '"converged": *true'; do
    if [ "$seconds" -ge 120 ]; then
        echo "provision.sh: the agent is not ready after 120 s:" >&2
        weft status >&2 || true
        journalctl --no-pager -u weft -n 20 >&2
        exit 1
    fi
    sleep 1
    seconds=$((seconds + 1))
done
echo "node$number of $nodes is ready at $address"
