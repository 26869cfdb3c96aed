//! Before the service is ready: the ids that the log holds and the journey store does not know yet.

use std::{sync::Arc, time::Duration};

use cache::{Cache, IDS_MAX, key::Keys};
use event_log::{Entry, EventLog, Record};
use prost::Message;
use proto::events::{Frame, FrameKind};

use crate::{backlog::Bound, error::Error};

/// About how much is read from the log at once.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a read may wait for what is there already.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Marks the ids of every partition from the offset given for it up to the log's end as seen. Partitions without an
/// offset are left alone. What is found is counted as waiting.
pub(crate) async fn recover(
    log: &dyn EventLog,
    cache: &Arc<dyn Cache>,
    keys: &Keys,
    from: &[u64],
    backlog: Option<&Bound>,
) -> Result<u64, Error> {
    let mut events = 0;
    for (partition, &from) in (0..log.partitions()).zip(from) {
        let failed = |source| Error::Recovery { partition, from, source };
        let end = log.end(partition).await.map_err(failed)?.offset;
        let mut at = from;
        while at < end {
            for entry in log.read(partition, at, READ_BYTES_MAX, READ_WAIT).await.map_err(failed)? {
                match entry {
                    Entry::Record(record) => {
                        at = record.offset + 1;
                        let found = mark(cache, keys, &record).await?;
                        if let Some(backlog) = backlog {
                            backlog.found(partition, record.offset, found);
                        }
                        events += found;
                    }
                    Entry::Gap { to, reason, .. } => {
                        tracing::warn!(
                            partition,
                            from = at,
                            to,
                            reason,
                            "event ids are lost with their records"
                        );
                        at = to;
                    }
                }
            }
        }
    }
    Ok(events)
}

async fn mark(cache: &Arc<dyn Cache>, keys: &Keys, record: &Record) -> Result<u64, Error> {
    let mut events = 0;
    for frame in &record.frames {
        // What is no frame is the worker's to report.
        let Ok(frame) = Frame::decode(frame.as_ref()) else { continue };
        if frame.kind() != FrameKind::Events {
            continue;
        }
        let ids = keys.ids(&frame.tenant, frame.events.iter().map(|event| event.event_id.as_str()));
        for ids in ids.chunks(IDS_MAX) {
            cache.mark(&frame.tenant, ids).await.map_err(Error::Cache)?;
        }
        events += ids.len() as u64;
    }
    Ok(events)
}
