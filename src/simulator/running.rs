//! A running simulator: its ports, its keys, and its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::simulator::connections::ConnectionOrder;
use crate::simulator::control::Control;
use crate::simulator::keys::{self, SignInKeys};
use crate::simulator::ledger::Ledger;
use crate::simulator::org::Org;
use crate::simulator::publisher::Publisher;
use crate::simulator::pubsub::PubSubService;
use crate::simulator::settings::{Listen, SimulatorConfig};
use crate::simulator::sockets::Port;
use crate::simulator::{
    chatter, columns, connections, control_port, http_server, objects, random_faults, record_id, rest, traffic,
};

/// Why a simulator could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A setting that cannot be.
    #[error("The simulator's `{key}` cannot be {value}: {allowed}")]
    Setting {
        /// The key's path.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A port is taken or the address is not this machine's.
    #[error("The simulator cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file cannot be read or written.
    #[error("The file {path} cannot be used: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The configured certificate cannot be used.
    #[error("The certificate that assertions are checked against cannot be used. {0}")]
    Certificate(String),
    /// A key or certificate could not be made.
    #[error("A key or certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The TLS side could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The publisher could not be started, or the backlog not be published.
    #[error("The publisher could not begin: {0}")]
    Publisher(String),
}

impl SimulatorError {
    pub(crate) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

/// An org in a box, serving. Dropping it stops it; [`Simulator::shutdown`] also waits for that.
#[derive(Debug)]
pub struct Simulator {
    org: Arc<Org>,
    control: Control,
    keys: SignInKeys,
    ca_pem: Option<String>,
    pubsub: SocketAddr,
    control_address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Simulator {
    /// Binds the ports, publishes the backlog, and serves.
    pub async fn start(settings: SimulatorConfig) -> Result<Self, SimulatorError> {
        check(&settings)?;
        let made = {
            let settings = settings.clone();
            // RSA keys take a while and files block.
            tokio::task::spawn_blocking(move || prepare(&settings)).await
        };
        let Prepared { keys, tls, ledger } = made.map_err(|error| SimulatorError::Publisher(error.to_string()))??;
        let ports = Ports::bind(&settings.listen).await?;
        let (pubsub, control_address) = (address(&ports.pubsub)?, address(&ports.control)?);
        let (login, instance) = (address(&ports.http)?, ports.instance.as_ref().map(address).transpose()?);
        let scheme = if settings.listen.http_tls { "https" } else { "http" };

        let org = Arc::new(Org::new(settings, keys::verification_key(&keys.certificate_pem)?));
        org.set_login_url(format!("{scheme}://{}", reachable(login)));
        org.set_instance_url(format!("{scheme}://{}", reachable(instance.unwrap_or(login))));

        let publisher =
            Publisher::start(Arc::clone(&org), ledger).map_err(|error| SimulatorError::Publisher(error.to_string()))?;
        let (orders, _) = broadcast::channel(64);
        let (moves, moved) = mpsc::channel(4);
        let control = Control::new(Arc::clone(&org), publisher, orders.clone(), moves);
        let traffic = &org.settings.traffic;
        if traffic.backlog > 0 {
            let backlog = control.generate_backlog(traffic.backlog, traffic.backlog_span).await;
            backlog.map_err(|error| SimulatorError::Publisher(error.to_string()))?;
        }
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        serve(&org, &control, ports, tls.as_ref(), Connected { orders, moved }, &tasks, &shutdown);
        let ca_pem = tls.map(|tls| tls.ca_pem);
        Ok(Self { org, control, keys, ca_pem, pubsub, control_address, shutdown, tasks })
    }

    /// Where to sign in: `http://127.0.0.1:8080`, without a path.
    pub fn login_url(&self) -> String {
        self.org.login_url()
    }

    /// The instance as the token response names it now.
    pub fn instance_url(&self) -> String {
        self.org.instance_url()
    }

    /// The Pub/Sub API: `http://` is plaintext, `https://` needs [`Simulator::ca_pem`].
    pub fn pubsub_endpoint(&self) -> String {
        let scheme = if self.org.settings.listen.tls { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.pubsub))
    }

    /// The control port.
    pub fn control_url(&self) -> String {
        format!("http://{}", reachable(self.control_address))
    }

    /// The control handle.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The private key to sign in with (PKCS#8 PEM); `None` when only its certificate was configured.
    pub fn private_key_pem(&self) -> Option<&str> {
        self.keys.private_key_pem.as_deref()
    }

    /// The certificate, or public key, that assertions are checked against.
    pub fn certificate_pem(&self) -> &str {
        &self.keys.certificate_pem
    }

    /// The CA of the TLS ports; `None` when there are none.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The user to sign in.
    pub fn username(&self) -> &str {
        &self.org.settings.sign_in.username
    }

    /// The consumer key of the app.
    pub fn client_id(&self) -> &str {
        &self.org.settings.sign_in.client_id
    }

    /// The consumer secret of the app, for client credentials.
    pub fn client_secret(&self) -> &str {
        &self.org.settings.sign_in.client_secret
    }

    /// The organisation.
    pub fn org_id(&self) -> &str {
        &self.org.settings.org_id
    }

    /// Closes every port and connection and waits for the tasks to end.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The listeners, bound and not yet served.
struct Ports {
    http: TcpListener,
    instance: Option<TcpListener>,
    pubsub: TcpListener,
    control: TcpListener,
}

impl Ports {
    async fn bind(listen: &Listen) -> Result<Self, SimulatorError> {
        let instance = match listen.instance {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let (http, pubsub, control) =
            (bind(listen.http).await?, bind(listen.pubsub).await?, bind(listen.control).await?);
        Ok(Self { http, instance, pubsub, control })
    }
}

/// The ends of the channels by which the control handle reaches the ports.
struct Connected {
    orders: broadcast::Sender<ConnectionOrder>,
    moved: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
}

/// Starts everything that runs.
fn serve(
    org: &Arc<Org>,
    control: &Control,
    ports: Ports,
    tls: Option<&keys::ServerTls>,
    connected: Connected,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let listen = &org.settings.listen;
    let port = |tls: Option<TlsAcceptor>, part_of_org| Port {
        org: Arc::clone(org),
        tls,
        part_of_org,
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let http = port(tls.filter(|_| listen.http_tls).map(|tls| tls.http.clone()), true);
    for listener in [Some(ports.http), ports.instance].into_iter().flatten() {
        tasks.spawn(http_server::serve(listener, http.clone(), rest::router(Arc::clone(org))));
    }
    tasks.spawn(http_server::serve(ports.control, port(None, false), control_port::router(control.clone())));
    let service = PubSubService::new(Arc::clone(org), control.clone());
    let pubsub = port(tls.filter(|_| listen.tls).map(|tls| tls.pubsub.clone()), true);
    tasks.spawn(connections::serve(ports.pubsub, pubsub, service, connected.orders));
    tasks.spawn(serve_moves(http, connected.moved));
    tasks.spawn(traffic::publish(Arc::clone(org), control.clone(), shutdown.clone()));
    tasks.spawn(chatter::talk(Arc::clone(org), control.clone(), shutdown.clone()));
    tasks.spawn(traffic::expire(Arc::clone(org), shutdown.clone()));
    tasks.spawn(random_faults::inflict(Arc::clone(org), control.clone(), shutdown.clone()));
}

struct Prepared {
    keys: SignInKeys,
    tls: Option<keys::ServerTls>,
    ledger: Ledger,
}

fn prepare(settings: &SimulatorConfig) -> Result<Prepared, SimulatorError> {
    let directory = settings.directory.as_deref();
    let keys = keys::sign_in_keys(&settings.sign_in, directory)?;
    let wanted = settings.listen.tls || settings.listen.http_tls;
    let tls = if wanted { Some(keys::server_tls(directory)?) } else { None };
    let path = settings.ledger.as_deref();
    let ledger = Ledger::open(path).map_err(|error| SimulatorError::file(path.unwrap_or(Path::new("")), error))?;
    Ok(Prepared { keys, tls, ledger })
}

/// What the types of the settings do not rule out.
fn check(settings: &SimulatorConfig) -> Result<(), SimulatorError> {
    let wrong = |key, value: &str, allowed| Err(SimulatorError::Setting { key, value: format!("`{value}`"), allowed });
    if !settings.org_id.starts_with("00D") || !record_id::is_complete(&settings.org_id) {
        return wrong(
            "org_id",
            &settings.org_id,
            "it must be 18 characters that begin with 00D and have a right checksum",
        );
    }
    let objects = objects::all();
    let known = |entity: &String| objects.iter().any(|object| object.name == *entity);
    let members = settings.channels.iter().flat_map(|channel| &channel.entities);
    let entities = settings.traffic.entities.iter().chain(members).chain(&settings.pubsub.no_permission);
    if let Some(unknown) = entities.into_iter().find(|entity| !known(entity)) {
        let allowed =
            "the org has Case, MessagingSession, MessagingEndUser, Installation__c, Case_Escalation__e and CaseComment";
        return wrong("traffic.entities", unknown, allowed);
    }
    let untold = |entity: &&String| objects.iter().any(|object| object.name == **entity && !object.told);
    if let Some(untold) = settings.channels.iter().flat_map(|channel| &channel.entities).find(untold) {
        return wrong("channels.entities", untold, "no change event tells of this object");
    }
    if let Some(channel) = settings.channels.iter().find(|channel| !channel.name.ends_with("__chn")) {
        return wrong("channels.name", &channel.name, "the name of a custom channel ends in __chn");
    }
    let hidden = settings.rest.hidden_fields.iter();
    if let Some(path) = hidden.into_iter().find(|path| columns::check_hidden_field(&objects, path).is_err()) {
        return wrong("rest.hidden_fields", path, "it is `Object.Field` of a field that a user need not see");
    }
    let rate = settings.traffic.rate;
    if !(0.0..=1_000_000.0).contains(&rate) {
        return wrong("traffic.rate", &rate.to_string(), "it is a number of events a second from 0 to 1,000,000");
    }
    let messages = settings.traffic.messages;
    if !(0.0..=1_000.0).contains(&messages) {
        return wrong("traffic.messages", &messages.to_string(), "it is a number of messages a second from 0 to 1,000");
    }
    if settings.traffic.first_replay_id > 1 << 60 {
        let given = settings.traffic.first_replay_id.to_string();
        return wrong("traffic.first_replay_id", &given, "it is at most 2^60, so that there is room to count");
    }
    check_durations(settings)
}

/// Bounds that keep sums of times from overflowing and intervals from spinning.
fn check_durations(settings: &SimulatorConfig) -> Result<(), SimulatorError> {
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);
    let (pubsub, traffic) = (&settings.pubsub, &settings.traffic);
    let durations = [
        ("pubsub.keepalive", pubsub.keepalive, Duration::from_millis(1)),
        ("pubsub.idle_close", pubsub.idle_close, Duration::ZERO),
        ("pubsub.publish_idle_close", pubsub.publish_idle_close, Duration::ZERO),
        ("pubsub.latest_race", pubsub.latest_race, Duration::ZERO),
        ("pubsub.bad_token_delay", pubsub.bad_token_delay, Duration::ZERO),
        ("rest.query_locator_idle", settings.rest.query_locator_idle, Duration::ZERO),
        ("rest.bulk_job_time", settings.rest.bulk_job_time, Duration::ZERO),
        ("rest.conversation_calls_window", settings.rest.conversation_calls_window, Duration::ZERO),
        ("traffic.backlog_span", traffic.backlog_span, Duration::ZERO),
    ];
    match durations.into_iter().find(|(_, given, least)| given < least || *given > LONGEST) {
        Some((key, given, _)) => {
            let value = format!("`{}`", humantime_serde::re::humantime::format_duration(given));
            Err(SimulatorError::Setting {
                key,
                value,
                allowed: "it is at most 30 days, and the keepalive at least 1ms",
            })
        }
        None => Ok(()),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, SimulatorError> {
    TcpListener::bind(address).await.map_err(|error| SimulatorError::Listen { address, error })
}

/// The address for clients on this machine: a wildcard address is none.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() }
}

fn address(listener: &TcpListener) -> Result<SocketAddr, SimulatorError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|error| SimulatorError::Listen { address: unknown, error })
}

/// Opens a port for the instance each time the org moves.
async fn serve_moves(http: Port, mut moves: mpsc::Receiver<oneshot::Sender<Result<(), String>>>) {
    loop {
        let moved = tokio::select! {
            moved = moves.recv() => moved,
            () = http.shutdown.cancelled() => return,
        };
        let Some(done) = moved else { return };
        let result = move_instance(&http).await.map_err(|error| error.to_string());
        // Whoever asked may have stopped waiting.
        let _ = done.send(result);
    }
}

async fn move_instance(http: &Port) -> Result<(), SimulatorError> {
    let mut wanted = http.org.settings.listen.http;
    wanted.set_port(0);
    let listener = bind(wanted).await?;
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    http.org.set_instance_url(format!("{scheme}://{}", reachable(address(&listener)?)));
    http.tasks.spawn(http_server::serve(listener, http.clone(), rest::router(Arc::clone(&http.org))));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::settings::Channel;

    #[tokio::test]
    async fn settings_that_cannot_be_are_named() {
        type Change = fn(&mut SimulatorConfig);
        let cases: [(&str, Change); 9] = [
            ("rest.hidden_fields", |settings| settings.rest.hidden_fields = vec!["Case.Id".to_owned()]),
            ("rest.bulk_job_time", |settings| settings.rest.bulk_job_time = Duration::MAX),
            ("org_id", |settings| settings.org_id = "00D8d00000AbCdEEAA".to_owned()),
            ("traffic.rate", |settings| settings.traffic.rate = f64::NAN),
            ("traffic.entities", |settings| settings.traffic.entities = vec!["Lead".to_owned()]),
            ("channels.entities", |settings| {
                let entities = vec!["CaseComment".to_owned()];
                settings.channels = vec![Channel { name: "Support__chn".to_owned(), entities, enriched: Vec::new() }];
            }),
            ("traffic.first_replay_id", |settings| settings.traffic.first_replay_id = u64::MAX),
            ("pubsub.keepalive", |settings| settings.pubsub.keepalive = Duration::ZERO),
            ("traffic.backlog_span", |settings| settings.traffic.backlog_span = Duration::MAX),
        ];
        for (key, change) in cases {
            let mut settings = SimulatorConfig::on_free_ports();
            change(&mut settings);
            let refused = Simulator::start(settings).await.expect_err("it cannot be");
            assert!(refused.to_string().contains(&format!("`{key}`")), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_free_again_after_the_end() {
        let mut settings = SimulatorConfig::on_free_ports();
        settings.sign_in.certificate =
            Some(keys::sign_in_keys(&settings.sign_in, None).expect("a pair").certificate_pem);
        let taken = TcpListener::bind(settings.listen.pubsub).await.expect("a free port");
        settings.listen.pubsub = taken.local_addr().expect("bound");
        let refused = Simulator::start(settings.clone()).await.expect_err("taken");
        assert!(refused.to_string().contains(&settings.listen.pubsub.to_string()), "{refused}");
        drop(taken);
        for _ in 0..2 {
            let simulator = Simulator::start(settings.clone()).await.expect("free");
            assert_eq!(simulator.private_key_pem(), None, "only the certificate is known");
            simulator.shutdown().await;
        }
    }
}
