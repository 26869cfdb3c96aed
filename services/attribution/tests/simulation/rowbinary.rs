//! ClickHouse's RowBinary format, as far as the warehouse's tables need it.

/// A value; 128-bit ones keep their bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Number(i128),
    Text(String),
    List(Vec<Value>),
}

/// A column's name and type.
pub type Column = (String, String);

impl Value {
    pub fn number(&self) -> i128 {
        match self {
            Self::Number(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn list(&self) -> &[Value] {
        match self {
            Self::List(list) => list,
            other => panic!("no list: {other:?}"),
        }
    }
}

/// The columns of a CREATE TABLE statement, nested ones as arrays.
pub fn columns(create: &str) -> Vec<Column> {
    let text: Vec<&str> = create.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let text = text.join(" ");
    definitions(inside(&text))
}

fn definitions(list: &str) -> Vec<Column> {
    let mut columns = Vec::new();
    for definition in split(list) {
        let (name, rest) = definition.split_once(' ').unwrap();
        let rest = rest.trim();
        if name == "INDEX" {
            continue;
        }
        if rest.starts_with("Nested") {
            let nested = definitions(inside(rest)).into_iter();
            columns.extend(nested.map(|(inner, kind)| (format!("{name}.{inner}"), format!("Array({kind})"))));
            continue;
        }
        columns.push((name.to_owned(), kind(rest)));
    }
    columns
}

/// What is between the first parenthesis and its other half.
fn inside(text: &str) -> &str {
    let from = text.find('(').unwrap() + 1;
    let mut depth = 1;
    let end = text[from..].char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    &text[from..from + end.unwrap().0]
}

fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if c == ',' && depth == 0 {
            parts.push(list[from..at].trim());
            from = at + 1;
        }
    }
    parts.push(list[from..].trim());
    parts
}

/// The type at the beginning of a definition, with single spaces.
fn kind(rest: &str) -> String {
    let mut depth = 0;
    let end = rest.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        *c == ' ' && depth == 0
    });
    rest[..end.map_or(rest.len(), |(at, _)| at)].split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Rows with names and types before them.
pub fn encode(columns: &[(&str, &str)], rows: &[Vec<Value>]) -> Vec<u8> {
    let mut out = Vec::new();
    put_size(&mut out, columns.len());
    columns.iter().for_each(|(name, _)| put_text(&mut out, name));
    columns.iter().for_each(|(_, kind)| put_text(&mut out, kind));
    for row in rows {
        for ((_, kind), value) in columns.iter().zip(row) {
            put(&mut out, kind, value);
        }
    }
    out
}

/// Names and rows.
pub fn decode(mut bytes: &[u8]) -> (Vec<String>, Vec<Vec<Value>>) {
    let count = take_size(&mut bytes);
    let names: Vec<String> = (0..count).map(|_| take_text(&mut bytes)).collect();
    let kinds: Vec<String> = (0..count).map(|_| take_text(&mut bytes)).collect();
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        rows.push(kinds.iter().map(|kind| take(&mut bytes, kind)).collect());
    }
    (names, rows)
}

fn width(kind: &str) -> usize {
    match kind.split('(').next().unwrap() {
        "UInt8" | "Int8" | "Enum8" | "Bool" => 1,
        "UInt16" => 2,
        "UInt32" => 4,
        "UInt64" | "Int64" | "DateTime64" => 8,
        "UInt128" => 16,
        other => panic!("the model does not know the type {other}"),
    }
}

fn is_signed(kind: &str) -> bool {
    kind.starts_with("Int") || kind.starts_with("DateTime64") || kind.starts_with("Enum8")
}

fn element(kind: &str) -> Option<&str> {
    kind.strip_prefix("Array(")?.strip_suffix(')')
}

fn is_text(kind: &str) -> bool {
    kind == "String" || kind == "LowCardinality(String)"
}

fn put(out: &mut Vec<u8>, kind: &str, value: &Value) {
    if is_text(kind) {
        put_text(out, value.text());
    } else {
        out.extend_from_slice(&value.number().to_le_bytes()[..width(kind)]);
    }
}

fn take(bytes: &mut &[u8], kind: &str) -> Value {
    if is_text(kind) {
        return Value::Text(take_text(bytes));
    }
    if let Some(element) = element(kind) {
        let count = take_size(bytes);
        return Value::List((0..count).map(|_| take(bytes, element)).collect());
    }
    let (number, rest) = bytes.split_at(width(kind));
    *bytes = rest;
    let negative = is_signed(kind) && number.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = if negative { [0xff; 16] } else { [0; 16] };
    wide[..number.len()].copy_from_slice(number);
    Value::Number(i128::from_le_bytes(wide))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_size(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn take_text(bytes: &mut &[u8]) -> String {
    let size = take_size(bytes);
    let (text, rest) = bytes.split_at(size);
    *bytes = rest;
    String::from_utf8(text.to_vec()).unwrap()
}

fn put_size(out: &mut Vec<u8>, mut size: usize) {
    while size >= 0x80 {
        out.push(size as u8 | 0x80);
        size >>= 7;
    }
    out.push(size as u8);
}

fn take_size(bytes: &mut &[u8]) -> usize {
    let (mut size, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        size |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return size;
        }
    }
}
