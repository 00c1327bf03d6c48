//! Networks: the list, and one with its members, containers and blocks.

use weft_node_agent::api::messages::{Block, Endpoint, Member, Network, RemovedNetwork};

use super::{Page, endpoint::endpoint_rows, fields, list, printable, section, table};

impl Page for Vec<Network> {
    fn page(&self) -> String {
        let header = ["NAME", "ID", "VNI", "SUBNETS", "GATEWAYS", "MTU", "STATE", "ENDPOINTS"];
        table(
            header,
            self.iter().map(|network| {
                [
                    network.name.to_string(),
                    network.id.to_string(),
                    network.vni.to_string(),
                    list(&network.subnets),
                    list(&network.gateways),
                    network.mtu.to_string(),
                    network.state.clone(),
                    network.endpoint_count.to_string(),
                ]
            }),
        )
    }
}

impl Page for Network {
    fn page(&self) -> String {
        let mut page = fields([
            ("Name", self.name.to_string()),
            ("ID", self.id.to_string()),
            ("VNI", self.vni.to_string()),
            ("Subnets", list(&self.subnets)),
            ("Gateways", list(&self.gateways)),
            ("MTU", self.mtu.to_string()),
            ("Internal", if self.internal { "yes" } else { "no" }.to_owned()),
            ("State", self.state.clone()),
            ("Labels", list(self.labels.iter().map(|(key, value)| format!("{key}={value}")))),
            ("Endpoints", self.endpoint_count.to_string()),
        ]);
        if let Some(remark) = &self.remark {
            page += &section("Docker", &format!("{}\n", printable(remark)));
        }
        if let Some(members) = &self.members {
            page += &members_section(members);
        }
        if let Some(endpoints) = &self.endpoints {
            page += &endpoints_section(endpoints);
        }
        if let Some(blocks) = &self.blocks {
            page += &blocks_section(blocks);
        }
        page
    }
}

impl Page for RemovedNetwork {
    fn page(&self) -> String {
        format!("removed network {} ({})\n", self.name, self.id)
    }
}

fn members_section(members: &[Member]) -> String {
    if members.is_empty() {
        return String::new();
    }
    let row = |member: &Member| [member.node.clone(), member.vtep.to_string(), member.underlay_mtu.to_string()];
    section("Members", &table(["NODE", "VTEP", "UNDERLAY MTU"], members.iter().map(row)))
}

fn endpoints_section(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return String::new();
    }
    section("Endpoints", &endpoint_rows(endpoints))
}

fn blocks_section(blocks: &[Block]) -> String {
    if blocks.is_empty() {
        return String::new();
    }
    let row =
        |block: &Block| [block.block.to_string(), block.node.clone(), block.state.clone(), block.used.to_string()];
    section("Blocks", &table(["BLOCK", "NODE", "STATE", "USED"], blocks.iter().map(row)))
}
