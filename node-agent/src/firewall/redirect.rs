//! A redirection of questions about names, in a container's namespace, that ends with the process that made it.
//!
//! One nftables table of type NAT before Docker's own (dstnat, -100): the first such chain that decides wins, so nothing of
//! Docker's is touched. The kernel ties the table to the netlink socket that created it (NFT_TABLE_F_OWNER, Linux 5.12):
//! nobody else can change it, and it is gone when the socket is closed, however that comes about. Owns the bytes of that
//! table and nothing else.

use std::{io, net::Ipv4Addr};

use nix::libc;

use super::{
    netlink::{Connection, NfFamily},
    wire::{CREATE, MessageBuilder, NESTED, SUBSYSTEM, attribute},
};

/// Packets with this mark pass: those of the agent itself. The letters `weft`.
pub(crate) const MARK: u32 = 0x7765_6674;

const TABLE: &str = "weft";
const CHAIN: &str = "out";
const DNS_PORT: u16 = 53;
/// Before Docker's, at -100.
const PRIORITY: i32 = -150;

// linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const APPEND: u16 = 0x800;
const OWNER: u32 = 0x2;
const LOCAL_OUT: u32 = 3;
const ACCEPT: u32 = 1;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const VERDICT_REGISTER: u32 = 0;
const RETURN: i32 = -5;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NAT_TO_DESTINATION: u32 = 1;

/// An installed redirection; dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Redirect {
    _connection: Connection,
}

impl Redirect {
    /// Leads questions to `resolver` to other ports of the same address, in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn install(resolver: Ipv4Addr, udp_port: u16, tcp_port: u16) -> io::Result<Self> {
        let mut connection = Connection::open()?;
        let messages = vec![
            table(),
            chain(),
            rule(&pass_marked()),
            rule(&lead(resolver, libc::IPPROTO_UDP, udp_port)),
            rule(&lead(resolver, libc::IPPROTO_TCP, tcp_port)),
        ];
        match connection.transact(messages)?.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(Self { _connection: connection }),
        }
    }
}

fn table() -> MessageBuilder {
    MessageBuilder::new(NEW_TABLE, CREATE, NfFamily::Ip as u8, 0).text(1, TABLE).value(2, &OWNER.to_be_bytes())
}

fn chain() -> MessageBuilder {
    let hook = [number(1, LOCAL_OUT), attribute(2, &PRIORITY.to_be_bytes())].concat();
    MessageBuilder::new(NEW_CHAIN, CREATE, NfFamily::Ip as u8, 0)
        .text(1, TABLE)
        .text(3, CHAIN)
        .value(4 | NESTED, &hook)
        .value(5, &ACCEPT.to_be_bytes())
        .text(7, "nat")
}

fn rule(expressions: &[Vec<u8>]) -> MessageBuilder {
    MessageBuilder::new(NEW_RULE, CREATE | APPEND, NfFamily::Ip as u8, 0)
        .text(1, TABLE)
        .text(2, CHAIN)
        .value(4 | NESTED, &expressions.concat())
}

/// `meta mark 0x77656674 return`.
fn pass_marked() -> Vec<Vec<u8>> {
    let code = attribute(1, &RETURN.to_be_bytes());
    let verdict = attribute(2 | NESTED, &attribute(2 | NESTED, &code));
    vec![
        meta(META_MARK),
        equals(&MARK.to_ne_bytes()),
        expression("immediate", &[number(1, VERDICT_REGISTER), verdict].concat()),
    ]
}

/// `ip daddr RESOLVER PROTOCOL dport 53 dnat to RESOLVER:PORT`.
fn lead(resolver: Ipv4Addr, protocol: libc::c_int, port: u16) -> Vec<Vec<u8>> {
    let nat =
        [number(1, NAT_TO_DESTINATION), number(2, NfFamily::Ip as u32), number(3, REGISTER_1), number(5, REGISTER_2)];
    let protocol = u8::try_from(protocol).expect("protocol numbers are bytes");
    vec![
        payload(NETWORK_HEADER, 16, 4),
        equals(&resolver.octets()),
        meta(META_L4PROTO),
        equals(&[protocol]),
        payload(TRANSPORT_HEADER, 2, 2),
        equals(&DNS_PORT.to_be_bytes()),
        load(REGISTER_1, &resolver.octets()),
        load(REGISTER_2, &port.to_be_bytes()),
        expression("nat", &nat.concat()),
    ]
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER_1), number(2, key)].concat())
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let parts = [number(1, REGISTER_1), number(2, base), number(3, offset), number(4, length)];
    expression("payload", &parts.concat())
}

/// Goes on only if the first register holds these bytes.
fn equals(value: &[u8]) -> Vec<u8> {
    let parts = [number(1, REGISTER_1), number(2, 0), attribute(3 | NESTED, &attribute(1, value))];
    expression("cmp", &parts.concat())
}

fn load(register: u32, value: &[u8]) -> Vec<u8> {
    expression("immediate", &[number(1, register), attribute(2 | NESTED, &attribute(1, value))].concat())
}

fn expression(name: &str, content: &[u8]) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let element = [attribute(1, &text), attribute(2 | NESTED, content)].concat();
    attribute(1 | NESTED, &element)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}
