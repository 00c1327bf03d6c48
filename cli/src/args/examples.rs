//! The examples and exit codes at the end of each command's help.

macro_rules! help {
    ($($line:literal)*) => {
        concat!(
            "Examples:\n",
            $("  ", $line, "\n",)*
            "\nExit codes:\n",
            "  0   done\n",
            "  1   refused or failed; the message says why and what to do\n",
            "  2   malformed command line\n",
            "  69  the agent, the store or the address to be used is unavailable; trying again later may help\n",
            "  70  internal error: a defect of weft\n",
            "  77  missing privilege; run it as root\n",
            "  78  bad configuration of the agent, the controller or doctor",
        )
    };
}

pub(super) const WEFT: &str = help! {
    "weft network create net1          # a network for the whole cluster"
    "weft connect net1 ct1             # `ip netns add ct1` made the container; on any node"
    "ip netns exec ct2 ping ct1        # ct2 was connected on another node"
    "weft status                       # how this node is doing"
    "weft -o json network ls           # for programs"
};

pub(super) const AGENT: &str = help! {
    "weft agent --etcd http://10.0.0.1:2379"
    "weft agent --etcd http://10.0.0.1:2379,http://10.0.0.2:2379 --underlay eth1"
    "weft agent --etcd https://etcd.example:2379 --etcd-ca ca.pem --etcd-cert h1.pem --etcd-key h1.key"
    "WEFT_ETCD=http://10.0.0.1:2379 WEFT_UNDERLAY=192.168.56.0/24 weft agent --log debug"
};

pub(super) const CONTROLLER: &str = help! {
    "weft controller --listen 10.0.0.1:2379"
    "weft controller --listen 10.0.0.1:2379 --cert h1.pem --key h1.key --client-ca ca.pem"
    "weft controller --etcd http://10.0.0.1:2379"
    "weft controller --etcd http://10.0.0.1:2379,http://10.0.0.2:2379 --lost-after 30m"
};

pub(super) const NETWORK: &str = help! {
    "weft network create net1"
    "weft network ls"
    "weft network inspect net1"
    "weft network rm net1"
};

pub(super) const NETWORK_CREATE: &str = help! {
    "weft network create net1"
    "weft network create net1 --subnet 10.40.0.0/24 --gateway 10.40.0.254"
    "weft network create net1 --subnet 10.40.0.0/24 --subnet fd00:40::/64 --ip-range 10.40.0.128/25"
    "weft network create backend --internal --label team=storage --label tier=db"
};

pub(super) const NETWORK_LS: &str = help! {
    "weft network ls"
    "weft network ls -o json | jq -r '.[].name'"
};

pub(super) const NETWORK_INSPECT: &str = help! {
    "weft network inspect net1"
    "weft network inspect net1 -o json | jq '.subnets'"
};

pub(super) const NETWORK_RM: &str = help! {
    "weft network rm net1"
    "weft network rm net1 --force      # although containers are in it"
};

pub(super) const CONNECT: &str = help! {
    "weft connect net1 ct1                          # a named network namespace"
    "weft connect net1 pid:4711 --name web          # the network namespace of a process"
    "weft connect net1 /proc/4711/ns/net --name web"
    "weft connect net1 ct1 --ip 10.32.0.50 --alias db --alias db-1"
    "weft connect net1 ct1 --publish 8080:80 --publish 127.0.0.1:5353:53/udp"
    "weft connect net1 ct1 --publish [::1]:8080:80"
};

pub(super) const DISCONNECT: &str = help! {
    "weft disconnect net1 ct1"
    "weft disconnect net1 pid:4711"
};

pub(super) const ENDPOINT: &str = help! {
    "weft endpoint ls --network net1"
    "weft endpoint inspect 0123456789ab"
};

pub(super) const ENDPOINT_LS: &str = help! {
    "weft endpoint ls"
    "weft endpoint ls --network net1 --node h2"
    "weft endpoint ls -o json | jq -r '.[] | [.name, .ipv4] | @tsv'"
};

pub(super) const ENDPOINT_INSPECT: &str = help! {
    "weft endpoint inspect 0123456789ab"
};

pub(super) const NODE: &str = help! {
    "weft node ls"
    "weft node inspect h2"
    "weft node drain h2"
};

pub(super) const NODE_LS: &str = help! {
    "weft node ls"
    "weft node ls -o json | jq -r '.[] | select(.state != \"ready\") | .name'"
};

pub(super) const NODE_INSPECT: &str = help! {
    "weft node inspect h2"
};

pub(super) const NODE_DRAIN: &str = help! {
    "weft node drain h2"
    "weft node drain h2 --undo"
};

pub(super) const NODE_RM: &str = help! {
    "weft node rm h2"
};

pub(super) const STORE: &str = help! {
    "weft store status"
    "weft store backup /backup/weft.db"
    "weft store export --to http://10.0.0.7:2379"
};

pub(super) const STORE_STATUS: &str = help! {
    "weft store status"
    "weft store status --data-dir /srv/weft -o json | jq '.revision'"
};

pub(super) const STORE_BACKUP: &str = help! {
    "weft store backup /backup/weft.db"
};

pub(super) const STORE_RESTORE: &str = help! {
    "weft store restore /backup/weft.db"
    "weft store restore /backup/weft.db --data-dir /srv/weft"
};

pub(super) const STORE_EXPORT: &str = help! {
    "weft store export --to http://10.0.0.7:2379"
    "weft store export --from http://10.0.0.7:2379 --to http://10.0.0.1:2379      # and back"
};

pub(super) const STATUS: &str = help! {
    "weft status"
    "weft status -o json | jq '.converged'"
};

pub(super) const PLAN: &str = help! {
    "weft plan"
    "weft plan -o json | jq -e '.steps == []'      # for scripts: is there nothing to do?"
};

pub(super) const DUMP: &str = help! {
    "weft dump"
    "weft dump -o json | jq '.store | keys'"
};

pub(super) const DOCTOR: &str = help! {
    "weft doctor"
    "weft doctor --etcd http://10.0.0.1:2379 --underlay eth1"
};

pub(super) const VERSION: &str = help! {
    "weft version"
    "weft version -o json | jq -r '.version'"
};

pub(super) const COMPLETION: &str = help! {
    "weft completion bash > /etc/bash_completion.d/weft"
    "weft completion zsh > \"${fpath[1]}/_weft\""
    "weft completion fish > ~/.config/fish/completions/weft.fish"
};
