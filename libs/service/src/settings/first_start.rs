//! The first start on an empty data folder: one tenant, one key.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::{API_KEY_FILE, SETTINGS_FILE, SettingsError, handle::write_durably, hex};

/// The random bytes of a key.
const KEY_BYTES: usize = 32;

/// What [`init_data_dir`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    /// The folder had no settings: they and a key were written.
    Written,
    /// The folder had settings; nothing was touched.
    AlreadyThere,
}

/// Makes the data folder, its `settings.toml` (tenant `default`) and its `api-key` (mode 0600), unless there are
/// settings already.
///
/// # Errors
/// The folder cannot be written, or the system gives no random bytes.
pub fn init_data_dir(data: &Path) -> Result<FirstStart, SettingsError> {
    let io = |path: &Path, source| SettingsError::Io { path: path.display().to_string(), source };
    fs::create_dir_all(data).map_err(|source| io(data, source))?;
    let settings = data.join(SETTINGS_FILE);
    if settings.exists() {
        return Ok(FirstStart::AlreadyThere);
    }
    let mut random = [0; KEY_BYTES];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| io(data, std::io::Error::other("the system gives no random bytes")))?;
    let key = format!("ak_{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    // The key goes first: settings without it would lock everyone out, a key without settings is written anew.
    write_durably(&data.join(API_KEY_FILE), format!("{key}\n").as_bytes(), 0o600)?;
    write_durably(&settings, default_settings(&hex(&Sha256::digest(&key))).as_bytes(), 0o644)?;
    Ok(FirstStart::Written)
}

fn default_settings(key_sha256: &str) -> String {
    format!(
        r#"# Re-read when it changes; a file that does not check is refused as a whole and the old one stays in force.
version = 1

[tenants.default]
currency = "EUR"
time_zone = "UTC"                      # of the day, week and month dimensions
# quota_events_per_second = 100_000    # absent: none
# quota_burst_events = 200_000

[[tenants.default.keys]]               # the key itself is in the file api-key beside this one
name = "first key"
sha256 = "{key_sha256}"
scopes = ["ingest", "read", "admin"]
# expires = 2027-01-01T00:00:00Z

[tenants.default.windows]              # 0m to 90d
click = "7d"
impression = "24h"
visit = "30d"

# [[tenants.default.windows.override]] # the most specific match wins
# partner = "example-network"
# conversion = "install"
# click = "30d"

[tenants.default.precedence]
order = ["click", "impression", "visit"]   # then the latest; ["latest"] ignores the kind
direct_channels = ["direct"]               # what last_non_direct passes over, unless there is nothing else

# [tenants.default.conversions.purchase]
# cut_at_previous = true               # touches before the previous purchase are not eligible

# [tenants.default.fraud]               # by default everything is shown and nothing is rejected
# reject = ["click_to_install", "after_install_begin"]   # also cap_minutes, cap_hour, cap_day
# reject_above = 0.95                  # the model's probability of fraud
"#
    )
}
