#![allow(clippy::unwrap_used)]

use super::*;
use crate::settings::{API_KEY_FILE, FirstStart, Scope, Scopes, init_data_dir};

fn first_start() -> (tempfile::TempDir, SettingsHandle) {
    let data = tempfile::tempdir().unwrap();
    assert_eq!(init_data_dir(data.path()).unwrap(), FirstStart::Written);
    let handle = SettingsHandle::open(data.path()).unwrap();
    (data, handle)
}

fn edit(data: &Path, from: &str, to: &str) {
    let path = data.join(SETTINGS_FILE);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn edition(handle: &SettingsHandle) -> Arc<str> {
    handle.load().tenant("default").unwrap().edition.clone()
}

#[test]
fn the_first_start_writes_a_key_that_opens_everything_and_the_second_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let (data, handle) = first_start();
    let path = data.path().join(API_KEY_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&path).unwrap();
    let settings = handle.load();
    let found = settings.authenticate(key.trim().as_bytes()).unwrap();
    assert_eq!((&*found.tenant.name, found.scopes), ("default", Scopes::ALL));
    assert!(found.scopes.has(Scope::Admin) && found.tenant.quota.is_none());
    assert_eq!(*found.tenant.rules, Rules::default());

    assert_eq!(init_data_dir(data.path()).unwrap(), FirstStart::AlreadyThere);
    assert_eq!(fs::read_to_string(&path).unwrap(), key);
    let (other, _) = first_start();
    assert_ne!(fs::read_to_string(other.path().join(API_KEY_FILE)).unwrap(), key);
}

#[test]
fn a_change_comes_into_force_and_a_bad_file_is_refused_as_a_whole() {
    let (data, handle) = first_start();
    let before = edition(&handle);
    assert!(!handle.reload().unwrap());
    edit(data.path(), "\"7d\"", "\"8d\"");
    assert!(handle.reload().unwrap());
    let after = edition(&handle);
    assert_ne!(after, before);

    // Good changes beside a bad one do not count.
    edit(data.path(), "\"8d\"", "\"9d\"");
    edit(data.path(), "\"24h\"", "\"24\"");
    let error = handle.reload().unwrap_err().to_string();
    assert!(error.contains("line") && error.contains("24h"), "{error}");
    assert_eq!(edition(&handle), after);
    assert!(!handle.reload().unwrap(), "refused once, reported once");

    edit(data.path(), "impression = \"24\"", "impression = \"24h\"");
    assert!(handle.reload().unwrap());
    fs::remove_file(data.path().join(SETTINGS_FILE)).unwrap();
    assert!(handle.reload().is_err());
    assert_eq!(handle.load().tenant("default").unwrap().rules.windows.click, 9 * 86_400_000);
}

#[test]
fn earlier_editions_stay_readable_to_their_tenant_alone() {
    let (data, handle) = first_start();
    let first = edition(&handle);
    edit(data.path(), "\"7d\"", "\"8d\"");
    handle.reload().unwrap();
    let second = edition(&handle);
    for handle in [handle, SettingsHandle::open(data.path()).unwrap()] {
        assert_eq!(handle.edition("default", &first).unwrap().windows.click, 7 * 86_400_000);
        assert_eq!(handle.edition("default", &second).unwrap().windows.click, 8 * 86_400_000);
        assert!(handle.edition("other", &first).is_none());
        assert!(handle.edition("default", "sha256:00").is_none());
    }
}

#[test]
fn an_edition_of_two_tenants_is_readable_to_both() {
    let (data, handle) = first_start();
    let path = data.path().join(SETTINGS_FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("[[tenants.other.keys]]\nname = \"k\"\nsha256 = \"");
    text.push_str(&"ab".repeat(32));
    text.push_str("\"\nscopes = [\"read\"]\n");
    fs::write(path, text).unwrap();
    handle.reload().unwrap();
    let shared = edition(&handle);
    let again = SettingsHandle::open(data.path()).unwrap();
    assert!(again.edition("default", &shared).is_some() && again.edition("other", &shared).is_some());
}

#[test]
fn a_damaged_edition_is_reported_at_every_byte() {
    let (data, handle) = first_start();
    let hex = edition(&handle).trim_start_matches("sha256:").to_owned();
    let path = data.path().join(EDITIONS_FOLDER).join(format!("{hex}.json"));
    let good = fs::read(&path).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        fs::write(&path, &bad).unwrap();
        match SettingsHandle::open(data.path()) {
            Err(SettingsError::DamagedEdition { path }) => assert!(path.contains(&hex)),
            Err(other) => panic!("{other}"),
            // A flip between two kinds of white space, which says the same.
            Ok(handle) => assert!(good[i].is_ascii_whitespace(), "{i} in {text}, {}", edition(&handle)),
        }
    }
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert!(
            matches!(SettingsHandle::open(data.path()), Err(SettingsError::DamagedEdition { .. })),
            "{length}"
        );
    }
}

#[test]
fn a_file_is_read_at_the_bound_and_refused_one_past_it() {
    let (data, handle) = first_start();
    let path = data.path().join(SETTINGS_FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(&"#".repeat(SETTINGS_BYTES_MAX - text.len()));
    fs::write(&path, &text).unwrap();
    assert!(handle.reload().unwrap());
    fs::write(&path, text + "#").unwrap();
    assert!(handle.reload().unwrap_err().to_string().contains("bytes"));
}

#[tokio::test]
async fn the_watch_sees_a_change() {
    let (data, handle) = first_start();
    let before = edition(&handle);
    let shutdown = CancellationToken::new();
    let watch = crate::task::spawn("watch", handle.clone().watch(shutdown.clone()));
    edit(data.path(), "\"7d\"", "\"8d\"");
    let begin = std::time::Instant::now();
    while edition(&handle) == before {
        assert!(begin.elapsed() < Duration::from_secs(10), "not seen");
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    watch.await.unwrap();
}
