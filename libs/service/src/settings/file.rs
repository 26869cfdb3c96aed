//! What may stand in a settings file, and the checks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroU32,
    ops::Range,
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};
use model::{
    Rules, TouchKind,
    rules::{ConversionRules, WindowOverride},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    Key, Quota, Scope, Scopes, Settings, SettingsError, Tenant, edition_of, fraud::FraudTable, prefix,
};

/// Characters of a name of a tenant, key, channel, campaign and so on; of a tenant 64.
const NAME_CHARS_MAX: usize = 256;
const TENANT_CHARS_MAX: usize = 64;

/// The word that stands for no order of kinds.
const LATEST: &str = "latest";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u64>,
    tenants: Spanned<BTreeMap<Spanned<String>, Spanned<TenantTable>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantTable {
    #[serde(default, deserialize_with = "currency")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "time_zone")]
    time_zone: Option<(String, TimeZone)>,
    quota_events_per_second: Option<NonZeroU32>,
    quota_burst_events: Option<Spanned<NonZeroU32>>,
    #[serde(default)]
    keys: Vec<Spanned<KeyTable>>,
    #[serde(default)]
    windows: WindowsTable,
    #[serde(default)]
    precedence: PrecedenceTable,
    #[serde(default)]
    conversions: BTreeMap<Spanned<String>, ConversionTable>,
    #[serde(default)]
    fraud: FraudTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(deserialize_with = "sha256")]
    sha256: [u8; 32],
    scopes: Spanned<Vec<Scope>>,
    #[serde(default, deserialize_with = "instant")]
    expires: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct WindowsTable {
    #[serde(default, deserialize_with = "window")]
    click: Option<i64>,
    #[serde(default, deserialize_with = "window")]
    impression: Option<i64>,
    #[serde(default, deserialize_with = "window")]
    visit: Option<i64>,
    #[serde(default)]
    r#override: Vec<Spanned<OverrideTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideTable {
    #[serde(default, deserialize_with = "some_name")]
    conversion: Option<String>,
    #[serde(default, deserialize_with = "some_name")]
    ad_group_id: Option<String>,
    #[serde(default, deserialize_with = "some_name")]
    campaign_id: Option<String>,
    #[serde(default, deserialize_with = "some_name")]
    partner: Option<String>,
    #[serde(default, deserialize_with = "some_name")]
    app_id: Option<String>,
    #[serde(default, deserialize_with = "window")]
    click: Option<i64>,
    #[serde(default, deserialize_with = "window")]
    impression: Option<i64>,
    #[serde(default, deserialize_with = "window")]
    visit: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PrecedenceTable {
    order: Option<Spanned<Order>>,
    direct_channels: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "order is a list of click, impression and visit, or \"latest\"")]
enum Order {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConversionTable {
    #[serde(default)]
    cut_at_previous: bool,
}

/// Reads and checks a whole settings file.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(text: &str) -> Result<Settings, SettingsError> {
    Parser { text }.parse()
}

struct Parser<'a> {
    text: &'a str,
}

impl Parser<'_> {
    fn parse(&self) -> Result<Settings, SettingsError> {
        let file: File = toml::from_str(self.text)
            .map_err(|error| self.error(error.span().unwrap_or(0..0), error.message()))?;
        if *file.version.get_ref() != 1 {
            return Err(self.error(file.version.span(), "this version reads version = 1"));
        }
        if file.tenants.get_ref().is_empty() {
            return Err(self.error(file.tenants.span(), "add at least one tenant"));
        }
        let mut settings = Settings::default();
        let mut hashes = HashMap::new();
        for (name, table) in file.tenants.into_inner() {
            self.tenant(&mut settings, &mut hashes, name, table)?;
        }
        Ok(settings)
    }

    fn tenant(
        &self,
        settings: &mut Settings,
        hashes: &mut HashMap<[u8; 32], String>,
        name: Spanned<String>,
        table: Spanned<TenantTable>,
    ) -> Result<(), SettingsError> {
        let span = name.span();
        let name = name.into_inner();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if name.is_empty() || name.len() > TENANT_CHARS_MAX || !name.bytes().all(plain) {
            return Err(self.error(span, "a tenant's name is 1 to 64 of [A-Za-z0-9_.-]"));
        }
        let mut table = table.into_inner();
        let keys = std::mem::take(&mut table.keys);
        if keys.is_empty() {
            let reason = format!("tenant {name} has no key; add [[tenants.{name}.keys]]");
            return Err(self.error(span, &reason));
        }
        let quota = self.quota(&table)?;
        let time_zone = match &table.time_zone {
            Some((_, zone)) => zone.clone(),
            None => TimeZone::UTC,
        };
        let rules = self.rules(table)?;
        let tenant = Arc::new(Tenant {
            name: name.as_str().into(),
            edition: edition_of(&rules).into(),
            rules: Arc::new(rules),
            time_zone,
            quota,
        });
        let mut names = HashSet::new();
        for key in keys {
            let span = key.span();
            let key = self.key(key.into_inner(), &tenant)?;
            if !names.insert(key.name.clone()) {
                return Err(self.error(span, &format!("a key named {:?} stands above", key.name)));
            }
            let owner = format!("{} of tenant {name}", key.name);
            if let Some(other) = hashes.insert(key.hash, owner) {
                return Err(self.error(span, &format!("the same key as {other}; a key has one owner")));
            }
            settings.keys.insert(prefix(&key.hash), Arc::new(key));
        }
        settings.tenants.insert(tenant.name.clone(), tenant);
        Ok(())
    }

    fn key(&self, table: KeyTable, tenant: &Arc<Tenant>) -> Result<Key, SettingsError> {
        let mut scopes = Scopes::default();
        for scope in table.scopes.get_ref() {
            scopes = scopes.with(*scope);
        }
        if scopes == Scopes::default() {
            let reason = "a key without scopes opens nothing; give ingest, read or admin";
            return Err(self.error(table.scopes.span(), reason));
        }
        Ok(Key {
            name: table.name.into(),
            scopes,
            expires: table.expires,
            tenant: tenant.clone(),
            hash: table.sha256,
        })
    }

    fn quota(&self, table: &TenantTable) -> Result<Option<Quota>, SettingsError> {
        match (table.quota_events_per_second, &table.quota_burst_events) {
            (Some(events_per_second), burst) => Ok(Some(Quota {
                events_per_second,
                burst_events: burst.as_ref().map_or(events_per_second, |burst| *burst.get_ref()),
            })),
            (None, Some(burst)) => {
                Err(self.error(burst.span(), "quota_burst_events needs quota_events_per_second beside it"))
            }
            (None, None) => Ok(None),
        }
    }

    fn rules(&self, table: TenantTable) -> Result<Rules, SettingsError> {
        let mut rules = Rules::default();
        if let Some(currency) = table.currency {
            rules.currency = currency;
        }
        if let Some((name, _)) = table.time_zone {
            rules.time_zone = name;
        }
        let windows = table.windows;
        rules.windows.click = windows.click.unwrap_or(rules.windows.click);
        rules.windows.impression = windows.impression.unwrap_or(rules.windows.impression);
        rules.windows.visit = windows.visit.unwrap_or(rules.windows.visit);
        for table in windows.r#override {
            rules.windows.overrides.push(self.window_override(table)?);
        }
        if let Some(order) = table.precedence.order {
            rules.precedence.order = self.order(&order)?;
        }
        if let Some(channels) = table.precedence.direct_channels {
            if channels.get_ref().iter().any(|channel| !is_name(channel)) {
                return Err(self.error(channels.span(), "a channel has 1 to 256 characters"));
            }
            rules.precedence.direct_channels = channels.into_inner();
        }
        for (name, ConversionTable { cut_at_previous }) in table.conversions {
            if !is_name(name.get_ref()) {
                return Err(self.error(name.span(), "a conversion's name has 1 to 256 characters"));
            }
            rules.conversions.insert(name.into_inner(), ConversionRules { cut_at_previous });
        }
        rules.fraud = table.fraud.settings().map_err(|(span, reason)| self.error(span, &reason))?;
        Ok(rules)
    }

    fn window_override(&self, table: Spanned<OverrideTable>) -> Result<WindowOverride, SettingsError> {
        let span = table.span();
        let OverrideTable { conversion, ad_group_id, campaign_id, partner, app_id, click, impression, visit } =
            table.into_inner();
        let selects = [&conversion, &ad_group_id, &campaign_id, &partner, &app_id];
        if selects.iter().all(|selector| selector.is_none()) {
            let reason = "an override needs conversion, ad_group_id, campaign_id, partner or app_id";
            return Err(self.error(span, reason));
        }
        if [click, impression, visit].iter().all(Option::is_none) {
            return Err(self.error(span, "an override needs click, impression or visit"));
        }
        Ok(WindowOverride { conversion, ad_group_id, campaign_id, partner, app_id, click, impression, visit })
    }

    fn order(&self, order: &Spanned<Order>) -> Result<Vec<TouchKind>, SettingsError> {
        const HELP: &str = "order is \"latest\" or a list of click, impression and visit, each once";
        let given = match order.get_ref() {
            Order::One(one) => std::slice::from_ref(one),
            Order::Many(many) => many.as_slice(),
        };
        if given == [LATEST] {
            return Ok(Vec::new());
        }
        let mut kinds = Vec::new();
        for kind in given {
            let kind = match kind.as_str() {
                "click" => TouchKind::Click,
                "impression" => TouchKind::Impression,
                "visit" => TouchKind::Visit,
                _ => return Err(self.error(order.span(), HELP)),
            };
            if kinds.contains(&kind) {
                return Err(self.error(order.span(), HELP));
            }
            kinds.push(kind);
        }
        if kinds.is_empty() { Err(self.error(order.span(), HELP)) } else { Ok(kinds) }
    }

    fn error(&self, span: Range<usize>, reason: &str) -> SettingsError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        SettingsError::Invalid { line, reason: reason.trim().to_owned() }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= NAME_CHARS_MAX
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if is_name(&text) { Ok(text) } else { Err(D::Error::custom("a name has 1 to 256 characters")) }
}

fn some_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    name(from).map(Some)
}

fn currency<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        return Ok(Some(text));
    }
    Err(D::Error::custom(format!("not an ISO 4217 code such as EUR: {text:?}")))
}

fn time_zone<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(String, TimeZone)>, D::Error> {
    let text = String::deserialize(from)?;
    match TimeZone::get(&text) {
        Ok(zone) => Ok(Some((text, zone))),
        Err(_) => Err(D::Error::custom(format!("not an IANA time zone such as Europe/Berlin: {text:?}"))),
    }
}

fn window<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(from)?;
    model::duration::parse_millis(&text).map(Some).map_err(D::Error::custom)
}

fn sha256<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(from)?;
    let mut hash = [0; 32];
    let fits = text.len() == 64
        && text.is_ascii()
        && (0..32).all(|i| {
            u8::from_str_radix(&text[2 * i..2 * i + 2], 16).is_ok_and(|byte| {
                hash[i] = byte;
                text.as_bytes()[2 * i] != b'+'
            })
        });
    // The text may be the key itself, pasted by mistake, so it is not shown.
    if fits { Ok(hash) } else { Err(D::Error::custom("sha256 is 64 hex digits: printf %s KEY | sha256sum")) }
}

fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = toml::value::Datetime::deserialize(from)?.to_string();
    text.parse().map(Some).map_err(|_| {
        D::Error::custom(format!(
            "expires needs a date, a time and an offset, such as 2027-01-01T00:00:00Z: {text}"
        ))
    })
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
