//! Tables, marks and formats, the same for every command.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use bowline_compile::explain::Outcome;
use clap::ValueEnum;
use serde::Serialize;

/// Exit status: the result is bad.
pub(crate) const BAD: u8 = 1;
/// Exit status: the command was not called as it must be.
pub(crate) const USAGE: u8 = 2;
/// Exit status: it could not be found out.
pub(crate) const UNKNOWN: u8 = 3;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    fn is_used(self) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    /// What puts the word of a verdict into its colour.
    pub(crate) fn painter(self) -> impl Fn(Outcome, &str) -> String {
        let used = self.is_used();
        move |outcome, word| {
            let code = match outcome {
                Outcome::Pass => 32,
                Outcome::Reject => 33,
                Outcome::Drop => 31,
            };
            if used { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word.to_owned() }
        }
    }
}

/// Writes a document as JSON or YAML; a table is the caller's business.
pub(crate) fn print_document(document: &impl Serialize, format: Format) -> io::Result<()> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(document).map_err(io::Error::other)?,
        Format::Json | Format::Table => serde_json::to_string_pretty(document)?,
    };
    writeln!(io::stdout(), "{}", text.trim_end())
}

/// Columns as wide as their widest cell, two spaces between them, no trailing space.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Whether ticks may be drawn: a UTF-8 locale.
pub(crate) fn utf8() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        .is_some_and(|value| value.to_lowercase().replace('-', "").contains("utf8"))
}

/// A mark before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Good.
    Ok,
    /// Bad.
    Fail,
    /// To be known; nothing is wrong.
    Note,
    /// Not tried.
    Skip,
}

impl Mark {
    /// The mark as text.
    pub(crate) fn text(self) -> &'static str {
        match (self, utf8()) {
            (Mark::Ok, true) => "✓",
            (Mark::Fail, true) => "✗",
            (Mark::Note, true) => "!",
            (Mark::Skip, true) => "-",
            (Mark::Ok, false) => "ok",
            (Mark::Fail, false) => "FAIL",
            (Mark::Note, false) => "note",
            (Mark::Skip, false) => "skip",
        }
    }
}

/// The exit status `code`.
pub(crate) fn exit(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// A length of time as people say it: `41s`, `5m`, `2h`, `3d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let rows = [vec!["NAME".into(), "STATE".into()], vec!["n1".into(), "ok".into()]];
        assert_eq!(table(&rows), "NAME  STATE\nn1    ok\n");
        assert_eq!((age(41), age(300), age(7300), age(200_000)), ("41s".into(), "5m".into(), "2h".into(), "2d".into()));
    }
}
