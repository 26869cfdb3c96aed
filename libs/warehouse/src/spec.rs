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
        let path = self.path_dimension();
        let other = self.filters.iter().find(|f| f.dimension.of_touch() && f.dimension != path);
        match model {
            ModelSpec::Rule(model) => model.check().map_err(|e| Error::spec("models", e.to_string())),
            ModelSpec::Markov if of_touch != 1 || self.dimensions.len() != 1 => Err(Error::spec(
                "dimensions",
                "markov takes exactly one dimension, and it must be of the touch",
            )),
            ModelSpec::Shapley if of_touch != 1 => {
                Err(Error::spec("dimensions", "shapley takes exactly one dimension of the touch"))
            }
            // Their credit is of a value of the path, not of one touch with its other values.
            ModelSpec::Markov | ModelSpec::Shapley => match other {
                Some(filter) => {
                    let (model, path, other) = (model.name(), path.name(), filter.dimension.name());
                    Err(Error::spec("filters", format!("{model} by {path} cannot be filtered by {other}")))
                }
                None => Ok(()),
            },
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

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A report that passes.
    pub(crate) fn spec() -> ReportSpec {
        ReportSpec {
            tenant: "default".into(),
            from_millis: 0,
            to_millis: 1,
            models: vec![ModelSpec::Rule(Model::Linear)],
            dimensions: vec![Dimension::Channel],
            measures: vec![Measure::Conversions],
            filters: Vec::new(),
            lookback_millis: None,
            transforms: Vec::new(),
            order_by: Vec::new(),
            limit: 1_000,
            as_of_micros: i64::MAX,
            rules: Rules::default(),
        }
    }

    fn field(change: impl FnOnce(&mut ReportSpec)) -> &'static str {
        let mut changed = spec();
        change(&mut changed);
        match changed.check() {
            Err(Error::Spec { field, .. }) => field,
            Err(other) => panic!("{other}"),
            Ok(()) => "",
        }
    }

    #[test]
    fn every_bound_holds_at_it_and_fails_one_past_it() {
        let linear = ModelSpec::Rule(Model::Linear);
        let filter = |n: usize| Filter { dimension: Dimension::AppId, values: vec![String::new(); n] };
        let order = OrderBy { field: OrderField::Model, descending: true };
        assert_eq!(field(|s| s.models = vec![linear; MODELS_MAX]), "");
        assert_eq!(field(|s| s.models = vec![linear; MODELS_MAX + 1]), "models");
        assert_eq!(field(|s| s.models.clear()), "models");
        assert_eq!(field(|s| s.dimensions = Dimension::ALL[..DIMENSIONS_MAX].into()), "");
        assert_eq!(field(|s| s.dimensions = Dimension::ALL[..DIMENSIONS_MAX + 1].into()), "dimensions");
        assert_eq!(field(|s| s.filters = vec![filter(1); FILTERS_MAX]), "");
        assert_eq!(field(|s| s.filters = vec![filter(1); FILTERS_MAX + 1]), "filters");
        assert_eq!(field(|s| s.filters = vec![filter(FILTER_VALUES_MAX)]), "");
        assert_eq!(field(|s| s.filters = vec![filter(FILTER_VALUES_MAX + 1)]), "filters");
        assert_eq!(field(|s| s.filters = vec![filter(0)]), "filters");
        assert_eq!(field(|s| s.transforms = vec![Transform::First; TRANSFORMS_MAX]), "");
        assert_eq!(field(|s| s.transforms = vec![Transform::First; TRANSFORMS_MAX + 1]), "path_transforms");
        assert_eq!(field(|s| s.order_by = vec![order; ORDER_KEYS_MAX]), "");
        assert_eq!(field(|s| s.order_by = vec![order; ORDER_KEYS_MAX + 1]), "order_by");
        assert_eq!(field(|s| s.limit = ROWS_MAX), "");
        assert_eq!(field(|s| s.limit = ROWS_MAX + 1), "limit");
        assert_eq!(field(|s| s.limit = 0), "limit");
        assert_eq!(field(|s| s.lookback_millis = Some(WINDOW_MILLIS_MAX)), "");
        assert_eq!(field(|s| s.lookback_millis = Some(WINDOW_MILLIS_MAX + 1)), "lookback");
        assert_eq!(field(|s| s.to_millis = s.from_millis), "to");
        assert_eq!(field(|s| s.measures.clear()), "measures");
        assert_eq!(field(|s| s.measures = vec![Measure::Value; 2]), "measures");
        assert_eq!(field(|s| s.dimensions = vec![Dimension::Day; 2]), "dimensions");
    }

    #[test]
    fn models_over_paths_take_the_dimensions_they_can_answer_for() {
        let with = |model: ModelSpec, dimensions: &[Dimension]| {
            field(|s| {
                s.models = vec![model];
                s.dimensions = dimensions.into();
            })
        };
        use Dimension::{CampaignId, Channel, Day};
        assert_eq!(with(ModelSpec::Markov, &[CampaignId]), "");
        assert_eq!(with(ModelSpec::Markov, &[]), "dimensions");
        assert_eq!(with(ModelSpec::Markov, &[Day]), "dimensions");
        assert_eq!(with(ModelSpec::Markov, &[Channel, Day]), "dimensions");
        assert_eq!(with(ModelSpec::Shapley, &[Day, Channel]), "");
        assert_eq!(with(ModelSpec::Shapley, &[Day]), "dimensions");
        assert_eq!(with(ModelSpec::Shapley, &[Channel, CampaignId]), "dimensions");
        let other = Filter { dimension: CampaignId, values: vec!["c".into()] };
        assert_eq!(
            field(|s| {
                s.models = vec![ModelSpec::Shapley];
                s.filters = vec![other];
            }),
            "filters"
        );
    }

    #[test]
    fn rows_are_ordered_only_by_what_they_have() {
        let by = |field: OrderField| OrderBy { field, descending: false };
        let ordered = |order: OrderField| field(|s| s.order_by = vec![by(order)]);
        assert_eq!(ordered(OrderField::Dimension(Dimension::Channel)), "");
        assert_eq!(ordered(OrderField::Dimension(Dimension::Day)), "order_by");
        assert_eq!(ordered(OrderField::Measure(Measure::Conversions)), "");
        assert_eq!(ordered(OrderField::Measure(Measure::Value)), "order_by");
        assert_eq!(ordered(OrderField::Dimension(Dimension::Currency)), "order_by");
    }

    #[test]
    fn names_name_one_thing_each() {
        for dimension in Dimension::ALL {
            assert_eq!(Dimension::from_name(dimension.name()), Some(dimension));
        }
        for measure in Measure::ALL {
            assert_eq!(Measure::from_name(measure.name()), Some(measure));
        }
        for name in ["decision", "linear", "markov", "shapley"] {
            assert_eq!(ModelSpec::from_name(name).unwrap().name(), name);
        }
        assert_eq!(ModelSpec::from_name("Markov"), None);
    }
}
