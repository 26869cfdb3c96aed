//! Who answers to a name: every address of its DNS answer, asked again and again.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use http::Uri;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tower::{
    discover::Change,
    load::{CompleteOnResponse, PendingRequests},
};

use super::{
    PeerError,
    outlier::{Outliers, Watched},
};

/// How often the name is looked up.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Changes that wait to be taken up.
const CHANGES_MAX: usize = 64;

const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(5);

/// One address: the fewer calls are under way there, the sooner it gets the next one.
pub(super) type Node = PendingRequests<Watched>;

pub(super) type Changes = ReceiverStream<Result<Change<SocketAddr, Node>, PeerError>>;

/// Looks the name up until nobody wants to know any more.
pub(super) fn discover(origin: Uri) -> Result<Changes, PeerError> {
    let host = origin.host().ok_or("write http://host:port")?;
    let name = format!("{}:{}", host, origin.port_u16().unwrap_or(80));
    let (tell, changes) = mpsc::channel(CHANGES_MAX);
    crate::task::spawn("peer addresses", async move {
        let outliers = Arc::new(Outliers::default());
        let mut known = BTreeSet::new();
        while !tell.is_closed() {
            match tokio::net::lookup_host(&name).await {
                Ok(found) => {
                    let found: BTreeSet<SocketAddr> = found.collect();
                    for change in changes_between(&known, &found, &origin, &outliers) {
                        if tell.send(Ok(change)).await.is_err() {
                            return;
                        }
                    }
                    known = found;
                }
                // The addresses known so far may well be there.
                Err(error) => tracing::warn!(%name, %error, "a peer's name cannot be looked up"),
            }
            tokio::time::sleep(LOOK_UP).await;
        }
    });
    Ok(ReceiverStream::new(changes))
}

fn changes_between(
    known: &BTreeSet<SocketAddr>,
    found: &BTreeSet<SocketAddr>,
    origin: &Uri,
    outliers: &Arc<Outliers>,
) -> Vec<Change<SocketAddr, Node>> {
    let gone = known.difference(found).map(|address| Change::Remove(*address));
    let new = found.difference(known).filter_map(|address| {
        // An address always makes a URI.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint
            .origin(origin.clone())
            .connect_timeout(CONNECT_PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_PATIENCE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let watched = Watched::new(channel, Arc::clone(outliers));
        Some(Change::Insert(*address, PendingRequests::new(watched, CompleteOnResponse::default())))
    });
    new.chain(gone).collect()
}
