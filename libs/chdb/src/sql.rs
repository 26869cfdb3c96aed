//! Just enough of ClickHouse's grammar to route a statement: what kind it is, which format it
//! names, and where the data of an `INSERT` begins.
//!
//! It never rewrites a statement beyond cutting the `FORMAT` clause and the data off an `INSERT`.

use crate::exception::{Exception, code};

/// How a statement is to be run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// `INSERT` with its data behind it: the statement is `text[..head]`, the data `text[data..]`.
    Insert { head: usize, format: Option<String>, data: usize },
    /// A query with rows that can be fetched in chunks.
    Select { format: Option<String> },
    /// Everything else, `INSERT … SELECT` included.
    Other { format: Option<String> },
}

/// Classifies one statement.
///
/// # Errors
/// A second statement after a semicolon, as a ClickHouse server refuses it over HTTP.
pub(crate) fn classify(text: &[u8]) -> Result<Statement, Exception> {
    let mut tokens = Lexer { text, at: 0 };
    let Some(first) = tokens.find(|token| !matches!(token.kind, Kind::Punct(b'('))) else {
        return Err(Exception::new(code::SYNTAX_ERROR, "Empty query"));
    };
    if first.is(text, "insert")
        && let Some(insert) = insert(text, tokens)?
    {
        return Ok(insert);
    }
    let tail = tail(text)?;
    let rows = first.is(text, "select") || first.is(text, "with");
    Ok(if rows && !tail.into_outfile {
        Statement::Select { format: tail.format }
    } else {
        Statement::Other { format: tail.format }
    })
}

/// A string literal.
pub(crate) fn literal(value: &str) -> String {
    quoted(value, '\'')
}

/// A quoted identifier.
pub(crate) fn identifier(name: &str) -> String {
    quoted(name, '`')
}

/// Whether `name` can stand for a setting or a parameter without quotes.
pub(crate) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn quoted(value: &str, quote: char) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push(quote);
    for c in value.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    out
}

/// The parts of an `INSERT` that takes data; `None` for one that selects or reads a file.
fn insert(text: &[u8], mut tokens: Lexer<'_>) -> Result<Option<Statement>, Exception> {
    let mut token = tokens.next();
    for optional in ["into", "table", "function"] {
        if token.is_some_and(|token| token.is(text, optional)) {
            token = tokens.next();
        }
    }
    // The name, which may be any word, `format` included; `token` is its first part.
    let mut named = token.is_some();
    let mut depth = 0_usize;
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Punct(b'.') if depth == 0 && named => {
                tokens.next();
                continue;
            }
            Kind::Punct(b'(') => depth += 1,
            Kind::Punct(b')') => depth = depth.saturating_sub(1),
            Kind::Word if token.is(text, "select") || token.is(text, "infile") => return Ok(None),
            Kind::Word if depth == 0 && token.is(text, "with") => return Ok(None),
            Kind::Word if depth == 0 && token.is(text, "values") => {
                return Ok(Some(Statement::Insert {
                    head: token.start,
                    format: Some("Values".to_owned()),
                    data: token.end,
                }));
            }
            Kind::Word if depth == 0 && token.is(text, "format") => {
                let Some(name) = tokens.next().filter(|token| token.kind == Kind::Word) else {
                    return Err(Exception::new(code::SYNTAX_ERROR, "Syntax error: FORMAT names no format"));
                };
                return with_format(text, token.start, name).map(Some);
            }
            _ => {}
        }
        named = false;
    }
    let head = text.iter().rposition(|b| !b.is_ascii_whitespace() && *b != b';').map_or(0, |last| last + 1);
    Ok(Some(Statement::Insert { head, format: None, data: text.len() }))
}

fn with_format(text: &[u8], head: usize, name: Token) -> Result<Statement, Exception> {
    let mut data = name.end;
    while matches!(text.get(data), Some(b' ' | b'\t' | b'\r')) {
        data += 1;
    }
    if text.get(data) == Some(&b'\n') {
        data += 1;
    } else if (Lexer { text, at: data }).next().is_some_and(|token| token.is(text, "settings")) {
        return Err(Exception::new(
            code::SYNTAX_ERROR,
            "Syntax error: write SETTINGS before FORMAT in an INSERT",
        ));
    } else if text[data..].trim_ascii() == b";" {
        data = text.len();
    }
    Ok(Statement::Insert { head, format: Some(name.text(text).to_owned()), data })
}

#[derive(Default)]
struct Tail {
    format: Option<String>,
    into_outfile: bool,
}

/// What stands at the end of a statement without data.
fn tail(text: &[u8]) -> Result<Tail, Exception> {
    let mut tail = Tail::default();
    let mut tokens = Lexer { text, at: 0 };
    let mut depth = 0_usize;
    let mut ended = false;
    let mut in_settings = false;
    while let Some(token) = tokens.next() {
        if ended {
            if token.kind == Kind::Punct(b';') {
                continue;
            }
            return Err(Exception::new(
                code::SYNTAX_ERROR,
                "Syntax error (Multi-statements are not allowed)",
            ));
        }
        match token.kind {
            Kind::Punct(b'(' | b'[' | b'{') => depth += 1,
            Kind::Punct(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Kind::Punct(b';') => {
                ended = true;
                continue;
            }
            Kind::Word if depth == 0 && token.is(text, "format") => {
                let mut ahead = tokens;
                if let Some(name) = ahead.next().filter(|token| token.kind == Kind::Word) {
                    tail.format = Some(name.text(text).to_owned());
                    in_settings = false;
                    tokens = ahead;
                    continue;
                }
            }
            Kind::Word if depth == 0 && token.is(text, "settings") => in_settings = true,
            Kind::Word if token.is(text, "outfile") => tail.into_outfile = true,
            _ => {}
        }
        // Something other than SETTINGS after the name: it was no FORMAT clause.
        if !in_settings {
            tail.format = None;
        }
    }
    Ok(tail)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Punct(u8),
    Number,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
}

impl Token {
    fn is(self, text: &[u8], word: &str) -> bool {
        self.kind == Kind::Word && text[self.start..self.end].eq_ignore_ascii_case(word.as_bytes())
    }

    /// A word is ASCII by construction, so the fallback is never taken.
    fn text(self, text: &[u8]) -> &str {
        std::str::from_utf8(&text[self.start..self.end]).unwrap_or_default()
    }
}

#[derive(Clone, Copy)]
struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.at += 1;
        }
    }

    /// Moves behind the next occurrence of `end`, or to the end of the text.
    fn skip_past(&mut self, end: &[u8]) {
        self.at = self.text[self.at..]
            .windows(end.len())
            .position(|window| window == end)
            .map_or(self.text.len(), |found| self.at + found + end.len());
    }

    fn skip_blank(&mut self) {
        loop {
            self.skip_while(|b| b.is_ascii_whitespace());
            match (self.peek(0), self.peek(1)) {
                (Some(b'-'), Some(b'-')) | (Some(b'#'), Some(b'!' | b' ')) => self.skip_past(b"\n"),
                (Some(b'/'), Some(b'*')) => {
                    self.at += 2;
                    self.skip_past(b"*/");
                }
                _ => return,
            }
        }
    }

    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            if byte == b'\\' || (byte == quote && self.peek(1) == Some(quote)) {
                self.at += 2;
            } else {
                self.at += 1;
                if byte == quote {
                    return;
                }
            }
        }
        self.at = self.text.len();
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let kind = match self.peek(0)? {
            b if b.is_ascii_alphabetic() || b == b'_' => {
                self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
                Kind::Word
            }
            b if b.is_ascii_digit() => {
                self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
                Kind::Number
            }
            quote @ (b'\'' | b'"' | b'`') => {
                self.skip_quoted(quote);
                Kind::Quoted
            }
            b'$' => {
                self.at += 1;
                self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
                if self.peek(0) == Some(b'$') {
                    self.at += 1;
                    let tag = self.text[start..self.at].to_vec();
                    self.skip_past(&tag);
                    Kind::Quoted
                } else {
                    Kind::Number
                }
            }
            other => {
                self.at += 1;
                Kind::Punct(other)
            }
        };
        Some(Token { kind, start, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn insert_parts(text: &str) -> (&str, Option<String>, &str) {
        match classify(text.as_bytes()).unwrap() {
            Statement::Insert { head, format, data } => (&text[..head], format, &text[data..]),
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn an_insert_is_cut_before_its_format() {
        for (text, head, format, data) in [
            ("INSERT INTO t FORMAT CSV\n1,2\n", "INSERT INTO t ", "CSV", "1,2\n"),
            (
                "insert into `a.b`.t (x, `format`) format RowBinary",
                "insert into `a.b`.t (x, `format`) ",
                "RowBinary",
                "",
            ),
            ("INSERT INTO format FORMAT TSV 1", "INSERT INTO format ", "TSV", "1"),
            ("INSERT INTO values VALUES (1)", "INSERT INTO values ", "Values", " (1)"),
            ("INSERT INTO d.values VALUES (';')", "INSERT INTO d.values ", "Values", " (';')"),
            (
                "/* x */ -- y\nINSERT INTO t SETTINGS a='FORMAT X' FORMAT Native\r\n\n",
                "/* x */ -- y\nINSERT INTO t SETTINGS a='FORMAT X' ",
                "Native",
                "\n",
            ),
            (
                "INSERT INTO TABLE FUNCTION null('a Int8') FORMAT CSV ;",
                "INSERT INTO TABLE FUNCTION null('a Int8') ",
                "CSV",
                "",
            ),
        ] {
            assert_eq!(insert_parts(text), (head, Some(format.to_owned()), data), "{text}");
        }
        assert_eq!(insert_parts("INSERT INTO t (a) ; "), ("INSERT INTO t (a)", None, ""));
    }

    #[test]
    fn an_insert_without_data_of_its_own_is_an_ordinary_statement() {
        for text in [
            "INSERT INTO t SELECT 1 FORMAT Null",
            "INSERT INTO t (SELECT 1)",
            "INSERT INTO t WITH 1 AS a SELECT a",
            "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        ] {
            assert!(matches!(classify(text.as_bytes()).unwrap(), Statement::Other { .. }), "{text}");
        }
    }

    #[test]
    fn the_format_of_a_query_is_the_clause_at_its_end() {
        for (text, format) in [
            ("SELECT 1", None),
            ("SELECT 1 FORMAT JSON", Some("JSON")),
            ("SELECT 1 format JSON SETTINGS max_threads = 1;", Some("JSON")),
            ("SELECT 1 SETTINGS a = 1 FORMAT CSV ; ", Some("CSV")),
            ("SELECT format FROM t", None),
            ("SELECT 'x FORMAT CSV', \"FORMAT CSV\" -- FORMAT TSV", None),
            ("SELECT (SELECT 1 FORMAT CSV)", None),
            ("WITH $a$ FORMAT CSV ; $a$ AS x SELECT x", None),
        ] {
            assert_eq!(
                classify(text.as_bytes()).unwrap(),
                Statement::Select { format: format.map(str::to_owned) },
                "{text}"
            );
        }
    }

    #[test]
    fn a_second_statement_is_refused() {
        for text in ["SELECT 1; SELECT 2", "SELECT ';' ; DROP TABLE t", "DROP TABLE t;DROP TABLE u"] {
            assert_eq!(classify(text.as_bytes()).unwrap_err().code, code::SYNTAX_ERROR, "{text}");
        }
        assert!(classify(b"SELECT 'it''s; fine \\'; ' ;; -- end").is_ok());
        assert_eq!(classify(b" -- nothing").unwrap_err().code, code::SYNTAX_ERROR);
    }

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(literal(r"a'b\c"), r"'a\'b\\c'");
        assert_eq!(identifier("a`b"), r"`a\`b`");
        assert!(is_name("max_threads") && !is_name("a b") && !is_name("1a") && !is_name(""));
    }
}
