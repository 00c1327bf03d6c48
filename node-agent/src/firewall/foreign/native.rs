//! Tables that are written natively: firewalld's, the administrator's.
//!
//! Our rules there stand at the head of the base chain. Their comment is our mark and a digest of all of them, so that
//! a change of what is needed shows without comparing how a version of `nft` prints expressions.

use std::{collections::BTreeMap, io};

use serde_json::Value;

use super::{
    Family, ForeignTable, MARK, Needs, Repair, Tool,
    chains::{Chain, Chains, Effect, Hook, Reach, Rule, includes_new},
};
use crate::firewall::structure;

/// Reads a table in the namespace of the calling thread.
pub(super) fn read(family: Family, name: &str) -> io::Result<ForeignTable> {
    let listing = structure::run(
        "nft",
        &["--json", "--handle", "--stateless", "--terse", "list", "table", &family.to_string(), name],
    )?;
    Ok(ForeignTable { tool: Tool::Nft, family, name: name.to_owned(), chains: parse(&listing)? })
}

/// What puts the table right, if it is not.
pub(super) fn repair(table: &ForeignTable, needs: Option<&Needs>) -> Option<Repair> {
    let mut input = String::new();
    let mut wrong = None;
    for (chain, hook) in table.chains.base_chains() {
        let wanted = needs.filter(|_| table.chains.hostility(chain).is_some());
        let rules = wanted.map(|needs| rules(hook, needs)).unwrap_or_default();
        if !is_right(&table.chains, chain, &rules) {
            wrong = wrong.or(Some(chain));
            write_chain(&mut input, table, chain, &rules);
        }
    }
    Some(Repair {
        program: "nft",
        arguments: &["-f", "-"],
        input,
        what: format!(
            "table {} {}: the accepts in chain {} are not as they should be",
            table.family, table.name, wrong?
        ),
    })
}

fn rules(hook: Hook, needs: &Needs) -> Vec<String> {
    let legs: Vec<String> = needs.legs.iter().map(|leg| format!("\"{leg}\"")).collect();
    let legs = (!legs.is_empty()).then(|| format!("{{ {} }}", legs.join(", ")));
    match (hook, legs) {
        (Hook::Input, None) => vec![format!("udp dport {}", needs.vxlan_port)],
        (Hook::Input, Some(legs)) => vec![
            format!("udp dport {}", needs.vxlan_port),
            format!("iifname {legs} ct state established,related"),
            format!("iifname {legs} meta l4proto {{ icmp, ipv6-icmp }}"),
            format!("iifname {legs} udp dport 53"),
            format!("iifname {legs} tcp dport 53"),
        ],
        (Hook::Forward, Some(legs)) => vec![format!("iifname {legs}"), format!("oifname {legs}")],
        (Hook::Forward, None) | (Hook::Output, _) => Vec::new(),
    }
}

fn is_right(chains: &Chains, chain: &str, rules: &[String]) -> bool {
    let Some(found) = chains.0.get(chain) else { return rules.is_empty() };
    let ours: Vec<usize> = (0..found.rules.len()).filter(|&place| is_ours(&found.rules[place])).collect();
    let comment = comment(rules);
    let counted = ours.len() == rules.len() && ours.iter().all(|&place| found.rules[place].comment == comment);
    let last = ours.last().copied();
    counted && last.is_none_or(|last| chains.first_drop(chain).is_none_or(|drop| last < drop))
}

fn write_chain(input: &mut String, table: &ForeignTable, chain: &str, rules: &[String]) {
    let place = format!("{} {} {chain}", table.family, table.name);
    let found = table.chains.0.get(chain).map_or(&[][..], |chain| chain.rules.as_slice());
    for rule in found.iter().filter(|rule| is_ours(rule)) {
        input.push_str(&format!("delete rule {place} handle {}\n", rule.name));
    }
    let comment = comment(rules);
    for rule in rules.iter().rev() {
        input.push_str(&format!("insert rule {place} {rule} accept comment \"{comment}\"\n"));
    }
}

fn is_ours(rule: &Rule) -> bool {
    rule.comment == MARK || rule.comment.strip_prefix(MARK).is_some_and(|rest| rest.starts_with(' '))
}

fn comment(rules: &[String]) -> String {
    // FNV-1a: only a changed text has to show.
    let digest = rules
        .iter()
        .flat_map(|rule| rule.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{MARK} {digest:016x}")
}

fn parse(listing: &str) -> io::Result<Chains> {
    let document: Value = serde_json::from_str(listing)?;
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    for object in document["nftables"].as_array().into_iter().flatten() {
        if let Some(body) = object.get("chain") {
            let chain = chains.entry(text(&body["name"])).or_default();
            chain.hook = body["hook"].as_str().filter(|_| body["type"] == "filter").and_then(Hook::named);
            chain.drops = body["policy"] == "drop";
        } else if let Some(body) = object.get("rule") {
            chains.entry(text(&body["chain"])).or_default().rules.push(parse_rule(body));
        }
    }
    Ok(Chains(chains))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parse_rule(body: &Value) -> Rule {
    let mut rule = Rule {
        reach: Reach::All,
        effect: Effect::Other,
        name: body["handle"].to_string(),
        comment: text(&body["comment"]),
    };
    for expression in body["expr"].as_array().into_iter().flatten() {
        let Some((kind, content)) = expression.as_object().and_then(|e| e.iter().next()) else { continue };
        match kind.as_str() {
            "drop" | "reject" => rule.effect = Effect::Drop,
            "jump" | "goto" => rule.effect = Effect::Jump(text(&content["target"])),
            "accept" | "return" | "counter" | "log" => {}
            "match" => rule.reach = rule.reach.max(reach(content)),
            _ => rule.reach = Reach::Narrow,
        }
    }
    rule
}

fn reach(content: &Value) -> Reach {
    let negated = content["op"] == "!=";
    let right = &content["right"];
    match content["left"].as_object().and_then(|left| left.iter().next()) {
        Some((kind, key)) if kind == "ct" && key["key"] == "state" && includes_new(names(right)) != negated => {
            Reach::All
        }
        Some((kind, key)) if kind == "meta" => match key["key"].as_str() {
            Some("l4proto") if !negated && names(right).contains(&"udp") => Reach::All,
            Some("iifname" | "iif") if names(right).contains(&"lo") == negated => Reach::Interface,
            _ => Reach::Narrow,
        },
        _ => Reach::Narrow,
    }
}

/// A name, or the names of a list or set.
fn names(value: &Value) -> Vec<&str> {
    let list = value.as_array().or_else(|| value["set"].as_array());
    list.map_or_else(|| value.as_str().into_iter().collect(), |list| list.iter().filter_map(Value::as_str).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn rules_that_drop_whatever_comes_are_told_from_intentions() {
        let matches = |left: Value, op: &str, right: Value| json!({"match": {"op": op, "left": left, "right": right}});
        let meta = |key: &str| json!({"meta": {"key": key}});
        let state = json!({"ct": {"key": "state"}});
        let hostile = [
            json!([{"drop": null}]),
            json!([{"counter": null}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]),
            json!([matches(meta("iifname"), "==", json!("eth0")), {"drop": null}]),
            json!([matches(meta("iifname"), "!=", json!("lo")), {"drop": null}]),
            json!([matches(state.clone(), "in", json!(["invalid", "new"])), {"drop": null}]),
            json!([matches(meta("l4proto"), "==", json!({"set": ["tcp", "udp"]})), {"drop": null}]),
        ];
        let harmless = [
            json!([{"accept": null}]),
            json!([matches(meta("iifname"), "==", json!("lo")), {"drop": null}]),
            json!([matches(state, "in", json!("invalid")), {"drop": null}]),
            json!([matches(json!({"payload": {"protocol": "ip", "field": "saddr"}}), "==", json!("10.0.0.1")), {"drop": null}]),
            json!([{"limit": {"rate": 5}}, {"drop": null}]),
        ];

        assert!(hostile.iter().all(is_hostile), "{:?}", hostile.each_ref().map(is_hostile));
        assert!(!harmless.iter().any(is_hostile), "{:?}", harmless.each_ref().map(is_hostile));
    }

    #[test]
    fn accepts_are_inserted_so_that_they_stand_in_order_at_the_head() {
        let table = table(&json!([]), "drop");

        let repair = repair(&table, Some(&needs())).unwrap();

        let ends: Vec<&str> = repair.input.lines().map(|line| line.split(" accept").next().unwrap()).collect();
        assert_eq!(
            ends,
            [
                "insert rule inet mine in iifname { \"weft-aa\" } tcp dport 53",
                "insert rule inet mine in iifname { \"weft-aa\" } udp dport 53",
                "insert rule inet mine in iifname { \"weft-aa\" } meta l4proto { icmp, ipv6-icmp }",
                "insert rule inet mine in iifname { \"weft-aa\" } ct state established,related",
                "insert rule inet mine in udp dport 4789",
            ]
        );
        assert!(repair.input.lines().all(|line| line.contains("comment \"weft ")), "{}", repair.input);
    }

    #[test]
    fn a_rule_of_ours_that_is_not_wanted_is_deleted_by_its_handle() {
        let rules = json!([{"rule": {"chain": "in", "handle": 7, "comment": "weft 0", "expr": [{"accept": null}]}},
                           {"rule": {"chain": "in", "handle": 8, "comment": "wefts", "expr": [{"accept": null}]}}]);

        let repair = repair(&table(&rules, "accept"), None).unwrap();

        assert_eq!(repair.input, "delete rule inet mine in handle 7\n");
    }

    fn is_hostile(expressions: &Value) -> bool {
        let rules = json!([{"rule": {"chain": "in", "handle": 1, "expr": expressions}}]);
        table(&rules, "accept").chains.hostility("in").is_some()
    }

    fn table(rules: &Value, policy: &str) -> ForeignTable {
        let mut objects = vec![json!({"chain": {"name": "in", "type": "filter", "hook": "input", "policy": policy}})];
        objects.extend(rules.as_array().unwrap().iter().cloned());
        let chains = parse(&json!({"nftables": objects}).to_string()).unwrap();
        ForeignTable { tool: Tool::Nft, family: Family::Inet, name: "mine".to_owned(), chains }
    }

    fn needs() -> Needs {
        Needs { vxlan_port: 4789, legs: BTreeSet::from(["weft-aa".to_owned()]) }
    }
}
