//! What was measured, beside its target and its peer; as a table and as JSON.
//!
//! Pure. A target is met or missed, and the table says which.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Effort, Machine, Samples};

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The target's number, such as P1.
    pub key: &'static str,
    /// What was measured.
    pub what: String,
    /// What the figures count.
    pub unit: Unit,
    /// Our figure.
    pub ours: f64,
    /// What it should be; nothing for what is shown for information.
    pub target: Option<Target>,
    /// Who else was measured in the same run, and their figure.
    pub peer: Option<(&'static str, f64)>,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this much.
    AtLeast(f64),
    /// At most this much.
    AtMost(f64),
}

/// What figures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of the wire's figure.
    Share,
    /// Gigabits (10^9) of TCP content per second.
    GigabitsPerSecond,
    /// Thousands of packets per second.
    KiloPacketsPerSecond,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Packets.
    Packets,
    /// Per cent of one processor core.
    PercentOfACore,
    /// Megabytes (10^6).
    Megabytes,
}

/// Whether a target is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// There is none.
    Information,
}

impl Row {
    /// Whether the target is met; a figure that is no number meets none.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.target {
            None => Verdict::Information,
            Some(Target::AtLeast(least)) if self.ours >= least => Verdict::Met,
            Some(Target::AtMost(most)) if self.ours <= most => Verdict::Met,
            Some(_) => Verdict::Missed,
        }
    }

    fn cells(&self) -> [String; 7] {
        let target = match self.target {
            None => String::new(),
            Some(Target::AtLeast(least)) => format!(">= {}", self.unit.show(least)),
            Some(Target::AtMost(most)) => format!("<= {}", self.unit.show(most)),
        };
        let verdict = match self.verdict() {
            Verdict::Met => "met",
            Verdict::Missed => "missed",
            Verdict::Information => "",
        };
        let peer = self.peer.map(|(name, figure)| format!("{} ({name})", self.unit.show(figure)));
        let ratio =
            self.peer.filter(|(_, figure)| *figure != 0.0).map(|(_, figure)| format!("{:.2}", self.ours / figure));
        [
            self.key.to_owned(),
            self.what.clone(),
            target,
            self.unit.show(self.ours),
            verdict.to_owned(),
            peer.unwrap_or_default(),
            ratio.unwrap_or_default(),
        ]
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Share => format!("{figure:.2}"),
            Self::GigabitsPerSecond => format!("{figure:.2} Gb/s"),
            Self::KiloPacketsPerSecond => format!("{figure:.0} kpps"),
            Self::Milliseconds if figure >= 100.0 => format!("{figure:.0} ms"),
            Self::Milliseconds => format!("{figure:.2} ms"),
            Self::Seconds => format!("{figure:.2} s"),
            Self::Packets => format!("{figure:.0}"),
            Self::PercentOfACore => format!("{figure:.2} %"),
            Self::Megabytes => format!("{figure:.1} MB"),
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// How much was measured.
    pub effort: Effort,
    /// The figures.
    pub rows: Vec<Row>,
    /// What they are made of, by a name that says what and in which unit.
    pub samples: BTreeMap<String, Samples>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Report {
    /// A report without figures.
    #[must_use]
    pub fn new(machine: Machine, effort: Effort) -> Self {
        Self { machine, effort, rows: Vec::new(), samples: BTreeMap::new(), notes: Vec::new(), failures: Vec::new() }
    }

    /// Adds raw numbers.
    pub fn keep(&mut self, name: &str, samples: &Samples) {
        self.samples.insert(name.to_owned(), samples.clone());
    }

    /// How many targets are missed.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.verdict() == Verdict::Missed).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["", "WHAT", "TARGET", "WEFT", "VERDICT", "PEER, SAME RUN", "WEFT/PEER"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        writeln!(formatter, "{}\n", self.machine)?;
        for row in &rows {
            let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
            writeln!(formatter, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            write!(formatter, "\n{note}")?;
        }
        for failure in &self.failures {
            write!(formatter, "\nNOT MEASURED: {failure}")?;
        }
        let judged = self.rows.iter().filter(|row| row.target.is_some()).count();
        writeln!(formatter, "\n{} of {judged} targets met, {} missed", judged - self.missed(), self.missed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, target: Option<Target>) -> Row {
        Row { key: "P1", what: "TCP".to_owned(), unit: Unit::Share, ours, target, peer: Some(("script", 0.5)) }
    }

    #[test]
    fn verdict_compares_in_the_direction_of_the_target() {
        assert_eq!(row(0.9, Some(Target::AtLeast(0.87))).verdict(), Verdict::Met);
        assert_eq!(row(0.8, Some(Target::AtLeast(0.87))).verdict(), Verdict::Missed);
        assert_eq!(row(0.0, Some(Target::AtMost(0.0))).verdict(), Verdict::Met);
        assert_eq!(row(1.0, Some(Target::AtMost(0.0))).verdict(), Verdict::Missed);
        assert_eq!(row(f64::NAN, Some(Target::AtMost(1.0))).verdict(), Verdict::Missed);
        assert_eq!(row(9.0, None).verdict(), Verdict::Information);
    }

    #[test]
    fn table_says_what_was_missed_and_how_the_peer_did() {
        let machine = Machine { cores: 2, model: "x".into(), kernel: "6".into(), memory_mb: 1, load_before: 0.0 };
        let mut report = Report::new(machine, Effort::quick());
        report.rows = vec![row(0.9, Some(Target::AtLeast(0.87))), row(0.4, Some(Target::AtLeast(0.74)))];

        let text = report.to_string();

        assert!(text.contains(">= 0.74  0.40  missed   0.50 (script)   0.80"), "{text}");
        assert!(text.contains("1 of 2 targets met, 1 missed"), "{text}");
    }
}
