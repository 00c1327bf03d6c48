#!/bin/sh
# What `make lab` says once the lab is up. Prints only.
cd "$(dirname "$0")/.." || exit 1
cat <<TEXT

Three hosts run, h1 to h3, each with an agent; a controller serves the store. Put the programs into your PATH:

  export PATH=$PWD/target/release:\$PATH

A network, a container on two hosts, a ping by name:

  weft-lab exec h1 -- weft network create net1
  weft-lab run h1 ct1 --network net1
  weft-lab run h2 ct2 --network net1
  weft-lab run h2 ct2 -- ping -c 3 ct1

Look around; \`weft\` on any host knows the whole cluster:

  weft-lab status
  weft-lab exec h3 -- weft node ls
  weft-lab exec h3 -- weft endpoint ls
  weft-lab exec h1 -- weft status
  weft-lab exec h1 -- weft plan
  ip netns exec weft-h1 bridge fdb show          # the data plane of h1
  weft-lab exec h1 -- etcdctl --endpoints=192.168.56.5:2379 get --prefix /weft/v1/net/

Break things; running containers must not notice:

  weft-lab probe ping ct1 ct2 -- weft-lab kill h1
  weft-lab start h1
  weft-lab kill etcd; weft-lab start etcd
  weft-lab cut h2; weft-lab heal h2

And when you are done:

  weft-lab down
TEXT
