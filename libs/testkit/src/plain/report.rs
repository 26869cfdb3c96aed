//! Reports of the plain model.

use std::collections::{BTreeMap, BTreeSet};

use proto::events::{Event, EventType};

use super::{DAY, Decision, Person, Platform, Settings, WINDOW_DAYS_MAX, millis};

/// A report's question, as far as the model answers it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The first conversion time, Unix milliseconds.
    pub from_millis: i64,
    /// The first conversion time that is no longer part of it.
    pub to_millis: i64,
    /// One block of rows each.
    pub models: Vec<Model>,
    /// By the names of the contract.
    pub dimensions: Vec<String>,
    /// Dimension and the values that pass; all of them hold.
    pub filters: Vec<(String, Vec<String>)>,
    /// Absent: each conversion's own windows.
    pub lookback_millis: Option<i64>,
    /// Applied in order.
    pub transforms: Vec<Transform>,
    /// Whether rows are told apart by currency, as they are when `value` is measured.
    pub by_currency: bool,
}

/// An attribution model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Model {
    /// The winner.
    Decision,
    /// All to the first.
    FirstTouch,
    /// All to the last.
    LastTouch,
    /// All to the last that is not direct, unless there is nothing else.
    LastNonDirect,
    /// Evenly.
    Linear,
    /// Shares of the first and the last.
    PositionBased(f64, f64),
    /// Half-life in milliseconds.
    TimeDecay(f64),
    /// Evenly to the distinct values of the touch dimension.
    Shapley,
}

/// What is done to a path before credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// Of consecutive repeats the first.
    Exposure,
    /// Of each the first.
    First,
    /// Drops a value unless there is nothing else.
    RemoveIfNotAll(String),
    /// Drops a value at the end unless there is nothing else.
    RemoveIfLastAndNotAll(String),
}

/// A row. Money in units of its currency.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Index of its model.
    pub model: usize,
    /// Values of the dimensions as asked.
    pub dimensions: Vec<String>,
    /// Empty unless rows are told apart by it.
    pub currency: String,
    /// Credited conversions.
    pub conversions: f64,
    /// Credited value.
    pub value: f64,
    /// Eligible touches, after the transforms.
    pub touches: u64,
    /// Distinct persons with credit.
    pub persons: u64,
}

#[derive(Default)]
struct Sums {
    conversions: f64,
    value: f64,
    touches: u64,
    persons: BTreeSet<Person>,
}

const TOUCH_DIMENSIONS: [&str; 7] =
    ["channel", "partner", "campaign_id", "ad_group_id", "creative_id", "keyword", "event_type"];

// === impl Platform ===

impl Platform {
    /// The rows of a report, by model, dimensions and currency; those with nothing in them are left out.
    ///
    /// # Panics
    /// At a dimension that the contract does not know.
    pub fn report(&self, tenant: &str, report: &Report) -> Vec<Row> {
        let settings = self.settings_of(tenant);
        let mut sums: BTreeMap<(usize, Vec<String>, String), Sums> = BTreeMap::new();
        for (of, id) in self.conversions() {
            if of != tenant {
                continue;
            }
            let Some(decision) = self.decision(tenant, &id) else { continue };
            if !report.selects(&decision.conversion) {
                continue;
            }
            let path = report.path(&decision);
            let amount: f64 = decision.conversion.value.parse().unwrap_or(0.0);
            for (model, asked) in report.models.iter().enumerate() {
                let weights = report.weights(*asked, &path, &decision, &settings);
                let credited: Vec<(Option<&Event>, f64)> = if path.is_empty() {
                    vec![(None, 1.0)]
                } else {
                    path.iter().copied().map(Some).zip(weights).collect()
                };
                for (touch, weight) in credited {
                    if !report.shows(touch) {
                        continue;
                    }
                    let value = |dimension: &String| value_of(dimension, touch, &decision.conversion);
                    let dimensions = report.dimensions.iter().map(value).collect();
                    let currency =
                        if report.by_currency { decision.conversion.currency.clone() } else { String::new() };
                    let sum = sums.entry((model, dimensions, currency)).or_default();
                    sum.conversions += weight;
                    sum.value += weight * amount;
                    sum.touches += u64::from(touch.is_some());
                    if weight > 0.0 {
                        sum.persons.insert(decision.person.clone());
                    }
                }
            }
        }
        let row = |((model, dimensions, currency), sum): ((usize, Vec<String>, String), Sums)| Row {
            model,
            dimensions,
            currency,
            conversions: sum.conversions,
            value: sum.value,
            touches: sum.touches,
            persons: sum.persons.len() as u64,
        };
        sums.into_iter().map(row).filter(|row| row.touches > 0 || row.persons > 0).collect()
    }
}

impl Platform {
    /// Event ids and their shares of a decision under its own windows; an empty id: organic.
    pub fn credit(&self, tenant: &str, decision: &Decision, model: Model) -> Vec<(String, f64)> {
        let report = Report {
            from_millis: i64::MIN,
            to_millis: i64::MAX,
            models: vec![model],
            dimensions: Vec::new(),
            filters: Vec::new(),
            lookback_millis: None,
            transforms: Vec::new(),
            by_currency: false,
        };
        let path = report.path(decision);
        if path.is_empty() {
            return vec![(String::new(), 1.0)];
        }
        let weights = report.weights(model, &path, decision, &self.settings_of(tenant));
        path.into_iter().map(|touch| touch.event_id.clone()).zip(weights).collect()
    }
}

// === impl Report ===

impl Report {
    fn selects(&self, conversion: &Event) -> bool {
        let of_conversion = self.filters.iter().filter(|(dimension, _)| !is_of_touch(dimension));
        (self.from_millis..self.to_millis).contains(&millis(conversion))
            && of_conversion
                .into_iter()
                .all(|(dimension, values)| values.contains(&value_of(dimension, None, conversion)))
    }

    fn shows(&self, touch: Option<&Event>) -> bool {
        let of_touch = self.filters.iter().filter(|(dimension, _)| is_of_touch(dimension));
        of_touch
            .into_iter()
            .all(|(dimension, values)| values.contains(&value_of(dimension, touch, &Event::default())))
    }

    /// The eligible touches after the transforms, in order.
    fn path<'a>(&self, decision: &'a Decision) -> Vec<&'a Event> {
        let eligible = decision.candidates.iter().filter(|candidate| match self.lookback_millis {
            None => candidate.verdict == "eligible",
            Some(lookback) => {
                candidate.age_millis <= lookback.min(WINDOW_DAYS_MAX * DAY)
                    && candidate.touch.app_id == decision.conversion.app_id
            }
        });
        let mut path: Vec<&Event> = eligible.map(|candidate| &candidate.touch).collect();
        for transform in &self.transforms {
            path = self.transformed(transform, path);
        }
        path
    }

    fn transformed<'a>(&self, transform: &Transform, path: Vec<&'a Event>) -> Vec<&'a Event> {
        let value = |touch: &Event| value_of(self.touch_dimension(), Some(touch), &Event::default());
        let mut left: Vec<&Event> = Vec::new();
        match transform {
            Transform::Exposure => {
                for touch in path {
                    if left.last().is_none_or(|last| value(last) != value(touch)) {
                        left.push(touch);
                    }
                }
            }
            Transform::First => {
                for touch in path {
                    if left.iter().all(|other| value(other) != value(touch)) {
                        left.push(touch);
                    }
                }
            }
            Transform::RemoveIfNotAll(gone) => {
                let others: Vec<&Event> =
                    path.iter().copied().filter(|touch| value(touch) != *gone).collect();
                left = if others.is_empty() { path } else { others };
            }
            Transform::RemoveIfLastAndNotAll(gone) => {
                left.clone_from(&path);
                while left.last().is_some_and(|last| value(last) == *gone) {
                    left.pop();
                }
                if left.is_empty() {
                    left = path;
                }
            }
        }
        left
    }

    /// The first touch dimension asked for.
    fn touch_dimension(&self) -> &str {
        self.dimensions.iter().find(|dimension| is_of_touch(dimension)).map_or("channel", String::as_str)
    }

    fn weights(&self, model: Model, path: &[&Event], decision: &Decision, settings: &Settings) -> Vec<f64> {
        let n = path.len();
        if n == 0 {
            return Vec::new();
        }
        let only = |chosen: usize| (0..n).map(|index| f64::from(u8::from(index == chosen))).collect();
        match model {
            Model::Decision => {
                let best = settings.ranking(path.iter().copied()).into_iter().next();
                only(path.iter().position(|touch| Some(&touch.event_id) == best.as_ref()).unwrap_or(0))
            }
            Model::FirstTouch => only(0),
            Model::LastTouch => only(n - 1),
            Model::LastNonDirect => {
                let direct = |touch: &&Event| settings.direct_channels.contains(&touch.channel);
                only(path.iter().rposition(|touch| !direct(touch)).unwrap_or(n - 1))
            }
            Model::Linear => vec![1.0 / n as f64; n],
            Model::PositionBased(first, last) => position_based(first, last, n),
            Model::TimeDecay(half_life) => {
                let time = millis(&decision.conversion);
                let newest = time - millis(path[n - 1]);
                let decayed: Vec<f64> = path
                    .iter()
                    .map(|touch| (-((time - millis(touch) - newest) as f64) / half_life).exp2())
                    .collect();
                let sum: f64 = decayed.iter().sum();
                decayed.into_iter().map(|weight| weight / sum).collect()
            }
            Model::Shapley => {
                let value = |touch: &Event| value_of(self.touch_dimension(), Some(touch), &Event::default());
                let distinct: BTreeSet<String> = path.iter().map(|touch| value(touch)).collect();
                // Each value's share lies with its first touch: rows only tell values apart.
                let first =
                    |index: usize| path[..index].iter().all(|earlier| value(earlier) != value(path[index]));
                (0..n).map(|index| if first(index) { 1.0 / distinct.len() as f64 } else { 0.0 }).collect()
            }
        }
    }
}

fn position_based(first: f64, last: f64, n: usize) -> Vec<f64> {
    match n {
        1 => vec![1.0],
        2 if first + last == 0.0 => vec![0.5, 0.5],
        2 => vec![first / (first + last), last / (first + last)],
        _ => {
            let mut weights = vec![(1.0 - first - last).max(0.0) / (n - 2) as f64; n];
            weights[0] = first;
            weights[n - 1] = last;
            weights
        }
    }
}

fn is_of_touch(dimension: &str) -> bool {
    TOUCH_DIMENSIONS.contains(&dimension)
}

fn value_of(dimension: &str, touch: Option<&Event>, conversion: &Event) -> String {
    let text = match (dimension, touch) {
        (dimension, None) if is_of_touch(dimension) => "organic",
        ("channel", Some(touch)) => &touch.channel,
        ("partner", Some(touch)) => &touch.partner,
        ("campaign_id", Some(touch)) => &touch.campaign_id,
        ("ad_group_id", Some(touch)) => &touch.ad_group_id,
        ("creative_id", Some(touch)) => &touch.creative_id,
        ("keyword", Some(touch)) => &touch.keyword,
        ("event_type", Some(touch)) => match touch.event_type() {
            EventType::Click => "click",
            EventType::Impression => "impression",
            _ => "visit",
        },
        ("app_id", _) => &conversion.app_id,
        ("platform", _) => &conversion.platform,
        ("country", _) => &conversion.country,
        ("conversion", _) => &conversion.conversion,
        ("currency", _) => &conversion.currency,
        _ => return date(dimension, conversion),
    };
    if text.is_empty() { "(not set)".to_owned() } else { text.to_owned() }
}

fn date(dimension: &str, conversion: &Event) -> String {
    let at = jiff::Timestamp::from_millisecond(millis(conversion)).unwrap_or_default();
    let day = at.to_zoned(jiff::tz::TimeZone::UTC).date();
    match dimension {
        "day" => day.to_string(),
        "week" => {
            let since_monday = i64::from(day.weekday().to_monday_zero_offset());
            day.saturating_sub(jiff::Span::new().days(since_monday)).to_string()
        }
        "month" => format!("{:04}-{:02}", day.year(), day.month()),
        "hour" => at.strftime("%Y-%m-%dT%H:00:00Z").to_string(),
        other => panic!("there is no dimension {other}"),
    }
}
