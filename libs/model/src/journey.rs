//! What a decision is made from.

use serde::{Deserialize, Serialize};

/// The newest touches considered for one conversion.
pub const JOURNEY_TOUCHES_MAX: usize = 1_000;

/// The kinds of touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TouchKind {
    /// An advertisement was shown.
    Impression,
    /// An advertisement was clicked.
    Click,
    /// An app or a site was opened with a known source.
    Visit,
}

/// A touch. Absent strings are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Its `event_id`, unique in the tenant.
    pub id: String,
    /// Its kind.
    pub kind: TouchKind,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// The advertised app.
    pub app_id: String,
    /// The channel.
    pub channel: String,
    /// The partner.
    pub partner: String,
    /// The campaign.
    pub campaign_id: String,
    /// The ad group.
    pub ad_group_id: String,
    /// The creative.
    pub creative_id: String,
    /// The keyword.
    pub keyword: String,
}

/// A conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Its `event_id`, unique in the tenant.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// The app it happened in.
    pub app_id: String,
    /// Micros of the currency; negative for a refund.
    pub value_micros: i64,
    /// ISO 4217.
    pub currency: String,
    /// When the store's download began, Unix milliseconds.
    pub install_begin_millis: Option<i64>,
}

/// A conversion with the touches of its person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journey {
    /// The conversion.
    pub conversion: Conversion,
    /// Touches of the joined person, in any order.
    pub touches: Vec<Touch>,
    /// Time of the person's previous conversion of the same name, Unix milliseconds: the latest one that comes before this
    /// conversion by (time, event id).
    pub previous_conversion_millis: Option<i64>,
}

// === impl TouchKind ===

impl TouchKind {
    /// The name in settings, reports and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Impression => "impression",
            Self::Click => "click",
            Self::Visit => "visit",
        }
    }
    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Impression, Self::Click, Self::Visit].into_iter().find(|kind| kind.name() == name)
    }
}
