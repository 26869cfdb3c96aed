//! Every implementation keeps every promise of the trait.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use event_log::{EventLog, LogError, MemoryLog, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_in_memory_keeps_every_promise() {
    conformance::suite(|partitions| async move { MemoryLog::new(partitions) as Arc<dyn EventLog> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_in_a_folder_keeps_every_promise() {
    let root = tempfile::tempdir().unwrap();
    let made = std::sync::atomic::AtomicU32::new(0);
    conformance::suite(|partitions| {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = root.path().join(number.to_string());
        async move {
            let url =
                format!("file://{}?partitions={partitions}&segment_bytes_max=1048576", folder.display());
            event_log::open(&url).await.unwrap()
        }
    })
    .await;
}

#[tokio::test]
async fn the_log_in_memory_is_bounded() {
    let log = event_log::open("memory://?bytes_max=10").await.unwrap();
    log.append(0, bytes::Bytes::from_static(b"ten bytes.")).await.unwrap();
    let over = log.append(0, bytes::Bytes::from_static(b"!")).await;
    assert!(matches!(over, Err(LogError::Unavailable(_))), "{over:?}");
    assert_eq!(log.end(0).await.unwrap().offset, 1);
}

#[tokio::test]
async fn a_url_says_everything_or_what_is_wrong_with_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().display();
    assert_eq!(event_log::open("memory://").await.unwrap().partitions(), 1);
    assert_eq!(event_log::open("memory://?partitions=1024").await.unwrap().partitions(), 1024);
    assert_eq!(
        event_log::open(&format!("file://{folder}/a%20b?partitions=2")).await.unwrap().partitions(),
        2
    );
    assert!(root.path().join("a b/log.meta").exists());
    for (url, says) in [
        ("memory", "memory://"),
        ("memory://x", "takes no path"),
        ("memory://?partitions=0", "1 to 1024"),
        ("memory://?partitions=1025", "1 to 1024"),
        ("memory://?partitions=1&partitions=1", "once"),
        ("memory://?partition=1", "no parameter partition"),
        ("memory://?partitions", "name=value"),
        #[cfg(not(feature = "kafka"))]
        ("kafka://broker/topic", "feature kafka"),
        ("s3://bucket", "file://"),
        ("file://", "name a folder"),
        (&format!("file://{folder}/c?segment_bytes_max=1048575"), "from 1048576"),
        (&format!("file://{folder}/c?queue_bytes_max=524223"), "from 524224"),
        (&format!("file://{folder}/c?queue_frames_max=0"), "from 1"),
        (&format!("file://{folder}/c?retention=1"), "retention_bytes"),
        (&format!("file://{folder}/%zz"), "hexadecimal"),
        (&format!("file://{folder}/a%20b?partitions=3"), "partitions=2"),
    ] {
        let refused = event_log::open(url).await.err();
        let text = refused.as_ref().map(LogError::to_string).unwrap_or_default();
        assert!(
            matches!(refused, Some(LogError::Url(_))) && text.contains(says),
            "{url}: {text:?} says {says:?}"
        );
    }
}
