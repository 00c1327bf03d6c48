//! Why a container was not connected or disconnected, in words for the user.

use thiserror::Error;
use weft_overlay::id::{IfName, Name, ParseIdError};

use crate::{
    agent::{followers::FollowError, handle::ShuttingDown},
    api::messages::ErrorClass,
    container::ContainerError,
    control::{
        allocation::{AllocationError, CommitError},
        membership::MembershipError,
        submit::SubmitError,
    },
    netns::NetnsError,
};

/// Why a container was not connected.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No such container, or not one.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its namespace cannot be looked into.
    #[error("looking into the container")]
    Namespace(#[from] NetnsError),
    /// No such network.
    #[error("network {0} does not exist; `weft network ls` lists them, `weft network create {0}` makes it")]
    UnknownNetwork(Name),
    /// It is on its way out.
    #[error("network {0} is being deleted; use another network")]
    Deleting(Name),
    /// It is connected already.
    #[error("container {container} is connected to network {network} already, as {endpoint}; disconnect it first")]
    Connected {
        /// The container.
        container: String,
        /// The network.
        network: Name,
        /// Its endpoint there.
        endpoint: String,
    },
    /// The interface's name is taken.
    #[error("container {container} has an interface {ifname} already; choose another name with --ifname")]
    IfNameTaken {
        /// The container.
        container: String,
        /// The interface.
        ifname: IfName,
    },
    /// The container's name cannot be an endpoint's.
    #[error("container {container} needs a name for its endpoint; give one with --name")]
    Name {
        /// The container.
        container: String,
        /// Why its own is none.
        #[source]
        cause: ParseIdError,
    },
    /// More names or ports than anybody needs.
    #[error("{count} {what} are asked for one endpoint; give at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// Port 0 is none.
    #[error("port 0 cannot be published; choose one from 1 to 65535")]
    PortZero,
    /// Another endpoint of this node uses the port.
    #[error("port {port} of this host is published by endpoint {by} already; choose another with --publish")]
    PortTaken {
        /// The host's port.
        port: u16,
        /// Who has it.
        by: Name,
    },
    /// No address.
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    /// Not registered.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// This node could not join the network.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The store could not be read.
    #[error("reading the store")]
    Store(#[from] SubmitError),
    /// The network could not be listed.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// Every address that was tried was taken by somebody else first.
    #[error("network {network}: {attempts} addresses in turn were taken by others at the same moment; try again")]
    Contended {
        /// The network.
        network: Name,
        /// How many.
        attempts: usize,
    },
    /// The kernel refused something; it was undone.
    #[error("container {container} was not connected, because the kernel refused: {}", failures.join("; "))]
    NotBuilt {
        /// The container.
        container: String,
        /// What it refused.
        failures: Vec<String>,
    },
    /// The agent is shutting down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
}

impl ConnectError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Container(ContainerError::Malformed { .. } | ContainerError::Reserved { .. })
            | Self::Name { .. }
            | Self::TooMany { .. }
            | Self::PortZero => ErrorClass::Invalid,
            Self::Container(_) | Self::UnknownNetwork(_) => ErrorClass::NotFound,
            Self::Connected { .. }
            | Self::IfNameTaken { .. }
            | Self::Deleting(_)
            | Self::PortTaken { .. }
            | Self::Contended { .. } => ErrorClass::Conflict,
            Self::Allocation(error) => allocation_class(error),
            Self::Membership(error) => membership_class(error),
            Self::Commit(CommitError::Standing(_) | CommitError::Store { .. })
            | Self::Store(_)
            | Self::Follow(_)
            | Self::ShuttingDown(_) => ErrorClass::Unavailable,
            Self::Commit(_) => ErrorClass::Conflict,
            Self::Namespace(_) | Self::NotBuilt { .. } => ErrorClass::Internal,
        }
    }
}

fn allocation_class(error: &AllocationError) -> ErrorClass {
    match error {
        AllocationError::Standing(_) | AllocationError::Store(_) => ErrorClass::Unavailable,
        AllocationError::NoSuchFamily { .. } | AllocationError::Static(_) | AllocationError::Shape(_) => {
            ErrorClass::Invalid
        }
        AllocationError::NetworkDeleting(_)
        | AllocationError::NetworkChanged(_)
        | AllocationError::Taken { .. }
        | AllocationError::Busy(_)
        | AllocationError::Exhausted(_) => ErrorClass::Conflict,
    }
}

fn membership_class(error: &MembershipError) -> ErrorClass {
    match error {
        MembershipError::Address { source, .. } => allocation_class(source),
        MembershipError::NetworkGone(_) => ErrorClass::Conflict,
        MembershipError::Leg { .. }
        | MembershipError::Release { .. }
        | MembershipError::Standing(_)
        | MembershipError::Store(_) => ErrorClass::Unavailable,
    }
}

/// Why a container was not disconnected.
#[derive(Debug, Error)]
pub enum DisconnectError {
    /// Not a container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// No such network.
    #[error("network {0} does not exist; `weft network ls` lists them")]
    UnknownNetwork(Name),
    /// It is not connected.
    #[error(
        "container {container} is not connected to network {network} on this node; `weft endpoint ls` shows what is"
    )]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: Name,
    },
    /// The agent is shutting down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
}

impl DisconnectError {
    /// What kind of failure it is.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Container(_) => ErrorClass::Invalid,
            Self::UnknownNetwork(_) | Self::NotConnected { .. } => ErrorClass::NotFound,
            Self::ShuttingDown(_) => ErrorClass::Unavailable,
        }
    }
}
