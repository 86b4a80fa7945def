//! What commands print: data to standard output in the chosen format, talk to standard error.
//!
//! Tables are for people and may change; JSON carries `"schema": 1` and does not. A write never
//! panics: a closed pipe comes back as an error that ends the command quietly.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::error::CliError;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object with `"schema": 1`.
    Json,
    /// One JSON object per line and row.
    Jsonl,
    /// Bare values with tabs between them, without a head.
    Plain,
}

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

/// Rows with named columns.
#[derive(Debug)]
pub(crate) struct Table {
    noun: &'static str,
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// An empty table; `noun` names the list in JSON.
    pub(crate) fn new(noun: &'static str, columns: &'static [&'static str]) -> Self {
        Self { noun, columns, rows: Vec::new() }
    }

    /// Adds a row with one value per column.
    pub(crate) fn row(&mut self, values: impl IntoIterator<Item = Value>) {
        self.rows.push(values.into_iter().collect());
    }

    fn objects(&self) -> impl Iterator<Item = Map<String, Value>> {
        let named = |row: &Vec<Value>| {
            self.columns.iter().map(|name| (*name).to_owned()).zip(row.iter().cloned()).collect()
        };
        self.rows.iter().map(named)
    }

    /// The table for people: a head in capitals, columns two spaces apart.
    fn to_text(&self) -> String {
        let cells: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let width = |column: usize| {
            let widest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            widest.max(self.columns[column].len())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        let head: Vec<String> =
            self.columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
        for row in std::iter::once(&head).chain(&cells) {
            let line: Vec<String> =
                row.iter().zip(&widths).map(|(value, width)| format!("{value:<width$}")).collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

impl Output {
    /// Prints a table in the chosen format.
    pub(crate) fn table(&self, table: &Table) -> Result<(), CliError> {
        match self.format {
            Format::Table if table.rows.is_empty() => {
                self.say(&format!("no {}", table.noun));
                Ok(())
            }
            Format::Table => self.write(table.to_text().as_bytes()),
            Format::Json => {
                let rows: Vec<_> = table.objects().map(Value::Object).collect();
                self.json(&json!({ "schema": 1, table.noun: rows }))
            }
            Format::Jsonl => table.objects().try_for_each(|mut row| {
                row.insert("schema".to_owned(), json!(1));
                self.json(&Value::Object(row))
            }),
            Format::Plain => table.rows.iter().try_for_each(|row| {
                let line: Vec<String> = row.iter().map(cell).collect();
                self.write(format!("{}\n", line.join("\t")).as_bytes())
            }),
        }
    }

    /// Prints one thing: `text` for people, `value` (an object, to which the schema is added) for programs.
    pub(crate) fn object(&self, text: &str, value: Value) -> Result<(), CliError> {
        match (self.format, value) {
            (Format::Json | Format::Jsonl, Value::Object(mut object)) => {
                object.insert("schema".to_owned(), json!(1));
                self.json(&Value::Object(object))
            }
            _ => self.write(format!("{}\n", text.trim_end_matches('\n')).as_bytes()),
        }
    }

    /// Whether programs read the output.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Prints bytes as they are.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Tells the person at the terminal something that is not data; `--quiet` silences it.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            // Talk that nobody can read is not worth a failure.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    fn json(&self, value: &Value) -> Result<(), CliError> {
        self.write(format!("{value}\n").as_bytes())
    }
}

/// Prints a failure to standard error; as JSON when programs read the output.
pub(crate) fn print_error(error: &CliError, json: bool) {
    let mut stderr = io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ = match json {
        true => writeln!(stderr, "{}", error.to_json()),
        false => write!(stderr, "{}", error.to_text(colour)),
    };
}

/// The text in red and bold, if there are colours.
pub(crate) fn paint_error(text: &str, colour: bool) -> String {
    if colour { format!("\u{1b}[1;31m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A value as people read it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let mut table = Table::new("things", &["name", "count_max", "in"]);
        table.row([json!("a"), json!(10), json!(["x", "y"])]);
        table.row([json!("long-name"), Value::Null, json!([])]);
        assert_eq!(
            table.to_text(),
            "NAME       COUNT MAX  IN\na          10         x, y\nlong-name  -          -\n"
        );
    }
}
