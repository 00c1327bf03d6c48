//! The version of this binary.

use serde::Serialize;

use super::Page;

/// What `weft version` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Version {
    name: &'static str,
    version: &'static str,
}

impl Version {
    /// The version of this binary.
    pub(crate) const THIS: Self = Self { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };
}

impl Page for Version {
    fn page(&self) -> String {
        format!("{} {}\n", self.name, self.version)
    }
}
