#!/usr/bin/env bash
# Shows what Weft does, on three virtual hosts: containers, names, broadcast, TCP, an agent killed under load, tables, times.
# `make demo` builds what is needed and runs this in namespaces of its own. Exit status 0 only if every check held.
set -uo pipefail

network=net1
address4=''
address6=''
results=()
failures=0

heading() { printf '\n== %s\n' "$1"; }

# Says what is typed, then types it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}

# check NAME EXPECTED FUNCTION: the function's output is what was seen; it fails when that is not what was expected.
check() {
    local name=$1 expected=$2 seen
    heading "$name"
    if seen=$("$3" 2>&1); then
        printf '%s\n' "$seen"
        results+=("ok      $name")
    else
        printf '%s\n' "$seen"
        printf 'FAILED: %s\n  expected: %s\n  seen:     the output above\n' "$name" "$expected"
        results+=("FAILED  $name")
        failures=$((failures + 1))
    fi
}

# What cannot go on ends the demo; the trap takes the lab down.
must() {
    show "$@" || {
        printf 'FAILED: %s ended with status %s\n' "$*" "$?" >&2
        exit 1
    }
}

finish() {
    local status=$?
    trap - EXIT INT TERM
    heading 'Taking everything down'
    if ! show weft-lab down; then
        status=1
    elif ip netns list | grep -qE '^(h[0-9]|ct[0-9]|weft)'; then
        printf 'FAILED: expected no namespace to be left, seen:\n%s\n' "$(ip netns list)"
        status=1
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The address of a container, as the kernel has it.
address_of() { # CONTAINER 4|6
    ip -n "$1" "-$2" -oneline address show dev eth0 scope global | sed -n 's/.* inet6* \([^/]*\).*/\1/p' | head -n 1
}

agent_is_ready() { # HOST
    weft-lab exec "$1" -- weft status -o json 2>/dev/null | grep -qE '"converged": ?true'
}

wait_agent() { # HOST
    local deadline=$((SECONDS + 20))
    until agent_is_ready "$1"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "the agent of $1 has not converged within 20 s; it says:"
            weft-lab exec "$1" -- weft status
            return 1
        fi
        sleep 0.1
    done
}

ping_by_name() { show weft-lab run h2 ct2 -- ping -c 3 -i 0.2 -W 2 ct1; }
ping_by_ipv4() { show weft-lab run h2 ct2 -- ping -c 3 -i 0.2 -W 2 "${address4:?ct1 has no IPv4 address}"; }
ping_by_ipv6() { show weft-lab run h2 ct2 -- ping -c 3 -i 0.2 -W 2 "${address6:?ct1 has no IPv6 address}"; }
broadcast() { show weft-lab probe broadcast ct1 ct2 ct3; }
transfer() { show weft-lab probe transfer ct1 ct3 --bytes 1000000; }

kill_and_start() {
    weft-lab kill h1 && sleep 1 && weft-lab start h1 && wait_agent h1
}

ping_while_agent_dies() {
    export -f kill_and_start wait_agent agent_is_ready
    echo 'While both ways run: weft-lab kill h1 (kill -9), one second without an agent, weft-lab start h1'
    show weft-lab probe ping ct1 ct2 --rate 1000 --seconds 2 -- bash -c kill_and_start
}

nothing_left_to_do() {
    local host output
    for host in h1 h2 h3; do
        output=$(show weft-lab exec "$host" -- weft plan) || return 1
        printf '%s\n' "$output"
        grep -q 'nothing to do' <<<"$output" || return 1
    done
}

attach_times() { show weft-lab probe attach h3 "$network" --from ct2 --count 10; }

tables() {
    show weft-lab exec h1 -- weft node ls &&
        show weft-lab exec h2 -- weft network inspect "$network" &&
        show weft-lab exec h3 -- weft endpoint ls
}

three_containers_listed() {
    local count
    tables || return 1
    count=$(weft-lab exec h3 -- weft endpoint ls | grep -cw 'ct[123]')
    [ "$count" -eq 3 ] || {
        echo "weft endpoint ls lists $count of ct1, ct2 and ct3"
        return 1
    }
}

began=$SECONDS
heading 'Three hosts with an agent each, and a controller that serves the store'
must weft-lab up --hosts 3
must weft-lab status

heading 'A network, and a container on each host'
must weft-lab exec h1 -- weft network create "$network"
for number in 1 2 3; do
    must weft-lab run "h$number" "ct$number" --network "$network"
done
address4=$(address_of ct1 4)
address6=$(address_of ct1 6)

check 'ct2 pings ct1 by name' '3 packets transmitted, 3 received' ping_by_name
check 'ct2 pings ct1 by IPv4 address' '3 packets transmitted, 3 received' ping_by_ipv4
check 'ct2 pings ct1 by IPv6 address' '3 packets transmitted, 3 received' ping_by_ipv6
check 'A broadcast from ct1 reaches ct2 and ct3' 'ct2 and ct3 each hear it once' broadcast
check 'ct1 sends 1 MB to ct3 over TCP' '1000000 bytes with the same checksum at both ends' transfer
check 'The agent of h1 is killed and started under 1,000 packets/s both ways' '0 lost each way' ping_while_agent_dies
check 'Nothing is left to do on any host' 'weft plan says: nothing to do' nothing_left_to_do
check 'Nodes, network, endpoints' 'ct1, ct2 and ct3 in the list of endpoints' three_containers_listed
check 'Attach times and time to first reply' 'ten containers on h3 attached and answering ct2 on h2' attach_times

heading "Summary, after $((SECONDS - began)) s"
printf '%s\n' "${results[@]}"
[ "$failures" -eq 0 ]
