//! Virtual hosts from network namespaces, for playing, testing and measuring.
//!
//! [`Lab::up`] makes hosts `h1..hN`, their underlay, a NAT uplink each, etcd, the controller and
//! one agent per host, all from the real `weft` binary; dropping the [`Lab`] takes everything down.
//! Tests act through [`Lab`] and [`Host`], wait with [`eventually()`], measure with [`traffic`] and
//! compare with [`dump`]. The `weft-lab` program is a thin shell around the same calls.
//!
//! Nothing here knows how Weft works inside: it runs the binary and reads the kernel and etcd.

mod agent_socket;
pub mod bench;
pub mod cluster;
pub mod command;
pub mod dump;
mod eventually;
mod http;
mod lab;
pub mod netns;
pub mod probe;
pub mod process;
pub mod scenario;
pub mod socket;
pub mod topology;
pub mod traffic;
pub mod vm;

pub use agent_socket::AgentSocket;
pub use command::CommandOutput;
pub use eventually::{NotInTime, eventually, wait_until};
pub use lab::{
    Container, ContainerSpec, DOCKER_IMAGE, Devices, ETCD_MEMBERS_VARIABLE, Endpoint, EtcdMembers, Host, Lab, LabError,
    LabOptions, LabStatus, Network, Refusal, SharedLab, StatusRow,
};
