//! When an address first answers a container, timed to the millisecond.
//!
//! The kernel repeats an unanswered ARP request after a second, which would hide what is to be measured. So the prober
//! does the kernel's part itself, every millisecond: it asks for the address with ARP, and once that is answered it sends
//! echo requests, with the container's own MAC and address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::addresses_of;
use super::frame::{Direction, FramePort, SeenFrame};
use super::packet::{self, ArpParty, MacBytes};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(1);

/// A container that asks others for an answer.
#[derive(Debug)]
pub struct Asker {
    port: FramePort,
    own: ArpParty,
}

impl Asker {
    /// Prepares to ask from `interface` in namespace `netns`.
    ///
    /// # Errors
    /// When there is no such interface or it has no IPv4 address.
    pub fn open(netns: &str, interface: &str) -> Result<Self> {
        let port = FramePort::open(netns, interface)?;
        let mac = port.mac();
        let is_v4 = |address: IpAddr| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
        let ip = addresses_of(netns, interface)?.into_iter().find_map(is_v4);
        let ip = ip.with_context(|| format!("{interface} in {netns} has no IPv4 address"))?;
        Ok(Self { port, own: ArpParty { mac, ip } })
    }

    /// Asks `target` until it answers; when the answer came.
    ///
    /// # Errors
    /// When no answer came within `deadline`.
    pub fn first_reply(&self, target: Ipv4Addr, deadline: Duration) -> Result<Instant> {
        let question = Question { asker: self, target, mark: packet::new_mark(), mac: OnceLock::new() };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    question.put();
                    thread::sleep(INTERVAL);
                }
            });
            let answer = self.port.watch(deadline, |frame| question.is_answered_by(frame));
            let at = Instant::now();
            is_over.store(true, Ordering::Relaxed);
            let stage = if question.mac.get().is_some() { "an echo reply" } else { "an ARP reply" };
            answer?.with_context(|| format!("{stage} of {target} did not come within {} ms", deadline.as_millis()))?;
            Ok(at)
        })
    }
}

struct Question<'a> {
    asker: &'a Asker,
    target: Ipv4Addr,
    mark: u64,
    mac: OnceLock<MacBytes>,
}

impl Question<'_> {
    /// A frame that cannot be sent now is as good as lost: the next one follows.
    fn put(&self) {
        self.asker.port.send(&self.frame()).ok();
    }

    fn frame(&self) -> Vec<u8> {
        let own = self.asker.own;
        match self.mac.get() {
            Some(mac) => {
                let echo = packet::echo_request4(own.ip, self.target, self.mark);
                packet::ethernet(*mac, own.mac, packet::ETHERTYPE_IPV4, &echo)
            }
            None => {
                let target = ArpParty { mac: [0; 6], ip: self.target };
                let request = packet::arp(packet::ARP_REQUEST, own, target);
                packet::ethernet(packet::BROADCAST, own.mac, packet::ETHERTYPE_ARP, &request)
            }
        }
    }

    fn is_answered_by(&self, frame: &SeenFrame) -> bool {
        if frame.direction == Direction::Sent {
            return false;
        }
        let Some((ethertype, content)) = packet::parse_ethernet(&frame.bytes) else {
            return false;
        };
        if ethertype == packet::ETHERTYPE_ARP {
            let sender = packet::parse_arp_reply(content).filter(|sender| sender.ip == self.target);
            if let Some(sender) = sender
                && self.mac.set(sender.mac).is_ok()
            {
                self.put();
            }
            return false;
        }
        ethertype == packet::ETHERTYPE_IPV4 && packet::is_echo_reply4(content, self.target, self.mark)
    }
}
