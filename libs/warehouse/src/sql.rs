//! How values get into SQL: here and nowhere else.

use std::fmt::Write as _;

/// A string literal. Every byte but plain letters, digits and a few marks is written as `\xNN`, so no value can end the
/// literal, and none is taken for a placeholder.
pub(crate) fn quote(value: &str) -> String {
    let mut literal = String::with_capacity(value.len() + 2);
    literal.push('\'');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b" _-./:()".contains(&byte) {
            literal.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(literal, "\\x{byte:02X}");
        }
    }
    literal.push('\'');
    literal
}

/// A list of string literals for `IN`.
pub(crate) fn quote_list<S: AsRef<str>>(values: &[S]) -> String {
    let literals: Vec<String> = values.iter().map(|value| quote(value.as_ref())).collect();
    format!("({})", literals.join(", "))
}

/// A 64-bit float, bit for bit: decimal literals are not promised to be read so.
pub(crate) fn float(value: f64) -> String {
    format!("reinterpretAsFloat64(toUInt64({}))", value.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_leaves_its_literal() {
        assert_eq!(quote("Plain 1_2-3./:()"), "'Plain 1_2-3./:()'");
        assert_eq!(quote("a'; DROP--?\\"), r"'a\x27\x3B DROP--\x3F\x5C'");
        assert_eq!(quote("ä\0\n{x:String}"), r"'\xC3\xA4\x00\x0A\x7Bx:String\x7D'");
        assert_eq!(quote_list(&["a", "b'"]), r"('a', 'b\x27')");
    }
}
