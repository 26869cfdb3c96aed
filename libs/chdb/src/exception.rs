//! ClickHouse's exceptions as text, code and HTTP status.

use std::fmt;

use http::StatusCode;

/// Codes of ClickHouse that this server itself raises.
pub(crate) mod code {
    pub(crate) const CANNOT_READ_ALL_DATA: u32 = 33;
    pub(crate) const BAD_ARGUMENTS: u32 = 36;
    pub(crate) const CHECKSUM_DOESNT_MATCH: u32 = 40;
    pub(crate) const NOT_IMPLEMENTED: u32 = 48;
    pub(crate) const SYNTAX_ERROR: u32 = 62;
    pub(crate) const UNKNOWN_SETTING: u32 = 115;
    pub(crate) const QUERY_IS_TOO_LARGE: u32 = 177;
    pub(crate) const TOO_MANY_SIMULTANEOUS_QUERIES: u32 = 202;
    pub(crate) const NETWORK_ERROR: u32 = 210;
    pub(crate) const CANNOT_DECOMPRESS: u32 = 271;
    pub(crate) const TOO_MANY_BYTES: u32 = 307;
    pub(crate) const AUTHENTICATION_FAILED: u32 = 516;
    pub(crate) const REQUIRED_PASSWORD: u32 = 194;
    pub(crate) const LOGICAL_ERROR: u32 = 49;
    pub(crate) const UNKNOWN_EXCEPTION: u32 = 1002;
}

/// An error as a ClickHouse server words it: `Code: N. DB::Exception: … (NAME)`.
#[derive(Debug, Clone)]
pub(crate) struct Exception {
    pub(crate) code: u32,
    text: String,
}

impl Exception {
    /// An error of this server itself.
    pub(crate) fn new(code: u32, message: impl fmt::Display) -> Self {
        let text = format!("Code: {code}. DB::Exception: {message}. ({})", name(code));
        Self { code, text }
    }

    /// An error of the engine, whose text carries its code.
    pub(crate) fn from_engine(text: String) -> Self {
        match code_of(&text) {
            Some(code) => Self { code, text },
            None => Self::new(code::UNKNOWN_EXCEPTION, text.trim_end_matches('.')),
        }
    }

    /// The exception an I/O error carries, or one that says the body could not be read.
    pub(crate) fn from_io(error: std::io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(exception) => exception,
            Err(error) => {
                Self::new(code::CANNOT_DECOMPRESS, format_args!("cannot decode the request body: {error}"))
            }
        }
    }

    /// The text with the engine's version, as a ClickHouse server ends it.
    pub(crate) fn text(&self, version: &str) -> String {
        let text = self.text.trim_end();
        if text.contains("(version ") { format!("{text}\n") } else { format!("{text} (version {version})\n") }
    }

    /// The HTTP status a ClickHouse server answers with for this code.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 10 | 15 | 25 | 26 | 27 | 36 | 38 | 41 | 44 | 53 | 62 | 69 | 72 | 117 | 167 | 168
            | 235 | 376 | 427 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 336 | 511 => StatusCode::NOT_FOUND,
            159 => StatusCode::REQUEST_TIMEOUT,
            code::QUERY_IS_TOO_LARGE | code::TOO_MANY_BYTES => StatusCode::PAYLOAD_TOO_LARGE,
            code::NOT_IMPLEMENTED => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 | code::TOO_MANY_SIMULTANEOUS_QUERIES | code::NETWORK_ERROR => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Exception {}

impl From<Exception> for std::io::Error {
    fn from(exception: Exception) -> Self {
        Self::other(exception)
    }
}

fn code_of(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("Code: ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..digits].parse().ok()
}

fn name(code: u32) -> &'static str {
    match code {
        code::CANNOT_READ_ALL_DATA => "CANNOT_READ_ALL_DATA",
        code::BAD_ARGUMENTS => "BAD_ARGUMENTS",
        code::CHECKSUM_DOESNT_MATCH => "CHECKSUM_DOESNT_MATCH",
        code::NOT_IMPLEMENTED => "NOT_IMPLEMENTED",
        code::SYNTAX_ERROR => "SYNTAX_ERROR",
        code::UNKNOWN_SETTING => "UNKNOWN_SETTING",
        code::QUERY_IS_TOO_LARGE => "QUERY_IS_TOO_LARGE",
        code::TOO_MANY_SIMULTANEOUS_QUERIES => "TOO_MANY_SIMULTANEOUS_QUERIES",
        code::NETWORK_ERROR => "NETWORK_ERROR",
        code::CANNOT_DECOMPRESS => "CANNOT_DECOMPRESS",
        code::TOO_MANY_BYTES => "TOO_MANY_BYTES",
        code::AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        code::REQUIRED_PASSWORD => "REQUIRED_PASSWORD",
        code::LOGICAL_ERROR => "LOGICAL_ERROR",
        _ => "UNKNOWN_EXCEPTION",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_code_decides_the_status() {
        let table = Exception::from_engine("Code: 60. DB::Exception: no such table. (UNKNOWN_TABLE)".into());
        assert_eq!((table.code, table.status().as_u16()), (60, 404));
        let syntax = Exception::from_engine("Code: 62. DB::Exception: x".into());
        assert_eq!(syntax.status().as_u16(), 400);
        let other = Exception::from_engine("something odd.".into());
        assert_eq!((other.code, other.status().as_u16()), (1002, 500));
        assert_eq!(other.to_string(), "Code: 1002. DB::Exception: something odd. (UNKNOWN_EXCEPTION)");
    }

    #[test]
    fn the_version_is_added_once() {
        let text = Exception::from_engine("Code: 1. DB::Exception: x".into()).text("9.9");
        assert_eq!(text, "Code: 1. DB::Exception: x (version 9.9)\n");
        assert_eq!(Exception::from_engine(text.clone()).text("9.9"), text);
    }
}
