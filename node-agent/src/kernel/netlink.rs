//! A blocking NETLINK_ROUTE socket inside one namespace: batches of requests, and dumps.
//!
//! Many messages go in one send. The kernel carries a send out before it returns and answers every failure, so only the
//! last message asks for an acknowledgement: once that is there, whatever has not been refused has been done. Answers
//! are matched by sequence number; after anything odd (timeout, lost answer, half-read dump) the socket is replaced, so
//! it cannot get out of step. What messages mean is said in `encode` and `decode`.

use std::io;

use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::TimeVal,
    },
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys,
};

use super::decode::attribute::{Attributes, i32_at, padded, text, u16_at, u32_at};
use crate::netns::Namespace;

/// Messages per send. An answer takes about 1 KiB of the receive buffer, which is 4 MiB.
const BATCH_MESSAGES: usize = 256;
/// Bytes per send: below the send buffer of 208 KiB that a socket has by default.
const BATCH_BYTES: usize = 64 * 1024;
/// The kernel fills at most 32 KiB per receive in a dump; twice that leaves room for one oversized message.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Asked for with SO_RCVBUFFORCE.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Requests are carried out inside send(2), so a missing answer means a lost one.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// A dump that the kernel marks as torn is read again this often.
const TORN_DUMPS: usize = 20;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// One message and its flags beyond NLM_F_REQUEST.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: io::Error,
    /// The kernel's own words, where it has any.
    pub(crate) text: Option<String>,
}

impl Refusal {
    pub(crate) fn errno(&self) -> Errno {
        Errno::from_raw(self.cause.raw_os_error().unwrap_or(0))
    }
}

impl From<io::Error> for Refusal {
    fn from(cause: io::Error) -> Self {
        Self { cause, text: None }
    }
}

/// The payload of the answer: empty unless something was asked for.
pub(crate) type Answer = Result<Vec<u8>, Refusal>;

/// A socket for requests in one namespace. Opened on first use.
#[derive(Debug)]
pub(crate) struct Channel {
    namespace: Namespace,
    socket: Option<sys::Socket>,
    sequence: u32,
    receive: Vec<u8>,
    /// Requests that change something, ever.
    written: u64,
}

impl Channel {
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self { namespace, socket: None, sequence: 0, receive: vec![0; RECEIVE_BYTES], written: 0 }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How many requests that change something have been sent.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Sends requests in order, as many as fit in one send. There is one answer for each.
    pub(crate) fn transact(&mut self, requests: Vec<Request>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut batch = Batch::default();
        for request in requests {
            self.written += u64::from(!is_question(&request.message));
            let sequence = self.next_sequence();
            let message = encode(request.message, request.flags | NLM_F_REQUEST, sequence);
            if batch.is_full(message.buffer_len()) {
                answers.extend(self.exchange(std::mem::take(&mut batch)));
            }
            batch.push(&message, sequence);
        }
        answers.extend(self.exchange(batch));
        answers
    }

    /// Sends one request.
    pub(crate) fn ask(&mut self, request: Request) -> Answer {
        self.transact(vec![request]).pop().unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
    }

    /// Reads everything that a GET message selects. `decode` sees each message's type and payload.
    pub(crate) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        decode: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..TORN_DUMPS {
            let read = self.dump_once(message.clone(), &decode);
            match read {
                Ok(Dump { rows, torn: false }) => return Ok(rows),
                Ok(_) => {}
                // A device of the selection is gone: so are its rows.
                Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => return Ok(Vec::new()),
                Err(cause) => {
                    self.socket = None;
                    return Err(cause);
                }
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    fn dump_once<T>(
        &mut self,
        message: RouteNetlinkMessage,
        decode: &impl Fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Dump<T>> {
        let sequence = self.next_sequence();
        let message = encode(message, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.send(&bytes)?;
        let mut dump = Dump { rows: Vec::new(), torn: false };
        loop {
            let length = self.receive()?;
            for message in Messages(&self.receive[..length]).filter(|m| m.sequence == sequence) {
                dump.torn |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match i32_at(message.payload, 0).unwrap_or(0) {
                            0.. => Ok(dump),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => dump.rows.extend(decode(message.kind, message.payload)),
                }
            }
        }
    }

    fn exchange(&mut self, mut batch: Batch) -> Vec<Answer> {
        let count = batch.sequences.len();
        if count == 0 {
            return Vec::new();
        }
        batch.ask_for_acknowledgement();
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(count, || None);
        let outcome = self.send(&batch.bytes).and_then(|()| self.collect(&batch, &mut answers));
        let lost = outcome.err();
        if lost.is_some() {
            self.socket = None;
        }
        let missing = || match &lost {
            None => Ok(Vec::new()),
            Some(cause) => Err(again(cause).into()),
        };
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    fn collect(&mut self, batch: &Batch, answers: &mut [Option<Answer>]) -> io::Result<()> {
        let (first, last) = (batch.sequences[0], batch.sequences[batch.sequences.len() - 1]);
        loop {
            let length = self.receive()?;
            for message in Messages(&self.receive[..length]) {
                let Some(slot) = answers.get_mut(message.sequence.wrapping_sub(first) as usize) else { continue };
                let closes = i32::from(message.kind) == libc::NLMSG_ERROR;
                match refusal(&message) {
                    Some(refusal) => *slot = Some(Err(refusal)),
                    None if closes => {}
                    None => *slot = Some(Ok(message.payload.to_vec())),
                }
                if closes && message.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open(&self.namespace)?,
        };
        let socket = self.socket.insert(socket);
        loop {
            match send(std::os::fd::AsRawFd::as_raw_fd(socket), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            match recv(std::os::fd::AsRawFd::as_raw_fd(socket), &mut self.receive, MsgFlags::MSG_TRUNC) {
                Ok(length) if length > self.receive.len() => return Err(io::ErrorKind::InvalidData.into()),
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

struct Dump<T> {
    rows: Vec<T>,
    torn: bool,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    sequences: Vec<u32>,
    last_at: usize,
}

impl Batch {
    fn is_full(&self, more: usize) -> bool {
        self.sequences.len() >= BATCH_MESSAGES || self.bytes.len() + more > BATCH_BYTES
    }

    fn push(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>, sequence: u32) {
        self.last_at = self.bytes.len();
        self.bytes.resize(self.last_at + padded(message.buffer_len()), 0);
        message.serialize(&mut self.bytes[self.last_at..]);
        self.sequences.push(sequence);
    }

    fn ask_for_acknowledgement(&mut self) {
        let flags = self.last_at + 6..self.last_at + 8;
        let asked = u16_at(&self.bytes, flags.start).unwrap_or(NLM_F_REQUEST) | NLM_F_ACK;
        self.bytes[flags].copy_from_slice(&asked.to_ne_bytes());
    }
}

fn is_question(message: &RouteNetlinkMessage) -> bool {
    use RouteNetlinkMessage::{GetAddress, GetLink, GetNeighbour, GetRoute, GetRule};
    matches!(message, GetAddress(_) | GetLink(_) | GetNeighbour(_) | GetRoute(_) | GetRule(_))
}

/// Opens a socket for requests in a namespace.
fn open(namespace: &Namespace) -> io::Result<sys::Socket> {
    let socket = namespace.run(|| sys::Socket::new(sys::protocols::NETLINK_ROUTE)).map_err(io::Error::other)??;
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0))?;
    // Without CAP_NET_ADMIN in the initial user namespace the default must do; answers are small.
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    Ok(socket)
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    message
}

fn again(cause: &io::Error) -> io::Error {
    cause.raw_os_error().map_or_else(|| cause.kind().into(), io::Error::from_raw_os_error)
}

/// One message as it was received.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    sequence: u32,
    /// The netlink port of whoever caused it, in notifications; the kernel's own is 0.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one receive.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let length = u32_at(self.0, 0)? as usize;
        let received = Received {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            port: u32_at(self.0, 12)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some(received)
    }
}

/// The refusal in an NLMSG_ERROR message. Its payload is the code, the header of the request, and attributes.
fn refusal(message: &Received<'_>) -> Option<Refusal> {
    const TEXT: u16 = 1;
    let code = i32_at(message.payload, 0)?;
    if i32::from(message.kind) != libc::NLMSG_ERROR || code >= 0 {
        return None;
    }
    let mut attributes = Attributes(message.payload.get(4 + HEADER..).unwrap_or_default());
    let text = attributes.find(|(kind, _)| *kind == TEXT).map(|(_, value)| text(value));
    Some(Refusal { cause: io::Error::from_raw_os_error(-code), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to the request with this sequence number: code, header of the request, the kernel's words.
    fn error(sequence: u32, code: i32, words: &str) -> Vec<u8> {
        let mut payload = code.to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        if !words.is_empty() {
            let length = u16::try_from(words.len() + 5).unwrap();
            payload.extend(length.to_ne_bytes());
            payload.extend(1_u16.to_ne_bytes());
            payload.extend(words.bytes());
            payload.resize(padded(payload.len() + 1), 0);
        }
        let mut message = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(2_u16.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(payload);
        message
    }

    #[test]
    fn refusals_have_the_errno_and_the_kernels_words() {
        let bytes = error(5, -17, "A VXLAN device with the specified VNI already exists");
        let message = Messages(&bytes).next().unwrap();

        let refusal = refusal(&message).unwrap();

        assert_eq!(message.sequence, 5);
        assert_eq!(refusal.errno(), Errno::EEXIST);
        assert_eq!(refusal.text.as_deref(), Some("A VXLAN device with the specified VNI already exists"));
    }

    #[test]
    fn an_acknowledgement_is_no_refusal() {
        let bytes = error(5, 0, "");

        assert!(refusal(&Messages(&bytes).next().unwrap()).is_none());
    }

    #[test]
    fn several_messages_of_one_receive_are_told_apart_and_a_torn_one_is_left_out() {
        let mut bytes = [error(1, -2, ""), error(2, 0, "word"), error(3, -1, "")].concat();
        bytes.truncate(bytes.len() - 4);

        let sequences: Vec<u32> = Messages(&bytes).map(|message| message.sequence).collect();

        assert_eq!(sequences, [1, 2]);
    }

    #[test]
    fn refusals_in_the_middle_of_a_batch_belong_to_their_requests_and_the_channel_stays_in_step() {
        let made = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            Namespace::current().unwrap()
        };
        let mut channel = Channel::new(std::thread::spawn(made).join().unwrap());
        let find = |index| super::super::encode::link::LinkRequest::indexed(index).find();

        // Loopback is 1; the others are not there. More than one send, and an answer to every other request.
        let answers = channel.transact((0..600).map(|n| find(if n % 2 == 0 { 1 } else { 999 })).collect());
        let after = channel.ask(find(1));

        assert_eq!(answers.len(), 600);
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_ok(), number % 2 == 0, "{number}: {answer:?}");
        }
        assert!(answers[0].as_ref().is_ok_and(|payload| !payload.is_empty()) && after.is_ok());
    }

    #[test]
    fn an_answer_that_nobody_waited_for_is_not_taken_for_that_of_a_later_request() {
        let made = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            Namespace::current().unwrap()
        };
        let mut channel = Channel::new(std::thread::spawn(made).join().unwrap());
        let find = |index| super::super::encode::link::LinkRequest::indexed(index).find();
        let abandoned = encode(find(1).message, NLM_F_REQUEST | NLM_F_ACK, 77_777);
        let mut bytes = vec![0; abandoned.buffer_len()];
        abandoned.serialize(&mut bytes);
        channel.send(&bytes).unwrap();

        let refused = channel.ask(find(999)).unwrap_err();

        assert_eq!(refused.errno(), Errno::ENODEV);
        assert!(channel.ask(find(1)).is_ok());
    }
}
