//! Which features the running kernel has, found by trying them in a namespace that is thrown away.

use std::{io, net::IpAddr, thread};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::TimeVal,
    },
};
use rtnetlink::sys;
use std::os::fd::AsRawFd;
use weft_overlay::id::Vni;

use crate::{
    kernel::{
        encode::link::LinkRequest,
        netlink::{Channel, Messages, Request},
    },
    netns::Namespace,
};

/// What the kernel can do. Each is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Bridges (module `bridge`).
    pub bridge: Result<(), String>,
    /// VXLAN devices (module `vxlan`).
    pub vxlan: Result<(), String>,
    /// Pairs of virtual Ethernet devices (module `veth`).
    pub veth: Result<(), String>,
    /// Bridge ports that answer ARP and ND from the neighbour table (Linux 4.15).
    pub neighbour_suppression: Result<(), String>,
    /// nftables (module `nf_tables`).
    pub nftables: Result<(), String>,
}

/// Tries the features out. Loads the modules that the kernel loads by itself on first use.
///
/// # Errors
/// When no namespace can be made, which needs CAP_SYS_ADMIN.
pub fn check_features() -> io::Result<Features> {
    let try_all = || -> io::Result<Features> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let namespace = Namespace::current().map_err(io::Error::other)?;
        Ok(attempt(&mut Channel::new(namespace)))
    };
    thread::scope(|scope| scope.spawn(try_all).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn attempt(channel: &mut Channel) -> Features {
    let local = IpAddr::from([127, 0, 0, 1]);
    let vni = Vni::from_entropy(0);
    // The port is one of the throw-away namespace.
    let vxlan = LinkRequest::named("wx").vxlan(vni, local, 4789).create();
    Features {
        bridge: ask(channel, LinkRequest::named("wb").bridge().create()),
        vxlan: ask(channel, vxlan),
        veth: ask(channel, LinkRequest::named("w1").veth(LinkRequest::named("w2")).create()),
        neighbour_suppression: suppress(channel),
        nftables: ask_nftables().map_err(|cause| cause.to_string()),
    }
}

fn suppress(channel: &mut Channel) -> Result<(), String> {
    let found = channel.ask(LinkRequest::named("wb").find()).map_err(|refusal| refusal.cause.to_string())?;
    let bridge = crate::kernel::decode::link::Link::decode(&found).map(|link| link.index).unwrap_or_default();
    ask(channel, LinkRequest::named("wx").master(bridge).change())?;
    ask(channel, LinkRequest::named("wx").port_flags(true).change())
}

fn ask(channel: &mut Channel, request: Request) -> Result<(), String> {
    let said = |refusal: crate::kernel::netlink::Refusal| {
        let text = refusal.text.map(|text| format!(": {text}")).unwrap_or_default();
        format!("{}{text}", refusal.cause)
    };
    channel.ask(request).map(drop).map_err(said)
}

/// Asks for the generation of the rules, the smallest question there is.
fn ask_nftables() -> io::Result<()> {
    const GET_GENERATION: u16 = 10 << 8 | 16;
    const LENGTH: u32 = 20;
    let mut socket = sys::Socket::new(sys::protocols::NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
    let request: u16 = libc::NLM_F_REQUEST.try_into().map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(GET_GENERATION.to_ne_bytes());
    message.extend(request.to_ne_bytes());
    // Sequence and port number, then `struct nfgenmsg`: family, version, resource.
    message.extend([0; 12]);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = vec![0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let refused = Messages(&answer[..length]).find_map(|message| {
        let code = crate::kernel::decode::attribute::i32_at(message.payload, 0)?;
        (i32::from(message.kind) == libc::NLMSG_ERROR && code < 0).then(|| io::Error::from_raw_os_error(-code))
    });
    refused.map_or(Ok(()), Err)
}
