//! Text to tokens: words, quotes, comments and variables.

use std::sync::Arc;

use super::{CorefileError, Place, Sources, Word};

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) word: Word,
    /// Quoted text is never a brace.
    pub(super) quoted: bool,
    /// Whether it is the first of its line.
    pub(super) starts_line: bool,
}

impl Token {
    pub(super) fn is_open(&self) -> bool {
        !self.quoted && self.word.text == "{"
    }

    pub(super) fn is_close(&self) -> bool {
        !self.quoted && self.word.text == "}"
    }
}

/// Cuts a text into tokens.
pub(super) fn tokens(file: &Arc<str>, text: &str, sources: &dyn Sources) -> Result<Vec<Token>, CorefileError> {
    let mut lexer = Lexer { file, chars: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
    let mut tokens = Vec::new();
    let mut last_line = 0;
    while let Some((first, line)) = lexer.skip_to_token() {
        let quoted = first == '"';
        let text = if quoted { lexer.quoted(line)? } else { lexer.plain(first) };
        let text = substitute(&text, sources);
        let word = Word { text, place: Place { file: Arc::clone(file), line } };
        tokens.push(Token { word, quoted, starts_line: line != last_line });
        last_line = lexer.line;
    }
    Ok(tokens)
}

struct Lexer<'a> {
    file: &'a Arc<str>,
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    line: u32,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        if next == Some('\n') {
            self.line = self.line.saturating_add(1);
        }
        next
    }

    /// The first character of the next token, taken, and its line.
    fn skip_to_token(&mut self) -> Option<(char, u32)> {
        loop {
            let line = self.line;
            match self.next()? {
                '#' => {
                    while self.chars.peek().is_some_and(|c| *c != '\n') {
                        self.next();
                    }
                }
                c if c.is_whitespace() => {}
                c => return Some((c, line)),
            }
        }
    }

    fn plain(&mut self, first: char) -> String {
        let mut text = String::from(first);
        while let Some(c) = self.chars.next_if(|c| !c.is_whitespace()) {
            text.push(c);
        }
        text
    }

    fn quoted(&mut self, line: u32) -> Result<String, CorefileError> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                // Only a quote is escaped; other backslashes belong to the text (regular expressions have many).
                Some('\\') if self.chars.peek() == Some(&'"') => text.extend(self.next()),
                Some(c) => text.push(c),
                None => {
                    return Err(CorefileError {
                        place: Place { file: Arc::clone(self.file), line },
                        what: "a quote is opened and never closed".to_owned(),
                        fix: "close it with `\"`".to_owned(),
                    });
                }
            }
        }
    }
}

/// Puts variables in: `{$NAME}` and `{%NAME%}`; one that is not set is empty.
fn substitute(text: &str, sources: &dyn Sources) -> String {
    let mut out = text.to_owned();
    for (open, close) in [("{$", "}"), ("{%", "%}")] {
        let mut from = 0;
        // What a variable holds is not looked at again: it may hold the marks itself.
        while let Some(start) = out.get(from..).and_then(|rest| rest.find(open)).map(|at| at + from) {
            let name_start = start + open.len();
            let Some(end) = out.get(name_start..).and_then(|rest| rest.find(close)).map(|at| at + name_start) else { break };
            let value = out.get(name_start..end).and_then(|name| sources.variable(name)).unwrap_or_default();
            out.replace_range(start..end + close.len(), &value);
            from = start + value.len();
        }
    }
    out
}
