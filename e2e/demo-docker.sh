#!/usr/bin/env bash
# The Docker part of the demo: two hosts with an unmodified engine each, one network, names, a live second network, a port.
# Exit status: 0 when every step did what it says.
set -euo pipefail

on() { # HOST WORD...
    local host=$1
    shift
    printf '\n%s$ %s\n' "$host" "$*"
    weft-lab exec "$host" -- "$@"
}
trap 'weft-lab down' EXIT

printf '== Two hosts, etcd, the controller, an agent and a Docker engine on each host\n'
weft-lab up --docker --hosts 2
on h1 docker network create -d weft net1
on h1 docker run -d --init --name ct1 --net net1 lab:net sleep 1000
on h2 docker run --rm --name ct2 --net net1 lab:net ping -c 2 ct1
on h1 docker network create -d weft net2
on h1 docker run -d --init --name web -p 8080:80 --net net2 lab:net sh -c 'echo served > /www/index.html; exec httpd -f -h /www'
on h2 docker run -d --init --name ct3 --net net1 lab:net sleep 1000
on h2 docker network connect net2 ct3
on h2 docker exec ct3 ping -c 1 web
on h1 docker ps
on h2 weft endpoint ls
on h2 docker network disconnect net2 ct3
on h1 docker rm -f ct1 web
on h2 docker rm -f ct3
on h1 docker network rm net1 net2
printf '\n== All of it did what it says\n'
