//! What refusals mean: which of them are successes, and what to tell people about the others.
//!
//! Pure. The only place that knows errno values of the kernel's configuration interfaces.

use std::io;

use nix::errno::Errno;
use weft_overlay::kernel::{Step, StepError};

use super::netlink::{Answer, Refusal};

/// What is missing already need not be deleted: no such row or rule, no such route, no such device or address.
pub(crate) fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::ENXIO | Errno::EADDRNOTAVAIL)
}

/// The outcome of a deletion.
pub(crate) fn deleted(answer: Answer) -> Result<(), Refusal> {
    match answer {
        Err(refusal) if !is_missing(refusal.errno()) => Err(refusal),
        _ => Ok(()),
    }
}

/// The outcome of an addition that is as good when it had been made before.
pub(crate) fn added(answer: Answer) -> Result<(), Refusal> {
    match answer {
        Err(refusal) if refusal.errno() != Errno::EEXIST => Err(refusal),
        _ => Ok(()),
    }
}

/// What a step was doing, as people say it.
pub(crate) fn action(step: &Step) -> String {
    match step {
        Step::Create(id, object) => format!("creating {id} ({object})"),
        Step::Replace { id, desired, .. } => format!("changing {id} to: {desired}"),
        Step::Delete(id, _) => format!("deleting {id}"),
    }
}

/// An error with the kernel's own words and, where it can be guessed, the remedy.
pub(crate) fn step_error(action: &str, refusal: Refusal) -> StepError {
    let hint = hint(refusal.errno(), refusal.text.as_deref().unwrap_or_default());
    let said = refusal.text.map(|text| format!(": the kernel says {text:?}")).unwrap_or_default();
    StepError { action: format!("{action}{said}"), hint, cause: refusal.cause }
}

/// An error of a file below /proc or of a namespace.
pub(crate) fn io_error(action: &str, cause: io::Error) -> StepError {
    step_error(action, cause.into())
}

/// A step that must not be carried out, because what it would touch is not ours.
pub(crate) fn foreign(step: &Step, what: &str) -> StepError {
    StepError {
        action: format!("{}: in the way is a {what}", action(step)),
        hint: Some("it is not Weft's and is left alone; rename or remove it"),
        cause: Errno::EEXIST.into(),
    }
}

fn hint(errno: Errno, text: &str) -> Option<&'static str> {
    match errno {
        Errno::EPERM | Errno::EACCES => Some("the agent needs CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root"),
        Errno::EROFS => Some("/proc/sys is read-only: run the agent without ProtectKernelTunables"),
        Errno::EADDRINUSE => Some(
            "another program or a VXLAN device with other options holds the UDP port; stop it or choose another with --vxlan-port",
        ),
        Errno::EEXIST if text.contains("VNI") => Some(
            "another VXLAN device on this host uses the VNI on the same UDP port; remove it or choose another with --vni or --vxlan-port",
        ),
        Errno::EXFULL => {
            Some("a bridge has at most 1023 ports: put no more than 1021 containers of a network on one node")
        }
        Errno::EOPNOTSUPP => Some("the kernel lacks the feature: load the modules bridge, veth and vxlan"),
        Errno::EAFNOSUPPORT => Some("IPv6 is switched off in the kernel: boot without ipv6.disable=1"),
        Errno::ENOBUFS | Errno::ENOMEM => Some("the kernel is short of memory"),
        _ if text.contains("IPv6 is disabled") => Some("set disable_ipv6=0 for the device"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(errno: Errno, text: &str) -> Refusal {
        Refusal { cause: errno.into(), text: Some(text.to_owned()) }
    }

    #[test]
    fn missing_is_success_of_deleting_only() {
        for errno in [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL] {
            assert!(deleted(Err(refusal(errno, ""))).is_ok());
            assert!(added(Err(refusal(errno, ""))).is_err());
        }
    }

    #[test]
    fn existing_is_success_of_adding_only() {
        assert!(added(Err(refusal(Errno::EEXIST, ""))).is_ok());
        assert!(deleted(Err(refusal(Errno::EEXIST, ""))).is_err());
    }

    #[test]
    fn the_kernels_words_and_the_remedy_are_part_of_the_error() {
        let said = "A VXLAN device with the specified VNI already exists";

        let error = step_error("creating vxlan wx-00000000ab", refusal(Errno::EEXIST, said));

        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("--vni"), "{error}");
        assert_eq!(error.cause.raw_os_error(), Some(Errno::EEXIST as i32));
    }
}
