//! What is printed: a page for people or the reply itself as JSON.
//!
//! A reply is turned into text by [`Page`], which is pure; only [`show`] and [`write_stdout`] write. A reader that goes
//! away early, as in `weft network ls | head -1`, has got what it wanted: that is no failure. Must not talk to the agent.

mod dump;
mod endpoint;
mod finding;
mod network;
mod node;
mod plan;
mod status;
mod store;
mod version;

use std::{
    fmt::Display,
    io::{self, Write},
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use thiserror::Error;

pub(crate) use self::{
    finding::{Finding, Verdict},
    store::{StoreCopied, StoreExported, StoreShown},
    version::Version,
};
use crate::args::Format;

/// Why a reply could not be printed.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    #[error("writing to standard output")]
    Write(#[source] io::Error),
    #[error("encoding the reply as JSON")]
    Encode(#[source] serde_json::Error),
}

/// How a reply looks to people.
pub(crate) trait Page {
    /// The text, each line with its end.
    fn page(&self) -> String;
}

/// Prints a reply.
pub(crate) fn show<T: Page + Serialize + ?Sized>(reply: &T, format: Format) -> Result<(), OutputError> {
    let text = match format {
        Format::Table => reply.page(),
        Format::Json => serde_json::to_string_pretty(reply).map_err(OutputError::Encode)? + "\n",
    };
    write_stdout(text.as_bytes())
}

/// Writes to standard output.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(OutputError::Write),
    }
}

/// Rows under a header, aligned, without borders.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt() + "\n"
}

/// Keys with their values in one column.
fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let width = fields.iter().map(|(key, _)| key.len() + 3).max().unwrap_or(0);
    let line = |(key, value): &(&str, String)| format!("{:width$}{}\n", format!("{key}:"), printable(value));
    fields.iter().map(line).collect()
}

/// A titled list of lines, indented; nothing at all if there are none.
fn section(title: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    let lines: String = body.lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{title}:\n{lines}")
}

/// Lines as a section's body.
fn lines<T: AsRef<str>>(items: &[T]) -> String {
    items.iter().map(|item| printable(item.as_ref()) + "\n").collect()
}

/// Values separated by commas, or a dash.
fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// A value, or a dash.
fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The text with control characters escaped, so that nothing that came from the store can steer the terminal or break a
/// table.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long-name".to_owned(), String::new()]];

        assert_eq!(table(["NAME", "ID"], rows), "NAME        ID\na           1\nlong-name\n");
        assert_eq!(table(["NAME", "ID"], []), "NAME   ID\n");
    }

    #[test]
    fn values_stand_in_one_column() {
        assert_eq!(fields([("Name", "a".to_owned()), ("MTU", "1".to_owned())]), "Name:  a\nMTU:   1\n");
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{9b}ä"), "a\\u{1b}[2J\\nb\\u{9b}ä");
    }

    #[test]
    fn an_empty_section_is_left_out() {
        assert_eq!(section("Errors", &lines::<&str>(&[])), "");
        assert_eq!(section("Errors", &lines(&["a", "b"])), "\nErrors:\n  a\n  b\n");
    }
}
