//! `casewire demo`: the whole thing on this machine, with nothing to configure.
//!
//! A simulated org and a broker are started, the real pipeline runs between them, and what
//! arrives in the Kafka topics is printed: read from Kafka, as any consumer would, not taken from the pipeline.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::cli::demo_broker::DemoBroker;
use crate::cli::error::DemoError;
use crate::cli::{demo_view, run, say};
use crate::config::{Config, Environment};
use crate::failure::Failure;
use crate::simulator::{Simulator, SimulatorConfig};

/// The streams of the demo.
const TOPICS: [&str; 2] = ["/data/CaseChangeEvent", "/data/MessagingSessionChangeEvent"];

/// The prefix of the topics.
const PREFIX: &str = "salesforce";

/// Show the whole thing on this machine: simulated org, broker, live output. Nothing to configure.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire demo\n  casewire demo --rate 50 --for 1min")]
pub struct DemoArguments {
    /// Events that the simulated org publishes a second.
    #[arg(long, default_value_t = 4.0, value_name = "EVENTS")]
    rate: f64,
    /// Events that are there at the start, as after an outage.
    #[arg(long, default_value_t = 200, value_name = "EVENTS")]
    backlog: u64,
    /// End by itself after this long, such as 30s; runs until Ctrl-C otherwise.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Where the admin port listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8686", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Take the in-memory stand-in even where a real Kafka could be started.
    #[arg(long)]
    stand_in: bool,
}

/// Runs until `stop` or the given time.
///
/// # Errors
/// When a part cannot be started.
pub async fn run(arguments: DemoArguments, stop: CancellationToken) -> Result<(), Failure> {
    say(format_args!(
        "casewire demo: a simulated Salesforce org, a broker, and casewire between them. Ctrl-C ends it.\n"
    ));
    let listen = free_address(arguments.admin).await?;
    let simulator = start_simulator(&arguments).await?;
    say(format_args!("  org      {} (simulated), Pub/Sub API at {}", simulator.org_id(), simulator.pubsub_endpoint()));
    let broker = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        broker = DemoBroker::start(arguments.stand_in, simulator.org_id(), PREFIX, &TOPICS) => broker?,
    };
    say(format_args!("  broker   {}", broker.description()));
    let token = format!("demo-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let config = configuration(&simulator, &broker, listen, &token)?;
    say(format_args!("  admin    http://{listen}/ (token {token}), /status, /metrics, /ready"));
    say(format_args!("\nlook for yourself:\n  {}\n", broker.look(PREFIX)));
    let ends = stop.child_token();
    let view = demo_view::start(broker.bootstrap().to_owned(), PREFIX.to_owned(), ends.clone());
    if let Some(duration) = arguments.duration {
        let ends = ends.clone();
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            ends.cancel();
        });
    }
    let outcome = run::run(config, ends).await;
    let seen = view.finish().await;
    say(format_args!("\n{seen} records arrived in Kafka."));
    simulator.shutdown().await;
    broker.stop().await;
    outcome
}

/// The admin port is tried before a broker is started for a minute. It is opened again a little later.
async fn free_address(wanted: SocketAddr) -> Result<SocketAddr, Failure> {
    let listener = admin::bind(wanted).await.map_err(|error| DemoError::AdminPort(error.to_string()))?;
    let address = listener.local_addr();
    address.map_err(|error| DemoError::AdminPort(format!("The admin port {wanted} cannot be used: {error}")).into())
}

async fn start_simulator(arguments: &DemoArguments) -> Result<Simulator, Failure> {
    let mut settings = SimulatorConfig::on_free_ports();
    settings.seed = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    settings.traffic.rate = arguments.rate;
    settings.traffic.backlog = arguments.backlog;
    settings.traffic.entities = vec!["Case".to_owned(), "MessagingSession".to_owned()];
    Simulator::start(settings).await.map_err(|error| DemoError::Simulator(error).into())
}

/// The configuration that a user would have written for this org and broker.
fn configuration(
    simulator: &Simulator,
    broker: &DemoBroker,
    listen: SocketAddr,
    token: &str,
) -> Result<Config, Failure> {
    let mut text = format!(
        "[salesforce]\nusername = '{}'\nclient_id = '{}'\nlogin_url = '{}'\n\
         [salesforce.pubsub]\nendpoint = '{}'\n\
         [kafka]\nbrokers = '{}'\ntopic_prefix = '{PREFIX}'\ncreate_topics = {real}\ncheck_topics = {real}\n\
         [admin]\nlisten = '{}'\ntoken = '{token}'\n",
        simulator.username(),
        simulator.client_id(),
        simulator.login_url(),
        simulator.pubsub_endpoint(),
        broker.bootstrap(),
        listen,
        real = broker.is_kafka(),
    );
    for topic in TOPICS {
        text.push_str("[[stream]]\ntopic = '");
        text.push_str(topic);
        text.push_str("'\nstart = 'earliest'\n");
    }
    let key = simulator.private_key_pem().unwrap_or_default().to_owned();
    let environment = Environment::from([("CASEWIRE__SALESFORCE__PRIVATE_KEY".to_owned(), key)]);
    let table = text.parse().map_err(|error: toml::de::Error| DemoError::Configuration(error.to_string()))?;
    Config::from_table(table, &environment).map_err(Failure::from)
}
