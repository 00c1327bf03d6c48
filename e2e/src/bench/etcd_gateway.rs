//! Writing many keys to etcd quickly, over its JSON gateway (etcd developer guide, "gRPC gateway").

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::http;
use crate::netns::NetnsName;
use crate::topology::{CONTROL, EtcdMember, fixed_name};

/// Most operations of one transaction: the default of etcd's --max-txn-ops.
pub(super) const MOST_OPERATIONS: usize = 128;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Put(String, Value),
    Delete(String),
}

/// The first member of the lab's etcd.
pub(super) struct EtcdGateway {
    from: NetnsName,
    address: SocketAddr,
}

impl EtcdGateway {
    pub(super) fn of_lab() -> Result<Self> {
        let member = EtcdMember::new(1).context("the lab has a first member")?;
        Ok(Self { from: fixed_name(CONTROL), address: SocketAddr::from((member.address(), 2379)) })
    }

    /// Writes in as few transactions as etcd allows; the revision of the last one.
    pub(super) fn write(&self, writes: &[Write]) -> Result<i64> {
        let mut revision = 0;
        for part in writes.chunks(MOST_OPERATIONS) {
            revision = self.commit(part)?;
        }
        Ok(revision)
    }

    fn commit(&self, writes: &[Write]) -> Result<i64> {
        let body = json!({ "success": writes.iter().map(Write::operation).collect::<Vec<_>>() }).to_string();
        let stream = self.from.enter(|| TcpStream::connect(self.address))?.context("connecting to etcd")?;
        let answer = http::ask(stream, "POST", "/v3/kv/txn", body.as_bytes()).context("writing to etcd")?;
        let reply: Value = serde_json::from_slice(&answer.body).context("decoding etcd's answer")?;
        let revision = reply["header"]["revision"].as_str().and_then(|revision| revision.parse().ok());
        match revision {
            Some(revision) if answer.status == 200 => Ok(revision),
            _ => bail!("etcd refused with {}: {reply}", answer.status),
        }
    }
}

impl Write {
    fn operation(&self) -> Value {
        match self {
            Self::Put(key, value) => {
                json!({ "requestPut": { "key": STANDARD.encode(key), "value": STANDARD.encode(value.to_string()) } })
            }
            Self::Delete(key) => json!({ "requestDeleteRange": { "key": STANDARD.encode(key) } }),
        }
    }
}
