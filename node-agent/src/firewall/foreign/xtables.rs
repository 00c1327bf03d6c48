//! The filter tables of iptables and ip6tables, in both variants.
//!
//! What is ours there lies in two chains of our own, which one rule each jumps to: one `iptables-restore` changes all of
//! it in one step. Native rules are never written into tables that iptables keeps on nftables: it would refuse the table.

use std::{collections::BTreeMap, io};

use super::{
    Family, ForeignTable, MARK, Needs, Repair, Tool,
    chains::{Chain, Chains, Effect, Hook, Reach, Rule, includes_new},
};
use crate::firewall::structure;

const INPUT: &str = "WEFT-INPUT";
const FORWARD: &str = "WEFT-FORWARD";

/// Docker leaves this chain to the administrator and keeps the jump to it at the head of FORWARD.
const DOCKER_USER: &str = "DOCKER-USER";

/// Whether iptables would take a table of this name for one of its own.
pub(super) fn is_table(name: &str) -> bool {
    matches!(name, "filter" | "nat" | "mangle" | "raw" | "security")
}

/// Whether iptables would take a base chain of this name for one of its own.
pub(super) fn is_chain(name: &str) -> bool {
    hook_of(name).is_some()
}

/// Reads the filter table in the namespace of the calling thread.
pub(super) fn read(tool: Tool, family: Family) -> io::Result<ForeignTable> {
    let listing = structure::run(list_program(tool, family), &["--wait", "-t", "filter", "-S"])?;
    Ok(ForeignTable { tool, family, name: "filter".to_owned(), chains: parse(&listing) })
}

/// What puts the table right, if it is not.
pub(super) fn repair(table: &ForeignTable, needs: Option<&Needs>) -> Option<Repair> {
    let wanted = needs.map(|needs| wanted(table, needs)).unwrap_or_default();
    let mut input = "*filter\n".to_owned();
    let mut wrong = Vec::new();
    for chain in [INPUT, FORWARD] {
        if !is_right(&table.chains, chain, wanted.get(chain)) {
            wrong.push(chain);
            write_chain(&mut input, &table.chains, chain, wanted.get(chain));
        }
    }
    input.push_str("COMMIT\n");
    let first = wrong.first()?;
    Some(Repair {
        program: restore_program(table.tool, table.family),
        arguments: &["--noflush", "--wait"],
        input,
        what: format!("{} {}: chain {first} is not as it should be", table.tool, table.family),
    })
}

/// What one of our chains should be.
struct Wanted {
    /// The chain that jumps to it.
    anchor: &'static str,
    rules: Vec<String>,
}

fn wanted(table: &ForeignTable, needs: &Needs) -> BTreeMap<&'static str, Wanted> {
    let chains = &table.chains;
    let mut wanted = BTreeMap::new();
    if chains.hostility("INPUT").is_some() {
        wanted.insert(INPUT, Wanted { anchor: "INPUT", rules: input_rules(table.family, needs) });
    }
    if chains.hostility("FORWARD").is_some() && !needs.legs.is_empty() {
        let anchor = if docker_user_is_heard(chains) { DOCKER_USER } else { "FORWARD" };
        wanted.insert(FORWARD, Wanted { anchor, rules: forward_rules(needs) });
    }
    wanted
}

fn docker_user_is_heard(chains: &Chains) -> bool {
    let jumps = |rule: &Rule| rule.reach == Reach::All && rule.effect == Effect::Jump(DOCKER_USER.to_owned());
    let Some(place) = chains.0.get("FORWARD").and_then(|forward| forward.rules.iter().position(jumps)) else {
        return false;
    };
    chains.0.contains_key(DOCKER_USER) && chains.first_drop("FORWARD").is_none_or(|drop| place <= drop)
}

/// In the words in which `iptables -S` prints them.
fn input_rules(family: Family, needs: &Needs) -> Vec<String> {
    let icmp = if family == Family::Ip6 { "ipv6-icmp" } else { "icmp" };
    let mut rules = vec![format!("-p udp -m udp --dport {}", needs.vxlan_port)];
    for leg in &needs.legs {
        rules.push(format!("-i {leg} -m conntrack --ctstate RELATED,ESTABLISHED"));
        rules.push(format!("-i {leg} -p {icmp}"));
        rules.push(format!("-i {leg} -p udp -m udp --dport 53"));
        rules.push(format!("-i {leg} -p tcp -m tcp --dport 53"));
    }
    rules.iter().map(|rule| format!("{rule} -m comment --comment {MARK} -j ACCEPT")).collect()
}

fn forward_rules(needs: &Needs) -> Vec<String> {
    let both = |leg: &String| [format!("-i {leg}"), format!("-o {leg}")];
    needs.legs.iter().flat_map(both).map(|rule| format!("{rule} -m comment --comment {MARK} -j ACCEPT")).collect()
}

fn is_right(chains: &Chains, chain: &str, wanted: Option<&Wanted>) -> bool {
    let Some(wanted) = wanted else { return !chains.0.contains_key(chain) && jumps_to(chains, chain).is_empty() };
    let Some(found) = chains.0.get(chain) else { return false };
    let found: Vec<Vec<String>> = found.rules.iter().map(|rule| sorted_words(&rule.name)).collect();
    let right: Vec<Vec<String>> = wanted.rules.iter().map(|rule| sorted_words(rule)).collect();
    let jumps = jumps_to(chains, chain);
    let [(anchor, place, _)] = jumps.as_slice() else { return false };
    found == right && *anchor == wanted.anchor && chains.first_drop(anchor).is_none_or(|drop| *place < drop)
}

fn write_chain(input: &mut String, chains: &Chains, chain: &str, wanted: Option<&Wanted>) {
    if wanted.is_some() || chains.0.contains_key(chain) {
        // Makes the chain, or empties it.
        input.push_str(&format!(":{chain} - [0:0]\n"));
    }
    for (from, _, rule) in jumps_to(chains, chain) {
        input.push_str(&format!("-D {from} {}\n", rule.name));
    }
    match wanted {
        Some(wanted) => {
            for rule in &wanted.rules {
                input.push_str(&format!("-A {chain} {rule}\n"));
            }
            input.push_str(&format!("-I {} 1 -m comment --comment {MARK} -j {chain}\n", wanted.anchor));
        }
        None if chains.0.contains_key(chain) => input.push_str(&format!("-X {chain}\n")),
        None => {}
    }
}

fn jumps_to<'a>(chains: &'a Chains, chain: &str) -> Vec<(&'a str, usize, &'a Rule)> {
    let target = Effect::Jump(chain.to_owned());
    let rules = chains.0.iter().flat_map(|(from, content)| {
        content.rules.iter().enumerate().map(move |(place, rule)| (from.as_str(), place, rule))
    });
    rules.filter(|(_, _, rule)| rule.effect == target).collect()
}

/// Versions print the parts of a rule in different orders.
fn sorted_words(rule: &str) -> Vec<String> {
    let mut words = split(rule);
    words.sort_unstable();
    words
}

fn list_program(tool: Tool, family: Family) -> &'static str {
    match (tool, family) {
        (Tool::IptablesLegacy, Family::Ip6) => "ip6tables-legacy",
        (Tool::IptablesLegacy, _) => "iptables-legacy",
        (_, Family::Ip6) => "ip6tables-nft",
        (..) => "iptables-nft",
    }
}

fn restore_program(tool: Tool, family: Family) -> &'static str {
    match (tool, family) {
        (Tool::IptablesLegacy, Family::Ip6) => "ip6tables-legacy-restore",
        (Tool::IptablesLegacy, _) => "iptables-legacy-restore",
        (_, Family::Ip6) => "ip6tables-nft-restore",
        (..) => "iptables-nft-restore",
    }
}

fn hook_of(chain: &str) -> Option<Hook> {
    match chain {
        "INPUT" => Some(Hook::Input),
        "FORWARD" => Some(Hook::Forward),
        "OUTPUT" => Some(Hook::Output),
        _ => None,
    }
}

fn parse(listing: &str) -> Chains {
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    for line in listing.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if !matches!(word, "-P" | "-N" | "-A") {
            continue;
        }
        let chain = chains.entry(name.to_owned()).or_default();
        chain.hook = hook_of(name);
        match word {
            "-P" => chain.drops = rest.starts_with("DROP"),
            "-A" => chain.rules.push(parse_rule(rest)),
            _ => {}
        }
    }
    Chains(chains)
}

fn parse_rule(text: &str) -> Rule {
    let words = split(text);
    let mut words = words.iter().map(String::as_str);
    let mut rule = Rule { reach: Reach::All, effect: Effect::Other, name: text.to_owned(), comment: String::new() };
    let mut negated = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        let reach = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => {
                rule.effect = match value() {
                    "DROP" | "REJECT" => Effect::Drop,
                    "ACCEPT" | "RETURN" | "LOG" | "NFLOG" => Effect::Other,
                    chain => Effect::Jump(chain.to_owned()),
                };
                Reach::All
            }
            "--comment" => {
                value().clone_into(&mut rule.comment);
                Reach::All
            }
            "--reject-with" => {
                value();
                Reach::All
            }
            "-m" if matches!(value(), "comment" | "conntrack" | "state" | "udp") => Reach::All,
            "--ctstate" | "--state" if includes_new(value().split(',')) != negated => Reach::All,
            "-p" if matches!(value(), "udp" | "all") && !negated => Reach::All,
            "-i" if (value() == "lo") == negated => Reach::Interface,
            _ => Reach::Narrow,
        };
        rule.reach = rule.reach.max(reach);
        negated = false;
    }
    rule
}

/// Splits at blanks, except within double quotes, as iptables prints them.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const UFW: &str = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N ufw-user-input\n\
        -A INPUT -i lo -j ACCEPT\n-A INPUT -m comment --comment \"a b\" -j ufw-user-input\n\
        -A ufw-user-input -s 10.0.0.0/8 -j DROP\n";

    #[test]
    fn rules_that_drop_whatever_comes_are_told_from_intentions() {
        let hostile = [
            "-j DROP",
            "-j REJECT --reject-with icmp-host-prohibited",
            "-p udp -j DROP",
            "-i eth0 -j DROP",
            "! -i lo -j DROP",
            "-m conntrack --ctstate INVALID,NEW -j DROP",
            "-m comment --comment \"the end -s\" -j DROP",
        ];
        let harmless = [
            "-j ACCEPT",
            "-p tcp -j DROP",
            "-s 10.0.0.1/32 -j DROP",
            "-i lo -j DROP",
            "-p udp -m udp --dport 53 -j DROP",
            "-m conntrack --ctstate INVALID -j DROP",
            "-m set --match-set bad src -j DROP",
            "-m limit --limit 5/min -j DROP",
        ];
        let verdict = |rule: &str| parse(&format!("-P INPUT ACCEPT\n-A INPUT {rule}\n")).hostility("INPUT").is_some();

        assert!(hostile.iter().all(|rule| verdict(rule)), "{:?}", hostile.map(verdict));
        assert!(!harmless.iter().any(|rule| verdict(rule)), "{:?}", harmless.map(verdict));
    }

    #[test]
    fn a_drop_in_a_chain_counts_where_everything_is_led_to_it() {
        let chains =
            |jump: &str| parse(&format!("-P INPUT ACCEPT\n-N X\n-A INPUT {jump} -j X\n-A X -j DROP\n-A X -j X\n"));

        assert!(chains("-m comment --comment all").hostility("INPUT").is_some());
        assert!(chains("-s 10.0.0.1/32").hostility("INPUT").is_none());
    }

    #[test]
    fn an_interface_matters_at_input_only() {
        let chains = parse("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-A FORWARD -i docker0 -o docker0 -j DROP\n");

        assert_eq!(chains.hostility("FORWARD"), None);
    }

    #[test]
    fn one_restore_makes_both_chains_and_the_jumps_to_them() {
        let table = table(UFW);

        let repair = repair(&table, Some(&needs())).unwrap();

        assert_eq!(
            repair.input,
            "*filter\n\
             :WEFT-INPUT - [0:0]\n\
             -A WEFT-INPUT -p udp -m udp --dport 4789 -m comment --comment weft -j ACCEPT\n\
             -A WEFT-INPUT -i weft-aa -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment weft -j ACCEPT\n\
             -A WEFT-INPUT -i weft-aa -p icmp -m comment --comment weft -j ACCEPT\n\
             -A WEFT-INPUT -i weft-aa -p udp -m udp --dport 53 -m comment --comment weft -j ACCEPT\n\
             -A WEFT-INPUT -i weft-aa -p tcp -m tcp --dport 53 -m comment --comment weft -j ACCEPT\n\
             -I INPUT 1 -m comment --comment weft -j WEFT-INPUT\n\
             :WEFT-FORWARD - [0:0]\n\
             -A WEFT-FORWARD -i weft-aa -m comment --comment weft -j ACCEPT\n\
             -A WEFT-FORWARD -o weft-aa -m comment --comment weft -j ACCEPT\n\
             -I FORWARD 1 -m comment --comment weft -j WEFT-FORWARD\n\
             COMMIT\n"
        );
    }

    #[test]
    fn what_is_there_and_not_wanted_is_removed() {
        let ours = "-N WEFT-INPUT\n-A INPUT -m comment --comment weft -j WEFT-INPUT\n-A WEFT-INPUT -p icmp -j ACCEPT\n";
        let table = table(&format!("-P INPUT ACCEPT\n{ours}"));

        let repair = repair(&table, Some(&needs())).unwrap();

        assert_eq!(
            repair.input,
            "*filter\n:WEFT-INPUT - [0:0]\n-D INPUT -m comment --comment weft -j WEFT-INPUT\n-X WEFT-INPUT\nCOMMIT\n"
        );
    }

    #[test]
    fn a_friendly_table_is_left_alone() {
        let table = table("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-A INPUT -s 10.0.0.1/32 -j DROP\n");

        assert_eq!(repair(&table, Some(&needs())), None);
        assert_eq!(repair(&table, None), None);
    }

    fn table(listing: &str) -> ForeignTable {
        ForeignTable { tool: Tool::IptablesNft, family: Family::Ip, name: "filter".to_owned(), chains: parse(listing) }
    }

    fn needs() -> Needs {
        Needs { vxlan_port: 4789, legs: BTreeSet::from(["weft-aa".to_owned()]) }
    }
}
