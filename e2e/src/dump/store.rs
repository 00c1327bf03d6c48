//! Everything that Weft keeps in etcd, read with etcdctl.

use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::topology::{CONTROL, Topology, fixed_name};

/// Root of Weft's keys.
const ROOT: &str = "/weft/v1/";

/// The store's content at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreDump {
    /// etcd's revision.
    pub revision: i64,
    /// The entries, by key.
    pub entries: Vec<StoreEntry>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEntry {
    /// The key below `/weft/v1/`.
    pub key: String,
    /// The value as stored.
    pub value: Vec<u8>,
    /// Revision at which it was made.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// The lease it ends with; 0 for none.
    pub lease: i64,
}

impl StoreEntry {
    /// The value as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.value).with_context(|| format!("decoding the value of {}", self.key))
    }
}

impl StoreDump {
    /// Reads everything at one revision.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn observe(topology: &Topology) -> Result<Self> {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", topology.etcd_urls()))
            .args(["get", "--prefix", ROOT, "-w", "json"]);
        let text = fixed_name(CONTROL).output(&mut command)?.success()?;
        Self::decode(&text)
    }

    /// The entry of one key below `/weft/v1/`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&StoreEntry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The entries whose key below `/weft/v1/` starts with `prefix`.
    pub fn section<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a StoreEntry> {
        self.entries.iter().filter(move |entry| entry.key.starts_with(prefix))
    }

    fn decode(text: &str) -> Result<Self> {
        let answer: RangeAnswer = serde_json::from_str(text).context("decoding the answer of etcdctl")?;
        let entries = answer.kvs.into_iter().map(KeyValue::decode);
        Ok(Self { revision: answer.header.revision, entries: entries.collect::<Result<_>>()? })
    }
}

#[derive(Deserialize)]
struct RangeAnswer {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct Header {
    revision: i64,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: String,
    create_revision: i64,
    mod_revision: i64,
    #[serde(default)]
    lease: i64,
}

impl KeyValue {
    fn decode(self) -> Result<StoreEntry> {
        let bytes = |text: &str| BASE64_STANDARD.decode(text).context("decoding base64 of etcdctl");
        let key = String::from_utf8(bytes(&self.key)?).context("decoding a key")?;
        Ok(StoreEntry {
            key: key.strip_prefix(ROOT).unwrap_or(&key).to_owned(),
            value: bytes(&self.value)?,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            lease: self.lease,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_an_answer_of_etcdctl() {
        let text = r#"{"header":{"cluster_id":1,"member_id":2,"revision":7,"raft_term":2},
            "kvs":[{"key":"L3dlZnQvdjEvbm9kZS9h","create_revision":3,"mod_revision":7,
                    "version":2,"value":"eyJ2IjoxfQ==","lease":9}],"count":1}"#;

        let dump = StoreDump::decode(text).unwrap();

        assert_eq!(dump.revision, 7);
        let entry = dump.entry("node/a").unwrap();
        assert_eq!(entry.json().unwrap(), serde_json::json!({"v": 1}));
        assert_eq!((entry.mod_revision, entry.lease), (7, 9));
        assert_eq!(dump.section("net/").count(), 0);
    }

    #[test]
    fn empty_store_has_no_entries() {
        let dump = StoreDump::decode(r#"{"header":{"revision":1}}"#).unwrap();

        assert!(dump.entries.is_empty());
    }
}
