//! Endpoints: the list, and one with everything that is known of it.

use weft_node_agent::api::messages::Endpoint;
use weft_overlay::model::{Protocol, PublishedPort};

use super::{Page, fields, list, or_dash, table};

impl Page for Vec<Endpoint> {
    fn page(&self) -> String {
        endpoint_rows(self)
    }
}

pub(super) fn endpoint_rows(endpoints: &[Endpoint]) -> String {
    let header = ["ID", "NAME", "NETWORK", "NODE", "IPV4", "IPV6", "MAC", "STATE"];
    table(
        header,
        endpoints.iter().map(|endpoint| {
            [
                endpoint.id.to_string(),
                endpoint.name.to_string(),
                endpoint.network.to_string(),
                endpoint.node.clone(),
                or_dash(endpoint.ipv4),
                or_dash(endpoint.ipv6),
                endpoint.mac.to_string(),
                endpoint.state.clone(),
            ]
        }),
    )
}

/// Warnings are left to the command, which prints them on standard error.
impl Page for Endpoint {
    fn page(&self) -> String {
        fields([
            ("ID", self.id.to_string()),
            ("Name", self.name.to_string()),
            ("Network", self.network.to_string()),
            ("Node", self.node.clone()),
            ("IPv4", or_dash(self.ipv4)),
            ("IPv6", or_dash(self.ipv6)),
            ("MAC", self.mac.to_string()),
            ("State", self.state.clone()),
            ("Kind", self.kind.clone()),
            ("Container", or_dash(self.container.as_ref())),
            ("Interface", or_dash(self.ifname.as_ref())),
            ("Aliases", list(&self.aliases)),
            ("Published", list(self.published.iter().map(published_port))),
        ])
    }
}

/// A published port as `--publish` takes it.
fn published_port(published: &PublishedPort) -> String {
    let protocol = match published.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let PublishedPort { host_port, port, .. } = published;
    match published.host_ip {
        None => format!("{host_port}:{port}/{protocol}"),
        Some(ip) if ip.is_ipv6() => format!("[{ip}]:{host_port}:{port}/{protocol}"),
        Some(ip) => format!("{ip}:{host_port}:{port}/{protocol}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::parse_published_port;

    #[test]
    fn published_ports_are_printed_as_they_may_be_typed() {
        for text in ["8080:80/tcp", "127.0.0.1:53:5353/udp", "[::1]:8080:80/tcp"] {
            assert_eq!(published_port(&parse_published_port(text).unwrap()), text);
        }
    }
}
