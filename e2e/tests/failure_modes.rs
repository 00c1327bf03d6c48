//! What earlier overlays got wrong, by the numbers under which ARCHITECTURE.md lists it: B1 to B25.
//!
//! Those of the store (B4, B5, B9) are with the store's faults, that of nodes given up (B13) with the controller's.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "fault_support/entry.rs"]
mod fault_support;

#[path = "failure_modes/allocation.rs"]
mod allocation;
#[path = "failure_modes/devices.rs"]
mod devices;
#[path = "failure_modes/firewall.rs"]
mod firewall;
#[path = "failure_modes/identity.rs"]
mod identity;
#[path = "failure_modes/leftovers.rs"]
mod leftovers;
#[path = "failure_modes/memory.rs"]
mod memory;
#[path = "failure_modes/path.rs"]
mod path;
#[path = "failure_modes/reuse.rs"]
mod reuse;
