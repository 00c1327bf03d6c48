//! Comparison with committed texts; `BLESS=1` rewrites them.

use std::{env, fs, path::PathBuf};

/// The directory of the texts.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Panics unless the text is as committed.
pub(crate) fn compare(name: &str, actual: &str) {
    let path = directory().join(format!("{name}.txt"));
    if env::var_os("BLESS").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; BLESS=1 writes it", path.display()));
    assert_eq!(actual, expected, "{} differs; BLESS=1 rewrites it", path.display());
}
