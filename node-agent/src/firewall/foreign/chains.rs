//! Chains of others, as far as it matters whether they drop traffic of the overlay. Pure.
//!
//! Hostile is a policy of DROP, and a rule that drops whatever comes: one that looks at nothing but connection state,
//! UDP, or (at input) the interface. Rules about addresses and ports are somebody's intention and left alone.

use std::collections::BTreeMap;

/// Where in a packet's way a base chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Input,
    Forward,
    Output,
}

impl Hook {
    /// The hook of this number (linux/netfilter.h).
    pub(super) fn numbered(number: u32) -> Option<Self> {
        [Self::Input, Self::Forward, Self::Output]
            .into_iter()
            .zip(1..)
            .find(|(_, n)| *n == number)
            .map(|(hook, _)| hook)
    }

    /// The hook that `nft` calls so.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "input" => Some(Self::Input),
            "forward" => Some(Self::Forward),
            "output" => Some(Self::Output),
            _ => None,
        }
    }
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where it is attached, if it is a base chain.
    pub(super) hook: Option<Hook>,
    /// Whether what reaches its end is dropped.
    pub(super) drops: bool,
    /// Its rules in order.
    pub(super) rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Which packets it is about.
    pub(super) reach: Reach,
    /// What becomes of them.
    pub(super) effect: Effect,
    /// What it takes to name it again: the handle of `nft`, the specification of iptables.
    pub(super) name: String,
    /// Its comment.
    pub(super) comment: String,
}

/// Which packets a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Any new traffic.
    All,
    /// Any new traffic of some interface.
    Interface,
    /// Something particular.
    Narrow,
}

/// What becomes of the packets of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Dropped or rejected.
    Drop,
    /// Judged by another chain.
    Jump(String),
    /// Anything else.
    Other,
}

/// The chains of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chains(pub(super) BTreeMap<String, Chain>);

impl Chains {
    /// Base chains at input, forward and output.
    pub(super) fn base_chains(&self) -> impl Iterator<Item = (&str, Hook)> {
        self.0.iter().filter_map(|(name, chain)| Some((name.as_str(), chain.hook?)))
    }

    /// What in a base chain drops traffic of the overlay, if anything does.
    pub(super) fn hostility(&self, base: &str) -> Option<String> {
        let chain = self.0.get(base)?;
        if let Some(place) = self.first_drop(base) {
            return Some(format!("rule {} drops what comes", place + 1));
        }
        chain.drops.then(|| "its policy is drop".to_owned())
    }

    /// The index of the first rule of a chain that drops whatever comes, by itself or in another chain.
    pub(super) fn first_drop(&self, chain: &str) -> Option<usize> {
        let hook = self.0.get(chain)?.hook;
        self.first_drop_within(chain, hook, self.0.len())
    }

    fn first_drop_within(&self, chain: &str, hook: Option<Hook>, depth: usize) -> Option<usize> {
        let widest = if hook == Some(Hook::Input) { Reach::Interface } else { Reach::All };
        self.0.get(chain)?.rules.iter().position(|rule| match &rule.effect {
            _ if rule.reach > widest => false,
            Effect::Drop => true,
            Effect::Jump(target) => depth > 0 && self.first_drop_within(target, hook, depth - 1).is_some(),
            Effect::Other => false,
        })
    }
}

/// Whether a list of connection states contains one in which traffic of the overlay can be.
pub(super) fn includes_new<'a>(states: impl IntoIterator<Item = &'a str>) -> bool {
    states.into_iter().any(|state| matches!(state.to_ascii_lowercase().as_str(), "new" | "untracked"))
}
