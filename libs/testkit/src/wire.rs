//! A wire that can be cut: it forwards TCP connections, and loses what goes one way, or breaks them.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

const BUFFER_BYTES: usize = 64 * 1024;

/// Forwards every connection to one server; it ends with this value.
pub struct Wire {
    address: SocketAddr,
    cut: watch::Sender<Option<Cut>>,
    _serving: JoinSet<()>,
}

/// What a wire does instead of forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What clients send is lost.
    Requests,
    /// What the server sends is lost.
    Answers,
    /// Connections are broken, and new ones too.
    All,
}

// === impl Wire ===

impl Wire {
    /// From a free port to a server.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let (cut, cuts) = watch::channel(None);
        let server = server.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(forward(client, server.clone(), cuts.clone()));
            }
        });
        Self { address, cut, _serving: serving }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts it.
    pub fn cut(&self, cut: Cut) {
        self.cut.send_replace(Some(cut));
    }

    /// Forwards again; connections that lost something while it was cut end.
    pub fn mend(&self) {
        self.cut.send_replace(None);
    }
}

async fn forward(client: TcpStream, server: String, mut cuts: watch::Receiver<Option<Cut>>) {
    if *cuts.borrow() == Some(Cut::All) {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Both fail only where the connection has ended.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (requests, answers) = (cuts.clone(), cuts.clone());
    tokio::select! {
        () = carry(from_client, to_server, requests, Cut::Requests) => {}
        () = carry(from_server, to_client, answers, Cut::Answers) => {}
        _ = cuts.wait_for(|cut| *cut == Some(Cut::All)) => {}
    }
}

/// Carries bytes until either side ends, or until something was lost and the wire is mended.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<Option<Cut>>,
    way: Cut,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut lost = false;
    loop {
        let is_cut = *cuts.borrow_and_update() == Some(way);
        if lost && !is_cut {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = cuts.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let bytes = match read {
            Ok(0) | Err(_) => return,
            Ok(count) => &buffer[..count],
        };
        if *cuts.borrow() == Some(way) {
            lost = true;
        } else if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
