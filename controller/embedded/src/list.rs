//! The answer to a list as it goes over the wire, encoded piece by piece while it is sent.
//!
//! A list of everything is tens of megabytes. It is never in memory as a whole: a piece is made when the client has room
//! for it, so that the client reads the first while later ones are made, and one that reads slowly keeps no more than
//! references to what the index holds. Must not decide what is listed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use etcd_client::proto::PbRangeResponse;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::{Message, length_delimiter_len};

use crate::mvcc::Version;

/// Bytes of a piece, unless one key and its value are more. Four frames of HTTP/2, of the size that clients take.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes that gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Numbers of fields: `kvs` of `RangeResponse`, and those of `KeyValue`.
const KVS: u8 = 2;
const KEY: u8 = 1;
const CREATE_REVISION: u8 = 2;
const MOD_REVISION: u8 = 3;
const VERSION: u8 = 4;
const VALUE: u8 = 5;
const LEASE: u8 = 6;

/// A list that is to be sent. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct List(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    versions: Vec<Arc<Version>>,
    keys_only: bool,
    /// What comes before the keys: the prefix and the header.
    head: Vec<u8>,
    /// What comes after them.
    tail: Vec<u8>,
    /// Bytes of everything, the prefix included.
    length: usize,
}

impl List {
    /// The list that `frame`, which has no keys, says the rest of; `None` when it is longer than a message can be.
    pub(crate) fn new(frame: PbRangeResponse, versions: Vec<Arc<Version>>, keys_only: bool) -> Option<Self> {
        let header = PbRangeResponse { header: frame.header, ..PbRangeResponse::default() }.encode_to_vec();
        let tail = PbRangeResponse { header: None, ..frame }.encode_to_vec();
        let keys: usize = versions.iter().map(|version| field_length(Entry::new(version, keys_only).length())).sum();
        let message = header.len() + keys + tail.len();
        let mut head = vec![0];
        head.extend(u32::try_from(message).ok()?.to_be_bytes());
        head.extend(header);
        Some(Self(Arc::new(Parts { versions, keys_only, head, tail, length: PREFIX_BYTES + message })))
    }

    pub(crate) fn pieces(self) -> Pieces {
        Pieces { left: self.0.length, list: self, next: 0, stage: Stage::Head }
    }
}

/// The body of the response that carries a list.
#[derive(Debug)]
pub(crate) struct Pieces {
    list: List,
    /// The first key that was not encoded.
    next: usize,
    /// Bytes that were not encoded.
    left: usize,
    stage: Stage,
}

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Keys,
    Trailers,
    Nothing,
}

impl Pieces {
    fn piece(&mut self) -> Bytes {
        let parts = &self.list.0;
        let mut piece = BytesMut::with_capacity(self.left.min(PIECE_BYTES));
        if self.stage == Stage::Head {
            piece.put_slice(&parts.head);
            self.stage = Stage::Keys;
        }
        loop {
            let Some(version) = parts.versions.get(self.next) else {
                piece.put_slice(&parts.tail);
                self.stage = Stage::Trailers;
                break;
            };
            let entry = Entry::new(version, parts.keys_only);
            let length = entry.length();
            if !piece.is_empty() && piece.len() + field_length(length) > PIECE_BYTES {
                break;
            }
            entry.put(length, &mut piece);
            self.next += 1;
        }
        self.left -= piece.len();
        debug_assert!(self.stage == Stage::Keys || self.left == 0, "the length was said before");
        piece.freeze()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let pieces = self.get_mut();
        let frame = match pieces.stage {
            Stage::Head | Stage::Keys => Frame::data(pieces.piece()),
            Stage::Trailers => {
                pieces.stage = Stage::Nothing;
                Frame::trailers(HeaderMap::from_iter([(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"))]))
            }
            Stage::Nothing => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Nothing
    }
}

/// A `KeyValue` that is not made: its fields are encoded from where they are.
struct Entry<'a> {
    version: &'a Version,
    value: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(version: &'a Version, keys_only: bool) -> Self {
        let value = version.value.as_deref().filter(|_| !keys_only).unwrap_or_default();
        Self { version, value }
    }

    /// Bytes without the number and the length before it.
    fn length(&self) -> usize {
        let Version { created, modified, version, lease, .. } = self.version;
        let numbers: usize = [created, modified, version, lease].into_iter().map(|number| number_length(*number)).sum();
        bytes_length(&self.version.key) + numbers + bytes_length(self.value)
    }

    fn put(&self, length: usize, piece: &mut BytesMut) {
        piece.put_u8(KVS << 3 | 2);
        put_varint(length as u64, piece);
        put_bytes(KEY, &self.version.key, piece);
        put_number(CREATE_REVISION, self.version.created, piece);
        put_number(MOD_REVISION, self.version.modified, piece);
        put_number(VERSION, self.version.version, piece);
        put_bytes(VALUE, self.value, piece);
        put_number(LEASE, self.version.lease, piece);
    }
}

/// Bytes of a field that has a length, with its number.
fn field_length(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

fn bytes_length(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { field_length(bytes.len()) }
}

fn number_length(number: i64) -> usize {
    let bits = 64 - number.leading_zeros() as usize;
    if number == 0 { 0 } else { 1 + bits.div_ceil(7) }
}

fn put_bytes(field: u8, bytes: &[u8], piece: &mut BytesMut) {
    if !bytes.is_empty() {
        piece.put_u8(field << 3 | 2);
        put_varint(bytes.len() as u64, piece);
        piece.put_slice(bytes);
    }
}

fn put_number(field: u8, number: i64, piece: &mut BytesMut) {
    if number != 0 {
        piece.put_u8(field << 3);
        put_varint(number.cast_unsigned(), piece);
    }
}

fn put_varint(mut number: u64, piece: &mut BytesMut) {
    while number >= 0x80 {
        piece.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    piece.put_u8(number.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbResponseHeader;

    use super::*;

    fn version(key: &[u8], value: Vec<u8>, numbers: [i64; 4]) -> Arc<Version> {
        let [created, modified, version, lease] = numbers;
        let value = Some(value.into_boxed_slice());
        Arc::new(Version { key: key.into(), value, created, modified, sub: 0, version, lease })
    }

    fn sent(list: List) -> Vec<Bytes> {
        let mut pieces = list.pieces();
        let mut sent = Vec::new();
        while pieces.stage == Stage::Head || pieces.stage == Stage::Keys {
            sent.push(pieces.piece());
        }
        sent
    }

    /// What the generated code makes of the same list.
    fn expected(frame: &PbRangeResponse, versions: &[Arc<Version>], keys_only: bool) -> Vec<u8> {
        let kvs = versions.iter().map(|version| {
            let mut kv = version.message();
            if keys_only {
                kv.value = Vec::new();
            }
            kv
        });
        let message = PbRangeResponse { kvs: kvs.collect(), ..frame.clone() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), &message].concat()
    }

    #[test]
    fn a_list_is_sent_as_the_generated_code_would_encode_it() {
        let header = PbResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: 1 << 40, raft_term: 1 };
        let frame = PbRangeResponse { header: Some(header), kvs: Vec::new(), more: true, count: 300 };
        let mut versions = vec![
            version(b"a", Vec::new(), [1, 1, 1, 0]),
            version(&[0xff; 200], vec![7; 127], [127, 128, 16383, 16384]),
            version(b"c", vec![7; 128], [i64::MAX, i64::MAX, 2, -1]),
            version(b"large", vec![7; 3 * PIECE_BYTES], [3, 4, 5, i64::MIN]),
        ];
        versions.extend((0..300).map(|number| version(b"k", vec![7; number * 5], [2, 3, 4, 0])));
        for keys_only in [false, true] {
            for count in [0, 1, 2, 3, 4, versions.len()] {
                let versions = &versions[..count];

                let sent = sent(List::new(frame.clone(), versions.to_vec(), keys_only).unwrap());

                assert_eq!(sent.concat(), expected(&frame, versions, keys_only), "{count} keys, {keys_only}");
            }
        }
    }

    #[test]
    fn no_piece_is_long_unless_one_key_is() {
        let mut versions = vec![version(b"k", vec![7; 1000], [2, 3, 4, 0]); 1000];
        versions.insert(500, version(b"large", vec![7; 3 * PIECE_BYTES], [3, 4, 5, 6]));

        let sent = sent(List::new(PbRangeResponse::default(), versions, false).unwrap());

        let long: Vec<usize> = sent.iter().map(Bytes::len).filter(|length| *length > PIECE_BYTES).collect();
        assert_eq!(long.len(), 1, "{long:?}");
        assert!(sent.len() > 1_000_000 / PIECE_BYTES, "{}", sent.len());
    }

    #[test]
    fn an_empty_answer_is_one_piece() {
        let list = List::new(PbRangeResponse::default(), Vec::new(), false).unwrap();

        assert_eq!(sent(list), [Bytes::from_static(&[0; PREFIX_BYTES])]);
    }
}
