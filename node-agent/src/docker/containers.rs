//! What containers are called: remembered from the moment of their creation, because Docker does not answer about a
//! container while it starts it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use weft_overlay::id::Name;

use super::engine::{EngineContainer, EngineNetwork};

/// Names of one endpoint beside its first; more are not worth their place in a record that every member reads.
const MOST_ALIASES: usize = 64;
/// What Docker itself takes for a container's short id.
const SHORT_ID: usize = 12;

/// The containers that were seen, by id.
#[derive(Debug, Default)]
pub(super) struct Containers {
    known: Mutex<BTreeMap<String, EngineContainer>>,
}

impl Containers {
    pub(super) fn note(&self, container: EngineContainer) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(container.id.clone(), container);
    }

    pub(super) fn forget(&self, id: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The container of a name, without the slash.
    pub(super) fn named(&self, name: &str) -> Option<EngineContainer> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().find(|container| container.name.trim_start_matches('/') == name).cloned()
    }
}

/// What an endpoint is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Called {
    pub(super) name: Name,
    pub(super) aliases: Vec<Name>,
    /// The container's id.
    pub(super) container: Option<String>,
}

/// What a container is called in a network: its name first, then its aliases there, its short id and its host name.
/// What cannot be a name of the cluster is left out. `None` when nothing is left.
pub(super) fn called(container: &EngineContainer, network: &EngineNetwork) -> Option<Called> {
    let name = container.name.trim_start_matches('/');
    let attachment = container.network_settings.networks.iter().find(|(key, attachment)| {
        attachment.network == network.id || **key == network.name || network.id.starts_with(key.as_str())
    });
    let attachment = attachment.map(|(_, attachment)| attachment);
    let given = attachment.into_iter().flat_map(|a| a.aliases.iter().chain(&a.dns_names));
    let short = container.id.get(..SHORT_ID);
    let all = std::iter::once(name)
        .chain(given.map(String::as_str))
        .chain(short)
        .chain(std::iter::once(container.config.hostname.as_str()));
    let mut names: Vec<Name> = Vec::new();
    for name in all.filter_map(|text| text.parse::<Name>().ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.truncate(MOST_ALIASES);
    let mut names = names.into_iter();
    Some(Called { name: names.next()?, aliases: names.collect(), container: Some(container.id.clone()) })
}

/// What an endpoint is called of which only the container's name is known.
pub(super) fn called_only(name: &str) -> Option<Called> {
    Some(Called { name: name.parse().ok()?, aliases: Vec::new(), container: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> EngineContainer {
        serde_json::from_str(text).unwrap()
    }

    fn net1() -> EngineNetwork {
        EngineNetwork { id: "a1b2c3".to_owned(), name: "net1".to_owned(), ..EngineNetwork::default() }
    }

    #[test]
    fn a_container_answers_to_its_name_aliases_short_id_and_hostname() {
        let container = container(
            r#"{"Id":"0123456789abcdef","Name":"/web","Config":{"Hostname":"box"},"NetworkSettings":{"Networks":{
            "net1":{"NetworkID":"","Aliases":["www","0123456789ab"]},"net2":{"NetworkID":"ff","Aliases":["secret"]}}}}"#,
        );

        let called = called(&container, &net1()).unwrap();

        assert_eq!(called.name.as_str(), "web");
        let aliases: Vec<&str> = called.aliases.iter().map(Name::as_str).collect();
        assert_eq!(aliases, ["www", "0123456789ab", "box"]);
    }

    #[test]
    fn what_cannot_be_a_name_is_left_out() {
        let container = container(
            r#"{"Id":"0123456789abcdef","Name":"/web","NetworkSettings":{"Networks":{"net1":{"NetworkID":"a1b2c3",
            "Aliases":["not a name","web",""]}}}}"#,
        );

        assert_eq!(called(&container, &net1()).unwrap().aliases.len(), 1);
    }
}
