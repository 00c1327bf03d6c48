//! The addresses of a network as its specification draws them: layout of blocks, reserved addresses, the IPv6 side.
//!
//! Pure; made once per specification. A specification that makes no sense is refused here, not somewhere deep inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use weft_ipam::{
    BlockLayout, DualStack, IpRange, ReservedAddresses, Subnet, SubnetError, block::BlockError,
    dual_stack::DualStackError, reserved::ReservedError, static_address::StaticRefusal, subnet::range::IpRangeError,
};
use weft_overlay::{
    id::Name,
    model::{NetworkSpec, SubnetSpec},
};

/// Why a stored specification cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ShapeError {
    /// There is no subnet.
    #[error("network {0} has no subnet; its record is damaged")]
    NoSubnet(Name),
    /// A subnet that is none.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// A range that is not inside its subnet.
    #[error(transparent)]
    Range(#[from] IpRangeError),
    /// Blocks that do not fit.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A gateway that cannot be one.
    #[error(transparent)]
    Reserved(#[from] ReservedError),
    /// Two subnets that do not go together.
    #[error(transparent)]
    DualStack(#[from] DualStackError),
}

/// What a network's specification says about addresses.
#[derive(Debug, Clone)]
pub struct AddressShape {
    /// How the primary subnet is cut into blocks.
    pub layout: BlockLayout,
    /// Addresses of the primary subnet that no endpoint may have.
    pub reserved: ReservedAddresses,
    /// The other family's side of a network that has both.
    pub second: Option<SecondFamily>,
}

/// The IPv6 side of a network whose addresses are chosen as IPv4.
#[derive(Debug, Clone)]
pub struct SecondFamily {
    /// Which IPv6 address goes with an IPv4 address.
    pub pair: DualStack,
    /// Addresses of the IPv6 subnet that no endpoint may have.
    pub reserved: ReservedAddresses,
}

impl AddressShape {
    /// Reads a specification.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn of(spec: &NetworkSpec) -> Result<Self, ShapeError> {
        let primary = spec.primary().ok_or_else(|| ShapeError::NoSubnet(spec.name.clone()))?;
        let (subnet, mut reserved) = parts(primary)?;
        let range = primary.ip_range.map(|range| IpRange::new(subnet, range)).transpose()?;
        let layout = BlockLayout::new(subnet, range, primary.block_len)?;
        let second = match (spec.subnet4(), spec.subnet6()) {
            (Some(_), Some(v6)) => {
                let (v6, v6_reserved) = parts(v6)?;
                let pair = DualStack::new(subnet, v6)?;
                reserved = reserved.with_counterparts(&pair, &v6_reserved);
                Some(SecondFamily { pair, reserved: v6_reserved })
            }
            _ => None,
        };
        Ok(Self { layout, reserved, second })
    }

    /// The IPv6 address that an endpoint of a dual-stack network has beside its IPv4 address.
    ///
    /// # Errors
    /// When the one asked for is outside the subnet or reserved.
    pub fn second_address(&self, primary: IpAddr, asked: Option<Ipv6Addr>) -> Result<Option<Ipv6Addr>, StaticRefusal> {
        let (Some(second), IpAddr::V4(v4)) = (&self.second, primary) else { return Ok(None) };
        let subnet = second.pair.v6();
        let Some(asked) = asked else {
            return Ok(second.pair.embed(v4).ok());
        };
        let ip = IpAddr::V6(asked);
        if !subnet.contains(ip) {
            return Err(StaticRefusal::OutsideSubnet { ip, subnet });
        }
        match second.reserved.reason(ip) {
            Some(reason) => Err(StaticRefusal::Reserved { ip, reason, subnet }),
            None => Ok(Some(asked)),
        }
    }

    /// The IPv4 address whose own IPv6 address `v6` would be: as good as taken while another endpoint has `v6`.
    pub fn counterpart(&self, v6: Ipv6Addr) -> Option<Ipv4Addr> {
        self.second.as_ref()?.pair.counterpart(IpAddr::V6(v6))
    }
}

fn parts(spec: &SubnetSpec) -> Result<(Subnet, ReservedAddresses), ShapeError> {
    let subnet = Subnet::new(spec.subnet)?;
    Ok((subnet, ReservedAddresses::new(subnet, &[spec.gateway], &spec.auxiliary)?))
}
