//! What both protocols call: who may ask, then the answer.

use std::{sync::Arc, time::Duration};

use journey_store::JourneyStore;
use model::Rules;
use proto::{
    decisions::Decision,
    query::{GetJourneyRequest, GetJourneyResponse, RunReportRequest, RunReportResponse},
};
use service::{Caller, Error, Peer, Scope, SettingsHandle};
use tokio::sync::Semaphore;
use warehouse::Warehouse;

use crate::{answer::Columns, config::Config, error, journey, report};

/// The calls of the service. Clones share it.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

/// What the calls work with.
pub(crate) struct Inner {
    pub(crate) warehouse: Warehouse,
    pub(crate) journeys: Arc<dyn JourneyStore>,
    pub(crate) attribution: Peer,
    pub(crate) settings: SettingsHandle,
    pub(crate) config: Config,
    /// How long a report may wait for what was acknowledged.
    pub(crate) patience: Duration,
    /// One permit for each report at the warehouse.
    pub(crate) slots: Semaphore,
}

// === impl Api ===

impl Api {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(crate) async fn report(
        &self,
        caller: &Caller,
        request: RunReportRequest,
    ) -> Result<(RunReportResponse, Columns), Error> {
        caller.require(Scope::Read)?;
        report::run(&self.0, caller.tenant(), request).await
    }

    pub(crate) async fn conversion(&self, caller: &Caller, event_id: &str) -> Result<Decision, Error> {
        caller.require(Scope::Read)?;
        journey_store::explained(self.0.journeys.as_ref(), caller.tenant_name(), event_id)
            .await
            .map_err(error::store)?
            .ok_or_else(|| Error::not_found("no decided conversion has this event id"))
    }

    pub(crate) async fn journey(
        &self,
        caller: &Caller,
        request: GetJourneyRequest,
    ) -> Result<GetJourneyResponse, Error> {
        caller.require(Scope::Read)?;
        journey::get(self.0.journeys.as_ref(), caller.tenant_name(), request).await
    }

    pub(crate) fn edition(&self, caller: &Caller, edition: &str) -> Result<Arc<Rules>, Error> {
        caller.require(Scope::Read).or_else(|_| caller.require(Scope::Admin))?;
        let rules = self.0.settings.edition(caller.tenant_name(), edition);
        rules.ok_or_else(|| Error::not_found("this tenant never had this settings edition"))
    }
}
