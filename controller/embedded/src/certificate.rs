//! The common name in a certificate that was already verified. Reads the few fields of X.509 (RFC 5280, section 4.1)
//! that stand before it, and nothing else.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The context tag of the version, the only optional field before the subject.
const VERSION: u8 = 0xa0;
/// 2.5.4.3, id-at-commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// UTF8String, PrintableString and IA5String, whose bytes are UTF-8.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The last common name of a certificate's subject, if there is one.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, mut names, _) = element(rest)? else { return None };
    let mut found = None;
    while !names.is_empty() {
        let (SET, mut attributes, after) = element(names)? else { return None };
        names = after;
        while !attributes.is_empty() {
            let (SEQUENCE, attribute, after) = element(attributes)? else { return None };
            attributes = after;
            found = name_of(attribute).or(found);
        }
    }
    found
}

fn name_of(attribute: &[u8]) -> Option<String> {
    let (OBJECT_IDENTIFIER, COMMON_NAME, value) = element(attribute)? else { return None };
    let (tag, text, _) = element(value)?;
    TEXTS.contains(&tag).then(|| String::from_utf8(text.to_vec()).ok())?
}

/// The first element of DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let mut bytes = vec![tag, 0x82];
        bytes.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend(content);
        bytes
    }

    fn certificate(subject: &[&[u8]]) -> Vec<u8> {
        let fields: Vec<Vec<u8>> = [VERSION, 0x02, SEQUENCE, SEQUENCE, SEQUENCE].map(|tag| der(tag, &[b"x"])).to_vec();
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        der(SEQUENCE, &[&der(SEQUENCE, &[&fields.concat(), &der(SEQUENCE, subject)])])
    }

    fn attribute(oid: &[u8], tag: u8, text: &str) -> Vec<u8> {
        der(SET, &[&der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[oid]), &der(tag, &[text.as_bytes()])])])
    }

    #[test]
    fn the_last_common_name_counts() {
        let organisation = attribute(&[0x55, 0x04, 0x0a], 0x0c, "weft");
        let names = [attribute(COMMON_NAME, 0x0c, "h1"), attribute(COMMON_NAME, 0x13, "h2")];

        assert_eq!(common_name(&certificate(&[&organisation, &names[0]])), Some("h1".to_owned()));
        assert_eq!(common_name(&certificate(&[&names[0], &names[1]])), Some("h2".to_owned()));
        assert_eq!(common_name(&certificate(&[&organisation])), None);
    }

    #[test]
    fn damaged_certificates_have_no_name_and_no_effect() {
        let good = certificate(&[&attribute(COMMON_NAME, 0x0c, "h1")]);

        for length in 0..good.len() {
            assert_eq!(common_name(&good[..length]), None, "cut at {length}");
        }
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] = 0xff;
            drop(common_name(&bad));
        }
    }
}
