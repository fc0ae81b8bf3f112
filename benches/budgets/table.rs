//! The printed table.

use crate::budget::Budget;
use std::fmt;

#[derive(Default)]
pub(crate) struct Table {
    subject: &'static str,
    rows: Vec<[String; 5]>,
    held: usize,
    exceeded: usize,
}

impl Table {
    /// Sets the subject of the rows that follow.
    pub(crate) fn begin(&mut self, subject: &'static str) {
        self.subject = subject;
    }

    /// Adds a figure for comparison.
    pub(crate) fn figure(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.push(what, figure, String::new(), "");
    }

    /// Adds a figure with a budget. The budget applies to `value`.
    pub(crate) fn judge(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        value: f64,
        budget: Budget,
    ) {
        let verdict = if budget.holds(value) {
            self.held += 1;
            "holds"
        } else {
            self.exceeded += 1;
            "**exceeded**"
        };
        self.push(what, figure, budget.to_string(), verdict);
    }

    /// Adds the reason why there are no figures.
    pub(crate) fn missing(&mut self, why: &str) {
        self.push("not measured", why, String::new(), "");
    }

    fn push(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        budget: String,
        verdict: &str,
    ) {
        self.rows.push([
            self.subject.to_owned(),
            what.into(),
            figure.into(),
            budget,
            verdict.to_owned(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "what", "figure", "budget", "verdict"].map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let widths: [usize; 5] = std::array::from_fn(|column| {
            let lengths = rows().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        });
        for (number, row) in rows().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                let rules = widths.map(|width| "-".repeat(width + 2));
                writeln!(f, "|{}|", rules.join("|"))?;
            }
        }
        let (held, all) = (self.held, self.held + self.exceeded);
        writeln!(f, "\n{held} of {all} budgets hold.")
    }
}

/// Rounds a number and groups its digits: `12345.6` becomes `12,346`.
pub(crate) fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a time in nanoseconds.
pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.0} ns"),
        ..1e6 => format!("{:.2} µs", nanoseconds / 1e3),
        _ => format!("{:.2} ms", nanoseconds / 1e6),
    }
}
