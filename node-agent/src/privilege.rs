//! Which of root's privileges this process lacks for what an agent does.
//!
//! What a sandboxed agent needs besides (CAP_SYS_CHROOT, CAP_SYS_PTRACE) is said where it is missed.

use std::fs;

/// Bit in a capability set, and name: capabilities(7).
const NEEDED: [(u32, &str); 4] = [
    // Devices, rows, routes, rules of the firewall.
    (12, "CAP_NET_ADMIN"),
    // Entering and making network namespaces, mounting.
    (21, "CAP_SYS_ADMIN"),
    // Announcing addresses that moved.
    (13, "CAP_NET_RAW"),
    // Answering names at port 53.
    (10, "CAP_NET_BIND_SERVICE"),
];

/// The needed capabilities that this process does not have; all when that cannot be read.
pub(crate) fn missing() -> Vec<&'static str> {
    missing_of(&fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The names of all that are needed.
pub(crate) fn needed() -> impl Iterator<Item = &'static str> {
    NEEDED.into_iter().map(|(_, name)| name)
}

fn missing_of(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    NEEDED.into_iter().filter(|(bit, _)| mask & (1 << bit) == 0).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing_of("Name:\tweft\nCapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(missing_of("CapEff:\t0000000000203400\n"), Vec::<&str>::new());
        assert_eq!(missing_of("CapEff:\t0000000000201400\n"), ["CAP_NET_RAW"]);
        assert_eq!(missing_of("CapEff:\t0000000000000000\n").len(), NEEDED.len());
        assert_eq!(missing_of("").len(), NEEDED.len());
    }
}
