//! The one owner of the access token.
//!
//! Everything that calls Salesforce asks here for the token and says here when it was
//! refused. One exchange serves all who wait for it; a failure is told to those who
//! waited and is not remembered; a token that is rejected again and again costs one exchange
//! each [`SessionSettings::minimum_spacing`] and no more.
//!
//! Salesforce tells nobody when a token expires (a rolling idle time-out, two hours
//! unless configured otherwise), so it is renewed by age and on refusal.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use tokio::time::Instant;
use url::Url;

use crate::identity::OrgId;
use crate::salesforce::api_usage::{ApiUsage, UsageMeter};
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::clock::ServerClock;
use crate::salesforce::grant::{Credentials, Grant};
use crate::salesforce::oauth::{Granted, request_token};
pub use crate::salesforce::session_error::SessionError;
use crate::salesforce::{proxy, tls};

/// How often one exchange is tried before its failure is told.
const ATTEMPTS: u32 = 3;

/// A clock off by less than this does not explain a refused assertion.
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(20);

/// When a token that is due for renewal, but not refused, is tried again after the login server failed.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Short, because somebody waits: who asked for the token backs off by itself.
const DEFAULT_BACKOFF: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(5));

/// How to sign in, and to which org.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// `https://login.salesforce.com`, `https://test.salesforce.com`, a My Domain URL or a simulator.
    pub login_url: Url,
    /// The `aud` of the assertion; [`audience_of`] the login URL unless it has to differ.
    pub audience: String,
    /// The flow and its secrets.
    pub grant: Grant,
    /// Where calls go; the instance that the token names unless another host answers them.
    pub api_url: Option<Url>,
    /// The only org that is accepted, if given.
    pub org_id: Option<OrgId>,
    /// REST API version without `v`, such as `66.0`.
    pub api_version: String,
    /// PEM of an authority to trust beside the public ones.
    pub extra_ca: Option<String>,
    /// Age at which a token is renewed.
    pub maximum_age: Duration,
    /// Least time between the beginnings of two exchanges.
    pub minimum_spacing: Duration,
    /// Waits between the attempts of one exchange.
    pub backoff: BackoffLimits,
    /// TCP and TLS.
    pub connect_timeout: Duration,
    /// A whole HTTP call.
    pub call_timeout: Duration,
}

impl SessionSettings {
    /// The given login with defaults: renewal after an hour, exchanges 2 s apart, waits of 1 s to 5 s between
    /// attempts, 10 s to connect, 30 s a call.
    pub fn new(login_url: Url, grant: Grant) -> Self {
        Self {
            audience: audience_of(&login_url),
            login_url,
            grant,
            api_url: None,
            org_id: None,
            api_version: "66.0".to_owned(),
            extra_ca: None,
            maximum_age: Duration::from_secs(3600),
            minimum_spacing: Duration::from_secs(2),
            backoff: DEFAULT_BACKOFF,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
        }
    }
}

/// The audience that the token endpoint at a login URL accepts: its origin, with scheme and without path.
pub fn audience_of(login_url: &Url) -> String {
    login_url.origin().ascii_serialization()
}

/// An access token with what belongs to it.
pub struct Token {
    serial: u64,
    access_token: SecretString,
    instance_url: Url,
    org_id: OrgId,
    user_id: Option<String>,
}

impl Token {
    /// The secret itself, for the header that carries it.
    pub fn access_token(&self) -> &SecretString {
        &self.access_token
    }

    /// The host that REST calls go to; may differ from that of the token before, after an org migration.
    pub fn instance_url(&self) -> &Url {
        &self.instance_url
    }

    /// The instance URL without a path, as the Pub/Sub API wants it in `instanceurl`.
    pub fn instance_origin(&self) -> String {
        self.instance_url.origin().ascii_serialization()
    }

    /// The org that the token is for.
    pub fn org_id(&self) -> &OrgId {
        &self.org_id
    }

    /// The user that the token is for, if Salesforce told: letters and digits.
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token {{ serial: {}, instance: {}, org: {} }}", self.serial, self.instance_url, self.org_id)
    }
}

/// The session of one org. Cheap to clone; clones share the token.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    login_url: Url,
    audience: String,
    api_url: Option<Url>,
    pinned_org: Option<OrgId>,
    api_version: String,
    maximum_age: Duration,
    minimum_spacing: Duration,
    backoff: BackoffLimits,
    credentials: Credentials,
    http: reqwest::Client,
    clock: ServerClock,
    usage: UsageMeter,
    cache: Mutex<Cache>,
    /// Held during an exchange; whoever waits for it waits for the token.
    exchange: tokio::sync::Mutex<Exchange>,
    /// Exchanges that have ended, so that a waiter can tell that it waited for one.
    ended: AtomicU64,
}

#[derive(Default)]
struct Cache {
    token: Option<(Arc<Token>, Instant)>,
    /// The org of the first token; it cannot change in the life of a session.
    org_id: Option<OrgId>,
}

#[derive(Default)]
struct Exchange {
    began: Option<Instant>,
    failure: Option<SessionError>,
    serial: u64,
}

impl Session {
    /// Reads and checks the key, the certificate and the extra CA. Does not connect.
    pub fn new(settings: SessionSettings) -> Result<Self, SessionError> {
        if settings.login_url.host_str().is_none() {
            return Err(SessionError::Settings(format!("`{}` is not a login URL", settings.login_url)));
        }
        let credentials = Credentials::new(settings.grant, Utc::now())?;
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(settings.extra_ca.as_deref())?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.call_timeout)
            .user_agent(concat!("casewire/", env!("CARGO_PKG_VERSION")));
        if proxy::is_loopback(settings.login_url.host_str().unwrap_or_default()) {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| SessionError::Settings(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                login_url: settings.login_url,
                audience: settings.audience,
                api_url: settings.api_url,
                pinned_org: settings.org_id,
                api_version: settings.api_version,
                maximum_age: settings.maximum_age,
                minimum_spacing: settings.minimum_spacing,
                backoff: settings.backoff,
                credentials,
                http,
                clock: ServerClock::default(),
                usage: UsageMeter::default(),
                cache: Mutex::default(),
                exchange: tokio::sync::Mutex::default(),
                ended: AtomicU64::new(0),
            }),
        })
    }

    /// The token: the cached one, or a new one when that is missing, refused or too old.
    ///
    /// Bounded: a few attempts with short waits. May be dropped at any time; another waiter then goes on.
    pub async fn token(&self) -> Result<Arc<Token>, SessionError> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let ended = self.shared.ended.load(Ordering::Acquire);
        let mut exchange = self.shared.exchange.lock().await;
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        if self.shared.ended.load(Ordering::Acquire) != ended
            && let Some(failure) = &exchange.failure
        {
            return Err(failure.clone());
        }
        let outcome = self.exchange(&mut exchange).await;
        exchange.failure = outcome.as_ref().err().cloned();
        self.shared.ended.fetch_add(1, Ordering::Release);
        match outcome {
            Err(error) if error.is_retryable() => self.keep_aged(error),
            outcome => outcome,
        }
    }

    /// Says that this very token was refused (HTTP 401, gRPC 16). The next [`Session::token`] renews it,
    /// once for all who say so; nothing happens if it has been renewed already.
    pub fn reject(&self, token: &Token) {
        let mut cache = self.cache();
        if cache.token.as_ref().is_some_and(|(cached, _)| cached.serial == token.serial) {
            tracing::info!(serial = token.serial, "access token refused");
            cache.token = None;
        }
    }

    /// Salesforce's time: the local clock corrected by the `Date` header of its answers.
    pub fn salesforce_now(&self) -> DateTime<Utc> {
        self.shared.clock.now()
    }

    /// Salesforce's clock minus this machine's, to about a second; none before the first answer, a refusal included.
    pub fn clock_offset(&self) -> Option<TimeDelta> {
        self.shared.clock.told_offset()
    }

    /// What the newest answer said of the org's API requests; none before the first.
    pub fn api_usage(&self) -> Option<ApiUsage> {
        self.shared.usage.newest()
    }

    /// The REST API version without `v`.
    pub fn api_version(&self) -> &str {
        &self.shared.api_version
    }

    /// The host that calls with a token go to.
    pub(crate) fn api_url<'a>(&'a self, token: &'a Token) -> &'a Url {
        self.shared.api_url.as_ref().unwrap_or(&token.instance_url)
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.shared.http
    }

    pub(crate) fn clock(&self) -> &ServerClock {
        &self.shared.clock
    }

    pub(crate) fn usage_meter(&self) -> &UsageMeter {
        &self.shared.usage
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Arc<Token>> {
        let cache = self.cache();
        let (token, renew_at) = cache.token.as_ref()?;
        (Instant::now() < *renew_at).then(|| token.clone())
    }

    /// A token past its age is still a token. While the login server has a disturbance, go on with it.
    fn keep_aged(&self, error: SessionError) -> Result<Arc<Token>, SessionError> {
        let mut cache = self.cache();
        let Some((token, renew_at)) = cache.token.as_mut() else { return Err(error) };
        tracing::warn!(error = %error, "the access token could not be renewed, going on with the old one");
        *renew_at = Instant::now() + RENEWAL_PAUSE;
        Ok(token.clone())
    }

    async fn exchange(&self, exchange: &mut Exchange) -> Result<Arc<Token>, SessionError> {
        if let Some(began) = exchange.began {
            tokio::time::sleep_until(began + self.shared.minimum_spacing).await;
        }
        exchange.began = Some(Instant::now());
        let mut backoff = Backoff::new(self.shared.backoff);
        let mut clock_corrected = false;
        loop {
            let offset = self.shared.clock.offset();
            let error = match self.attempt().await {
                Ok(granted) => return self.accept(granted, exchange),
                Err(error) => error,
            };
            let clock_was_off = (self.shared.clock.offset() - offset).abs() > CLOCK_TOLERANCE;
            if error.may_be_the_clock() && clock_was_off && !clock_corrected {
                clock_corrected = true;
                let seconds = self.shared.clock.offset().num_seconds();
                tracing::warn!(seconds, "the local clock is off, signing again by Salesforce's");
            } else if error.is_retryable() && error.wait_at_least().is_zero() && backoff.attempts() + 1 < ATTEMPTS {
                tracing::warn!(error = %error, "signing in failed, trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            } else {
                return Err(error);
            }
        }
    }

    async fn attempt(&self) -> Result<Granted, SessionError> {
        let form = self.shared.credentials.form(&self.shared.audience, self.shared.clock.now())?;
        request_token(&self.shared.http, &self.shared.login_url, &form, &self.shared.clock).await
    }

    fn accept(&self, granted: Granted, exchange: &mut Exchange) -> Result<Arc<Token>, SessionError> {
        let mut cache = self.cache();
        let expected = self.shared.pinned_org.as_ref().or(cache.org_id.as_ref());
        if let Some(expected) = expected.filter(|expected| **expected != granted.org_id) {
            return Err(SessionError::WrongOrg { expected: expected.clone(), actual: granted.org_id });
        }
        exchange.serial += 1;
        let token = Arc::new(Token {
            serial: exchange.serial,
            access_token: granted.access_token,
            instance_url: granted.instance_url,
            org_id: granted.org_id.clone(),
            user_id: granted.user_id,
        });
        tracing::info!(org = %token.org_id, instance = %token.instance_url, serial = token.serial, "signed in to salesforce");
        cache.org_id = Some(granted.org_id);
        cache.token = Some((token.clone(), Instant::now() + self.shared.maximum_age));
        Ok(token)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Session({})", self.shared.login_url)
    }
}
