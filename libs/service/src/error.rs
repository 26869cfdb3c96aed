//! The nine classes of failure, and what each one is in either protocol.
//!
//! There is one table; nothing else maps a class to a code, a status, a retry or a log level.
//! Codes are stable names for programs, details are for people: what is wrong and what to do, never internals.
//! The source of an error goes to the log and nowhere else.

use std::{borrow::Cow, collections::HashMap, error::Error as StdError, fmt, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use telemetry::trace::Scope;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use tracing::Level;

use crate::throttle::Throttle;

/// The `domain` of `google.rpc.ErrorInfo`, and the prefix of a problem's `type`.
pub const DOMAIN: &str = "attribution";

/// The media type of a problem (RFC 9457).
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Lines about failed requests; more than these are counted in the next one.
static FAILURES: Throttle = Throttle::new(50);

/// What went wrong, as a caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request can never succeed as it is.
    Invalid,
    /// Nobody we know.
    Unauthenticated,
    /// Somebody we know, without the right.
    Forbidden,
    /// Not there, or another tenant's: the caller cannot tell.
    NotFound,
    /// Past a size limit.
    TooLarge,
    /// Past a quota.
    OverQuota,
    /// Not done in time.
    TimedOut,
    /// Cannot be done now.
    Unavailable,
    /// Our fault.
    Internal,
}

/// Whether the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again.
    No,
    /// After the time given by `Retry-After`.
    After,
    /// At once, with back-off.
    Yes,
}

/// What a class is in both protocols.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The class.
    pub class: Class,
    /// In gRPC.
    pub grpc: Code,
    /// In HTTP, unless the error has a more fitting one (405, 415).
    pub http: u16,
    /// For clients.
    pub retry: Retry,
    /// How loud it is: a client's mistake is not our news.
    pub level: Level,
    /// The last part of a problem's `type`, and the default `code`.
    pub name: &'static str,
    /// A problem's `title`.
    pub title: &'static str,
}

/// The table of errors.
#[rustfmt::skip]
pub const TABLE: [Row; 9] = [
    Row { class: Class::Invalid,         grpc: Code::InvalidArgument,   http: 400, retry: Retry::No,    level: Level::DEBUG, name: "invalid",         title: "invalid request" },
    Row { class: Class::Unauthenticated, grpc: Code::Unauthenticated,   http: 401, retry: Retry::No,    level: Level::DEBUG, name: "unauthenticated", title: "a valid key is needed" },
    Row { class: Class::Forbidden,       grpc: Code::PermissionDenied,  http: 403, retry: Retry::No,    level: Level::DEBUG, name: "forbidden",       title: "the key may not do this" },
    Row { class: Class::NotFound,        grpc: Code::NotFound,          http: 404, retry: Retry::No,    level: Level::DEBUG, name: "not_found",       title: "not found" },
    Row { class: Class::TooLarge,        grpc: Code::OutOfRange,        http: 413, retry: Retry::No,    level: Level::DEBUG, name: "too_large",       title: "too large" },
    Row { class: Class::OverQuota,       grpc: Code::ResourceExhausted, http: 429, retry: Retry::After, level: Level::DEBUG, name: "over_quota",      title: "over the quota" },
    Row { class: Class::TimedOut,        grpc: Code::DeadlineExceeded,  http: 504, retry: Retry::Yes,   level: Level::WARN,  name: "timed_out",       title: "not done in time" },
    Row { class: Class::Unavailable,     grpc: Code::Unavailable,       http: 503, retry: Retry::After, level: Level::WARN,  name: "unavailable",     title: "not available now" },
    Row { class: Class::Internal,        grpc: Code::Internal,          http: 500, retry: Retry::Yes,   level: Level::ERROR, name: "internal",        title: "internal error" },
];

/// The seconds to wait when an error that wants a wait names none.
pub const RETRY_AFTER_SECONDS_DEFAULT: u64 = 1;

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Its path in the request, such as `filters[0].dimension`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An error on its way to a caller.
pub struct Error(Box<Inner>);

struct Inner {
    class: Class,
    status: Option<StatusCode>,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Class ===

impl Class {
    /// Its row of the [`TABLE`].
    pub fn row(self) -> &'static Row {
        // The table is in the order of the enum; a test holds it to that.
        &TABLE[self as usize]
    }
}

// === impl Error ===

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $class:ident,)*) => {
        impl Error {
            $($(#[$doc])*
            pub fn $name(detail: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Class::$class, detail)
            })*
        }
    };
}

constructors! {
    /// The request can never succeed as it is.
    invalid => Invalid,
    /// No key, or one nobody knows.
    unauthenticated => Unauthenticated,
    /// A key without the right.
    forbidden => Forbidden,
    /// Not there, or another tenant's.
    not_found => NotFound,
    /// Past a size limit.
    too_large => TooLarge,
    /// Past a quota.
    over_quota => OverQuota,
    /// Not done in time.
    timed_out => TimedOut,
    /// Cannot be done now.
    unavailable => Unavailable,
}

impl Error {
    /// An error of a class; its code is the class's name.
    pub fn new(class: Class, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            class,
            status: None,
            code: Cow::Borrowed(class.row().name),
            detail: detail.into(),
            violations: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Our fault: the caller learns nothing of it but the request id, the log learns it all.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(Class::Internal, "an internal error; the request id names it in the log").source(source)
    }

    /// A media type or encoding that is not read here: 415.
    pub fn unsupported_media_type(detail: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::invalid(detail).code("unsupported_media_type");
        error.0.status = Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        error
    }

    /// A known route with another method: 405. The caller adds `Allow`.
    pub fn method_not_allowed() -> Self {
        let mut error = Self::invalid("this route has other methods, see Allow").code("method_not_allowed");
        error.0.status = Some(StatusCode::METHOD_NOT_ALLOWED);
        error
    }

    /// Replaces the code: a stable name for programs.
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.0.code = code.into();
        self
    }

    /// Adds a field that is wrong.
    pub fn field(mut self, field: impl Into<String>, reason: impl Into<String>) -> Self {
        self.0.violations.push(Violation { field: field.into(), reason: reason.into() });
        self
    }

    /// When to come again; rounded up to whole seconds in HTTP.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// What caused it, for the log.
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// Its code.
    pub fn code_str(&self) -> &str {
        &self.0.code
    }

    /// What is wrong, in words.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The fields that are wrong.
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        let of_class = StatusCode::from_u16(self.0.class.row().http);
        self.0.status.or_else(|| of_class.ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// As a gRPC status with `ErrorInfo`, `BadRequest` and `RetryInfo`. Logs it: this is the edge.
    pub fn into_status(self) -> Status {
        self.log();
        let row = self.0.class.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(self.0.code.clone(), DOMAIN, HashMap::new());
        if !self.0.violations.is_empty() {
            let violations: Vec<_> = (self.0.violations.iter())
                .map(|v| FieldViolation::new(v.field.clone(), v.reason.clone()))
                .collect();
            details.set_bad_request(violations);
        }
        if let Some(wait) = self.wait() {
            details.set_retry_info(Some(wait));
        }
        Status::with_error_details(row.grpc, self.0.detail.into_owned(), details)
    }

    fn wait(&self) -> Option<Duration> {
        let default = (self.0.class.row().retry == Retry::After)
            .then_some(Duration::from_secs(RETRY_AFTER_SECONDS_DEFAULT));
        self.0.retry_after.or(default)
    }

    fn log(&self) {
        let level = self.0.class.row().level;
        let left_out = match level {
            Level::WARN | Level::ERROR => FAILURES.pass(),
            _ => Some(0),
        };
        let Some(left_out) = left_out else { return };
        let source = self.0.source.as_deref().map(|source| chain(source)).unwrap_or_default();
        let scope = Scope::current();
        let request_id = scope.as_ref().and_then(|scope| scope.request_id.to_str().ok()).unwrap_or_default();
        let (code, detail) = (&self.0.code, &self.0.detail);
        match level {
            Level::ERROR => tracing::error!(%request_id, %code, %detail, %source, left_out, "request failed"),
            Level::WARN => tracing::warn!(%request_id, %code, %detail, %source, left_out, "request failed"),
            _ => tracing::debug!(%request_id, %code, %detail, %source, "request refused"),
        }
    }
}

/// What the transport says of a message that it cannot take, in the terms of the table: it is the sender's mistake.
/// Any other status stays as it is.
pub fn of_message(status: Status) -> Status {
    // What has details is ours.
    if !status.details().is_empty() {
        return status;
    }
    let said = status.message().to_owned();
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Error::too_large(said).code("message_too_large").into(),
        Code::Internal => {
            let detail = format!("the message cannot be read: {said}");
            Error::invalid(detail).code("unreadable_message").into()
        }
        _ => status,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)?;
        for Violation { field, reason } in &self.0.violations {
            write!(f, "; {field}: {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("class", &self.0.class)
            .field("code", &self.0.code)
            .field("detail", &self.0.detail)
            .field("violations", &self.0.violations)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.into_status()
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    errors: &'a [Violation],
}

impl IntoResponse for Error {
    /// As a problem. Logs it: this is the edge.
    fn into_response(self) -> Response {
        self.log();
        let row = self.0.class.row();
        let status = self.status();
        let scope = Scope::current();
        let problem = Problem {
            r#type: format!("urn:{DOMAIN}:error:{}", row.name),
            title: row.title,
            status: status.as_u16(),
            detail: &self.0.detail,
            code: &self.0.code,
            request_id: scope.as_ref().and_then(|scope| scope.request_id.to_str().ok()).unwrap_or_default(),
            errors: &self.0.violations,
        };
        // Strings and numbers only, so this always serializes.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(wait) = self.wait() {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error and its sources in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        line.push_str(": ");
        line.push_str(&error.to_string());
        next = error.source();
    }
    line
}
