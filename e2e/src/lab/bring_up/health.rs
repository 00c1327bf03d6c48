//! Asking the store and the agents whether they are ready. Reads only.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};

use serde_json::Value;

use super::PROBE_TIMEOUT;
use crate::command::CommandOutput;
use crate::lab::Host;
use crate::netns::NetnsName;

/// `Err` holds what is seen instead of a healthy store. A member of etcd is healthy when it has a leader and committed
/// a proposal (`/health`, etcd operations guide, "Monitoring etcd"), a controller's store when it can be written.
pub(super) fn observe_store(from: &NetnsName, address: SocketAddrV4) -> Result<(), String> {
    let address = SocketAddr::from(address);
    let answer = from
        .enter(|| ask_health(address))
        .map_err(|error| format!("{error:#}"))?
        .map_err(|error| format!("{address}: {error}"))?;
    if answer.contains(r#""health":"true""#) { Ok(()) } else { Err(answer) }
}

fn ask_health(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `Err` holds what `weft status` says instead of being converged.
pub(super) fn observe_agent(host: &Host) -> Result<(), String> {
    let answer = host
        .weft_within(PROBE_TIMEOUT * 3, &["status", "--output", "json"])
        .and_then(CommandOutput::success)
        .map_err(|error| format!("{error:#}"))?;
    let status: Value =
        serde_json::from_str(&answer).map_err(|error| format!("weft status answers {answer:?}: {error}"))?;
    if status["converged"] == true { Ok(()) } else { Err(status.to_string()) }
}
