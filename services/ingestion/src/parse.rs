//! Reads the bodies of `POST /v1/events`: one object, an array of objects, or one object a line.
//!
//! A body that is JSON is read to its end: a mistake inside one item is that item's alone.

use std::{borrow::Cow, fmt};

use proto::events::EventType;

use crate::{
    event::{Code, EventRef, Field, Rejection, Scalar, Shown, TimeRef, TypeRef},
    json::{Kind, Scanner, Syntax},
    validate::PROPERTIES_KEYS_MAX,
};

/// How a body is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON value: an object or an array of objects.
    Json,
    /// One JSON value a line; blank lines count for nothing.
    Lines,
}

/// Why a body cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The byte, counted from 0.
    pub byte: usize,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// The items of a body, one after the other.
#[derive(Debug)]
pub struct Items<'a> {
    body: &'a str,
    scan: Scanner<'a>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the one value of a body.
    Start,
    /// Inside an array; whether an item has been read.
    Array { first: bool },
    /// At the beginning of a line.
    Line,
    /// All read.
    End,
}

/// What a read of one item found out: nothing to say against its form, or its first mistake.
pub type Form = Result<(), Rejection>;

/// About how many events a body has, without reading it: each has a type.
pub(crate) fn count(body: &[u8]) -> usize {
    memchr::memmem::find_iter(body, br#""event_type""#).count()
}

// === impl Items ===

impl<'a> Items<'a> {
    /// Begins with a body.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn new(body: &'a [u8], format: Format) -> Result<Self, Unreadable> {
        let body =
            std::str::from_utf8(body).map_err(|error| unreadable(body, error.valid_up_to(), "not UTF-8"))?;
        if body.starts_with('\u{feff}') {
            return Err(unreadable(body.as_bytes(), 0, "a byte order mark is no JSON"));
        }
        let state = match format {
            Format::Json => State::Start,
            Format::Lines => State::Line,
        };
        Ok(Self { body, scan: Scanner::new(body), state })
    }

    /// Reads the next item into `event`; `None` behind the last one.
    ///
    /// # Errors
    /// The body is not JSON: nothing of it counts.
    pub fn next(&mut self, event: &mut EventRef<'a>) -> Result<Option<Form>, Unreadable> {
        self.step(event).map_err(|Syntax { at, reason }| unreadable(self.body.as_bytes(), at, reason))
    }

    fn step(&mut self, event: &mut EventRef<'a>) -> Result<Option<Form>, Syntax> {
        match self.state {
            State::End => Ok(None),
            State::Start if self.scan.eat(b'[') => {
                self.state = State::Array { first: true };
                self.step(event)
            }
            State::Start => {
                let form = item(&mut self.scan, event)?;
                self.end()?;
                Ok(Some(form))
            }
            State::Array { first } => {
                if self.scan.eat(b']') {
                    self.end()?;
                    return Ok(None);
                }
                if !first {
                    self.scan.expect(b',', "expected , or ]")?;
                }
                self.state = State::Array { first: false };
                item(&mut self.scan, event).map(Some)
            }
            State::Line => self.line(event),
        }
    }

    fn line(&mut self, event: &mut EventRef<'a>) -> Result<Option<Form>, Syntax> {
        loop {
            let from = self.scan.at();
            let rest = &self.body[from..];
            if rest.is_empty() {
                self.state = State::End;
                return Ok(None);
            }
            let end = rest.find('\n').map_or(self.body.len(), |at| from + at);
            self.scan.narrow(self.body, from, end);
            let blank = self.scan.peek().is_none();
            let form = if blank { Ok(()) } else { item(&mut self.scan, event)? };
            if self.scan.peek().is_some() {
                return Err(self.scan.syntax("expected the end of the line"));
            }
            self.scan.narrow(self.body, (end + 1).min(self.body.len()), self.body.len());
            if !blank {
                return Ok(Some(form));
            }
        }
    }

    fn end(&mut self) -> Result<(), Syntax> {
        self.state = State::End;
        match self.scan.peek() {
            None => Ok(()),
            Some(_) => Err(self.scan.syntax("expected the end of the body")),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body cannot be read: {} at byte {}, line {}", self.reason, self.byte, self.line)
    }
}

impl std::error::Error for Unreadable {}

fn unreadable(body: &[u8], byte: usize, reason: &'static str) -> Unreadable {
    let line = 1 + body[..byte].iter().filter(|&&byte| byte == b'\n').count();
    Unreadable { byte, line, reason }
}

fn item<'a>(scan: &mut Scanner<'a>, event: &mut EventRef<'a>) -> Result<Form, Syntax> {
    event.clear();
    let kind = scan.kind()?;
    let from = scan.at();
    if kind != Kind::Object {
        scan.skip()?;
        event.bytes = scan.at() - from;
        let reason = format!("an event is an object, not {}", kind.name());
        return Ok(Err(Rejection::whole(Code::InvalidValue, reason)));
    }
    let mut form = Ok(());
    object(scan, |scan, key| {
        let found = field(scan, event, key)?;
        if form.is_ok() {
            form = found;
        }
        Ok(())
    })?;
    event.bytes = scan.at() - from;
    Ok(form)
}

/// Takes an object, handing each key, `None` being no text, to a function that takes the value.
fn object<'a>(
    scan: &mut Scanner<'a>,
    mut entry: impl FnMut(&mut Scanner<'a>, Option<Cow<'a, str>>) -> Result<(), Syntax>,
) -> Result<(), Syntax> {
    scan.expect(b'{', "expected an object")?;
    if scan.eat(b'}') {
        return Ok(());
    }
    loop {
        let key = scan.string()?;
        scan.expect(b':', "expected :")?;
        entry(scan, key)?;
        if !scan.eat(b',') {
            return scan.expect(b'}', "expected , or }");
        }
    }
}

fn field<'a>(
    scan: &mut Scanner<'a>,
    event: &mut EventRef<'a>,
    key: Option<Cow<'a, str>>,
) -> Result<Form, Syntax> {
    let Some(field) = key.as_deref().and_then(Field::named) else {
        scan.skip()?;
        return Ok(Err(unknown(key.as_deref().unwrap_or("\u{fffd}"))));
    };
    if event.has(field) {
        scan.skip()?;
        return Ok(Err(Rejection::of(Code::InvalidValue, field, "given twice")));
    }
    let kind = scan.kind()?;
    match (field, kind) {
        (Field::EventType, Kind::Text) => {
            let Some(word) = scan.string()? else { return Ok(Err(no_text(field))) };
            event.event_type = Some(event_type(word));
        }
        (Field::Timestamp | Field::InstallBegin, Kind::Text | Kind::Number) => {
            let time = if kind == Kind::Number {
                TimeRef::Number(scan.number()?)
            } else {
                let Some(text) = scan.string()? else { return Ok(Err(no_text(field))) };
                TimeRef::Text(text)
            };
            let place =
                if field == Field::Timestamp { &mut event.timestamp } else { &mut event.install_begin };
            *place = Some(time);
        }
        (Field::Properties, Kind::Object) => return properties(scan, event),
        (Field::Value, Kind::Number) => {
            event.texts[field as usize] = Some(Cow::Borrowed(scan.number()?));
            event.value_is_number = true;
        }
        (Field::EventType | Field::Timestamp | Field::InstallBegin | Field::Properties, _) => {
            return other_type(scan, field, kind);
        }
        (_, Kind::Text) => {
            let Some(text) = scan.string()? else { return Ok(Err(no_text(field))) };
            event.texts[field as usize] = Some(text);
        }
        _ => return other_type(scan, field, kind),
    }
    Ok(Ok(()))
}

fn event_type(word: Cow<'_, str>) -> TypeRef<'_> {
    TypeRef::Known(match word.as_ref() {
        "impression" => EventType::Impression,
        "click" => EventType::Click,
        "visit" => EventType::Visit,
        "activity" => EventType::Activity,
        "conversion" => EventType::Conversion,
        _ => return TypeRef::Word(word),
    })
}

fn properties<'a>(scan: &mut Scanner<'a>, event: &mut EventRef<'a>) -> Result<Form, Syntax> {
    event.has_properties = true;
    let mut form = Ok(());
    object(scan, |scan, key| {
        let Some(key) = key else {
            form = Err(no_text(Field::Properties));
            return scan.skip();
        };
        if event.properties.len() > PROPERTIES_KEYS_MAX {
            return scan.skip();
        }
        if event.properties.iter().any(|(known, _)| *known == key) {
            let reason = format!("{} is given twice", Shown(&key));
            form = Err(Rejection::of(Code::InvalidValue, Field::Properties, reason));
            return scan.skip();
        }
        let value = match scan.kind()? {
            Kind::Text => match scan.string()? {
                Some(text) => Scalar::Text(text),
                None => Scalar::Other("half of a surrogate pair"),
            },
            // The text of a JSON number always parses; one past a double is infinite.
            Kind::Number => Scalar::Number(scan.number()?.parse().unwrap_or(f64::NAN)),
            Kind::Bool => Scalar::Bool(scan.boolean()?),
            other => {
                scan.skip()?;
                Scalar::Other(other.name())
            }
        };
        event.properties.push((key, value));
        Ok(())
    })?;
    Ok(form)
}

fn other_type(scan: &mut Scanner<'_>, field: Field, kind: Kind) -> Result<Form, Syntax> {
    scan.skip()?;
    let wanted = match field {
        Field::Timestamp | Field::InstallBegin => "an integer of Unix milliseconds or a string of RFC 3339",
        Field::Value => "a decimal number or a string of one",
        Field::Properties => "an object",
        _ => "a string",
    };
    let reason = format!("must be {wanted}, not {}", kind.name());
    Ok(Err(Rejection::of(Code::InvalidValue, field, reason)))
}

fn no_text(field: Field) -> Rejection {
    Rejection::of(Code::InvalidValue, field, "an escape is half of a surrogate pair, which is no text")
}

/// The bytes of an unknown field's name that are given back.
const NAME_BYTES_MAX: usize = 256;

fn unknown(name: &str) -> Rejection {
    let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
    Rejection {
        code: Code::UnknownField,
        field: Cow::Owned(name.to_owned()),
        reason: Cow::Borrowed("there is no such field; what is your own goes into properties"),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
