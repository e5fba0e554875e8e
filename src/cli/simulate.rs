//! `casewire simulate`: the simulated org alone, on fixed ports, for anybody's client.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::cli::error::SimulateError;
use crate::failure::Failure;
use crate::simulator::{Simulator, SimulatorConfig};

/// A Salesforce org in a box: OAuth, REST and the Pub/Sub API on this machine.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  casewire simulate --rate 50 --backlog 20000 --directory /tmp/org")]
pub struct SimulateArgs {
    /// Configuration of the org (see config/simulator.toml); without one the defaults hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Events a second; 0 publishes only what is ordered over the control port
    #[arg(long, value_name = "EVENTS")]
    rate: Option<f64>,
    /// Decides everything that is drawn
    #[arg(long)]
    seed: Option<u64>,
    /// Events that are there at the start
    #[arg(long, value_name = "EVENTS")]
    backlog: Option<u64>,
    /// One JSON line for every event published [default: ledger.jsonl in the directory]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Where the sign-in key, its certificate and the CA are written
    #[arg(long, value_name = "DIR", default_value = "casewire-simulator")]
    directory: PathBuf,
}

/// Serves until told to stop. Prints first how to connect.
///
/// # Errors
/// A configuration that cannot be, a file that cannot be used, a port that is taken.
pub async fn run(args: SimulateArgs, shutdown: CancellationToken) -> Result<(), Failure> {
    let settings = settings(args).await?;
    let directory = settings.directory.clone().unwrap_or_default();
    let simulator = Simulator::start(settings).await.map_err(SimulateError::Start)?;
    // What is printed is pasted into files that are read from elsewhere.
    let directory = directory.canonicalize().unwrap_or(directory);
    // Who closed the standard output does not want to read this; the org is served all the same.
    let _ = std::io::stdout().write_all(how_to_connect(&simulator, &directory).as_bytes());
    shutdown.cancelled().await;
    simulator.shutdown().await;
    Ok(())
}

/// The configuration file, overridden by the command line.
async fn settings(args: SimulateArgs) -> Result<SimulatorConfig, Failure> {
    let mut settings = match &args.config {
        Some(path) => {
            let text = tokio::fs::read_to_string(path).await;
            parse(path, &text.map_err(|error| SimulateError::Unreadable { path: path.clone(), error })?)?
        }
        None => SimulatorConfig::default(),
    };
    let directory = settings.directory.take().unwrap_or(args.directory);
    settings.traffic.rate = args.rate.unwrap_or(settings.traffic.rate);
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.traffic.backlog = args.backlog.unwrap_or(settings.traffic.backlog);
    settings.ledger = args.ledger.or(settings.ledger).or_else(|| Some(directory.join("ledger.jsonl")));
    settings.directory = Some(directory);
    Ok(settings)
}

fn parse(path: &Path, text: &str) -> Result<SimulatorConfig, Failure> {
    let wrong = |what: String| Failure::from(SimulateError::Configuration { path: path.to_owned(), what });
    let document = toml::Deserializer::parse(text).map_err(|error| wrong(error.to_string()))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let key = error.path().to_string();
        wrong(format!("`{key}`: {}", error.into_inner().message()))
    })
}

fn how_to_connect(simulator: &Simulator, directory: &Path) -> String {
    let key = match simulator.private_key_pem() {
        Some(_) => directory.join("key.pem").display().to_string(),
        None => "the key of the configured certificate".to_owned(),
    };
    let ca = simulator.ca_pem().map(|_| directory.join("ca.pem").display().to_string());
    let (login, endpoint) = (simulator.login_url(), simulator.pubsub_endpoint());
    let (user, client) = (simulator.username(), simulator.client_id());
    let ca_env = ca
        .as_ref()
        .map(|ca| format!("export PUBSUB_CA_FILE={ca}\nexport NODE_EXTRA_CA_CERTS={ca}\n"))
        .unwrap_or_default();
    let ca_key = ca.as_ref().map(|ca| format!("ca_file = \"{ca}\"\n")).unwrap_or_default();
    let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
    format!(
        "A simulated Salesforce org is up: {org}

For any client:
export SALESFORCE_LOGIN_URL={login}
export SALESFORCE_USERNAME={user}
export SALESFORCE_CLIENT_ID={client}
export SALESFORCE_CLIENT_SECRET={secret}
export SALESFORCE_PRIVATE_KEY_FILE={key}
export PUB_SUB_ENDPOINT={address}
{ca_env}
For casewire (the broker is yours):
[salesforce]
username = \"{user}\"
client_id = \"{client}\"
private_key_file = \"{key}\"
login_url = \"{login}\"
[salesforce.pubsub]
endpoint = \"{endpoint}\"
{ca_key}[[stream]]
topic = \"/data/CaseChangeEvent\"
start = \"earliest\"
[admin]
listen = \"127.0.0.1:8686\"
[kafka]
brokers = \"127.0.0.1:9092\"

Topics: /data/ChangeEvents, /data/CaseChangeEvent, /data/MessagingSessionChangeEvent,
/data/MessagingEndUserChangeEvent, /data/Installation__ChangeEvent, /event/Case_Escalation__e

Control: {control}
  curl {control}/stats
  curl -H 'content-type: application/json' -d '{{\"kind\":\"cut-streams\"}}' {control}/faults
",
        org = simulator.org_id(),
        secret = simulator.client_secret(),
        control = simulator.control_url(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_commented_example_is_the_defaults() {
        let example = include_str!("../../config/simulator.toml");
        let settings = parse(Path::new("config/simulator.toml"), example).expect("the example is valid");
        assert_eq!(format!("{settings:?}"), format!("{:?}", SimulatorConfig::default()));
        // Every commented key is one too: a comment that lies is worse than none.
        let uncommented: String =
            example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
        parse(Path::new("config/simulator.toml"), &uncommented).expect("the commented keys are valid");
        let composed = include_str!("../../deploy/compose/simulator.toml");
        parse(Path::new("deploy/compose/simulator.toml"), composed).expect("that of deploy/compose.yaml is valid");
    }

    #[test]
    fn a_wrong_key_is_named_with_its_path() {
        let failure = parse(Path::new("x.toml"), "[traffic.mix]\ncreat = 1").expect_err("unknown");
        assert!(failure.what.contains("traffic.mix") && failure.what.contains("creat"), "{failure}");
        assert_eq!(failure.exit, Exit::Configuration);
    }

    #[tokio::test]
    async fn it_says_how_to_connect_and_ends_when_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("simulator.toml");
        let free = "[listen]\nhttp = \"127.0.0.1:0\"\npubsub = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\n";
        std::fs::write(&path, free).expect("written");
        let args = SimulateArgs {
            config: Some(path),
            rate: Some(0.0),
            seed: Some(3),
            backlog: Some(10),
            ledger: None,
            directory: directory.path().join("org"),
        };
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        run(args, shutdown).await.expect("started and stopped");
        let ledger = std::fs::read_to_string(directory.path().join("org/ledger.jsonl")).expect("the ledger");
        assert_eq!(ledger.lines().count(), 10);
        assert!(directory.path().join("org/key.pem").exists());
    }
}
