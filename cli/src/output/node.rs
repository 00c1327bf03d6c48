//! Nodes: the list, and one with its routes.

use weft_node_agent::api::messages::Node;

use super::{Page, fields, lines, section, table};

impl Page for Vec<Node> {
    fn page(&self) -> String {
        let header = ["NAME", "ID", "VTEP", "STATE", "VERSION", "ENDPOINTS"];
        table(
            header,
            self.iter().map(|node| {
                [
                    node.name.to_string(),
                    node.id.to_string(),
                    node.vtep.to_string(),
                    node.state.clone(),
                    node.version.clone(),
                    node.endpoint_count.to_string(),
                ]
            }),
        )
    }
}

impl Page for Node {
    fn page(&self) -> String {
        let mut page = fields([
            ("Name", self.name.to_string()),
            ("ID", self.id.to_string()),
            ("VTEP", self.vtep.to_string()),
            ("State", self.state.clone()),
            ("Version", self.version.clone()),
            ("Endpoints", self.endpoint_count.to_string()),
        ]);
        if let Some(routes) = &self.routes {
            page += &section("Routes", &lines(routes));
        }
        page
    }
}
