//! One HTTP request of ClickHouse's interface, read from its URL, headers and form fields.

use std::collections::BTreeMap;

use base64::Engine as _;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use subtle::ConstantTimeEq;

use crate::decode::Encoding;
use crate::exception::{Exception, code};
use crate::sql;

/// Form fields of one multipart body.
const FIELDS_MAX: usize = 1_000;

/// What a request asks for, apart from its body.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// The statement, or its beginning when the rest is in the body.
    pub(crate) query: String,
    pub(crate) database: Option<String>,
    pub(crate) query_id: String,
    pub(crate) default_format: Option<String>,
    /// Settings and `param_…` of this statement alone.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) compressed_blocks: bool,
    /// Make the whole result before answering.
    pub(crate) wait_end: bool,
    pub(crate) read_only: bool,
    /// The boundary of a multipart body.
    pub(crate) boundary: Option<String>,
}

/// User and password of this server.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

// === impl Request ===

impl Request {
    /// Reads the URL's query string and the headers; `generated_id` names a query without an id.
    pub(crate) fn read(
        url_query: &str,
        headers: &HeaderMap,
        read_only: bool,
        generated_id: String,
    ) -> Result<Self, Exception> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let mut request = Self {
            query_id: generated_id,
            read_only,
            database: header("x-clickhouse-database").map(str::to_owned),
            default_format: header("x-clickhouse-format").map(str::to_owned),
            encoding: header(CONTENT_ENCODING.as_str()).map(Encoding::parse).transpose()?,
            boundary: header(CONTENT_TYPE.as_str()).and_then(boundary),
            ..Self::default()
        };
        for (name, value) in pairs(url_query)? {
            request.set(name, value)?;
        }
        Ok(request)
    }

    fn set(&mut self, name: String, value: String) -> Result<(), Exception> {
        match name.as_str() {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value),
            "default_format" => self.default_format = Some(value),
            "query_id" if value.is_empty() => {}
            "query_id" => self.query_id = value,
            "decompress" => self.compressed_blocks = flag(&name, &value)?,
            "wait_end_of_query" => self.wait_end = flag(&name, &value)?,
            "compress" if !flag(&name, &value)? => {}
            "client_protocol_version" if value == "0" => {}
            "compress"
            | "client_protocol_version"
            | "session_id"
            | "session_timeout"
            | "session_check"
            | "role" => {
                return Err(Exception::new(
                    code::NOT_IMPLEMENTED,
                    format_args!("the parameter '{name}' is not supported, leave it out"),
                ));
            }
            // Read by `Credentials`, or without a meaning here.
            "user" | "password" | "quota_key" | "buffer_size" | "stacktrace" => {}
            _ if sql::is_name(&name) => {
                self.settings.insert(name, value);
            }
            _ => {
                return Err(Exception::new(code::UNKNOWN_SETTING, format_args!("Unknown setting '{name}'")));
            }
        }
        Ok(())
    }

    /// Takes over the fields of a multipart body.
    pub(crate) fn set_fields(&mut self, boundary: &str, body: &[u8]) -> Result<(), Exception> {
        for (name, value) in fields(boundary, body)? {
            self.set(name, value)?;
        }
        Ok(())
    }
}

// === impl Credentials ===

impl Credentials {
    /// Accepts ClickHouse's headers, basic authentication and URL parameters.
    pub(crate) fn check(&self, url_query: &str, headers: &HeaderMap) -> Result<(), Exception> {
        let Some((user, password)) = given(url_query, headers)? else {
            return Err(Exception::new(code::REQUIRED_PASSWORD, "a user and a password are required"));
        };
        let same =
            user.as_bytes().ct_eq(self.user.as_bytes()) & password.as_bytes().ct_eq(self.password.as_bytes());
        if bool::from(same) {
            Ok(())
        } else {
            Err(Exception::new(
                code::AUTHENTICATION_FAILED,
                "Authentication failed: password is incorrect, or there is no user with such name",
            ))
        }
    }
}

fn given(url_query: &str, headers: &HeaderMap) -> Result<Option<(String, String)>, Exception> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (user, key) = (text("x-clickhouse-user"), text("x-clickhouse-key"));
    if user.is_some() || key.is_some() {
        return Ok(Some((user.unwrap_or_default(), key.unwrap_or_default())));
    }
    if let Some(authorization) = text(AUTHORIZATION.as_str()) {
        let decoded = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, packed)| base64::engine::general_purpose::STANDARD.decode(packed.trim()).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        return Ok(decoded.map(|pair| match pair.split_once(':') {
            Some((user, password)) => (user.to_owned(), password.to_owned()),
            None => (pair, String::new()),
        }));
    }
    let (mut user, mut password) = (None, None);
    for (name, value) in pairs(url_query)? {
        match name.as_str() {
            "user" => user = Some(value),
            "password" => password = Some(value),
            _ => {}
        }
    }
    Ok(user.or_else(|| password.is_some().then(String::new)).map(|user| (user, password.unwrap_or_default())))
}

fn flag(name: &str, value: &str) -> Result<bool, Exception> {
    match value {
        "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => Err(Exception::new(code::BAD_ARGUMENTS, format_args!("the parameter '{name}' is 0 or 1"))),
    }
}

fn pairs(query: &str) -> Result<Vec<(String, String)>, Exception> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Undoes percent encoding; `+` is a blank.
fn decoded(text: &str) -> Result<String, Exception> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(bad_url()),
                }
            }
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| bad_url())
}

fn bad_url() -> Exception {
    Exception::new(code::BAD_ARGUMENTS, "the URL is not percent-encoded UTF-8")
}

fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then(|| value.trim_matches('"').to_owned())
    })
}

/// The fields of a multipart form; a file, which would be an external table, is refused.
fn fields(boundary: &str, body: &[u8]) -> Result<Vec<(String, String)>, Exception> {
    let bad = || Exception::new(code::BAD_ARGUMENTS, "the multipart body is damaged");
    let text = std::str::from_utf8(body).map_err(|_| bad())?;
    let delimiter = format!("--{boundary}");
    let mut parts = text.split(delimiter.as_str());
    parts.next();
    let mut fields = Vec::new();
    for part in parts {
        if part.starts_with("--") {
            return Ok(fields);
        }
        let part = part.strip_prefix("\r\n").and_then(|part| part.strip_suffix("\r\n")).ok_or_else(bad)?;
        let (head, value) = part.split_once("\r\n\r\n").ok_or_else(bad)?;
        if head.to_ascii_lowercase().contains("filename=") {
            return Err(Exception::new(
                code::NOT_IMPLEMENTED,
                "external tables are not supported, insert into a table first",
            ));
        }
        let name = head.split_once("name=\"").and_then(|(_, rest)| rest.split_once('"')).ok_or_else(bad)?.0;
        if fields.len() == FIELDS_MAX {
            return Err(bad());
        }
        fields.push((name.to_owned(), value.to_owned()));
    }
    Err(bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(url: &str) -> Result<Request, Exception> {
        Request::read(url, &HeaderMap::new(), false, "generated".into())
    }

    #[test]
    fn parameters_go_where_they_belong() {
        let request =
            read("query=SELECT+%27%C3%A4%26%27&database=d&max_threads=2&query_id=q&param_x=1&decompress=1")
                .unwrap();
        assert_eq!(request.query, "SELECT 'ä&'");
        assert_eq!((request.database.as_deref(), request.query_id.as_str()), (Some("d"), "q"));
        assert!(request.compressed_blocks);
        assert_eq!(request.settings.len(), 2);
        assert_eq!(read("").unwrap().query_id, "generated");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for name in ["compress=1", "session_id=a", "role=r", "client_protocol_version=54"] {
            let error = read(name).unwrap_err();
            assert!(
                error.code == code::NOT_IMPLEMENTED
                    && error.to_string().contains(name.split('=').next().unwrap())
            );
        }
        assert_eq!(read("a%20b=1").unwrap_err().code, code::UNKNOWN_SETTING);
        assert_eq!(read("a=%zz").unwrap_err().code, code::BAD_ARGUMENTS);
        assert_eq!(read("decompress=maybe").unwrap_err().code, code::BAD_ARGUMENTS);
        assert!(read("compress=0&client_protocol_version=0").is_ok());
    }

    #[test]
    fn forms_are_read_and_damaged_ones_refused() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n\r\n1\r\n--b\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\n\r\n--b--\r\n";
        let expected =
            [("query".to_owned(), "SELECT\r\n\r\n1".to_owned()), ("param_a".to_owned(), String::new())];
        assert_eq!(fields("b", body.as_bytes()).unwrap(), expected);
        assert!(fields("b", &body.as_bytes()[..body.len() - 6]).is_err());
        assert!(
            fields("b", body.replace("name=\"query\"", "name=\"t\"; filename=\"f\"").as_bytes()).is_err()
        );
        let many = |count: usize| {
            "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n".repeat(count) + "--b--\r\n"
        };
        assert_eq!(fields("b", many(FIELDS_MAX).as_bytes()).unwrap().len(), FIELDS_MAX);
        assert!(fields("b", many(FIELDS_MAX + 1).as_bytes()).is_err());
        assert_eq!(boundary("multipart/form-data; boundary=\"x y\"").as_deref(), Some("x y"));
    }

    #[test]
    fn every_way_to_give_credentials_is_checked() {
        let credentials = Credentials { user: "u".into(), password: "secret".into() };
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        assert!(credentials.check("", &with("authorization", &basic("u:secret"))).is_ok());
        assert!(credentials.check("user=u&password=secret", &HeaderMap::new()).is_ok());
        for wrong in ["u:", "u:secre", "u:secret2", ":secret", "v:secret", "u"] {
            assert_eq!(
                credentials.check("", &with("authorization", &basic(wrong))).unwrap_err().code,
                516,
                "{wrong}"
            );
        }
        assert_eq!(credentials.check("", &with("x-clickhouse-key", "secret")).unwrap_err().code, 516);
        assert_eq!(credentials.check("", &HeaderMap::new()).unwrap_err().status().as_u16(), 401);
    }
}
