//! What can be said against a request without looking at the store.
//!
//! The rules, their order and their words are etcd's (`checkTxnRequest` and `checkIntervals` of its key service), since
//! clients were written against them.

use std::collections::BTreeSet;

use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};
use prost::Message;

use crate::{limits, refusal::Refusal};

pub(crate) fn check_range(request: &PbRangeRequest) -> Result<(), Refusal> {
    some_key(&request.key)
}

pub(crate) fn check_put(request: &PbPutRequest) -> Result<(), Refusal> {
    some_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub(crate) fn check_delete(request: &PbDeleteRequest) -> Result<(), Refusal> {
    some_key(&request.key)
}

pub(crate) fn check_txn(request: &PbTxnRequest) -> Result<(), Refusal> {
    check_operations(request, limits::TXN_OPERATIONS)?;
    check_intervals(&request.success)?;
    check_intervals(&request.failure)?;
    Ok(())
}

/// Whether a request is of a size that etcd takes.
pub(crate) fn check_size(request: &impl Message) -> Result<(), Refusal> {
    if request.encoded_len() > limits::REQUEST_BYTES { Err(Refusal::TooLarge) } else { Ok(()) }
}

/// Whether a transaction may write, whatever its comparisons say.
pub(crate) fn writes(request: &PbTxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|operation| match &operation.request {
        Some(PbTxnOpRequest::RequestPut(_) | PbTxnOpRequest::RequestDeleteRange(_)) => true,
        Some(PbTxnOpRequest::RequestTxn(nested)) => writes(nested),
        Some(PbTxnOpRequest::RequestRange(_)) | None => false,
    })
}

fn some_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// Each level of nesting may have as many operations as the levels above have left over.
fn check_operations(request: &PbTxnRequest, room: usize) -> Result<(), Refusal> {
    let operations = request.compare.len().max(request.success.len()).max(request.failure.len());
    let room = room.checked_sub(operations).ok_or(Refusal::TooManyOps)?;
    request.compare.iter().try_for_each(|compare| some_key(&compare.key))?;
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(PbTxnOpRequest::RequestRange(range)) => check_range(range)?,
            Some(PbTxnOpRequest::RequestPut(put)) => check_put(put)?,
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(PbTxnOpRequest::RequestTxn(nested)) => check_operations(nested, room)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a list of operations sets, and the ranges that it deletes.
#[derive(Debug, Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Written<'a> {
    fn deletes(&self, key: &[u8]) -> bool {
        // The end of a range is taken literally here, even that of a single zero byte, as etcd does.
        self.deletes.iter().any(|(start, end)| if end.is_empty() { *start == key } else { *start <= key && key < *end })
    }

    fn put(&mut self, key: &'a [u8]) -> Result<(), Refusal> {
        if self.deletes(key) || !self.puts.insert(key) { Err(Refusal::DuplicateKey) } else { Ok(()) }
    }
}

/// No key may be written twice by one transaction; only the two branches of a nested one may write the same.
fn check_intervals(operations: &[PbTxnRequestOp]) -> Result<Written<'_>, Refusal> {
    let mut written = Written::default();
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestDeleteRange(delete)) = &operation.request {
            written.deletes.push((&delete.key, &delete.range_end));
        }
    }
    for operation in operations {
        let Some(PbTxnOpRequest::RequestTxn(nested)) = &operation.request else { continue };
        let then = check_intervals(&nested.success)?;
        let or_else = check_intervals(&nested.failure)?;
        then.puts.iter().try_for_each(|key| written.put(key))?;
        for key in &or_else.puts {
            if written.deletes(key) || (written.puts.contains(key) && !then.puts.contains(key)) {
                return Err(Refusal::DuplicateKey);
            }
            written.puts.insert(key);
        }
        // Last: what one branch deletes, the other one may put.
        written.deletes.extend(then.deletes.iter().chain(&or_else.deletes));
    }
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &operation.request {
            written.put(&put.key)?;
        }
    }
    Ok(written)
}
