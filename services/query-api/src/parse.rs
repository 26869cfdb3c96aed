//! A report as REST sends it, read into the message that gRPC sends.
//!
//! Decides only what JSON adds: types of values, unknown names, models and transforms as strings or objects.
//! Every rule about the content is in `spec.rs`, for both protocols.

use proto::query::{
    DecisionModel, Filter, FirstTouchModel, LastNonDirectModel, LastTouchModel, LinearModel, MarkovModel,
    Model, OrderBy, PathTransform, PositionBasedModel, RunReportRequest, ShapleyModel, TimeDecayModel, model,
    path_transform::Transform,
};
use serde_json::{Map, Value};
use service::Error;

use crate::fault::Faults;

/// The names of all models, in the order they are documented.
pub(crate) const MODELS: [&str; 9] = [
    "decision",
    "first_touch",
    "last_touch",
    "last_non_direct",
    "linear",
    "position_based",
    "time_decay",
    "markov",
    "shapley",
];

/// The names of all path transforms; the last two take a value.
pub(crate) const TRANSFORMS: [&str; 4] =
    ["exposure", "first", "remove_if_not_all", "remove_if_last_and_not_all"];

/// The fields of a report.
pub(crate) const FIELDS: [&str; 11] = [
    "from",
    "to",
    "models",
    "dimensions",
    "measures",
    "filters",
    "lookback",
    "path_transforms",
    "order_by",
    "limit",
    "as_of",
];

/// Reads the body of a report.
///
/// # Errors
/// `unreadable_body` where the bytes are no JSON object, else invalid with every field that has another type than it
/// should or a name that nobody knows.
pub(crate) fn report(body: &[u8]) -> Result<RunReportRequest, Error> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the body is not JSON: {error}")).code("unreadable_body"))?;
    let Value::Object(object) = value else {
        return Err(Error::invalid("the body must be one JSON object").code("unreadable_body"));
    };
    let mut reader = Reader::default();
    let mut request = RunReportRequest::default();
    for (name, value) in &object {
        // Of a name that nobody knows a null is an error too.
        if !value.is_null() || !FIELDS.contains(&name.as_str()) {
            reader.field(&mut request, name, value);
        }
    }
    reader.faults.or(request)
}

#[derive(Default)]
struct Reader {
    faults: Faults,
}

// === impl Reader ===

impl Reader {
    fn field(&mut self, request: &mut RunReportRequest, name: &str, value: &Value) {
        match name {
            "from" => request.from = self.text(name, value),
            "to" => request.to = self.text(name, value),
            "lookback" => request.lookback = self.text(name, value),
            "as_of" => request.as_of = self.text(name, value),
            "dimensions" => request.dimensions = self.list(name, value, Self::text),
            "measures" => request.measures = self.list(name, value, Self::text),
            "models" => request.models = self.list(name, value, Self::model),
            "filters" => request.filters = self.list(name, value, Self::filter),
            "path_transforms" => request.path_transforms = self.list(name, value, Self::transform),
            "order_by" => request.order_by = self.list(name, value, Self::order),
            "limit" => request.limit = self.whole(name, value),
            _ => self.unknown(name, &FIELDS),
        }
    }

    fn list<T>(&mut self, path: &str, value: &Value, read: impl Fn(&mut Self, &str, &Value) -> T) -> Vec<T> {
        let Value::Array(items) = value else {
            self.faults.add(path, "must be a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| read(self, &format!("{path}[{index}]"), item)).collect()
    }

    // In the message an empty string is an absent field, so what is given must not be empty.
    fn text(&mut self, path: &str, value: &Value) -> String {
        match value {
            Value::String(text) if !text.is_empty() => return text.clone(),
            Value::String(_) => self.faults.add(path, "must not be empty; leave the field out"),
            _ => self.faults.add(path, "must be a string"),
        }
        String::new()
    }

    // A number past 32 bits stays past every limit.
    fn whole(&mut self, path: &str, value: &Value) -> Option<u32> {
        let whole = value.as_u64().map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        if whole.is_none() {
            self.faults.add(path, "must be a whole number, not negative");
        }
        whole
    }

    fn share(&mut self, path: &str, value: &Value) -> Option<f64> {
        let share = value.as_f64();
        if share.is_none() {
            self.faults.add(path, "must be a number");
        }
        share
    }

    fn object<'a>(&mut self, path: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.faults.add(path, "must be an object");
        }
        object
    }

    // `"name"`, or `{"name": argument}`.
    fn variant<'a>(&mut self, path: &str, value: &'a Value) -> Option<(&'a str, Option<&'a Value>)> {
        match value {
            Value::String(name) => Some((name, None)),
            Value::Object(object) if object.len() == 1 => {
                object.iter().next().map(|(name, argument)| (name.as_str(), Some(argument)))
            }
            _ => {
                self.faults.add(path, "must be a name, or an object with one name and its parameters");
                None
            }
        }
    }

    fn model(&mut self, path: &str, value: &Value) -> Model {
        let Some((name, argument)) = self.variant(path, value) else { return Model::default() };
        let empty = Map::new();
        let inner = format!("{path}.{name}");
        if !MODELS.contains(&name) {
            self.faults.add(path, format!("unknown model {:?}; one of {}", clip(name), MODELS.join(", ")));
            return Model::default();
        }
        let parameters = match argument {
            None => &empty,
            Some(argument) => match self.object(&inner, argument) {
                Some(parameters) => parameters,
                None => return Model::default(),
            },
        };
        let model = match name {
            "position_based" => model::Model::PositionBased(self.position_based(&inner, parameters)),
            "time_decay" => model::Model::TimeDecay(self.time_decay(&inner, parameters)),
            "markov" => model::Model::Markov(self.markov(&inner, parameters)),
            _ => {
                self.known(&inner, parameters, &[]);
                match name {
                    "decision" => model::Model::Decision(DecisionModel {}),
                    "first_touch" => model::Model::FirstTouch(FirstTouchModel {}),
                    "last_touch" => model::Model::LastTouch(LastTouchModel {}),
                    "last_non_direct" => model::Model::LastNonDirect(LastNonDirectModel {}),
                    "linear" => model::Model::Linear(LinearModel {}),
                    _ => model::Model::Shapley(ShapleyModel {}),
                }
            }
        };
        Model { model: Some(model) }
    }

    fn position_based(&mut self, path: &str, parameters: &Map<String, Value>) -> PositionBasedModel {
        self.known(path, parameters, &["first", "last"]);
        let mut share = |name: &str| {
            given(parameters, name).and_then(|value| self.share(&format!("{path}.{name}"), value))
        };
        PositionBasedModel { first: share("first"), last: share("last") }
    }

    fn time_decay(&mut self, path: &str, parameters: &Map<String, Value>) -> TimeDecayModel {
        self.known(path, parameters, &["half_life"]);
        let half_life =
            given(parameters, "half_life").map(|value| self.text(&format!("{path}.half_life"), value));
        TimeDecayModel { half_life: half_life.unwrap_or_default() }
    }

    fn markov(&mut self, path: &str, parameters: &Map<String, Value>) -> MarkovModel {
        self.known(path, parameters, &["order"]);
        let order = given(parameters, "order").and_then(|value| self.whole(&format!("{path}.order"), value));
        MarkovModel { order }
    }

    fn filter(&mut self, path: &str, value: &Value) -> Filter {
        let mut filter = Filter::default();
        let Some(object) = self.object(path, value) else { return filter };
        self.known(path, object, &["dimension", "in"]);
        if let Some(dimension) = self.required(path, object, "dimension") {
            filter.dimension = self.text(&format!("{path}.dimension"), dimension);
        }
        if let Some(values) = self.required(path, object, "in") {
            filter.r#in = self.list(&format!("{path}.in"), values, Self::text);
        }
        filter
    }

    fn transform(&mut self, path: &str, value: &Value) -> PathTransform {
        let Some((name, argument)) = self.variant(path, value) else { return PathTransform::default() };
        let transform = match (name, argument) {
            ("exposure", None) => Transform::Exposure(true),
            ("first", None) => Transform::First(true),
            ("remove_if_not_all", Some(removed)) => {
                Transform::RemoveIfNotAll(self.text(&format!("{path}.{name}"), removed))
            }
            ("remove_if_last_and_not_all", Some(removed)) => {
                Transform::RemoveIfLastAndNotAll(self.text(&format!("{path}.{name}"), removed))
            }
            ("exposure" | "first", Some(_)) => {
                self.faults.add(path, format!("write {name:?}, it takes no value"));
                return PathTransform::default();
            }
            ("remove_if_not_all" | "remove_if_last_and_not_all", None) => {
                self.faults.add(path, format!("write {{{name:?}: value}} with the value to remove"));
                return PathTransform::default();
            }
            _ => {
                let known = TRANSFORMS.join(", ");
                self.faults.add(path, format!("unknown transform {:?}; one of {known}", clip(name)));
                return PathTransform::default();
            }
        };
        PathTransform { transform: Some(transform) }
    }

    fn order(&mut self, path: &str, value: &Value) -> OrderBy {
        let mut order = OrderBy::default();
        let Some(object) = self.object(path, value) else { return order };
        self.known(path, object, &["field", "descending"]);
        if let Some(field) = self.required(path, object, "field") {
            order.field = self.text(&format!("{path}.field"), field);
        }
        match given(object, "descending") {
            None => {}
            Some(Value::Bool(descending)) => order.descending = *descending,
            Some(_) => self.faults.add(format!("{path}.descending"), "must be true or false"),
        }
        order
    }

    fn required<'a>(&mut self, path: &str, object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        let value = given(object, name);
        if value.is_none() {
            self.faults.add(format!("{path}.{name}"), "is required");
        }
        value
    }

    fn known(&mut self, path: &str, object: &Map<String, Value>, names: &[&str]) {
        for name in object.keys().filter(|name| !names.contains(&name.as_str())) {
            self.unknown(&format!("{path}.{}", clip(name)), names);
        }
    }

    fn unknown(&mut self, path: &str, known: &[&str]) {
        let reason = match known {
            [] => "unknown field; it takes none".to_owned(),
            known => format!("unknown field; one of {}", known.join(", ")),
        };
        self.faults.add(clip(path), reason);
    }
}

// Many clients write null for what they leave out.
fn given<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// The head of a text that a client sent, for a message about it.
pub(crate) fn clip(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 64;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
