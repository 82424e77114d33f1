//! Tokens to server blocks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::lex::{Token, tokens};
use super::{Corefile, CorefileError, Directive, Place, ServerBlock, Sources, Word};

/// Tokens that a Corefile may hold, imports resolved.
const MAX_TOKENS: usize = 100_000;
/// Imports that a Corefile may make.
const MAX_IMPORTS: usize = 1_000;
/// How deep braces may go.
const MAX_DEPTH: usize = 16;

/// Reads a Corefile.
///
/// # Errors
/// The first thing that is wrong, with its file and line.
pub fn parse(file: &str, text: &str, sources: &dyn Sources) -> Result<Corefile, CorefileError> {
    let file: Arc<str> = file.into();
    let tokens = tokens(&file, text, sources)?;
    let end = Place { line: u32::try_from(text.lines().count().max(1)).unwrap_or(u32::MAX), file };
    let mut parser = Parser { tokens: tokens.into(), snippets: BTreeMap::new(), imports: 0, seen: 0, end, sources };
    let mut blocks = Vec::new();
    while let Some(block) = parser.block(blocks.is_empty())? {
        blocks.push(block);
    }
    Ok(Corefile { blocks })
}

struct Parser<'a> {
    tokens: VecDeque<Token>,
    snippets: BTreeMap<String, Vec<Token>>,
    imports: usize,
    seen: usize,
    end: Place,
    sources: &'a dyn Sources,
}

impl Parser<'_> {
    fn take(&mut self) -> Result<Option<Token>, CorefileError> {
        let token = self.tokens.pop_front();
        self.seen += 1;
        match &token {
            Some(token) if self.seen > MAX_TOKENS => {
                Err(token.word.error("too many words", "keep a Corefile, with its imports, under 100,000"))
            }
            Some(_) | None => Ok(token),
        }
    }

    fn end_error(&self, what: &str) -> CorefileError {
        CorefileError { place: self.end.clone(), what: what.to_owned(), fix: "close the block with `}` on a line of its own".to_owned() }
    }

    /// The next server block; snippets on the way are kept.
    fn block(&mut self, first: bool) -> Result<Option<ServerBlock>, CorefileError> {
        loop {
            let Some(token) = self.take()? else { return Ok(None) };
            if token.is_open() || token.is_close() {
                return Err(token.word.error(
                    format!("`{}` without a zone before it", token.word.text),
                    "begin a server block with its zones, such as `.:53 {`",
                ));
            }
            if !token.quoted && token.word.text == "import" {
                self.import(&token.word)?;
                continue;
            }
            let (keys, open) = self.keys(token)?;
            if let Some(name) = snippet_name(&keys) {
                let (true, Some(word)) = (open, keys.first()) else {
                    return Err(self.end_error(&format!("the snippet ({name}) has no block")));
                };
                let body = self.raw_block()?;
                if self.snippets.insert(name.clone(), body).is_some() {
                    return Err(word.error(format!("the snippet ({name}) is defined twice"), "give one of them another name"));
                }
                continue;
            }
            if !open && !first {
                let word = keys.into_iter().next_back();
                return Err(word.map_or_else(
                    || self.end_error("a server block has no `{`"),
                    |word| word.error("a server block has no `{`", "put `{` at the end of the line with its zones"),
                ));
            }
            // A file of one server needs no braces.
            let directives = self.lines(open, 0)?;
            return Ok(Some(ServerBlock { keys, directives }));
        }
    }

    /// The zones of a server block, and whether a brace follows them.
    fn keys(&mut self, first: Token) -> Result<(Vec<Word>, bool), CorefileError> {
        let mut keys = Vec::new();
        let mut token = first;
        loop {
            let continues = token.word.text.ends_with(',');
            let place = token.word.place;
            for text in token.word.text.split(',').filter(|text| !text.is_empty()) {
                keys.push(Word { text: text.to_owned(), place: place.clone() });
            }
            match self.tokens.front() {
                Some(next) if next.is_open() => {
                    self.take()?;
                    return Ok((keys, true));
                }
                Some(next) if !next.starts_line || continues => {}
                Some(_) | None => return Ok((keys, false)),
            }
            match self.take()? {
                Some(next) => token = next,
                None => return Ok((keys, false)),
            }
        }
    }

    /// The tokens up to the brace that closes the block just opened.
    fn raw_block(&mut self) -> Result<Vec<Token>, CorefileError> {
        let mut body = Vec::new();
        let mut depth = 0_usize;
        loop {
            let Some(token) = self.take()? else { return Err(self.end_error("a snippet is not closed")) };
            if token.is_open() {
                depth += 1;
            } else if token.is_close() {
                let Some(outer) = depth.checked_sub(1) else { return Ok(body) };
                depth = outer;
            }
            body.push(token);
        }
    }

    /// The lines of a block, up to its brace, or to the end where it has none.
    fn lines(&mut self, braces: bool, depth: usize) -> Result<Vec<Directive>, CorefileError> {
        let mut lines = Vec::new();
        loop {
            let Some(token) = self.take()? else {
                return if braces { Err(self.end_error("a block is not closed")) } else { Ok(lines) };
            };
            if token.is_close() && braces {
                return Ok(lines);
            }
            if token.is_open() || token.is_close() {
                return Err(token.word.error(
                    format!("`{}` where a name is wanted", token.word.text),
                    "put `{` at the end of a line and close each block once",
                ));
            }
            if !token.quoted && token.word.text == "import" {
                self.import(&token.word)?;
                continue;
            }
            lines.push(self.line(token.word, depth)?);
        }
    }

    fn line(&mut self, name: Word, depth: usize) -> Result<Directive, CorefileError> {
        let mut line = Directive { name, args: Vec::new(), body: Vec::new() };
        if depth > MAX_DEPTH {
            return Err(line.name.error("braces go too deep", "no plugin has blocks in blocks in blocks"));
        }
        while let Some(next) = self.tokens.front() {
            if next.is_open() && !next.starts_line {
                self.take()?;
                line.body = self.lines(true, depth + 1)?;
                break;
            }
            if next.starts_line || next.is_close() {
                break;
            }
            line.args.extend(self.take()?.map(|token| token.word));
        }
        Ok(line)
    }

    /// Puts the tokens of a snippet or of files in the place of an `import`.
    fn import(&mut self, word: &Word) -> Result<(), CorefileError> {
        self.imports += 1;
        if self.imports > MAX_IMPORTS {
            return Err(word.error("too many imports", "look for a file or snippet that imports itself"));
        }
        let pattern = match self.tokens.front() {
            Some(next) if !next.starts_line && !next.is_open() && !next.is_close() => self.take()?,
            Some(_) | None => None,
        };
        let Some(pattern) = pattern.map(|token| token.word) else {
            return Err(word.error("`import` names nothing", "name a file, a pattern or a snippet after it"));
        };
        if let Some(extra) = self.tokens.front().filter(|next| !next.starts_line && !next.is_close()) {
            return Err(extra.word.error("`import` takes one name", "import each on a line of its own"));
        }
        let mut imported = Vec::new();
        if let Some(snippet) = self.snippets.get(&pattern.text) {
            imported.extend(snippet.iter().cloned());
        } else {
            let sources = self.sources.import(&word.place.file, &pattern.text);
            let sources = sources.map_err(|why| {
                pattern.error(format!("cannot import: {why}"), "define the snippet before its use, or make the file readable")
            })?;
            for source in sources {
                imported.extend(tokens(&source.name.into(), &source.text, self.sources)?);
            }
        }
        if self.tokens.len() + imported.len() > MAX_TOKENS {
            return Err(word.error("too many words", "look for a file or snippet that imports itself"));
        }
        // What is imported ends its line, whatever stands behind it.
        if let Some(first) = imported.first_mut() {
            first.starts_line = true;
        }
        if let Some(next) = self.tokens.front_mut() {
            next.starts_line = true;
        }
        for token in imported.into_iter().rev() {
            self.tokens.push_front(token);
        }
        Ok(())
    }
}

fn snippet_name(keys: &[Word]) -> Option<String> {
    match keys {
        [only] => Some(only.text.strip_prefix('(')?.strip_suffix(')')?.to_owned()),
        [] | [_, ..] => None,
    }
}
