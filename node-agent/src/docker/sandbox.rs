//! The namespace of a Docker container, as far as Docker says where it is.

use std::{net::IpAddr, os::fd::AsFd, path::Path};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nameindex},
    sys::statfs::fstatfs,
};
use weft_overlay::id::IfName;

use crate::{agent::attach::NodeFacts, netns::Namespace};

/// NSFS_MAGIC of linux/magic.h: before Docker mounts the namespace there, a plain file is in its place.
const NSFS: i64 = 0x6e73_6673;

/// A container's namespace with what tells it from others: device and inode number.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    pub(super) namespace: Namespace,
    pub(super) dev: u64,
    pub(super) inode: u64,
}

impl Inside {
    /// The namespace at a path, if there is one already that is neither the host's nor the data plane's.
    pub(super) fn open(path: &Path, facts: &NodeFacts) -> Option<Self> {
        let namespace = Namespace::open(path).ok()?;
        if fstatfs(namespace.as_fd()).ok()?.filesystem_type().0 != NSFS {
            return None;
        }
        let identity = namespace.identity().ok()?;
        let reserved = [&facts.host, &facts.data_plane];
        if reserved.iter().any(|known| known.identity().is_ok_and(|known| known == identity)) {
            return None;
        }
        let (dev, inode) = identity;
        Some(Self { namespace, dev, inode })
    }

    /// The interface that has an address and is up: Docker is done with it then.
    pub(super) fn interface_with(&self, ip: IpAddr) -> Option<IfName> {
        let find = || {
            let mut entries = getifaddrs().ok()?;
            let entry = entries.find(|entry| {
                let address = entry.address.as_ref();
                let v4 = address.and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::V4(a.ip()));
                let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::V6(a.ip()));
                v4.or(v6) == Some(ip) && entry.flags.contains(InterfaceFlags::IFF_UP)
            })?;
            entry.interface_name.parse().ok()
        };
        self.namespace.run(find).ok().flatten()
    }

    /// The first free name of weft0, weft1, ...: Docker counts its own interfaces by itself.
    pub(super) fn free_ifname(&self) -> Option<IfName> {
        let taken = self.namespace.run(|| {
            let index = if_nameindex().ok()?;
            Some(index.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect::<Vec<_>>())
        });
        let taken = taken.ok().flatten()?;
        let mut numbered = (0..=taken.len()).map(|number| format!("weft{number}"));
        numbered.find(|name| !taken.contains(name))?.parse().ok()
    }
}
