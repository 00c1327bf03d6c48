//! What must be there before anything is made: privilege, programs, the `weft` binary, free names.

use std::env;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::{EtcdMembers, LabError, LabOptions};
use crate::topology::Topology;

/// Programs that the lab runs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("bridge", "iproute2"), ("nft", "nftables"), ("setsid", "util-linux")];
/// And in a lab with etcd.
const ETCD: (&str, &str) = ("etcd", "etcd-server");

/// What a Docker engine needs beside.
const DOCKER_PROGRAMS: [(&str, &str); 4] =
    [("dockerd", "docker.io"), ("iptables", "iptables"), ("busybox", "busybox-static"), ("findmnt", "util-linux")];

/// Refuses to start when anything is missing; returns the `weft` binary if agents are wanted.
pub(super) fn check_requirements(options: &LabOptions) -> Result<Option<PathBuf>, LabError> {
    options.check()?;
    if !geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    if options.require_isolation && env::var_os("WEFT_LAB_ISOLATED").is_none() {
        return Err(LabError::NotIsolated);
    }
    let etcd = (options.etcd_members != EtcdMembers::None).then_some(ETCD);
    let docker = if options.docker { &DOCKER_PROGRAMS[..] } else { &[] };
    for (program, package) in PROGRAMS.into_iter().chain(etcd).chain(docker.iter().copied()) {
        if find_in_path(program).is_none() {
            return Err(LabError::MissingProgram { program, package });
        }
    }
    options.agents.then(|| find_weft(options.weft.as_deref())).transpose()
}

/// Refuses to touch a namespace that somebody else made.
pub(super) fn check_names_free(topology: &Topology) -> Result<(), LabError> {
    let own = topology.namespaces().into_iter().flatten();
    let mut needed = own.map(|spec| spec.name).chain(topology.data_plane_namespaces());
    match needed.find(|netns| netns.exists()) {
        Some(netns) => Err(LabError::NamespaceInTheWay { netns }),
        None => Ok(()),
    }
}

fn find_weft(asked_for: Option<&Path>) -> Result<PathBuf, LabError> {
    let named = asked_for.map(Path::to_owned).or_else(|| env::var_os("WEFT_BIN").map(PathBuf::from));
    if let Some(tried) = named {
        return match tried.canonicalize() {
            Ok(path) if path.is_file() => Ok(path),
            _ => Err(LabError::NoWeftAt { tried }),
        };
    }
    beside_this_program("weft").or_else(|| find_in_path("weft")).ok_or(LabError::NoWeft)
}

/// Cargo puts test programs one folder below the binaries.
fn beside_this_program(name: &str) -> Option<PathBuf> {
    let this = env::current_exe().ok()?;
    this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
