//! Decides what a client is told.
//!
//! Pure: a packet, who asked where, and the table go in; a reply, or the decision to ask the host's resolvers, comes
//! out. The rules:
//!
//! * A name that an endpoint of a visible network has is answered here for every type; without a record of the type the
//!   answer is empty (NODATA), never NXDOMAIN, or clients would give up on the other family too.
//! * Every other name goes to the host's resolvers, single labels included: those may know machines of the local
//!   network by such names. Only if the host has no resolver, what looks like a name of ours does not exist.
//! * Reverse questions about addresses in overlay subnets are answered here in any case: the outside cannot know.
//! * Replies carry no SOA, so that no cache keeps a "no" (RFC 2308, 5): the name may exist a moment later.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use weft_overlay::id::NetworkId;

pub use super::wire::Transport;
use super::{
    reverse::Reverse,
    table::{Family, NameTable},
    wire::{self, Received},
};

/// Who asked, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The address that the question came from.
    pub client: IpAddr,
    /// The network whose gateway was asked.
    pub network: NetworkId,
    /// How it came.
    pub transport: Transport,
}

/// What to do about a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Reply(Message),
    /// It is not ours to answer: ask the host's resolvers.
    Forward {
        /// What to say if the host has none.
        without_upstream: ResponseCode,
    },
}

/// What to do about a packet.
#[derive(Debug)]
pub enum Response {
    /// Send this back.
    Send(Vec<u8>),
    /// Ask the host's resolvers; see [`Verdict::Forward`].
    Forward(Forwarded),
    /// Say nothing.
    Ignore,
}

/// A query that is not ours to answer.
#[derive(Debug)]
pub struct Forwarded {
    query: Box<Message>,
    transport: Transport,
    without_upstream: ResponseCode,
}

/// Decides about a packet as it came from a client. Never panics, whatever the packet holds.
///
/// `ttl` is in seconds.
pub fn respond(packet: &[u8], asker: &Asker, table: &NameTable, ttl: u32) -> Response {
    respond_within(packet, asker.transport, &table.visible_to(asker.client, asker.network), table, ttl)
}

/// Decides about a packet of a client of which it is known what it sees. Never panics, whatever the packet holds.
///
/// `ttl` is in seconds.
pub fn respond_within(
    packet: &[u8],
    transport: Transport,
    visible: &[NetworkId],
    table: &NameTable,
    ttl: u32,
) -> Response {
    let query = match wire::read(packet) {
        Received::Query(query) => query,
        Received::Unusable(error) => return Response::Send(error),
        Received::Silence => return Response::Ignore,
    };
    match answer_within(&query, transport, visible, table, ttl) {
        Verdict::Reply(reply) => {
            let limit = wire::reply_limit(&query, transport);
            Response::Send(wire::encode(reply, limit, transport))
        }
        Verdict::Forward { without_upstream } => Response::Forward(Forwarded { query, transport, without_upstream }),
    }
}

/// Decides about a query. `ttl` is in seconds.
pub fn answer(query: &Message, asker: &Asker, table: &NameTable, ttl: u32) -> Verdict {
    answer_within(query, asker.transport, &table.visible_to(asker.client, asker.network), table, ttl)
}

fn answer_within(query: &Message, transport: Transport, visible: &[NetworkId], table: &NameTable, ttl: u32) -> Verdict {
    let [question] = query.queries.as_slice() else { return refuse(query, ResponseCode::FormErr) };
    // EDNS versions above 0 do not exist yet (RFC 6891, 6.1.3).
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(query, ResponseCode::BADVERS);
    }
    if !matches!(question.query_class, DNSClass::IN | DNSClass::ANY) || is_transfer(question.query_type) {
        return refuse(query, ResponseCode::Refused);
    }
    if let Some(reverse) = Reverse::read(&question.name) {
        return answer_reverse(query, reverse, table, visible, ttl);
    }
    let Some(name) = comparable(&question.name) else {
        return Verdict::Forward { without_upstream: ResponseCode::ServFail };
    };
    let room = wire::worth_collecting(wire::reply_limit(query, transport));
    let Some(addresses) = addresses_of(&name, question.query_type, table, visible, room) else {
        let could_be_ours = !name.contains('.') || table.is_below_network(&name, visible);
        let without_upstream = if could_be_ours { ResponseCode::NXDomain } else { ResponseCode::ServFail };
        return Verdict::Forward { without_upstream };
    };
    Verdict::Reply(authoritative(query, ttl, addresses.into_iter().map(address_record)))
}

impl Forwarded {
    /// The query.
    pub fn query(&self) -> &Message {
        &self.query
    }

    /// How it came.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The reply if the host has no resolver.
    pub fn without_upstream(&self) -> Vec<u8> {
        self.error(self.without_upstream)
    }

    /// The reply if no resolver answered, or too many questions wait for one.
    pub fn failed(&self) -> Vec<u8> {
        self.error(ResponseCode::ServFail)
    }

    /// A resolver's reply, cut to what the client can take.
    pub fn answered(&self, reply: Vec<u8>) -> Vec<u8> {
        wire::fit_foreign(reply, &self.query, self.transport)
    }

    fn error(&self, code: ResponseCode) -> Vec<u8> {
        wire::encode(wire::reply_to(&self.query, code), wire::reply_limit(&self.query, self.transport), self.transport)
    }
}

fn answer_reverse(query: &Message, reverse: Reverse, table: &NameTable, visible: &[NetworkId], ttl: u32) -> Verdict {
    let Reverse { prefix, exact } = reverse;
    let single = exact && prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
    let name = if single { table.name_of(prefix.ip(), visible) } else { None };
    if let Some(target) = name.and_then(|name| Name::from_labels(name.split('.').map(str::as_bytes)).ok()) {
        let wanted = matches!(query.queries.first().map(|q| q.query_type), Some(RecordType::PTR | RecordType::ANY));
        let pointer = wanted.then_some(RData::PTR(rdata::PTR(target)));
        return Verdict::Reply(authoritative(query, ttl, pointer));
    }
    if !table.is_overlay(prefix) {
        return Verdict::Forward { without_upstream: ResponseCode::ServFail };
    }
    if exact && !single {
        // A part of a name that may well have names below it: it exists, empty (RFC 8020).
        return Verdict::Reply(authoritative(query, ttl, None));
    }
    let mut reply = wire::reply_to(query, ResponseCode::NXDomain);
    reply.metadata.authoritative = true;
    Verdict::Reply(reply)
}

fn addresses_of(
    name: &str,
    wanted: RecordType,
    table: &NameTable,
    visible: &[NetworkId],
    room: usize,
) -> Option<Vec<IpAddr>> {
    match wanted {
        RecordType::A => table.addresses(name, visible, Family::V4, room),
        RecordType::AAAA => table.addresses(name, visible, Family::V6, room),
        RecordType::ANY => {
            let mut both = table.addresses(name, visible, Family::V4, room)?;
            both.extend(table.addresses(name, visible, Family::V6, room)?);
            Some(both)
        }
        _ => table.addresses(name, visible, Family::V4, 0).map(|_| Vec::new()),
    }
}

fn authoritative(query: &Message, ttl: u32, records: impl IntoIterator<Item = RData>) -> Message {
    let mut reply = wire::reply_to(query, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    if let Some(question) = query.queries.first() {
        reply.add_answers(records.into_iter().map(|data| Record::from_rdata(question.name.clone(), ttl, data)));
    }
    reply
}

fn refuse(query: &Message, code: ResponseCode) -> Verdict {
    Verdict::Reply(wire::reply_to(query, code))
}

fn address_record(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(rdata::A(v4)),
        IpAddr::V6(v6) => RData::AAAA(rdata::AAAA(v6)),
    }
}

fn is_transfer(wanted: RecordType) -> bool {
    matches!(wanted, RecordType::AXFR | RecordType::IXFR)
}

/// The form in which names are compared; `None` if no endpoint can be called so.
///
/// A label of the wire may hold any byte, a dot too, which must not pass for the border between two labels.
fn comparable(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
