//! The model gateway: asked for scores within a deadline, and left alone for a while when it fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use journey_store::ScoreKind;
use parking_lot::Mutex;
use proto::ml::{
    Features as Row, RowScore, ScoreRequest, ScoreResponse, ml_gateway_service_client::MlGatewayServiceClient,
};
use service::Peer;
use tonic::Code;

use crate::Config;

/// Rows of one call: so that of a batch with too many for the deadline the first ones get their scores, and the others have
/// fewer before them the next time.
pub(crate) const ROWS_MAX: usize = 128;

/// With more rows in a call nobody has the time to tell of each why.
const REASONED_ROWS_MAX: usize = 32;

/// The strongest features that are told of.
const REASONS_MAX: u32 = 3;

/// The bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A client with its limits, for one model: that one of two models fails says nothing of the other.
pub(crate) struct Gateway {
    peer: Peer,
    pub(crate) kind: ScoreKind,
    model: String,
    deadline: Duration,
    pause: Duration,
    rests_until: Mutex<Option<Instant>>,
}

/// The answer to one row: of a model of fraud a probability, of one of values a number with its interval.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    pub(crate) model: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) row: RowScore,
}

/// Why there is no answer, in the words of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Late(Duration),
    Refused,
    /// What was asked cannot be answered, now or later.
    Senseless,
    Wrong(ScoreKind),
    Rests,
}

/// When scores come too late for a batch.
pub(crate) struct Deadline {
    at: Instant,
    /// Whether none came yet.
    whole: bool,
}

// === impl Gateway ===

impl Gateway {
    pub(crate) fn new(peer: Peer, kind: ScoreKind, config: &Config) -> Self {
        let model = match kind {
            ScoreKind::Fraud => &config.score_model,
            ScoreKind::Value => &config.value_model,
        };
        Self {
            peer,
            kind,
            model: model.clone(),
            deadline: Duration::from_millis(config.score_deadline_millis),
            pause: Duration::from_millis(config.score_pause_millis),
            rests_until: Mutex::default(),
        }
    }

    /// Whether it may be asked now.
    pub(crate) fn is_awake(&self) -> bool {
        self.rests_until.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// When a batch that begins now has to do without further scores.
    pub(crate) fn until(&self) -> Deadline {
        Deadline { at: Instant::now() + self.deadline, whole: true }
    }

    /// Asks for scores, of each tenant's rows in one call, until the deadline; one for each row, in order.
    pub(crate) async fn score(
        &self,
        tenants: Vec<(Arc<str>, Vec<Row>)>,
        until: &mut Deadline,
    ) -> Result<Vec<Vec<Scored>>, Failure> {
        if !self.is_awake() {
            return Err(Failure::Rests);
        }
        if Instant::now() >= until.at {
            return Err(Failure::Late(self.deadline));
        }
        let calls = tenants.into_iter().map(|(tenant, rows)| async move { self.call(&tenant, rows).await });
        let answer = tokio::time::timeout_at(until.at.into(), try_join_all(calls)).await;
        let answer = answer.unwrap_or(Err(Failure::Late(self.deadline)));
        match &answer {
            // It answered the ones before in time: these were too many.
            Err(Failure::Late(_)) if !until.whole => {}
            Ok(_) => {
                until.whole = false;
                if self.rests_until.lock().take().is_some() {
                    tracing::info!(model = self.model, "the model gateway answers again");
                }
            }
            // It is well, and others' touches may be scored.
            Err(Failure::Senseless) => {}
            Err(failure) => {
                let was = self.rests_until.lock().replace(Instant::now() + self.pause);
                if was.is_none() {
                    tracing::warn!(model = self.model, "decisions are made without scores: {failure}");
                }
            }
        }
        answer
    }

    async fn call(&self, tenant: &str, rows: Vec<Row>) -> Result<Vec<Scored>, Failure> {
        let count = rows.len();
        let reasoned = self.kind == ScoreKind::Fraud && count <= REASONED_ROWS_MAX;
        let request = ScoreRequest {
            model: self.model.clone(),
            version: String::new(),
            rows,
            contributions_max: if reasoned { REASONS_MAX } else { 0 },
        };
        let mut client = MlGatewayServiceClient::new(self.peer.for_tenant(tenant))
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = client.score(request).await.map_err(|status| {
            tracing::debug!(%status, "the model gateway refused");
            if status.code() == Code::InvalidArgument { Failure::Senseless } else { Failure::Refused }
        })?;
        checked(self.kind, answer.into_inner(), count)
    }
}

// === impl Deadline ===

impl Deadline {
    /// The same moment for another model, of which none came yet.
    pub(crate) fn of_another(&self) -> Self {
        Self { at: self.at, whole: true }
    }
}

/// The features that are known, by name.
pub(crate) fn row<const N: usize>(names: [&str; N], values: [Option<f64>; N]) -> Row {
    let known = names.into_iter().zip(values).filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Row { values: known.collect() }
}

/// Takes an answer apart; one with another shape, or whose numbers are not those of the kind, is none.
fn checked(kind: ScoreKind, answer: ScoreResponse, rows: usize) -> Result<Vec<Scored>, Failure> {
    let is_right = |row: &RowScore| match kind {
        ScoreKind::Fraud => (0.0..=1.0).contains(&row.calibrated),
        ScoreKind::Value => row.interval.as_ref().is_some_and(|interval| {
            let ends = [interval.lower, interval.upper];
            row.calibrated.is_finite()
                && ends.iter().all(|end| end.is_finite())
                && interval.lower <= interval.upper
                && (0.0..=1.0).contains(&interval.level)
        }),
    };
    if answer.rows.len() != rows || answer.model.is_empty() || !answer.rows.iter().all(is_right) {
        tracing::debug!(rows, answered = answer.rows.len(), "the model gateway's answer cannot be used");
        return Err(Failure::Wrong(kind));
    }
    let (model, version): (Arc<str>, Arc<str>) = (answer.model.into(), answer.version.into());
    let scored = |row| Scored { model: Arc::clone(&model), version: Arc::clone(&version), row };
    Ok(answer.rows.into_iter().map(scored).collect())
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Late(deadline) => {
                write!(f, "the model gateway did not answer within {} ms", deadline.as_millis())
            }
            Self::Senseless => f.write_str("the model gateway cannot score what was asked"),
            Self::Refused => f.write_str("the model gateway did not take the call"),
            Self::Wrong(ScoreKind::Fraud) => {
                f.write_str("the model gateway's answer was no probability for each touch")
            }
            Self::Wrong(ScoreKind::Value) => {
                f.write_str("the model gateway's answer was no value with an interval for each conversion")
            }
            Self::Rests => f.write_str("the model gateway failed a moment ago and was not asked"),
        }
    }
}
