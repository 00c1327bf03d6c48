//! The help of every command, compared with the committed text.

use std::{collections::BTreeSet, fs};

use crate::{golden, outcome, run, weft};

#[test]
fn help_of_every_command_is_as_committed() {
    let mut names = BTreeSet::new();
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let help = help(&path);
        let name = format!("help{}", path.iter().map(|word| format!("-{word}")).collect::<String>());
        golden::compare(&name, &help);
        names.insert(name);
        paths.extend(subcommands(&help).map(|word| [path.clone(), vec![word]].concat()));
    }

    assert_eq!(names, committed(), "texts of commands that do not exist, or the reverse");
}

#[test]
fn help_can_be_asked_for_in_three_ways() {
    let long = help(&["network".to_owned(), "create".to_owned()]);

    assert_eq!(run(["help", "network", "create"]).1, long);
    assert_eq!(run(["network", "help", "create"]).1, long);
    let (code, short, _) = run(["network", "create", "-h"]);
    assert!(code == 0 && short.len() < long.len() && short.contains("--ip-range <CIDR>"), "{short}");
}

#[test]
fn a_bare_command_shows_help_and_is_a_usage_error() {
    for args in [vec![], vec!["network"], vec!["endpoint"], vec!["node"]] {
        let (code, stdout, stderr) = run(&args);

        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(stderr.contains("Commands:\n"), "{stderr}");
    }
}

#[test]
fn values_of_the_environment_do_not_show_in_help() {
    let output = weft(["agent", "--help"]).env("WEFT_ETCD", "http://secret:1").output().unwrap();

    let (code, stdout, _) = outcome(output);
    assert_eq!(code, 0);
    assert!(stdout.contains("[env: WEFT_ETCD]") && !stdout.contains("secret"), "{stdout}");
}

fn help(path: &[String]) -> String {
    let (code, stdout, stderr) = run(path.iter().map(String::as_str).chain(["--help"]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{path:?}");
    stdout
}

/// The words under "Commands:", without `help`, which only repeats the others.
fn subcommands(help: &str) -> impl Iterator<Item = String> {
    let block = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = block.lines().take_while(|line| line.starts_with("  "));
    let words: Vec<String> = lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    words.into_iter().filter(|word| word != "help")
}

fn committed() -> BTreeSet<String> {
    let files = fs::read_dir(golden::directory()).unwrap().map(|entry| entry.unwrap().path());
    let names = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("help")).collect()
}
