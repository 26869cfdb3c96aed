//! Log records as events and re-decides with their positions.

use std::sync::Arc;

use bytes::Bytes;
use event_log::Record;
use journey_store::{Incoming, Position};
use prost::Message;
use proto::events::{DecisionReason, Event, Frame, FrameKind, Redecide};

use crate::error::Error;

/// The version of frames that this code writes and reads.
pub(crate) const FRAME_VERSION: u32 = 1;

/// A conversion to decide again.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) position: Position,
    pub(crate) tenant: Arc<str>,
    pub(crate) recorded_at_micros: i64,
    pub(crate) redecide: Redecide,
}

/// What records hold, in order.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) events: Vec<Incoming>,
    pub(crate) asked: Vec<Asked>,
    /// The `traceparent` of each events frame, or empty, with the index of its first event in `events`.
    pub(crate) traces: Vec<(usize, String)>,
}

/// A [`Frame`] whose events are not decoded yet: each is then decoded where it stays.
#[derive(Clone, PartialEq, Message)]
struct Undecoded {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(enumeration = "FrameKind", tag = "2")]
    kind: i32,
    #[prost(string, tag = "3")]
    tenant: String,
    #[prost(string, tag = "4")]
    settings_edition: String,
    #[prost(string, tag = "6")]
    traceparent: String,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    events: Vec<Bytes>,
    #[prost(message, repeated, tag = "8")]
    redecides: Vec<Redecide>,
}

impl Contents {
    /// Forgets what it holds, but not the memory that it took.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.asked.clear();
        self.traces.clear();
    }
}

/// Decodes a record and adds what it holds.
pub(crate) fn decode(partition: u32, record: &Record, into: &mut Contents) -> Result<(), Error> {
    let mut index = 0;
    for bytes in &record.frames {
        let wrong = |reason: String| Error::Frame { partition, offset: record.offset, reason };
        let frame = Undecoded::decode(bytes.clone()).map_err(|error| wrong(error.to_string()))?;
        if frame.version != FRAME_VERSION {
            return Err(wrong(format!(
                "frame version {} is newer than {FRAME_VERSION}: use the newer program",
                frame.version
            )));
        }
        let tenant: Arc<str> = frame.tenant.as_str().into();
        let mut next = || {
            let position = Position { partition, offset: record.offset, index };
            index += 1;
            position
        };
        match frame.kind() {
            FrameKind::Events => {
                into.traces.push((into.events.len(), frame.traceparent));
                let settings_edition: Arc<str> = frame.settings_edition.into();
                into.events.reserve(frame.events.len());
                for event in &frame.events {
                    into.events.push(Incoming {
                        position: next(),
                        tenant: Arc::clone(&tenant),
                        settings_edition: Arc::clone(&settings_edition),
                        recorded_at_micros: record.time_micros,
                        event: Event::decode(&event[..]).map_err(|error| wrong(error.to_string()))?,
                    });
                }
            }
            FrameKind::Redecide => into.asked.extend(frame.redecides.into_iter().map(|redecide| Asked {
                position: next(),
                tenant: Arc::clone(&tenant),
                recorded_at_micros: record.time_micros,
                redecide,
            })),
            FrameKind::Unspecified => return Err(wrong("a frame without a kind".into())),
        }
    }
    Ok(())
}

/// Frames that ask for conversions of one tenant to be decided again, each within the log's bound.
pub(crate) fn encode_redecides(
    tenant: &str,
    now_micros: i64,
    asked: impl IntoIterator<Item = (String, DecisionReason)>,
) -> Vec<Bytes> {
    let empty = || Frame {
        version: FRAME_VERSION,
        kind: FrameKind::Redecide.into(),
        tenant: tenant.to_owned(),
        received_at_micros: now_micros,
        ..Frame::default()
    };
    let mut frames = Vec::new();
    let mut frame = empty();
    let mut room = event_log::FRAME_BYTES_MAX - frame.encoded_len();
    for (conversion_id, reason) in asked {
        let redecide = Redecide { conversion_id, reason: reason.into() };
        // Tag and length take at most 4 bytes: an id has at most 64.
        let size = redecide.encoded_len() + 4;
        if size > room {
            frames.push(std::mem::replace(&mut frame, empty()).encode_to_vec().into());
            room = event_log::FRAME_BYTES_MAX - frame.encoded_len();
        }
        room -= size;
        frame.redecides.push(redecide);
    }
    if !frame.redecides.is_empty() {
        frames.push(frame.encode_to_vec().into());
    }
    frames
}
