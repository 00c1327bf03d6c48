//! Speaks nfnetlink to one namespace's nftables: set elements in batches, dumps, and the ruleset's generation.
//!
//! Elements change on the path of every attach, where starting `nft` would cost more than everything else together.
//! Owns the wire format (linux/netfilter/nf_tables.h) and nothing of what the sets mean.

use std::io;

use nix::libc;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::wire::{self, Attributes, MessageBuilder, RawElement};

/// Writes per batch: so many error reports fit the default receive buffer even if every one of them fails.
const BATCH_WRITES: usize = 200;

/// How often a dump is begun again when the ruleset changes under it.
const DUMP_ATTEMPTS: usize = 8;

/// nftables' address families (linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum NfFamily {
    /// Every family; only for dumps.
    Any = 0,
    /// Both IP families.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// Bridged frames.
    Bridge = 7,
    /// IPv6.
    Ip6 = 10,
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Puts an element into its set.
    Add,
    /// Takes it out.
    Remove,
}

/// One element of one set to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Add or remove.
    pub(super) change: Change,
    /// The set.
    pub(super) set: &'static str,
    /// The element.
    pub(super) element: RawElement,
}

/// A base chain as a dump shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    /// Its family.
    pub(super) family: u8,
    /// Its table.
    pub(super) table: String,
    /// Its name.
    pub(super) name: String,
    /// `filter`, `nat` or `route`.
    pub(super) kind: String,
    /// The number of its hook (linux/netfilter.h).
    pub(super) hook: u32,
    /// Whether packets that reach its end are dropped.
    pub(super) drops: bool,
}

/// A socket to the nftables of the namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    port: u32,
    sequence: u32,
}

impl Connection {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, port, sequence: 0 })
    }

    /// The netlink port of the socket, which nobody else has in its namespace.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Writes groups of elements of one table. Each group is written as a whole or not at all; groups do not affect one
    /// another. An element that is there already, or is missing already, is no error.
    pub(super) fn write(&mut self, family: NfFamily, table: &str, groups: &[Vec<Write>]) -> Vec<io::Result<()>> {
        let mut results: Vec<io::Result<()>> = groups.iter().map(|_| Ok(())).collect();
        let mut first = 0;
        while first < groups.len() {
            let mut count = 1;
            let mut writes = groups[first].len();
            while first + count < groups.len() && writes + groups[first + count].len() <= BATCH_WRITES {
                writes += groups[first + count].len();
                count += 1;
            }
            let range = first..first + count;
            self.write_batch(family, table, &groups[range.clone()], &mut results[range]);
            first += count;
        }
        results
    }

    /// One batch, which the kernel takes as a whole: what it refuses is left out and the rest sent again.
    fn write_batch(&mut self, family: NfFamily, table: &str, groups: &[Vec<Write>], results: &mut [io::Result<()>]) {
        let mut pending: Vec<(usize, &Write)> = groups
            .iter()
            .enumerate()
            .flat_map(|(group, writes)| writes.iter().map(move |write| (group, write)))
            .collect();
        while !pending.is_empty() {
            let messages = pending.iter().map(|(_, write)| {
                wire::element_message(write.change == Change::Add, family as u8, table, write.set, &write.element)
            });
            let refused = match self.transact(messages.collect()) {
                Ok(refused) if refused.is_empty() => return,
                Ok(refused) => refused,
                Err(error) => {
                    for (group, _) in pending {
                        results[group] = Err(copy(&error));
                    }
                    return;
                }
            };
            let mut left_out = Vec::new();
            for (index, error) in refused {
                let (group, write) = pending[index];
                left_out.push(index);
                if !is_done_already(write.change, &error) {
                    results[group] = Err(error);
                }
            }
            let kept = pending.into_iter().enumerate();
            let kept = kept.filter(|(index, (group, _))| !left_out.contains(index) && results[*group].is_ok());
            pending = kept.map(|(_, write)| write).collect();
        }
    }

    /// Removes a table with all that it contains. A missing one is no error.
    pub(super) fn delete_table(&mut self, family: NfFamily, table: &str) -> io::Result<()> {
        let refused = self.transact(vec![wire::delete_table_message(family as u8, table)])?;
        match refused.into_iter().next() {
            Some((_, error)) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// The flags of a table, if it exists.
    pub(super) fn table_flags(&mut self, family: NfFamily, table: &str) -> io::Result<Option<u32>> {
        let answers = match self.ask(wire::table_request(family as u8, table)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answers => answers?,
        };
        let flags = answers.iter().find_map(|payload| wire::table_flags(payload));
        flags.map(Some).ok_or_else(|| malformed("a table"))
    }

    /// The number of the ruleset's generation: every committed transaction raises it.
    pub(super) fn generation(&mut self) -> io::Result<u32> {
        let answers = self.ask(wire::generation_request())?;
        answers.iter().find_map(|payload| wire::generation(payload)).ok_or_else(|| malformed("the generation"))
    }

    /// Every element of a set; none when there is no such set.
    pub(super) fn elements(&mut self, family: NfFamily, table: &str, set: &str) -> io::Result<Vec<RawElement>> {
        let answers = match self.dump(|| wire::elements_request(family as u8, table, set)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
            answers => answers?,
        };
        answers.iter().map(|payload| wire::elements(payload).ok_or_else(|| malformed("set elements"))).try_fold(
            Vec::new(),
            |mut all, part| {
                all.append(&mut part?);
                Ok(all)
            },
        )
    }

    /// Every base chain of every family.
    pub(super) fn base_chains(&mut self) -> io::Result<Vec<BaseChain>> {
        let answers = self.dump(|| wire::chains_request(NfFamily::Any as u8))?;
        Ok(answers.iter().filter_map(|payload| base_chain(payload)).collect())
    }

    fn dump(&mut self, request: impl Fn() -> MessageBuilder) -> io::Result<Vec<Vec<u8>>> {
        let mut last = malformed("a dump");
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask(request()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => last = error,
                answers => return answers,
            }
        }
        Err(last)
    }

    /// Sends one request and collects the payloads of its answers.
    fn ask(&mut self, request: MessageBuilder) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.next_sequence();
        self.send(&request.finish(sequence))?;
        let mut payloads = Vec::new();
        let mut interrupted = false;
        loop {
            for message in wire::messages(&self.receive()?) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.is_interrupted();
                match message.outcome() {
                    Some(Err(error)) => return Err(error),
                    Some(Ok(())) if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    Some(Ok(())) => return Ok(payloads),
                    None => payloads.push(message.payload.to_vec()),
                }
                if !message.is_multipart() {
                    return Ok(payloads);
                }
            }
        }
    }

    /// Sends messages as one transaction. Returns which of them were refused and why; then nothing was changed.
    pub(super) fn transact(&mut self, messages: Vec<MessageBuilder>) -> io::Result<Vec<(usize, io::Error)>> {
        let begin = self.next_sequence();
        let mut bytes = wire::batch_begin().finish(begin);
        let count = messages.len();
        let mut last = begin;
        for (index, message) in messages.into_iter().enumerate() {
            last = self.next_sequence();
            let message = if index + 1 == count { message.acknowledged() } else { message };
            bytes.extend(message.finish(last));
        }
        let end = self.next_sequence();
        bytes.extend(wire::batch_end().finish(end));
        self.send(&bytes)?;
        let mut refused = Vec::new();
        loop {
            for message in wire::messages(&self.receive()?) {
                let Some(outcome) = message.outcome() else { continue };
                let place = message.sequence.wrapping_sub(begin) as usize;
                match outcome {
                    // The transaction as a whole, reported under its first message.
                    Err(error) if place == 0 => return Err(error),
                    Err(error) if place <= count => refused.push((place - 1, error)),
                    _ => {}
                }
                if message.sequence == last {
                    return Ok(refused);
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.discard_leftovers();
        self.socket.send(bytes, 0).map(drop)
    }

    /// Answers of an earlier request that was given up.
    fn discard_leftovers(&self) {
        let mut buffer = Vec::with_capacity(wire::RECEIVE_BYTES);
        while self.socket.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() {
            buffer.clear();
        }
    }

    /// The kernel answers while it takes the request, so an empty socket means that it said nothing.
    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(wire::RECEIVE_BYTES);
        self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
        Ok(buffer)
    }
}

fn base_chain(payload: &[u8]) -> Option<BaseChain> {
    let family = *payload.first()?;
    let attributes = Attributes::after_family(payload)?;
    let hook = Attributes::of(attributes.bytes(wire::CHAIN_HOOK)?);
    Some(BaseChain {
        family,
        table: attributes.text(wire::CHAIN_TABLE)?,
        name: attributes.text(wire::CHAIN_NAME)?,
        kind: attributes.text(wire::CHAIN_TYPE)?,
        hook: hook.number(wire::HOOK_NUMBER)?,
        drops: attributes.number(wire::CHAIN_POLICY) == Some(0),
    })
}

fn is_done_already(change: Change, error: &io::Error) -> bool {
    match change {
        Change::Add => error.raw_os_error() == Some(libc::EEXIST),
        Change::Remove => error.raw_os_error() == Some(libc::ENOENT),
    }
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's description of {what} cannot be read"))
}
