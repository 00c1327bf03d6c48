//! Plans as text. Each file of `golden/` is a script with what it prints: lines that begin with `$` are commands, with
//! `#` comments, the others are output. `BLESS=1` rewrites the output.

use std::{fmt::Write as _, path::Path};

use crate::{script, world::World};

#[test]
fn every_scenario_prints_its_golden_text() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pure/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());

    let differing: Vec<String> = files.iter().filter_map(|file| check(file)).collect();

    assert!(differing.is_empty(), "{}\n(BLESS=1 accepts this)", differing.join("\n"));
}

fn check(file: &Path) -> Option<String> {
    let golden = read(file);
    let printed = play(&golden);
    if printed == golden {
        return None;
    }
    if std::env::var_os("BLESS").is_some() {
        write(file, &printed);
        return None;
    }
    Some(format!("{}:\n{}", file.display(), first_difference(&golden, &printed)))
}

/// The same script with what it prints now.
fn play(golden: &str) -> String {
    let mut world = World::default();
    let mut printed = String::new();
    for line in golden.lines().filter(|line| line.is_empty() || line.starts_with(['#', '$'])) {
        writeln!(printed, "{line}").unwrap();
        if let Some(command) = line.strip_prefix("$ ") {
            printed.push_str(&script::run(&mut world, command));
        }
    }
    printed
}

fn first_difference(golden: &str, printed: &str) -> String {
    let at = golden.lines().zip(printed.lines()).take_while(|(a, b)| a == b).count();
    let shown = |text: &str| text.lines().skip(at).take(5).collect::<Vec<_>>().join("\n    ");
    format!("  line {}, expected\n    {}\n  but it printed\n    {}", at + 1, shown(golden), shown(printed))
}

#[expect(clippy::disallowed_methods, reason = "golden texts are files")]
fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "golden texts are files")]
fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}
