//! This node's state, most important first.

use weft_node_agent::api::messages::{NetworkStatus, Status, StoreStatus};

use super::{Page, fields, lines, section, table};

impl Page for Status {
    fn page(&self) -> String {
        let Self { counters, .. } = self;
        let mut page = fields([
            ("Node", format!("{} ({})", self.node, self.id)),
            ("Version", self.version.clone()),
            ("Standing", self.standing.clone()),
            ("Store", store(&self.store)),
            ("Revision", self.revision.to_string()),
            ("Converged", converged(self)),
            ("VTEP", format!("{}, UDP port {}", self.vtep, self.vxlan_port)),
            ("Underlay MTU", self.underlay_mtu.to_string()),
            ("Namespace", self.netns.clone()),
            ("Passes", counters.passes.to_string()),
            ("Writes", format!("{}, {} failed", counters.writes, counters.failures)),
            ("Audits", format!("{}, {} differences found", counters.audits, counters.audit_findings)),
        ]);
        page += &section("Errors", &lines(&self.errors));
        page += &section("Pending", &lines(&self.pending));
        page += &networks(&self.networks);
        page
    }
}

fn store(store: &StoreStatus) -> String {
    match (store.reachable, &store.error) {
        (true, _) => format!("{} (reachable)", store.endpoint),
        (false, None) => format!("{} (unreachable)", store.endpoint),
        (false, Some(error)) => format!("{} (unreachable: {error})", store.endpoint),
    }
}

fn converged(status: &Status) -> String {
    if status.converged {
        return "yes".to_owned();
    }
    format!("no, {} pending", status.pending.len())
}

fn networks(networks: &[NetworkStatus]) -> String {
    if networks.is_empty() {
        return String::new();
    }
    let header = ["NAME", "ID", "MTU", "BRIDGE", "VXLAN", "LEG", "LOCAL", "REMOTE", "PEERS"];
    let rows = networks.iter().map(|network| {
        [
            network.name.clone(),
            network.id.to_string(),
            network.mtu.to_string(),
            network.bridge.to_string(),
            network.vxlan.to_string(),
            network.leg.to_string(),
            network.local.to_string(),
            network.remote.to_string(),
            network.peers.to_string(),
        ]
    });
    section("Networks", &table(header, rows))
}
