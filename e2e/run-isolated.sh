#!/bin/sh
# Runs a program where it can neither see nor disturb the machine: a mount, PID and network
# namespace of its own, a fresh /run and /etc/netns, loopback up. Whatever the program leaves
# behind (namespaces, devices, processes, mounts) ends with it, so several labs can run at once.
#
#   e2e/run-isolated.sh PROGRAM [ARGUMENT]...
#   CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/e2e/run-isolated.sh cargo test -p weft-e2e
#
# Exit status: that of PROGRAM; 2 without PROGRAM; 77 without root.
set -eu

if [ "$#" -eq 0 ]; then
    echo "usage: run-isolated.sh PROGRAM [ARGUMENT]..." >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "run-isolated.sh: needs root to make namespaces; run it with sudo" >&2
    exit 77
fi

# Named namespaces get their resolver from /etc/netns; a tmpfs needs the directory to exist.
mkdir -p /etc/netns

# shellcheck disable=SC2016  # expanded by the inner shell
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc --net \
    sh -euc '
        # A hidden copy of a mount would keep its namespace alive when others delete it.
        while umount -R -l /run/netns 2>/dev/null; do :; done
        mount -t tmpfs -o mode=0755 tmpfs /run
        mount -t tmpfs -o mode=0755 tmpfs /etc/netns
        mkdir -p /run/netns /run/lock

        # sysfs shows the network namespace in which it was mounted; the control groups
        # that sit below it are carried over.
        mkdir /run/cgroup
        mount --rbind /sys/fs/cgroup /run/cgroup
        mount -t sysfs sysfs /sys
        mount --rbind /run/cgroup /sys/fs/cgroup
        umount -R -l /run/cgroup
        rmdir /run/cgroup

        ip link set lo up
        export WEFT_LAB_ISOLATED=1

        # The shell stays as process 1: it reaps orphans, and signals that the program raises
        # against itself keep their meaning, which they would not for process 1.
        set +e
        "$@"
        exit $?
    ' run-isolated "$@"
