//! Everything that the agent knows, in three parts.

use std::{collections::BTreeMap, fmt::Display};

use weft_node_agent::api::messages::DumpReply;

use super::{Page, printable};

impl Page for DumpReply {
    fn page(&self) -> String {
        [part("Desired", &self.desired), part("Observed", &self.observed), part("Store", &self.store)].join("\n")
    }
}

fn part<V: Display>(title: &str, entries: &BTreeMap<String, V>) -> String {
    let line = |(key, value): (&String, &V)| format!("  {}  {}\n", printable(key), printable(&value.to_string()));
    let lines: String = entries.iter().map(line).collect();
    format!("{title} ({}):\n{lines}", entries.len())
}
