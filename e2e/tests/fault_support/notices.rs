//! Every change that the kernel announces in one namespace: links, rows, addresses, routes, rules, nftables.
//!
//! The socket listens from the moment it is opened, so that nothing is missed and nothing has to be waited for. Numbers
//! are those of linux/rtnetlink.h and linux/netfilter/nfnetlink.h.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use weft_e2e::netns::NetnsName;

/// RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE and the group of IPv6 rules.
const DEVICES_AND_ROUTES: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x4_0000;
/// RTMGRP_NEIGH, which carries forwarding rows too.
const ROWS: u32 = 0x4;
/// The group NFNLGRP_NFTABLES.
const NFTABLES: u32 = 1 << 6;
/// A second of everything that a test can cause.
const RECEIVE_BUFFER: usize = 16 << 20;
const RTM_NEWLINK: u16 = 16;
const AF_BRIDGE: u8 = 7;
/// NFNL_SUBSYS_NFTABLES.
const NFTABLES_SUBSYSTEM: u16 = 10;

/// One announced change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// RTM_* or, from nftables, the subsystem and NFT_MSG_*.
    kind: u16,
    /// Of the namespace it was heard in.
    netns: String,
    /// The message after its header.
    body: Vec<u8>,
}

impl Notice {
    /// Whether nftables announced it.
    pub(crate) fn is_nftables(&self) -> bool {
        self.kind >> 8 == NFTABLES_SUBSYSTEM
    }

    /// A bridge announces each of its ports once more when the forward delay of 15 s has passed, although nothing has
    /// changed (br_forward_delay_timer_expired in the kernel's br_stp_timer.c).
    fn is_forward_delay_over(&self) -> bool {
        self.kind == RTM_NEWLINK && self.body.first() == Some(&AF_BRIDGE)
    }

    /// The interface number, which links, addresses and rows have in the same place.
    fn ifindex(&self) -> Option<i32> {
        let bytes = self.body.get(4..8)?.first_chunk()?;
        (!self.is_nftables()).then_some(i32::from_ne_bytes(*bytes))
    }

    /// Of a row: the bytes of an attribute.
    fn attribute(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.body.get(12..)?;
        loop {
            let (length, kind) = (rest.first_chunk()?, rest.get(2..4)?.first_chunk()?);
            let (length, kind) = (usize::from(u16::from_ne_bytes(*length)), u16::from_ne_bytes(*kind));
            let content = rest.get(4..length)?;
            if kind == wanted {
                return Some(content);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    /// Of a row: its Ethernet address (NDA_LLADDR), as text.
    pub(crate) fn mac(&self) -> Option<String> {
        let is_row = matches!(self.kind, 28 | 29);
        let bytes = self.attribute(2).filter(|_| is_row)?;
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            16 => "NEWLINK",
            17 => "DELLINK",
            20 => "NEWADDR",
            21 => "DELADDR",
            24 => "NEWROUTE",
            25 => "DELROUTE",
            28 => "NEWNEIGH",
            29 => "DELNEIGH",
            32 => "NEWRULE",
            33 => "DELRULE",
            _ => "",
        };
        write!(formatter, "{}: {name} ({:#x})", self.netns, self.kind)?;
        if let Some(ifindex) = self.ifindex() {
            write!(formatter, " interface {ifindex}")?;
        }
        if let Some(mac) = self.mac() {
            write!(formatter, " mac {mac}")?;
        }
        write!(formatter, " {:02x?}", &self.body[..self.body.len().min(32)])
    }
}

/// Listens to what changes in one namespace.
#[derive(Debug)]
pub(crate) struct Listener {
    sockets: [OwnedFd; 2],
    netns: String,
}

impl Listener {
    /// Listens to everything: for a data plane's namespace, in which nothing changes by itself.
    pub(crate) fn to_everything(netns: &NetnsName) -> Self {
        Self::open(netns, DEVICES_AND_ROUTES | ROWS)
    }

    /// Listens to everything but rows: for a host's namespace, whose neighbours come and go.
    pub(crate) fn to_all_but_rows(netns: &NetnsName) -> Self {
        Self::open(netns, DEVICES_AND_ROUTES)
    }

    fn open(netns: &NetnsName, groups: u32) -> Self {
        let sockets = netns
            .enter(|| {
                [subscribe(SockProtocol::NetlinkRoute, groups), subscribe(SockProtocol::NetlinkNetFilter, NFTABLES)]
            })
            .unwrap();
        Self { sockets, netns: netns.to_string() }
    }

    /// What was announced since it was opened, or since the last call. Settings of bridge ports are not told apart from
    /// the end of a forward delay and left out; the agent's count of writes has them.
    ///
    /// # Panics
    /// When announcements were lost.
    pub(crate) fn heard(&self) -> Vec<Notice> {
        let all = self.sockets.iter().flat_map(|socket| drain(socket, &self.netns));
        all.filter(|notice| !notice.is_forward_delay_over()).collect()
    }

    /// Asserts that nothing was announced.
    #[track_caller]
    pub(crate) fn assert_silent(&self, what: &str) {
        let heard: Vec<_> = self.heard().iter().map(ToString::to_string).collect();
        assert!(heard.is_empty(), "{what}: {} changes in {}:\n{}", heard.len(), self.netns, heard.join("\n"));
    }
}

fn subscribe(protocol: SockProtocol, groups: u32) -> OwnedFd {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).unwrap();
    socket
}

fn drain(socket: &OwnedFd, netns: &str) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => notices.extend(messages(&buffer[..length], netns)),
            Err(Errno::EAGAIN) => return notices,
            Err(errno) => panic!("listening to changes in {netns}: {errno}"),
        }
    }
}

/// Takes a datagram apart: struct nlmsghdr is length, type, flags, sequence, port; messages are padded to 4 bytes.
fn messages(mut datagram: &[u8], netns: &str) -> Vec<Notice> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (datagram.first_chunk(), datagram.get(4..6).and_then(|b| b.first_chunk())) {
        let length = usize::try_from(u32::from_ne_bytes(*length)).expect("32 bits fit");
        let Some(body) = datagram.get(16..length) else { break };
        found.push(Notice { kind: u16::from_ne_bytes(*kind), netns: netns.to_owned(), body: body.to_vec() });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
