//! What a report asks, checked.

use model::{Model, Rules, Transform, rules::WINDOW_MILLIS_MAX};

use crate::Error;

/// Shown where a touch or a conversion has no value.
pub const NOT_SET: &str = "(not set)";
/// Every touch dimension of a conversion without an eligible touch.
pub const ORGANIC: &str = "organic";

/// Models of one report at most.
pub const MODELS_MAX: usize = 16;
/// Dimensions of one report at most.
pub const DIMENSIONS_MAX: usize = 8;
/// Filters of one report at most.
pub const FILTERS_MAX: usize = 32;
/// Values of one filter at most.
pub const FILTER_VALUES_MAX: usize = 1_000;
/// Path transforms of one report at most.
pub const TRANSFORMS_MAX: usize = 8;
/// Order keys of one report at most.
pub const ORDER_KEYS_MAX: usize = 8;
/// Rows of one answer at most.
pub const ROWS_MAX: u32 = 100_000;

/// A report's question.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportSpec {
    /// Whose facts.
    pub tenant: String,
    /// The first conversion time, Unix milliseconds.
    pub from_millis: i64,
    /// The first conversion time that is no longer part of it, Unix milliseconds; after `from_millis`.
    pub to_millis: i64,
    /// 1 to [`MODELS_MAX`] models.
    pub models: Vec<ModelSpec>,
    /// At most [`DIMENSIONS_MAX`], each once.
    pub dimensions: Vec<Dimension>,
    /// At least one, each once.
    pub measures: Vec<Measure>,
    /// At most [`FILTERS_MAX`]; all of them hold.
    pub filters: Vec<Filter>,
    /// 0 to 90 days in milliseconds; `None`: the stored verdicts decide.
    pub lookback_millis: Option<i64>,
    /// At most [`TRANSFORMS_MAX`], applied in order.
    pub transforms: Vec<Transform>,
    /// At most [`ORDER_KEYS_MAX`]; then the models as asked, the bytes of the dimensions, the currency.
    pub order_by: Vec<OrderBy>,
    /// 1 to [`ROWS_MAX`].
    pub limit: u32,
    /// Facts recorded before this moment count, Unix microseconds.
    pub as_of_micros: i64,
    /// The tenant's current rules: the time zone of day, week and month, the precedence and the direct channels, and the
    /// windows by kind (without their exceptions) of null paths.
    pub rules: Rules,
}

/// An attribution model of a report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ModelSpec {
    /// A model that looks at one path at a time.
    Rule(Model),
    /// Absorbing chain of order 1.
    Markov,
    /// Simplified Shapley value.
    Shapley,
}

/// What rows are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// The touch's channel.
    Channel,
    /// The touch's partner.
    Partner,
    /// The touch's campaign.
    CampaignId,
    /// The touch's ad group.
    AdGroupId,
    /// The touch's creative.
    CreativeId,
    /// The touch's keyword.
    Keyword,
    /// The touch's kind.
    EventType,
    /// The conversion's app.
    AppId,
    /// The conversion's platform.
    Platform,
    /// The conversion's country.
    Country,
    /// The conversion's name.
    Conversion,
    /// The conversion's currency.
    Currency,
    /// The conversion's day in the tenant's time zone.
    Day,
    /// The Monday of the conversion's week in the tenant's time zone.
    Week,
    /// The conversion's month in the tenant's time zone.
    Month,
    /// The conversion's hour in UTC.
    Hour,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Credited conversions.
    Conversions,
    /// Credited value; the currency is then part of every row.
    Value,
    /// Eligible touches in the paths.
    Touches,
    /// Distinct persons with credit.
    Persons,
}

/// Which values of a dimension pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The dimension.
    pub dimension: Dimension,
    /// 1 to [`FILTER_VALUES_MAX`] values as the report writes them.
    pub values: Vec<String>,
}

/// One key of the order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderBy {
    /// What is compared.
    pub field: OrderField,
    /// Largest first.
    pub descending: bool,
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderField {
    /// The model's name.
    Model,
    /// One of the report's dimensions, by bytes; the currency too where `value` is measured.
    Dimension(Dimension),
    /// One of the report's measures.
    Measure(Measure),
}

// === impl ReportSpec ===

impl ReportSpec {
    /// Checks every bound of the question.
    pub fn check(&self) -> Result<(), Error> {
        check_len("models", self.models.len(), 1, MODELS_MAX)?;
        check_len("dimensions", self.dimensions.len(), 0, DIMENSIONS_MAX)?;
        check_len("measures", self.measures.len(), 1, Measure::ALL.len())?;
        check_len("filters", self.filters.len(), 0, FILTERS_MAX)?;
        check_len("path_transforms", self.transforms.len(), 0, TRANSFORMS_MAX)?;
        check_len("order_by", self.order_by.len(), 0, ORDER_KEYS_MAX)?;
        check_once("dimensions", &self.dimensions)?;
        check_once("measures", &self.measures)?;
        for filter in &self.filters {
            check_len("filters", filter.values.len(), 1, FILTER_VALUES_MAX)?;
        }
        if self.to_millis <= self.from_millis {
            return Err(Error::spec("to", "must be after from"));
        }
        if !(1..=ROWS_MAX).contains(&self.limit) {
            return Err(Error::spec("limit", format!("must be from 1 to {ROWS_MAX}")));
        }
        if self.lookback_millis.is_some_and(|millis| !(0..=WINDOW_MILLIS_MAX).contains(&millis)) {
            return Err(Error::spec("lookback", "must be from 0m to 90d"));
        }
        self.models.iter().try_for_each(|model| self.check_model(*model))?;
        self.order_by.iter().try_for_each(|order| self.check_order(order.field))
    }

    /// Whether a measure is asked.
    pub fn measures(&self, measure: Measure) -> bool {
        self.measures.contains(&measure)
    }

    /// The touch dimension that path transforms, Markov and Shapley look at: the first one named, or the channel.
    pub fn path_dimension(&self) -> Dimension {
        self.dimensions.iter().copied().find(|d| d.of_touch()).unwrap_or(Dimension::Channel)
    }

    fn check_model(&self, model: ModelSpec) -> Result<(), Error> {
        let of_touch = self.dimensions.iter().filter(|d| d.of_touch()).count();
        match model {
            ModelSpec::Rule(model) => model.check().map_err(|e| Error::spec("models", e.to_string())),
            ModelSpec::Markov if of_touch != 1 || self.dimensions.len() != 1 => Err(Error::spec(
                "dimensions",
                "markov takes exactly one dimension, and it must be of the touch",
            )),
            ModelSpec::Shapley if of_touch != 1 => {
                Err(Error::spec("dimensions", "shapley takes exactly one dimension of the touch"))
            }
            ModelSpec::Markov | ModelSpec::Shapley => Ok(()),
        }
    }

    fn check_order(&self, field: OrderField) -> Result<(), Error> {
        let known = match field {
            OrderField::Model => true,
            OrderField::Measure(measure) => self.measures(measure),
            OrderField::Dimension(dimension) => {
                self.dimensions.contains(&dimension)
                    || dimension == Dimension::Currency && self.measures(Measure::Value)
            }
        };
        let reason = "must be model, or one of the report's dimensions and measures";
        if known { Ok(()) } else { Err(Error::spec("order_by", reason)) }
    }
}

// === impl ModelSpec ===

impl ModelSpec {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule(model) => model.name(),
            Self::Markov => "markov",
            Self::Shapley => "shapley",
        }
    }

    /// The model of a name, with its default parameters.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "markov" => Some(Self::Markov),
            "shapley" => Some(Self::Shapley),
            _ => Model::from_name(name).map(Self::Rule),
        }
    }
}

// === impl Dimension ===

impl Dimension {
    /// Every dimension, those of the touch first.
    pub const ALL: [Self; 16] = [
        Self::Channel,
        Self::Partner,
        Self::CampaignId,
        Self::AdGroupId,
        Self::CreativeId,
        Self::Keyword,
        Self::EventType,
        Self::AppId,
        Self::Platform,
        Self::Country,
        Self::Conversion,
        Self::Currency,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Hour,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Partner => "partner",
            Self::CampaignId => "campaign_id",
            Self::AdGroupId => "ad_group_id",
            Self::CreativeId => "creative_id",
            Self::Keyword => "keyword",
            Self::EventType => "event_type",
            Self::AppId => "app_id",
            Self::Platform => "platform",
            Self::Country => "country",
            Self::Conversion => "conversion",
            Self::Currency => "currency",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Hour => "hour",
        }
    }

    /// The dimension of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name)
    }

    /// Whether it is of the credited touch; otherwise it is of the conversion.
    pub fn of_touch(self) -> bool {
        self <= Self::EventType
    }
}

// === impl Measure ===

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 4] = [Self::Conversions, Self::Value, Self::Touches, Self::Persons];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conversions => "conversions",
            Self::Value => "value",
            Self::Touches => "touches",
            Self::Persons => "persons",
        }
    }

    /// The measure of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }
}

fn check_len(field: &'static str, len: usize, min: usize, max: usize) -> Result<(), Error> {
    if (min..=max).contains(&len) {
        return Ok(());
    }
    Err(Error::spec(field, format!("must have {min} to {max} entries, not {len}")))
}

fn check_once<T: PartialEq>(field: &'static str, all: &[T]) -> Result<(), Error> {
    let twice = all.iter().enumerate().any(|(index, one)| all[..index].contains(one));
    if twice { Err(Error::spec(field, "names an entry twice")) } else { Ok(()) }
}
