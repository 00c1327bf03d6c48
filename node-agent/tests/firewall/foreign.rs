//! Firewalls of others that drop (A8, failure mode B20), and what of ours stands in them.

use weft_node_agent::firewall::{NftFirewall, Tool};
use weft_overlay::{
    kernel::{Element, NodeObject, Object, ObjectId, Step},
    model::Protocol,
};

use crate::{
    traffic::{Server, answers_ping, fetch, ignores_ping, is_cut},
    world::{A, B, Container, Node, VXLAN_PORT, World, ip, open, overlay4, overlay6, run, underlay4, underlay6},
};

/// Somebody else's firewall.
struct Other {
    name: &'static str,
    tool: Tool,
    load: &'static str,
    /// Prints its rules without counters.
    list: &'static str,
    /// Removes what is ours in it and whatever else.
    flush: &'static str,
}

const IPTABLES: &str = "for t in iptables ip6tables; do \
     $t-$V -P INPUT DROP; $t-$V -P FORWARD DROP; $t-$V -A INPUT -i lo -j ACCEPT; \
     $t-$V -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; done; \
     ip6tables-$V -A INPUT -p ipv6-icmp -j ACCEPT";

const OTHERS: [Other; 7] = [
    Other {
        name: "iptables on nftables, policies of drop",
        tool: Tool::IptablesNft,
        load: "V=nft;",
        list: "iptables-nft -S; ip6tables-nft -S",
        flush: "iptables-nft -F; ip6tables-nft -F",
    },
    Other {
        name: "iptables of old, policies of drop",
        tool: Tool::IptablesLegacy,
        load: "V=legacy;",
        list: "iptables-legacy -S; ip6tables-legacy -S",
        flush: "iptables-legacy -F; ip6tables-legacy -F",
    },
    Other {
        name: "ufw's shape: policies of drop and chains of its own",
        tool: Tool::IptablesNft,
        load: "V=nft; for t in iptables ip6tables; do $t-$V -N ufw-before-input; $t-$V -A INPUT -j ufw-before-input; \
               $t-$V -A ufw-before-input -m conntrack --ctstate INVALID -j DROP; \
               $t-$V -A ufw-before-input -p tcp --dport 22 -j ACCEPT; done;",
        list: "iptables-nft -S; ip6tables-nft -S",
        flush: "iptables-nft -F; ip6tables-nft -F",
    },
    Other {
        name: "Docker's shape: FORWARD of drop and DOCKER-USER",
        tool: Tool::IptablesNft,
        load: "V=nft; for t in iptables ip6tables; do $t-$V -N DOCKER-USER; $t-$V -A FORWARD -j DOCKER-USER; \
               $t-$V -A DOCKER-USER -m comment --comment 'two words' -j RETURN; done;",
        list: "iptables-nft -S; ip6tables-nft -S",
        flush: "iptables-nft -F DOCKER-USER; ip6tables-nft -F DOCKER-USER",
    },
    Other {
        name: "rules that reject at the end",
        tool: Tool::IptablesLegacy,
        load: "for t in iptables ip6tables; do \
               $t-legacy -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT; $t-legacy -A INPUT -i lo -j ACCEPT; \
               [ $t = iptables ] || $t-legacy -A INPUT -p ipv6-icmp -j ACCEPT; \
               $t-legacy -A INPUT -j REJECT; $t-legacy -A FORWARD -j REJECT; done; exit 0;",
        list: "iptables-legacy -S; ip6tables-legacy -S",
        flush: "iptables-legacy -F; ip6tables-legacy -F",
    },
    Other {
        name: "a table by hand, policies of drop",
        tool: Tool::Nft,
        load: "nft 'table inet mine { chain in { type filter hook input priority 0; policy drop; iif lo accept;
               ct state established,related accept; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; };
               chain through { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }'; exit 0;",
        list: "nft -s list table inet mine",
        flush: "nft flush table inet mine; nft add rule inet mine in ct state established,related accept",
    },
    Other {
        name: "firewalld's shape: a last rule that rejects",
        tool: Tool::Nft,
        load: "nft 'table inet firewalld { chain filter_INPUT { type filter hook input priority 10; policy accept;
               ct state { established, related } accept; iifname lo accept; icmpv6 type nd-neighbor-solicit accept;
               icmpv6 type nd-neighbor-advert accept; ct state invalid drop; jump filter_INPUT_POLICIES; };
               chain filter_INPUT_POLICIES { reject with icmpx admin-prohibited; };
               chain filter_FORWARD { type filter hook forward priority 10; policy accept;
               ct state { established, related } accept; reject with icmpx admin-prohibited; }; }'; exit 0;",
        list: "nft -s list table inet firewalld",
        flush: "nft flush table inet firewalld; nft add rule inet firewalld filter_FORWARD reject; \
                nft add rule inet firewalld filter_INPUT ct state established,related accept; \
                nft add rule inet firewalld filter_INPUT drop",
    },
];

impl Other {
    fn load(&self, host: &str) {
        run(host, &format!("{} {IPTABLES}", self.load));
    }
}

#[test]
fn where_others_drop_the_overlay_is_accepted() {
    for other in OTHERS {
        let mut town = Town::new();
        other.load(&town.host());
        assert!(town.is_cut(), "{} does not cut", other.name);
        let observed = town.node().observed().remove(&NodeObject::ForeignAccepts);
        assert!(matches!(observed, Some(Object::Deviant(_))), "{}: {observed:?}", other.name);

        town.node().apply(&[accepts()]);

        let cut = town.cut_ways();
        assert!(cut.is_empty(), "{}: still cut {cut:?}\n{}", other.name, run(&town.host(), other.list));
        let open = town.open_ways();
        assert!(open.is_empty(), "{}: open {open:?}", other.name);
        assert_eq!(town.node().observed(), town.node().expected(), "{}", other.name);
    }
}

#[test]
fn what_others_flush_is_put_back() {
    for other in OTHERS {
        let mut town = Town::new();
        other.load(&town.host());
        town.node().apply(&[accepts()]);
        run(&town.host(), other.flush);

        let observed = town.node().observed().remove(&NodeObject::ForeignAccepts);

        assert!(matches!(observed, Some(Object::Deviant(_))), "{}: {observed:?}", other.name);
        town.node().apply(&[accepts()]);
        assert_eq!(town.node().observed(), town.node().expected(), "{}", other.name);
        assert!(answers_ping(&town.near.namespace, town.far.addresses[0]), "{}", other.name);
    }
}

#[test]
fn rules_of_others_stay_and_ours_go_without_a_trace() {
    for other in OTHERS {
        let mut world = World::new(1);
        let node = &mut world.nodes[0];
        other.load(&node.host);
        let before = run(&node.host, other.list);
        node.apply(&[accepts()]);
        let with = run(&node.host, other.list);
        assert!(with.contains("weft-f000000001") && with.contains("weft-f000000002"), "{}: {with}", other.name);
        // Again, and by an agent that was started anew.
        node.apply(&[accepts()]);
        node.firewall = NftFirewall::new(open(&node.host), open(&node.data_plane), VXLAN_PORT).unwrap();
        assert_eq!(node.observed(), node.expected(), "{}", other.name);
        assert_eq!(run(&node.host, other.list), with, "{}", other.name);

        node.remove(Element::Leg(node.leg(B)));
        let fewer = run(&node.host, other.list);
        node.apply(&[Step::Delete(ObjectId::Node(NodeObject::ForeignAccepts), Object::Present)]);

        assert!(fewer.contains("weft-f000000001") && !fewer.contains("weft-f000000002"), "{}: {fewer}", other.name);
        assert_eq!(run(&node.host, other.list), before, "{}", other.name);
        assert_eq!(node.observed().get(&NodeObject::ForeignAccepts), None, "{}", other.name);
    }
}

#[test]
fn a_new_leg_is_accepted_at_once() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    OTHERS[0].load(&node.host);
    node.apply(&[accepts()]);

    node.insert(Element::Leg("weft-0123456789".parse().unwrap()), Object::Present);

    let rules = run(&node.host, "iptables-nft -S WEFT-FORWARD");
    assert!(rules.contains("-o weft-0123456789 "), "{rules}");
}

#[test]
fn hostile_chains_are_named() {
    for other in OTHERS {
        let mut world = World::new(1);
        let node = &mut world.nodes[0];
        assert_eq!(node.firewall.check_hostile_chains().unwrap(), []);
        other.load(&node.host);

        let found = node.firewall.check_hostile_chains().unwrap();

        assert!(found.len() >= 2, "{}: {found:?}", other.name);
        assert!(found.iter().all(|chain| chain.tool == other.tool), "{}: {found:?}", other.name);
        assert!(found.iter().any(|chain| chain.chain.to_lowercase().contains("in")), "{}: {found:?}", other.name);
    }
}

#[test]
fn where_nobody_drops_nothing_is_written_and_no_table_made() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    let harmless = "nft 'table inet mine { chain in { type filter hook input priority 0; policy accept;
                    tcp dport 25 drop; ip saddr 10.0.0.1 drop; ct state invalid drop; }; }'; iptables-nft -A INPUT -s 10.0.0.1 -j DROP;
                    iptables-nft -A FORWARD -i docker0 -o docker0 -j DROP";
    run(&node.host, harmless);
    let rules = "nft -s list ruleset | grep -v '^#' | sed '/table inet weft/,/^}/d'";
    let before = run(&node.host, rules);

    node.apply(&[accepts()]);

    assert_eq!(node.observed(), node.expected());
    assert_eq!(run(&node.host, rules), before);
    assert_eq!(run(&node.host, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names"), "");
    assert_eq!(run(&node.data_plane, "nft list tables"), "table bridge weft\n");
}

#[test]
fn a_rule_put_before_ours_is_seen() {
    let mut world = World::new(1);
    let node = &mut world.nodes[0];
    OTHERS[0].load(&node.host);
    node.apply(&[accepts()]);

    run(&node.host, "iptables-nft -I INPUT 1 -p udp -j DROP");

    let observed = node.observed().remove(&NodeObject::ForeignAccepts);
    assert!(matches!(observed, Some(Object::Deviant(_))), "{observed:?}");
}

fn accepts() -> Step {
    Step::Create(ObjectId::Node(NodeObject::ForeignAccepts), Object::Present)
}

/// Containers on two nodes, of which the first one gets somebody else's firewall.
struct Town {
    world: World,
    near: Container,
    far: Container,
    stranger: Container,
    _servers: Vec<Server>,
}

impl Town {
    fn new() -> Self {
        let mut world = World::new(2);
        let near = world.container(1, &[A], 11);
        let far = world.container(2, &[A], 12);
        let stranger = world.container(1, &[B], 21);
        let element = Element::Published(Protocol::Tcp, std::net::IpAddr::from([0; 4]), 8080);
        world.nodes[0].insert(element, Object::Published(near.addresses[0], 80));
        ip(&world.out(), &format!("route add 10.77.1.0/24 via {}", underlay4(1)));
        let servers = vec![
            Server::start(&near.namespace, 80),
            Server::start(&world.out(), 81),
            Server::start(&world.nodes[0].host, 53),
            Server::start(&world.nodes[0].host, 2222),
        ];
        Self { world, near, far, stranger, _servers: servers }
    }

    fn node(&mut self) -> &mut Node {
        &mut self.world.nodes[0]
    }

    fn host(&self) -> String {
        self.world.nodes[0].host.clone()
    }

    fn is_cut(&self) -> bool {
        ignores_ping(&self.near.namespace, self.far.addresses[0])
            && is_cut(&self.near.namespace, (underlay4(9), 81))
            && is_cut(&self.near.namespace, (overlay4(A, 1), 53))
    }

    /// What should pass and does not.
    fn cut_ways(&self) -> Vec<&'static str> {
        let near = &self.near.namespace;
        let ways = [
            ("overlay", answers_ping(near, self.far.addresses[0])),
            ("overlay, IPv6", answers_ping(near, self.far.addresses[1])),
            ("gateway", answers_ping(near, overlay4(A, 1))),
            ("dns", fetch(near, (overlay4(A, 1), 53)).is_some()),
            ("dns, IPv6", fetch(near, (overlay6(A, 1), 53)).is_some()),
            ("outside", fetch(near, (underlay4(9), 81)).is_some()),
            ("outside, IPv6", fetch(near, (underlay6(9), 81)).is_some()),
            ("published", fetch(&self.world.out(), (underlay4(1), 8080)).is_some()),
            ("host to container", fetch(&self.host(), (self.near.addresses[0], 80)).is_some()),
        ];
        ways.into_iter().filter(|(_, passes)| !passes).map(|(way, _)| way).collect()
    }

    /// What should not pass and does.
    fn open_ways(&self) -> Vec<&'static str> {
        let near = &self.near.namespace;
        let ways = [
            ("another network", ignores_ping(near, self.stranger.addresses[0])),
            ("the host's services", is_cut(near, (overlay4(A, 1), 2222))),
            ("an unpublished port", is_cut(&self.world.out(), (self.near.addresses[0], 80))),
        ];
        ways.into_iter().filter(|(_, is_cut)| !is_cut).map(|(way, _)| way).collect()
    }
}
