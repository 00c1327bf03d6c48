//! Netlink bytes of nftables: messages built, attributes walked. Pure.
//!
//! Constants are those of linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h. Message headers
//! are in the machine's byte order, numbers inside nftables attributes big-endian.

use std::io;

use nix::libc;

/// Room for one answer: a dump fills at most 32 KiB per message.
pub(super) const RECEIVE_BYTES: usize = 64 * 1024;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;

pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;

const REQUEST: u16 = 0x1;
const MULTIPART: u16 = 0x2;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;

const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

pub(super) const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const GENERATION_ID: u16 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const DATA_VALUE: u16 = 1;
const INTERVAL_END: u32 = 1;

const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// An element as the kernel stores it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RawElement {
    /// The key; each part of a concatenation is padded to four bytes.
    pub(super) key: Vec<u8>,
    /// Whether it marks the first key behind an interval.
    pub(super) ends_interval: bool,
    /// What a map maps the key to.
    pub(super) value: Option<Vec<u8>>,
}

/// A message under construction.
#[derive(Debug)]
pub(super) struct MessageBuilder {
    bytes: Vec<u8>,
}

impl MessageBuilder {
    pub(super) fn new(kind: u16, flags: u16, family: u8, resource: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self { bytes }
    }

    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.value(kind, &value)
    }

    pub(super) fn value(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(attribute(kind, value));
        self
    }

    /// Asks for an answer also when all went well.
    pub(super) fn acknowledged(mut self) -> Self {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | ACKNOWLEDGE;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// The message's bytes, under this sequence number.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message holds one element or less");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Begins a transaction.
pub(super) fn batch_begin() -> MessageBuilder {
    MessageBuilder::new(BATCH_BEGIN, 0, 0, SUBSYSTEM)
}

/// Ends a transaction and makes it take effect.
pub(super) fn batch_end() -> MessageBuilder {
    MessageBuilder::new(BATCH_END, 0, 0, SUBSYSTEM)
}

/// Adds or removes one element.
pub(super) fn element_message(add: bool, family: u8, table: &str, set: &str, element: &RawElement) -> MessageBuilder {
    let (kind, flags) = if add { (NEW_ELEMENT, CREATE) } else { (DELETE_ELEMENT, 0) };
    MessageBuilder::new(kind, flags, family, 0)
        .text(LIST_TABLE, table)
        .text(LIST_SET, set)
        .value(LIST_ELEMENTS | NESTED, &attribute(LIST_ITEM | NESTED, &element_attributes(add, element)))
}

/// Removes a table.
pub(super) fn delete_table_message(family: u8, table: &str) -> MessageBuilder {
    MessageBuilder::new(DELETE_TABLE, 0, family, 0).text(TABLE_NAME, table)
}

/// Asks for a table.
pub(super) fn table_request(family: u8, table: &str) -> MessageBuilder {
    MessageBuilder::new(GET_TABLE, 0, family, 0).text(TABLE_NAME, table)
}

/// Asks for a set's elements.
pub(super) fn elements_request(family: u8, table: &str, set: &str) -> MessageBuilder {
    MessageBuilder::new(GET_ELEMENT, DUMP, family, 0).text(LIST_TABLE, table).text(LIST_SET, set)
}

/// Asks for all chains.
pub(super) fn chains_request(family: u8) -> MessageBuilder {
    MessageBuilder::new(GET_CHAIN, DUMP, family, 0)
}

/// Asks for the number of the ruleset's generation.
pub(super) fn generation_request() -> MessageBuilder {
    MessageBuilder::new(GET_GENERATION, 0, 0, 0)
}

/// Reads the answer to [`table_request`].
pub(super) fn table_flags(payload: &[u8]) -> Option<u32> {
    Attributes::after_family(payload)?.number(TABLE_FLAGS)
}

/// Reads the answer to [`generation_request`].
pub(super) fn generation(payload: &[u8]) -> Option<u32> {
    Attributes::after_family(payload)?.number(GENERATION_ID)
}

/// Reads one answer to [`elements_request`].
pub(super) fn elements(payload: &[u8]) -> Option<Vec<RawElement>> {
    let list = Attributes::after_family(payload)?;
    let Some(items) = list.bytes(LIST_ELEMENTS) else { return Some(Vec::new()) };
    Attributes::of(items).iter().map(|(_, item)| raw_element(Attributes::of(item))).collect()
}

fn raw_element(element: Attributes<'_>) -> Option<RawElement> {
    let data =
        |kind| element.bytes(kind).and_then(|nested| Attributes::of(nested).bytes(DATA_VALUE)).map(<[u8]>::to_vec);
    Some(RawElement {
        key: data(ELEMENT_KEY)?,
        ends_interval: element.number(ELEMENT_FLAGS).unwrap_or(0) & INTERVAL_END != 0,
        value: data(ELEMENT_VALUE),
    })
}

/// A removal names the key only: the kernel finds a map's element by it.
fn element_attributes(add: bool, element: &RawElement) -> Vec<u8> {
    let data = |kind, value: &[u8]| attribute(kind | NESTED, &attribute(DATA_VALUE, value));
    let mut bytes = Vec::new();
    if element.ends_interval {
        bytes.extend(attribute(ELEMENT_FLAGS, &INTERVAL_END.to_be_bytes()));
    }
    bytes.extend(data(ELEMENT_KEY, &element.key));
    if let Some(value) = element.value.as_ref().filter(|_| add) {
        bytes.extend(data(ELEMENT_VALUE, value));
    }
    bytes
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute holds one element or less");
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message as it was received.
#[derive(Debug)]
pub(super) struct Message<'a> {
    kind: u16,
    flags: u16,
    /// The number of the request that it answers.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

impl Message<'_> {
    /// How the request ended, if this message says so.
    pub(super) fn outcome(&self) -> Option<io::Result<()>> {
        match self.kind {
            MESSAGE_ERROR | MESSAGE_DONE => {
                Some(match self.payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                    None | Some(0) => Ok(()),
                    Some(code) => Err(io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EIO))),
                })
            }
            _ => None,
        }
    }

    /// Whether what is dumped changed meanwhile.
    pub(super) fn is_interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }

    /// Whether more follows.
    pub(super) fn is_multipart(&self) -> bool {
        self.flags & MULTIPART != 0
    }
}

/// The messages of one datagram.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while let Some((message, rest)) = first_message(bytes) {
        found.push(message);
        bytes = rest;
    }
    found
}

fn first_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let payload = bytes.get(HEADER..length)?;
    let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let sequence = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let message = Message { kind: short(4), flags: short(6), sequence, payload };
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// A row of attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in these bytes.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The attributes of a message of nfnetlink.
    pub(super) fn after_family(payload: &'a [u8]) -> Option<Self> {
        payload.get(FAMILY_HEADER..).map(Self)
    }

    /// The first attribute of a type.
    pub(super) fn bytes(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The same as a 32-bit number.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The same as text that ends with a zero byte.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.bytes(kind)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
            let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & TYPE_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn an_element_message_has_the_bytes_that_the_kernel_documents() {
        let element = RawElement { key: vec![10, 0, 0, 1], ends_interval: false, value: None };

        let bytes = element_message(true, 1, "weft", "vteps4", &element).finish(7);

        let expected = [
            64, 0, 0, 0, 12, 10, 1, 4, 7, 0, 0, 0, 0, 0, 0, 0, // header: length, type, flags, sequence, port
            1, 0, 0, 0, // family
            9, 0, 1, 0, b'w', b'e', b'f', b't', 0, 0, 0, 0, // table
            11, 0, 2, 0, b'v', b't', b'e', b'p', b's', b'4', 0, 0, // set
            20, 0, 3, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 1, // elements
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let element = RawElement { key: vec![1; 24], ends_interval: true, value: Some(vec![2; 8]) };
        let bytes = element_message(true, 7, "weft", "s", &element).finish(3);

        let received = messages(&bytes);

        assert_eq!(received.len(), 1);
        assert_eq!(received[0].sequence, 3);
        assert_eq!(elements(received[0].payload).unwrap(), [element]);
    }

    #[test]
    fn truncated_bytes_are_read_without_panic() {
        let element = RawElement { key: vec![1; 24], ends_interval: true, value: Some(vec![2; 8]) };
        let bytes = element_message(true, 7, "weft", "s", &element).finish(3);
        let payload = &bytes[HEADER..];

        let shorter: Vec<bool> = (0..payload.len())
            .map(|length| elements(&payload[..length]).is_some_and(|read| read == [element.clone()]))
            .collect();

        assert!(shorter.iter().all(|whole| !whole), "{shorter:?}");
        assert!((0..bytes.len()).all(|length| messages(&bytes[..length]).is_empty()));
    }
}
