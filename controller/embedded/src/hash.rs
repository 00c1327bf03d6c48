//! What `HashKV` answers: equal for two stores exactly if they hold the same versions, and equal to etcd 3.4's.
//!
//! etcd reckons it over the bytes of its file: the key of a row is the revision, its value the message of the version.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    checksum::Crc32c,
    mvcc::{Mvcc, Revision, Span, Version},
    refusal::Refusal,
};

/// The checksum up to `revision`, or up to `current` if that is 0.
pub(crate) fn of(mvcc: &Mvcc, current: Revision, revision: Revision) -> Result<u32, Refusal> {
    if revision > current {
        return Err(Refusal::FutureRevision);
    }
    if revision > 0 && revision <= mvcc.compacted {
        return Err(Refusal::Compacted);
    }
    let upto = if revision == 0 { current } else { revision };
    let everything = Span::new(&[0], &[0]);
    // etcd skips what is compacted by looking it up among what is to be kept, but not if that is nothing.
    let nothing_there = mvcc.span(&everything, upto).next().is_none();
    let mut rows = BTreeMap::new();
    for version in mvcc.versions().filter(|version| version.modified <= upto) {
        // What was compacted counts as long as it is the state.
        let state = || mvcc.at(&version.key, upto).is_some_and(|live| std::sync::Arc::ptr_eq(live, version));
        let kept = version.modified > mvcc.compacted || state();
        if kept || (nothing_there && !version.is_deletion()) {
            rows.insert((version.modified, version.sub), version);
        }
    }
    let mut sum = Crc32c::default();
    sum.write(b"key");
    for version in rows.values() {
        sum.write(&row_key(version));
        sum.write(&version.message().encode_to_vec());
    }
    Ok(sum.finish())
}

fn row_key(version: &Version) -> Vec<u8> {
    let mut key = version.modified.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend(version.sub.to_be_bytes());
    if version.is_deletion() {
        key.push(b't');
    }
    key
}
