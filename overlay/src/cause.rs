//! Errors as people read them: with everything that led to them.

use std::error::Error;

/// An error with all its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode_record;

    #[test]
    fn the_cause_follows_what_it_led_to() {
        let error = decode_record::<crate::model::FenceRecord>(b"{").unwrap_err();
        let cause = error.source().unwrap().to_string();

        assert_eq!(chain(&error), format!("{error}: {cause}"));
    }
}
