//! How one trace crosses processes: the W3C `traceparent` over HTTP headers, gRPC metadata and plain strings.
//!
//! With an exporter set up the context is the span's; without one it is the [`Scope`] of the request, so that a trace
//! id given by a client still reaches the log's frames and the log lines.

use std::{fmt, future::Future};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tonic::metadata::MetadataMap;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header, metadata key and field that carries a [`Traceparent`].
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The bytes of a written [`Traceparent`].
pub const TRACEPARENT_BYTES: usize = 55;

tokio::task_local! {
    static SCOPE: Scope;
}

/// Where in which trace: version 00 of <https://www.w3.org/TR/trace-context/>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    sampled: bool,
}

/// What belongs to the request a task is working for.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The trace it came with, or one made for it.
    pub traceparent: Traceparent,
    /// Its `x-request-id`.
    pub request_id: HeaderValue,
}

impl Scope {
    /// Runs a future in this scope.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, future)
    }

    /// The scope of the current task, if it works for a request.
    pub fn current() -> Option<Self> {
        SCOPE.try_with(Clone::clone).ok()
    }
}

/// The context to hand on: of the current span, else of the current [`Scope`], else empty.
pub fn current_traceparent() -> String {
    current().map_or_else(String::new, |traceparent| traceparent.to_string())
}

/// As [`current_traceparent`], not yet written.
pub fn current() -> Option<Traceparent> {
    of_span(&Span::current()).or_else(|| SCOPE.try_with(|scope| scope.traceparent).ok())
}

/// The context of a span, if spans are exported.
pub fn of_span(span: &Span) -> Option<Traceparent> {
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| Traceparent {
        trace_id: span.trace_id().to_bytes(),
        parent_id: span.span_id().to_bytes(),
        sampled: span.is_sampled(),
    })
}

/// Makes a new span the child of a remote one. Does nothing for a text that is no `traceparent`, or once the span has
/// been entered or asked for its context.
pub fn set_parent(span: &Span, traceparent: &str) {
    if let Some(parent) = Traceparent::parse(traceparent) {
        set_remote_parent(span, parent);
    }
}

/// As [`set_parent`], already parsed.
pub fn set_remote_parent(span: &Span, parent: Traceparent) {
    if !span.is_none() {
        let context = opentelemetry::Context::new().with_remote_span_context(parent.context());
        // No exporter: there is no parent to set, and nothing to say.
        let _ = span.set_parent(context);
    }
}

/// Links a span to another trace: a batch works for many.
pub fn add_link(span: &Span, traceparent: &str) {
    if !span.is_none()
        && let Some(other) = Traceparent::parse(traceparent)
    {
        span.add_link(other.context());
    }
}

/// Writes the current context into HTTP headers.
pub fn inject(headers: &mut HeaderMap) {
    if let Some(traceparent) = current() {
        headers.insert(TRACEPARENT, traceparent.header());
    }
}

/// Writes the current context into gRPC metadata.
pub fn inject_metadata(metadata: &mut MetadataMap) {
    // A traceparent is ASCII, so the conversion holds.
    if let Some(traceparent) = current()
        && let Ok(value) = traceparent.to_string().parse()
    {
        metadata.insert("traceparent", value);
    }
}

/// Reads the context from HTTP headers, and so from gRPC metadata on a server.
pub fn extract(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// Reads the context from gRPC metadata.
pub fn extract_metadata(metadata: &MetadataMap) -> Option<Traceparent> {
    Traceparent::parse(metadata.get("traceparent")?.to_str().ok()?)
}

// === impl Traceparent ===

impl Traceparent {
    /// Reads one. Later versions are read as the first, as the standard asks; all-zero ids are none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() >= TRACEPARENT_BYTES
            && [2, 35, 52].iter().all(|&dash| bytes[dash] == b'-')
            && (bytes.len() == TRACEPARENT_BYTES || bytes[TRACEPARENT_BYTES] == b'-');
        if !shaped {
            return None;
        }
        let [version] = hex::<1>(&bytes[..2])?;
        if version == 0xff || (version == 0 && bytes.len() != TRACEPARENT_BYTES) {
            return None;
        }
        let trace_id = hex::<16>(&bytes[3..35])?;
        let parent_id = hex::<8>(&bytes[36..52])?;
        let [flags] = hex::<1>(&bytes[53..55])?;
        (trace_id != [0; 16] && parent_id != [0; 8]).then_some(Self {
            trace_id,
            parent_id,
            sampled: flags & 1 == 1,
        })
    }

    /// A new trace, for a request that came without one. Not sampled: nobody asked for it.
    pub fn fresh() -> Self {
        let ids = RandomIdGenerator::default();
        Self {
            trace_id: ids.new_trace_id().to_bytes(),
            parent_id: ids.new_span_id().to_bytes(),
            sampled: false,
        }
    }

    /// The trace's id in hex.
    pub fn trace_id(&self) -> String {
        TraceId::from_bytes(self.trace_id).to_string()
    }

    /// As a header's value.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn bytes(&self) -> [u8; TRACEPARENT_BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for (i, byte) in self.trace_id.iter().enumerate() {
            out[3 + 2 * i] = DIGITS[usize::from(byte >> 4)];
            out[4 + 2 * i] = DIGITS[usize::from(byte & 15)];
        }
        for (i, byte) in self.parent_id.iter().enumerate() {
            out[36 + 2 * i] = DIGITS[usize::from(byte >> 4)];
            out[37 + 2 * i] = DIGITS[usize::from(byte & 15)];
        }
        out[54] = DIGITS[usize::from(self.sampled)];
        out
    }

    fn context(&self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.parent_id),
            flags,
            true,
            TraceState::default(),
        )
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}

/// Lower-case hex only, as the standard asks.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (i, pair) in text.chunks_exact(2).enumerate() {
        out[i] = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_back() {
        assert_eq!(Traceparent::parse(SAMPLE).unwrap().to_string(), SAMPLE);
        assert_eq!(Traceparent::parse(SAMPLE).unwrap().header(), SAMPLE);
        let fresh = Traceparent::fresh();
        assert_eq!(Traceparent::parse(&fresh.to_string()), Some(fresh));
    }

    #[test]
    fn what_the_standard_forbids_is_no_traceparent() {
        for wrong in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c8031é-b7ad6b7169203331-011",
        ] {
            assert_eq!(Traceparent::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_the_first() {
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert_eq!(Traceparent::parse(later), Traceparent::parse(SAMPLE));
    }

    #[tokio::test]
    async fn without_an_exporter_the_scope_carries_the_trace() {
        assert_eq!(current_traceparent(), "");
        let scope = Scope {
            traceparent: Traceparent::parse(SAMPLE).unwrap(),
            request_id: HeaderValue::from_static("r"),
        };
        let mut headers = HeaderMap::new();
        let mut metadata = MetadataMap::new();
        let seen = scope
            .run(async {
                inject(&mut headers);
                inject_metadata(&mut metadata);
                current_traceparent()
            })
            .await;
        assert_eq!(seen, SAMPLE);
        assert_eq!(extract(&headers), Traceparent::parse(SAMPLE));
        assert_eq!(extract_metadata(&metadata), Traceparent::parse(SAMPLE));
        assert_eq!(current_traceparent(), "");
    }
}
