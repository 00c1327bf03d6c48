//! Identifiers and small value types, made only by parsing or from entropy that the caller supplies.
//!
//! Also the only place that computes names of kernel objects: every device of Weft is named after the id of what it
//! serves, within the kernel's 15 bytes. Must not know what the identified things contain.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a text is not the identifier or value that it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// A hexadecimal id of the wrong length or alphabet.
    #[error("{kind} id {text:?} is not {digits} lower-case hexadecimal digits")]
    Hex {
        /// What the id names.
        kind: &'static str,
        /// The number of digits that were expected.
        digits: usize,
        /// The offending text, shortened.
        text: String,
    },
    /// A name that could not be a DNS label or a file name.
    #[error(
        "name {text:?} is not valid: {reason}; use 1 to 63 letters, digits, '_', '.' or '-', beginning with a letter or digit"
    )]
    Name {
        /// The offending text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An interface name that the kernel would refuse.
    #[error("interface name {text:?} is not valid: {reason}; use 1 to 15 bytes without '/', ':' or white space")]
    IfName {
        /// The offending text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A VNI outside 1 to 16,777,215.
    #[error("VNI {0:?} is not a number from 1 to 16777215")]
    Vni(String),
    /// A malformed, group or zero MAC address.
    #[error("MAC address {0:?} is not a unicast address of six hexadecimal bytes such as 02:42:0a:20:00:05")]
    Mac(String),
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head}…")
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Makes an id from random bits; the surplus ones are ignored.
            pub fn from_entropy(bits: u64) -> Self {
                Self(bits & ((1 << ($digits * 4)) - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", stringify!($digits), "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let plain = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let wrong = || ParseIdError::Hex { kind: $kind, digits: $digits, text: shorten(text) };
                if text.len() != $digits || !plain {
                    return Err(wrong());
                }
                u64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
            }
        }

        text_serde!($name);
    };
}

hex_id!(
    /// A network, for ever: never reused, unlike its name.
    NetworkId, "network", 10
);
hex_id!(
    /// A node: random, kept in its state directory, independent of host name and machine id.
    NodeId, "node", 10
);
hex_id!(
    /// One attachment of one container to one network; also the idempotency token of its creation.
    EndpointId, "endpoint", 12
);

impl NetworkId {
    /// The bridge, in the data plane's namespace.
    pub fn bridge_name(self) -> IfName {
        IfName(format!("wb-{self}"))
    }

    /// The VXLAN device, in the data plane's namespace.
    pub fn vxlan_name(self) -> IfName {
        IfName(format!("wx-{self}"))
    }

    /// The bridge end of the gateway leg, in the data plane's namespace.
    pub fn leg_port_name(self) -> IfName {
        IfName(format!("wl-{self}"))
    }

    /// The host end of the gateway leg, in the host's namespace.
    pub fn leg_name(self) -> IfName {
        IfName(format!("weft-{self}"))
    }
}

impl EndpointId {
    /// The bridge end of the container's veth, in the data plane's namespace.
    pub fn port_name(self) -> IfName {
        IfName(format!("wp-{self}"))
    }
}

/// A network's, node's, container's or alias's name: at most 63 bytes, so that it is one DNS label or a few.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = |reason| ParseIdError::Name { text: shorten(text), reason };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.len() > 63 {
            return Err(wrong("it is longer than 63 bytes"));
        }
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(wrong("it begins with something else"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return Err(wrong("it contains another character"));
        }
        if text.contains("..") {
            return Err(wrong("it contains '..'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

text_serde!(Name);

/// A network interface's name as `dev_valid_name` of the kernel allows it: 1 to 15 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = |reason| ParseIdError::IfName { text: shorten(text), reason };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.len() > 15 {
            return Err(wrong("it is longer than 15 bytes"));
        }
        if text == "." || text == ".." {
            return Err(wrong("it is a directory"));
        }
        if text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
            return Err(wrong("it contains '/', ':', white space or a control character"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

text_serde!(IfName);

/// A VXLAN network identifier, 1 to 16,777,215 (RFC 7348: 24 bits; 0 is kept out of use).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The lowest VNI that the cluster chooses by itself; Swarm numbers its own from 4096 upward.
    pub const FIRST_CHOSEN: u32 = 65_536;

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// A VNI chosen by random bits, from [`Self::FIRST_CHOSEN`] upward.
    pub fn from_entropy(bits: u32) -> Self {
        Self(Self::FIRST_CHOSEN + bits % (0x00ff_ffff - Self::FIRST_CHOSEN))
    }
}

impl TryFrom<u32> for Vni {
    type Error = ParseIdError;

    fn try_from(number: u32) -> Result<Self, ParseIdError> {
        if (1..=0x00ff_ffff).contains(&number) { Ok(Self(number)) } else { Err(ParseIdError::Vni(number.to_string())) }
    }
}

impl FromStr for Vni {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let number = text.parse::<u32>().map_err(|_| ParseIdError::Vni(shorten(text)))?;
        Self::try_from(number)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Vni {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(u32::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The six bytes.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address derived from an IP address: `02:42` and the last four bytes.
    ///
    /// A reused address then never meets a stale ARP entry with another MAC. The prefix is the one that container
    /// engines have used for the same purpose, locally administered.
    pub fn derived_from(address: IpAddr) -> Self {
        let tail = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                [o[12], o[13], o[14], o[15]]
            }
        };
        Self([0x02, 0x42, tail[0], tail[1], tail[2], tail[3]])
    }

    /// A locally administered address for a device of a network on one node, from its id and the device's role.
    pub fn for_device(network: NetworkId, node: NodeId, role: u8) -> Self {
        // FNV-1a: only spread is needed, and the result must be the same on every start.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in network.0.to_be_bytes().into_iter().chain(node.0.to_be_bytes()).chain([role]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let h = hash.to_be_bytes();
        Self([0x02, 0x57, h[1] ^ h[0], h[2], h[3], h[4] ^ h[5] ^ h[6] ^ h[7]])
    }
}

impl TryFrom<[u8; 6]> for Mac {
    type Error = ParseIdError;

    fn try_from(octets: [u8; 6]) -> Result<Self, ParseIdError> {
        let mac = Self(octets);
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(ParseIdError::Mac(mac.to_string()));
        }
        Ok(mac)
    }
}

impl FromStr for Mac {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let wrong = || ParseIdError::Mac(shorten(text));
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = u8::from_str_radix(part.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Self::try_from(octets).map_err(|_| wrong())
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_serde!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_path_or_a_dns_label_are_refused() {
        for bad in ["", "a/b", "..", "a..b", "a\0b", "-a", ".a", "a b", "ä", &"x".repeat(64), &"x".repeat(300)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
        }
        for good in ["ct1", "web-1", "a.b_c", "9", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_refused_name_is_shown_shortened() {
        let message = "x".repeat(300).parse::<Name>().unwrap_err().to_string();

        assert!(message.len() < 300, "{message}");
        assert!(message.contains("longer than 63 bytes"), "{message}");
    }

    #[test]
    fn device_names_fit_the_kernel() {
        let network = NetworkId::from_entropy(u64::MAX);
        let endpoint = EndpointId::from_entropy(u64::MAX);

        for name in [
            network.bridge_name(),
            network.vxlan_name(),
            network.leg_port_name(),
            network.leg_name(),
            endpoint.port_name(),
        ] {
            assert_eq!(name.as_str().parse::<IfName>().unwrap(), name);
        }
    }

    #[test]
    fn macs_parse_strictly_and_round_trip() {
        for bad in ["", "02:42", "02:42:0a:20:00:5", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02-42-0a-20-00-05"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} was accepted");
        }
        let mac = Mac::derived_from("10.32.0.5".parse().unwrap());

        assert_eq!(mac.to_string(), "02:42:0a:20:00:05");
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
    }

    #[test]
    fn ids_are_fixed_width_lower_case_hexadecimal() {
        assert_eq!(NetworkId::from_entropy(0xab).to_string(), "00000000ab");
        for bad in ["", "ab", "00000000AB", "00000000ag", "00000000ab0"] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn vnis_are_24_bits_without_zero() {
        for bad in ["0", "16777216", "-1", "x", ""] {
            assert!(bad.parse::<Vni>().is_err(), "{bad:?} was accepted");
        }
        assert!(Vni::from_entropy(u32::MAX).get() <= 0x00ff_ffff);
        assert!(Vni::from_entropy(0).get() >= Vni::FIRST_CHOSEN);
    }
}
