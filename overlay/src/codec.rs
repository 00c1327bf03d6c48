//! Bytes: JSON records for the store, checked binary frames for files and messages between our own processes.
//!
//! The only place that names `bincode`: it is positional and frozen, so its frames never leave this cluster's processes,
//! carry a version byte and a checksum, and can be replaced by changing this file.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::model::RECORD_VERSION;

/// Why bytes are not what they should be.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not JSON, or not of the record's shape.
    #[error("value is not a valid record")]
    Record(#[source] serde_json::Error),
    /// A record of a later major version.
    #[error("record version {found} is newer than {RECORD_VERSION}, the newest that this program reads")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A frame that is shorter than its own header.
    #[error("frame of {0} bytes is cut short")]
    Short(usize),
    /// A frame in another version of the format.
    #[error("frame version {0} is unknown")]
    FrameVersion(u8),
    /// A frame whose checksum does not fit.
    #[error("frame is damaged: its checksum does not fit")]
    Checksum,
    /// A frame whose content does not fit the type.
    #[error("frame content does not fit")]
    Frame(#[source] bincode::error::DecodeError),
}

/// The JSON of a record.
pub fn encode_record<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys and finite numbers only")
}

/// Reads a record.
///
/// # Errors
/// When it is malformed, or of a major version that this program does not know. The caller keeps the last good value
/// and never takes this for a deletion.
pub fn decode_record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_slice(bytes).map_err(DecodeError::Record)?;
    if v > RECORD_VERSION {
        return Err(DecodeError::Newer { found: v });
    }
    serde_json::from_slice(bytes).map_err(DecodeError::Record)
}

const FRAME_VERSION: u8 = 1;
/// Version byte, then the CRC-32 of the content, little-endian.
const FRAME_HEADER: usize = 5;

/// A checked binary frame.
pub fn encode_frame<T: Serialize>(content: &T) -> Vec<u8> {
    let body = bincode::serde::encode_to_vec(content, bincode::config::standard())
        .expect("journal types have sizes known up front");
    let mut frame = Vec::with_capacity(FRAME_HEADER + body.len());
    frame.push(FRAME_VERSION);
    frame.extend(crc32fast::hash(&body).to_le_bytes());
    frame.extend(body);
    frame
}

/// Reads a frame made by [`encode_frame`].
///
/// # Errors
/// When it is cut short, damaged, of another version, or of another type.
pub fn decode_frame<T: DeserializeOwned>(frame: &[u8]) -> Result<T, DecodeError> {
    let short = || DecodeError::Short(frame.len());
    let (header, body) = frame.split_at_checked(FRAME_HEADER).ok_or_else(short)?;
    let (version, checksum) = header.split_first().ok_or_else(short)?;
    if *version != FRAME_VERSION {
        return Err(DecodeError::FrameVersion(*version));
    }
    if crc32fast::hash(body).to_le_bytes() != checksum {
        return Err(DecodeError::Checksum);
    }
    bincode::serde::decode_from_slice(body, bincode::config::standard())
        .map(|(content, _)| content)
        .map_err(DecodeError::Frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{BlockRecord, BlockState, FenceRecord};

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let stored = br#"{"v":1,"epoch":3,"state":"active","added_later":{"a":[1]}}"#;

        let mut fence: FenceRecord = decode_record(stored).unwrap();
        fence.epoch = 4;
        let rewritten: serde_json::Value = serde_json::from_slice(&encode_record(&fence)).unwrap();

        assert_eq!(rewritten["added_later"]["a"][0], 1);
        assert_eq!(rewritten["epoch"], 4);
    }

    #[test]
    fn a_newer_major_version_is_told_from_damage() {
        let newer = decode_record::<FenceRecord>(br#"{"v":2,"state":{"new":"shape"}}"#).unwrap_err();
        let damaged = decode_record::<FenceRecord>(b"{\"v\":1,").unwrap_err();

        assert!(matches!(newer, DecodeError::Newer { found: 2 }), "{newer}");
        assert!(matches!(damaged, DecodeError::Record(_)), "{damaged}");
    }

    #[test]
    fn records_read_as_documented() {
        let block = BlockRecord {
            v: 1,
            node: "00000000cd".parse().unwrap(),
            epoch: 1,
            len: 28,
            st: BlockState::Owned,
            extra: BTreeMap::new(),
        };

        let text = String::from_utf8(encode_record(&block)).unwrap();

        assert_eq!(text, r#"{"v":1,"node":"00000000cd","epoch":1,"len":28,"st":"owned"}"#);
    }

    proptest! {
        #[test]
        fn frames_round_trip(content in any::<(u64, String, Vec<u8>)>()) {
            let frame = encode_frame(&content);

            prop_assert_eq!(decode_frame::<(u64, String, Vec<u8>)>(&frame).unwrap(), content);
        }

        #[test]
        fn any_single_changed_byte_is_noticed(content in any::<(u64, String)>(), at in any::<prop::sample::Index>(), by in 1u8..) {
            let mut frame = encode_frame(&content);
            let at = at.index(frame.len());
            frame[at] = frame[at].wrapping_add(by);

            prop_assert!(decode_frame::<(u64, String)>(&frame).is_err());
        }
    }

    use std::collections::BTreeMap;
}
