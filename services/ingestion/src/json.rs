//! A scanner of JSON that borrows: it finds where things begin and end and whether the text is well-formed.
//!
//! It never recurses, so depth costs no stack, and builds nothing but strings with escapes.

use std::borrow::Cow;

/// Where a text stops being JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// The byte, counted from 0 in the whole text.
    pub(crate) at: usize,
    /// What is wrong there.
    pub(crate) reason: &'static str,
}

/// What a value is, told from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Bool,
    Null,
}

/// A place in a text.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// The closers of what is open, while a value is skipped; kept for its allocation.
    open: Vec<u8>,
}

type Result<T> = std::result::Result<T, Syntax>;

// === impl Kind ===

impl Kind {
    /// With its article, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::Text => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
        }
    }
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new() }
    }

    /// Where it stands, in bytes.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes on elsewhere: from `at` up to `end`, as if the text ended there. Offsets stay those of `whole`.
    pub(crate) fn narrow(&mut self, whole: &'a str, at: usize, end: usize) {
        self.text = &whole[..end];
        self.at = at;
    }

    /// The next byte that is no space, without taking it.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Takes the next byte if it is this one.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes the next byte, which must be this one.
    pub(crate) fn expect(&mut self, byte: u8, reason: &'static str) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.syntax(reason)) }
    }

    /// What comes next.
    pub(crate) fn kind(&mut self) -> Result<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::Text),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.syntax("expected a value")),
        }
    }

    /// Takes a string; `None` if its escapes hold half of a surrogate pair, which is JSON but no text.
    pub(crate) fn string(&mut self) -> Result<Option<Cow<'a, str>>> {
        self.expect(b'"', "expected a string")?;
        let from = self.at;
        self.skip_plain()?;
        if self.text.as_bytes()[self.at] == b'"' {
            self.at += 1;
            return Ok(Some(Cow::Borrowed(&self.text[from..self.at - 1])));
        }
        self.unescape(from)
    }

    /// Takes a number and answers its text.
    pub(crate) fn number(&mut self) -> Result<&'a str> {
        self.peek();
        let from = self.at;
        let bytes = self.text.as_bytes();
        self.at += usize::from(bytes.get(self.at) == Some(&b'-'));
        match bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.syntax("expected a digit")),
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            self.some_digits()?;
        }
        Ok(&self.text[from..self.at])
    }

    /// Takes `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Result<bool> {
        let value = self.peek() == Some(b't');
        self.literal(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Takes a value of any kind and depth, checking that it is well-formed.
    pub(crate) fn skip(&mut self) -> Result<()> {
        self.open.clear();
        loop {
            match self.kind()? {
                Kind::Object => {
                    self.at += 1;
                    if !self.eat(b'}') {
                        self.open.push(b'}');
                        self.skip_key()?;
                        continue;
                    }
                }
                Kind::Array => {
                    self.at += 1;
                    if !self.eat(b']') {
                        self.open.push(b']');
                        continue;
                    }
                }
                Kind::Text => self.skip_string()?,
                Kind::Number => drop(self.number()?),
                Kind::Bool => drop(self.boolean()?),
                Kind::Null => self.literal("null")?,
            }
            // A value has ended; so may what it stands in.
            loop {
                let Some(&closer) = self.open.last() else { return Ok(()) };
                if self.eat(b',') {
                    if closer == b'}' {
                        self.skip_key()?;
                    }
                    break;
                }
                self.expect(closer, if closer == b'}' { "expected , or }" } else { "expected , or ]" })?;
                self.open.pop();
            }
        }
    }

    pub(crate) fn syntax(&self, reason: &'static str) -> Syntax {
        let reason = if self.at >= self.text.len() { "unexpected end" } else { reason };
        Syntax { at: self.at, reason }
    }

    fn skip_key(&mut self) -> Result<()> {
        self.peek();
        self.skip_string()?;
        self.expect(b':', "expected :")
    }

    fn skip_string(&mut self) -> Result<()> {
        self.expect(b'"', "expected a string")?;
        loop {
            self.skip_plain()?;
            self.at += 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Ok(());
            }
            self.escape()?;
        }
    }

    fn literal(&mut self, word: &str) -> Result<()> {
        self.peek();
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.syntax("expected a value"))
    }

    fn digits(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    }

    fn some_digits(&mut self) -> Result<()> {
        let from = self.at;
        self.digits();
        if self.at == from { Err(self.syntax("expected a digit")) } else { Ok(()) }
    }

    /// Goes on to the next quote or backslash; a control character on the way is an error.
    fn skip_plain(&mut self) -> Result<()> {
        let bytes = self.text.as_bytes();
        // Eight bytes at a time: the lowest marked byte is the first special one. Marks above it may be false, since a
        // subtraction borrows upwards only.
        while let Some(chunk) = bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let marks = specials(u64::from_le_bytes(*chunk));
            if marks != 0 {
                self.at += (marks.trailing_zeros() / 8) as usize;
                return self.special();
            }
            self.at += 8;
        }
        while bytes.get(self.at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
        self.special()
    }

    fn special(&self) -> Result<()> {
        match self.text.as_bytes().get(self.at) {
            Some(b'"' | b'\\') => Ok(()),
            _ => Err(self.syntax("a control character must be escaped in a string")),
        }
    }

    #[cold]
    fn unescape(&mut self, from: usize) -> Result<Option<Cow<'a, str>>> {
        let mut out = String::from(&self.text[from..self.at]);
        let mut whole = true;
        loop {
            // Here stands a quote or a backslash.
            self.at += 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Ok(whole.then_some(Cow::Owned(out)));
            }
            match self.character()? {
                Some(character) => out.push(character),
                None => whole = false,
            }
            let from = self.at;
            self.skip_plain()?;
            out.push_str(&self.text[from..self.at]);
        }
    }

    /// Takes what follows a backslash, and the second half of a surrogate pair; `None` for a half alone.
    fn character(&mut self) -> Result<Option<char>> {
        let unit = self.escape()?;
        let bytes = self.text.as_bytes();
        if (0xd800..0xdc00).contains(&unit) && bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 1;
            let low = self.escape()?;
            if (0xdc00..0xe000).contains(&low) {
                return Ok(char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)));
            }
            self.at = back;
        }
        Ok(char::from_u32(unit))
    }

    /// Takes one escape, the backslash being behind; answers its UTF-16 unit.
    fn escape(&mut self) -> Result<u32> {
        let bytes = self.text.as_bytes();
        let Some(&byte) = bytes.get(self.at) else { return Err(self.syntax("")) };
        let unit = match byte {
            b'"' | b'\\' | b'/' => u32::from(byte),
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => 0x0a,
            b'r' => 0x0d,
            b't' => 0x09,
            b'u' => {
                let mut unit = 0;
                for _ in 0..4 {
                    self.at += 1;
                    let digit = bytes.get(self.at).and_then(|&byte| char::from(byte).to_digit(16));
                    unit = unit * 16 + digit.ok_or_else(|| self.syntax("expected four hex digits"))?;
                }
                unit
            }
            _ => return Err(self.syntax("no such escape")),
        };
        self.at += 1;
        Ok(unit)
    }
}

/// Marks the bytes of a word that are a quote, a backslash or a control character.
fn specials(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGHS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn skipped(text: &str) -> Result<usize> {
        let mut scan = Scanner::new(text);
        scan.skip()?;
        match scan.peek() {
            None => Ok(scan.at()),
            Some(_) => Err(scan.syntax("trailing")),
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(skipped(&deep), Ok(2_000_000));
        let open = r#"{"a":"#.repeat(1_000_000);
        assert_eq!(skipped(&open).unwrap_err().reason, "unexpected end");
    }

    #[test]
    fn a_string_is_borrowed_unless_it_has_escapes() {
        let mut scan = Scanner::new(r#" "plain é" "#);
        assert!(matches!(scan.string().unwrap(), Some(Cow::Borrowed("plain é"))));
        for (text, meant) in [
            (r#""a\"b\\\/\b\f\n\r\t\u00e9\ud83d\ude00z""#, Some("a\"b\\/\u{8}\u{c}\n\r\té😀z")),
            (r#""\ud83d""#, None),
            (r#""\ud83dx""#, None),
            (r#""\ud83d\n""#, None),
            (r#""\ud83d\ud83d\ude00""#, None),
            (r#""\ude00 and more than eight bytes""#, None),
        ] {
            assert_eq!(Scanner::new(text).string().unwrap().as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn an_error_says_where() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("{\"a\" 1}", 5),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("01", 1),
            ("-", 1),
            ("1.e3", 2),
            ("1e", 2),
            ("tru", 0),
            ("\"a\nb\"", 2),
            ("\"0123456789\u{1f}\"", 11),
            ("\"\\x\"", 2),
            ("\"\\u12g4\"", 5),
            ("\"abc", 4),
            ("{\"a\":1]", 6),
            ("{1:2}", 1),
            ("{\"a\":1,}", 7),
        ] {
            assert_eq!(skipped(text).unwrap_err().at, at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_well_formed_is_what_serde_json_says(text in prop_oneof![json_like(), "[\\[\\]{}:,\"\\\\/u0-9eE.+a-f \\n-]{0,40}"]) {
            // Which looks at the form alone: a number past a double, or half of a surrogate pair, is JSON.
            let oracle = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            prop_assert_eq!(skipped(&text).is_ok(), oracle.is_ok(), "{}", text);
        }

        #[test]
        fn a_string_reads_as_serde_json_reads_it(content in "\\PC*", escaped in any::<bool>()) {
            let mut text = serde_json::to_string(&content).unwrap();
            if escaped {
                let units: String = content.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                text = format!("\"{units}\"");
            }
            let read = Scanner::new(&text).string().unwrap().unwrap();
            prop_assert_eq!(read.as_ref(), content.as_str());
        }
    }

    /// Mostly well-formed texts: values with a character replaced now and then.
    fn json_like() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?",
            "\"[a-z\\\\n\u{1}é]{0,12}\"",
            "\"(\\\\u[dD][89a-fA-F][0-9]{2}|\\\\[\"/bnrt]|x){0,4}\"",
        ];
        let value = leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(" ,"))),
                prop::collection::vec(inner, 0..4).prop_map(|v| {
                    let fields: Vec<_> =
                        v.iter().enumerate().map(|(i, v)| format!("\"k{i}\" : {v}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        });
        (value, prop::option::of((any::<prop::sample::Index>(), "[\\[\\]{},:\"0-9 \\\\eE.+-]"))).prop_map(
            |(text, change)| match change {
                Some((at, with)) if text.is_ascii() => {
                    let at = at.index(text.len());
                    format!("{}{with}{}", &text[..at], &text[at + 1..])
                }
                _ => text,
            },
        )
    }
}
