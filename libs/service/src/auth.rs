//! Who is calling, and what they may do.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::extract::FromRequestParts;
use http::{Extensions, HeaderMap, HeaderName, header, request::Parts};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use telemetry::metrics::AUTHENTICATION_FAILURES;

use crate::{
    config::Secret,
    error::{Error, Result},
    settings::{Key, Scope, Scopes, SettingsHandle, Tenant},
};

/// The metadata key that names the tenant of a call between services. From outside it means nothing.
pub const TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// Failed authentications of one address in [`FAILURES_SECONDS`]; one more is answered 429.
pub const FAILURES_MAX: u32 = 60;

/// The window of [`FAILURES_MAX`], seconds from the first failure on.
pub const FAILURES_SECONDS: u64 = 60;

/// Addresses remembered at the same time.
const ADDRESSES_MAX: u64 = 100_000;

/// An authenticated caller: a key of a tenant, with the tenant's settings as they were when the request came in.
#[derive(Clone)]
pub struct Caller {
    key: Arc<Key>,
    /// Where the key is looked up again; absent for callers without one.
    settings: Option<SettingsHandle>,
}

/// The mark of a call that did not come over the network. Only [`crate::Peer`] makes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InProcess;

/// The address of the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteAddress(pub(crate) IpAddr);

/// The key that the services of an installation call each other with; only its hash is kept.
pub(crate) struct PeerKey([u8; 32]);

/// Counts failed authentications per address (of IPv6 the /64).
#[derive(Debug)]
pub(crate) struct Failures {
    counts: moka::sync::Cache<IpAddr, Arc<AtomicU32>>,
}

// === impl Caller ===

impl Caller {
    /// Its tenant's settings.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.key.tenant
    }

    /// Its tenant's name.
    pub fn tenant_name(&self) -> &Arc<str> {
        &self.key.tenant.name
    }

    /// The name of its key in the settings.
    pub fn key_name(&self) -> &Arc<str> {
        &self.key.name
    }

    /// What it may do.
    pub fn scopes(&self) -> Scopes {
        self.key.scopes
    }

    /// Passes if the caller has the scope.
    ///
    /// # Errors
    /// 403 that names the scope.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.key.scopes.has(scope) {
            return Ok(());
        }
        let detail = format!("this key needs the scope {}; it is set in settings.toml", scope.name());
        Err(Error::forbidden(detail).code("missing_scope"))
    }

    /// The caller of a request, from its extensions.
    ///
    /// # Errors
    /// Internal, if the route was not mounted behind authentication.
    pub fn of(extensions: &Extensions) -> Result<Self> {
        let missing = || Error::internal("a handler wants a caller on a route that is open to all");
        extensions.get().cloned().ok_or_else(missing)
    }

    /// The same caller under the settings in force now: a stream outlives its key, its quota, its tenant's edition.
    ///
    /// # Errors
    /// 401 if the key is gone or has expired.
    pub fn renewed(&self) -> Result<Self> {
        let Some(settings) = &self.settings else { return Ok(self.clone()) };
        let key = settings.load().same_key(&self.key).cloned().ok_or_else(unknown_key)?;
        Ok(Self { key, settings: self.settings.clone() })
    }

    /// A caller made by hand: for tests of handlers.
    pub fn new(tenant: Arc<Tenant>, key_name: &str, scopes: Scopes) -> Self {
        Self { key: Arc::new(Key::made(tenant, key_name, scopes)), settings: None }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tenant, key) = (self.tenant_name(), self.key_name());
        f.debug_struct("Caller").field("tenant", tenant).field("key", key).finish_non_exhaustive()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::of(&parts.extensions)
    }
}

/// Finds out who is calling.
pub(crate) fn authenticate(
    settings: &SettingsHandle,
    peers: Option<&PeerKey>,
    failures: &Failures,
    headers: &mut HeaderMap,
    extensions: &Extensions,
) -> Result<Caller> {
    let tenant = headers.remove(TENANT);
    let called_for = |peer: &str, scopes: Scopes| {
        let name = tenant.as_ref().and_then(|tenant| tenant.to_str().ok()).unwrap_or_default();
        let in_force = settings.load();
        let tenant = in_force.tenant(name).ok_or_else(|| Error::not_found("no such tenant"))?;
        Ok(Caller::new(tenant.clone(), peer, scopes))
    };
    if extensions.get::<InProcess>().is_some() {
        return called_for("in process", Scopes::ALL);
    }
    let key = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if key.zip(peers).is_some_and(|(key, peers)| peers.is(key)) {
        return called_for("peer", Scopes::default().with(Scope::Read));
    }
    let found = key.and_then(|key| settings.load().authenticate(key).cloned());
    if let Some(key) = found {
        return Ok(Caller { key, settings: Some(settings.clone()) });
    }
    let error = if key.is_some() { unknown_key() } else { no_key() };
    metrics::counter!(AUTHENTICATION_FAILURES, "reason" => error.code_str().to_owned()).increment(1);
    failures.count(extensions.get().map(|RemoteAddress(address)| *address))?;
    Err(error)
}

fn no_key() -> Error {
    Error::unauthenticated("send the header authorization: Bearer <key>").code("no_key")
}

fn unknown_key() -> Error {
    Error::unauthenticated("this key is unknown or has expired").code("unknown_key")
}

/// The key of an `Authorization` header. The scheme's case does not matter (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, key) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| key.trim_ascii())
}

// === impl PeerKey ===

impl PeerKey {
    pub(crate) fn new(key: &Secret) -> Self {
        Self(Sha256::digest(key.reveal()).into())
    }

    fn is(&self, key: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(key).into();
        self.0.ct_eq(&hash).into()
    }
}

// === impl Failures ===

impl Failures {
    pub(crate) fn new() -> Self {
        let counts = moka::sync::Cache::builder()
            .max_capacity(ADDRESSES_MAX)
            .time_to_live(Duration::from_secs(FAILURES_SECONDS))
            .build();
        Self { counts }
    }

    fn count(&self, address: Option<IpAddr>) -> Result<()> {
        let address = group(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let count = self.counts.get_with(address, Arc::default);
        // It stays at the maximum, so it cannot wrap.
        let before =
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < FAILURES_MAX).then_some(n + 1));
        before.map(drop).map_err(|_| {
            Error::over_quota("too many failed authentications from this address; wait")
                .code("too_many_failed_authentications")
                .retry_after(Duration::from_secs(FAILURES_SECONDS))
        })
    }
}

fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn failures_are_limited_per_address_at_the_bound_and_one_past_it() {
        let failures = Failures::new();
        let here = Some("10.0.0.1".parse().unwrap());
        for _ in 0..FAILURES_MAX {
            assert!(failures.count(here).is_ok());
        }
        assert_eq!(failures.count(here).unwrap_err().status(), 429);
        assert!(failures.count(Some("10.0.0.2".parse().unwrap())).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_a_mapped_ipv4_is_itself() {
        let group = |text: &str| group(text.parse().unwrap());
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_eq!(group("::ffff:10.0.0.1"), group("10.0.0.1"));
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer(b"Bearer k"), Some(&b"k"[..]));
        assert_eq!(bearer(b"bearer  k "), Some(&b"k"[..]));
        assert_eq!(bearer(b"Basic k"), None);
        assert_eq!(bearer(b"Bearer"), None);
    }
}
