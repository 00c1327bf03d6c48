//! What an error of the client means for what was asked.
//!
//! The rule: an outcome is definite only where etcd said so in a way that cannot come from anywhere else. Everything
//! that a transport, a proxy or a dying member may say leaves it open.

use std::error::Error as _;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use super::endpoints::Asked;
use crate::store::StoreError;

/// What an error means.
pub(super) fn interpret(endpoint: String, error: &Error, asked: Asked) -> StoreError {
    match error {
        Error::GRpcStatus(status) => interpret_status(endpoint, status, asked),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) | Error::InvalidMetadataValue(_) => {
            StoreError::Refused { reason: error.to_string() }
        }
        other => StoreError::Unavailable { endpoint, reason: other.to_string() },
    }
}

fn interpret_status(endpoint: String, status: &Status, asked: Asked) -> StoreError {
    let says = |text| status.message().contains(text);
    let reason = || describe(status);
    match status.code() {
        Code::OutOfRange if says("has been compacted") => StoreError::Compacted { revision: asked.revision },
        Code::NotFound if says("lease not found") => StoreError::LeaseNotFound { lease: asked.lease },
        Code::ResourceExhausted if says("space exceeded") => StoreError::ReadOnly { endpoint, reason: reason() },
        // A member that lags behind the one that was asked before.
        Code::OutOfRange if says("future revision") => StoreError::Unavailable { endpoint, reason: reason() },
        Code::ResourceExhausted if says("too many requests") => StoreError::Unavailable { endpoint, reason: reason() },
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => StoreError::Refused { reason: reason() },
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => StoreError::Unavailable { endpoint, reason: reason() },
    }
}

/// Whether the request may have reached the server: it has not where no connection came about.
pub(super) fn was_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return true };
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return false;
        }
        cause = error.source();
    }
    true
}

/// Whether keeping a lease alive failed because it has ended.
pub(super) fn is_dead_lease(error: &Error) -> bool {
    matches!(error, Error::LeaseKeepAliveError(reason) if reason == "lease not found")
}

/// The message with its innermost cause, which names the address or the certificate.
pub(super) fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(code: Code, message: &str) -> StoreError {
        let error = Error::GRpcStatus(Status::new(code, message));
        interpret("http://a:1".to_owned(), &error, Asked { revision: 7, lease: 9 })
    }

    #[test]
    fn answers_that_leave_the_outcome_open_are_unavailable() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::DeadlineExceeded, ""),
            (Code::Unknown, "transport error"),
            (Code::Cancelled, "h2 protocol error"),
            (Code::Internal, "stream closed"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        ] {
            let error = meaning(code, message);

            assert!(matches!(error, StoreError::Unavailable { .. }), "{code:?} {message}: {error}");
            assert!(error.is_transient());
        }
    }

    #[test]
    fn definite_refusals_are_told_apart() {
        let compacted = meaning(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        let lease = meaning(Code::NotFound, "etcdserver: requested lease not found");
        let space = meaning(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        let denied = meaning(Code::PermissionDenied, "etcdserver: permission denied");

        assert!(matches!(compacted, StoreError::Compacted { revision: 7 }), "{compacted}");
        assert!(matches!(lease, StoreError::LeaseNotFound { lease: 9 }), "{lease}");
        assert!(matches!(space, StoreError::ReadOnly { .. }), "{space}");
        assert!(matches!(denied, StoreError::Refused { .. }), "{denied}");
    }

    #[test]
    fn a_status_without_a_connection_error_counts_as_sent() {
        assert!(was_sent(&Error::GRpcStatus(Status::unavailable("connection refused"))));
        assert!(was_sent(&Error::WatchError("x".to_owned())));
    }
}
