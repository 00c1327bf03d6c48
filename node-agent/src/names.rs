//! Names: what the containers of this node are told when they ask for one another.
//!
//! [`table`] holds what the agent's own view knows, [`answer`] decides from it without any I/O, [`server`] is the thin
//! edge with the sockets, [`upstream`] asks the host's resolvers what is not ours, and [`resolver_file`] points a
//! named network namespace at all this.
//!
//! Nothing in here expires: a name is forgotten only when the caller removes it. A peer that has lost the store for a
//! while, or a store that is away, therefore never wipes a name; whether a record is gone is decided elsewhere, from
//! explicit deletions.

pub mod answer;
pub mod resolver_file;
mod reverse;
pub mod server;
mod stream;
pub mod table;
pub mod upstream;
mod wire;

pub use answer::{Asker, Transport, Verdict};
pub use resolver_file::{NetnsName, ResolverFileError, ResolverOptions};
pub use server::{ListenError, NameServer, ServerOptions};
pub use table::NameTable;
pub use upstream::{Upstream, UpstreamError};
