//! DNS messages as bytes: what is worth reading, how large a reply may be, and whether a reply belongs to a question.
//!
//! Pure. Every question comes from a container and every reply from a resolver that we do not control, so nothing here
//! may panic or allocate by what a header claims. What a message means is not known here.

use hickory_proto::{
    op::{Edns, Header, Message, Metadata, Query, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Size of the DNS header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// What a client without EDNS(0) can take over UDP (RFC 1035, 4.2.1).
const PLAIN_UDP: usize = 512;
/// What we send over UDP at most, and announce: fits the smallest IPv6 MTU, so that nothing is fragmented.
const EDNS_UDP: u16 = 1232;
/// The length field of DNS over TCP has 16 bits (RFC 1035, 4.2.2).
const TCP: usize = 65_535;
/// The smallest record of an answer: a pointer to the name, type, class, TTL, length and an IPv4 address.
const SMALLEST_RECORD: usize = 16;
/// The largest that is ever cut from: the same with an IPv6 address.
const LARGEST_RECORD: usize = 28;

const FLAG_RESPONSE: u8 = 0x80;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;

/// How a question came, and so how its reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream of messages with a length before each.
    Tcp,
}

/// What a packet is.
#[derive(Debug)]
pub(super) enum Received {
    /// A standard query with exactly one question.
    Query(Box<Message>),
    /// Something that is answered with an error, given here.
    Unusable(Vec<u8>),
    /// Something that must not be answered: too short for an id, or itself a reply (two servers would never stop).
    Silence,
}

/// Reads a packet from a client.
pub(super) fn read(packet: &[u8]) -> Received {
    let Some(header) = packet.first_chunk::<HEADER>() else { return Received::Silence };
    if header[2] & FLAG_RESPONSE != 0 {
        return Received::Silence;
    }
    if (header[2] >> 3) & 0xf != 0 {
        return Received::Unusable(bare_error(header, ResponseCode::NotImp));
    }
    // Before the parser sees it: it would reserve memory for as many questions as the header claims.
    if u16::from_be_bytes([header[4], header[5]]) != 1 {
        return Received::Unusable(bare_error(header, ResponseCode::FormErr));
    }
    match Message::from_vec(packet) {
        Ok(query) if query.queries.len() == 1 => Received::Query(Box::new(query)),
        _ => Received::Unusable(bare_error(header, ResponseCode::FormErr)),
    }
}

/// An error without its question: that could not be read.
fn bare_error(header: &[u8; HEADER], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header[..2]);
    reply[2] = FLAG_RESPONSE | (header[2] & (0x78 | FLAG_RECURSION_DESIRED));
    reply[3] = code.low();
    reply
}

/// Begins the reply to a query: its id, question and EDNS(0) version, no records.
pub(super) fn reply_to(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP).set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

/// The most bytes that our own reply to a query may have.
pub(super) fn reply_limit(query: &Message, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => TCP,
        Transport::Udp => client_limit(query).min(usize::from(EDNS_UDP)),
    }
}

/// The most bytes that a client says it can take over UDP.
pub(super) fn client_limit(query: &Message) -> usize {
    query.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()).max(PLAIN_UDP))
}

/// How many records are worth collecting for a reply: one more than could fit, so that what is cut is known to be cut.
pub(super) fn worth_collecting(limit: usize) -> usize {
    limit / SMALLEST_RECORD + 1
}

/// Encodes a reply within `limit` bytes, leaving out the last answers if need be.
///
/// Over UDP a shortened reply is marked as truncated, so that the client asks again over TCP. What it holds is still
/// right and useful to clients that cannot (musl before 1.2.4). Over TCP the mark would mean nothing (RFC 2181, 9):
/// a name with several thousand holders shows another part of them in each answer.
pub(super) fn encode(mut reply: Message, limit: usize, transport: Transport) -> Vec<u8> {
    loop {
        let Ok(bytes) = reply.to_vec() else { return unencodable(&reply) };
        let excess = bytes.len().saturating_sub(limit);
        // The encoder itself stops at 64 KiB, where it may have left out EDNS(0) too: one record less makes room.
        let stopped = is_truncated(&bytes) && !reply.metadata.truncation;
        let kept = match (excess, stopped) {
            (0, false) => return bytes,
            (_, true) => usize::from(u16::from_be_bytes([bytes[6], bytes[7]])).saturating_sub(1),
            (_, false) => reply.answers.len().saturating_sub(excess.div_ceil(LARGEST_RECORD)),
        };
        if reply.answers.is_empty() {
            return unencodable(&reply);
        }
        reply.answers.truncate(kept);
        reply.metadata.truncation = transport == Transport::Udp;
    }
}

fn unencodable(reply: &Message) -> Vec<u8> {
    let [high, low] = reply.metadata.id.to_be_bytes();
    let mut header = [0; HEADER];
    header[..2].copy_from_slice(&[high, low]);
    bare_error(&header, ResponseCode::ServFail)
}

/// Cuts a foreign reply that is larger than the client can take down to its question, marked as truncated.
pub(super) fn fit_foreign(mut reply: Vec<u8>, query: &Message, transport: Transport) -> Vec<u8> {
    if transport == Transport::Tcp || reply.len() <= client_limit(query) {
        return reply;
    }
    let question_end = question_of(&reply).map_or(HEADER, |(_, end)| end);
    reply.truncate(question_end);
    reply[2] |= FLAG_TRUNCATED;
    reply[4..HEADER].fill(0);
    reply[5] = u8::from(question_end > HEADER);
    reply
}

/// Whether a reply from a resolver answers this question under this id.
///
/// The question is compared without regard to case, and may be missing from an error.
pub(super) fn belongs(reply: &[u8], id: u16, question: &Query) -> bool {
    let Some(header) = reply.first_chunk::<HEADER>() else { return false };
    if header[2] & FLAG_RESPONSE == 0 || header[..2] != id.to_be_bytes() {
        return false;
    }
    match u16::from_be_bytes([header[4], header[5]]) {
        0 => header[3] & 0xf != 0,
        1 => question_of(reply).is_some_and(|(asked, _)| asked == *question),
        _ => false,
    }
}

/// Whether a reply says that the resolver could not or would not answer, so that the next one should be asked.
pub(super) fn is_failure(reply: &[u8]) -> bool {
    const FAILURES: [ResponseCode; 3] = [ResponseCode::ServFail, ResponseCode::NotImp, ResponseCode::Refused];
    reply.get(3).is_some_and(|flags| FAILURES.iter().any(|code| code.low() == flags & 0xf))
}

/// Whether a reply was cut short.
pub(super) fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & FLAG_TRUNCATED != 0)
}

/// Replaces the id of a message.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut::<2>() {
        *place = id.to_be_bytes();
    }
}

fn question_of(message: &[u8]) -> Option<(Query, usize)> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries == 0 {
        return None;
    }
    let question = Query::read(&mut decoder).ok()?;
    Some((question, decoder.index()))
}
