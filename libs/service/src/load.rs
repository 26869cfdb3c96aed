//! How much is taken on at once: requests, and requests of one tenant.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use metrics::{Gauge, gauge};
use parking_lot::Mutex;
use telemetry::metrics::REQUESTS_IN_FLIGHT;

use crate::{
    error::{Error, Result},
    guarded::Guarded,
    limits::Limits,
};

/// What a process is working on now.
pub(crate) struct Load {
    requests: AtomicUsize,
    gauge: Gauge,
    /// Requests by tenant; only of those that have any.
    of_tenant: Mutex<HashMap<Arc<str>, usize>>,
}

/// One request's part of it, given back when it is dropped.
pub(crate) struct Part {
    load: Arc<Load>,
    tenant: Option<Arc<str>>,
}

// === impl Load ===

impl Load {
    pub(crate) fn new() -> Self {
        Self { requests: AtomicUsize::new(0), gauge: gauge!(REQUESTS_IN_FLIGHT), of_tenant: Mutex::default() }
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes a request on.
    pub(crate) fn take(self: &Arc<Self>, limits: &Limits) -> Result<Part> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        self.gauge.increment(1.0);
        // It counts itself out when it is dropped, so also when it is refused.
        let part = Part { load: self.clone(), tenant: None };
        if before >= limits.requests_in_flight_max {
            return Err(Error::unavailable("too many requests at once; try again").code("overloaded"));
        }
        Ok(part)
    }
}

// === impl Part ===

impl Part {
    /// Counts the request as one of its tenant's.
    pub(crate) fn of_tenant(&mut self, tenant: &Arc<str>, limits: &Limits) -> Result<()> {
        let mut all = self.load.of_tenant.lock();
        let count = all.get(tenant).copied().unwrap_or_default();
        if count >= limits.tenant_requests_in_flight_max {
            let detail = "too many requests of this tenant at once; wait for answers";
            return Err(Error::over_quota(detail).code("too_many_requests"));
        }
        all.insert(tenant.clone(), count + 1);
        self.tenant = Some(tenant.clone());
        Ok(())
    }

    /// The same body, which keeps this part until it is read.
    pub(crate) fn hold(self, body: Body) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        Body::new(Guarded::new(body, self))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(1, Ordering::Relaxed);
        self.load.gauge.decrement(1.0);
        let Some(tenant) = self.tenant.take() else { return };
        if let Entry::Occupied(mut entry) = self.load.of_tenant.lock().entry(tenant) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
