//! The simulator from outside: a bare gRPC client and a bare HTTP client over real
//! sockets, and `apache-avro` as the independent reader of what it sends.

mod bulk;
mod conversations;
mod delivery;
mod events;
mod faults;
mod publishing;
mod queries;
mod rest;
mod sign_in;
mod truth;

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{OnceCell, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::pub_sub_client::PubSubClient;
use crate::proto::{ConsumerEvent, FetchRequest, FetchResponse, ReplayPreset};
use crate::simulator::{Simulator, SimulatorConfig};

/// Nothing that a test waits for takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A quiet org. The sign-in pair is made once for all tests: generating RSA keys takes seconds in a debug build.
async fn config() -> SimulatorConfig {
    static PAIR: OnceCell<TempDir> = OnceCell::const_new();
    let pair = PAIR.get_or_init(async || {
        let directory = tempfile::tempdir().expect("a directory");
        let config =
            SimulatorConfig { directory: Some(directory.path().to_owned()), ..SimulatorConfig::on_free_ports() };
        start(config).await.shutdown().await;
        directory
    });
    let pair = pair.await.path().to_owned();
    let mut config = SimulatorConfig { directory: Some(pair), ..SimulatorConfig::on_free_ports() };
    config.traffic.start_time = Some(chrono::DateTime::from_timestamp(1_771_300_000, 0).expect("in range"));
    config
}

async fn start(config: SimulatorConfig) -> Simulator {
    Simulator::start(config).await.expect("the simulator starts")
}

fn assertion(simulator: &Simulator, change: impl FnOnce(&mut Value)) -> String {
    let now = chrono::Utc::now().timestamp();
    let mut claims = json!({
        "iss": simulator.client_id(),
        "sub": simulator.username(),
        "aud": simulator.login_url(),
        "exp": now + 170,
    });
    change(&mut claims);
    let key = EncodingKey::from_rsa_pem(simulator.private_key_pem().expect("generated").as_bytes()).expect("a key");
    encode(&Header::new(Algorithm::RS256), &claims, &key).expect("signed")
}

async fn post_token(simulator: &Simulator, form: &[(&str, &str)]) -> (u16, Value) {
    let url = format!("{}/services/oauth2/token", simulator.login_url());
    let response = reqwest::Client::new().post(url).form(form).send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn exchange(simulator: &Simulator, assertion: &str) -> (u16, Value) {
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    post_token(simulator, &[("grant_type", grant), ("assertion", assertion)]).await
}

/// A signed-in bare client.
#[derive(Clone)]
struct Client {
    stub: PubSubClient<Channel>,
    headers: Vec<(&'static str, String)>,
}

/// An open Subscribe call and the means to ask for more.
struct Call {
    requests: mpsc::Sender<FetchRequest>,
    responses: Streaming<FetchResponse>,
}

async fn client(simulator: &Simulator) -> Client {
    let (status, token) = exchange(simulator, &assertion(simulator, |_| {})).await;
    assert_eq!(status, 200, "{token}");
    let channel =
        Endpoint::from_shared(simulator.pubsub_endpoint()).expect("a URI").connect().await.expect("connected");
    let text = |key: &str| token[key].as_str().expect("a text").to_owned();
    let headers = vec![
        ("accesstoken", text("access_token")),
        ("instanceurl", text("instance_url")),
        ("tenantid", simulator.org_id().to_owned()),
    ];
    Client { stub: PubSubClient::new(channel).max_decoding_message_size(8 << 20), headers }
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
        }
        request
    }

    async fn open(&mut self, first: FetchRequest) -> Result<Call, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(first).await.expect("there is room");
        let request = self.request(ReceiverStream::new(receiver));
        let answer = tokio::time::timeout(PATIENCE, self.stub.subscribe(request)).await.expect("in time");
        answer.map(Response::into_inner).map(|responses| Call { requests, responses })
    }

    /// The error of a call, whether it comes instead of the response or in it.
    async fn refusal(&mut self, first: FetchRequest) -> Status {
        match self.open(first).await {
            Err(status) => status,
            Ok(mut call) => call.responses.message().await.expect_err("the call is refused"),
        }
    }

    async fn schema(&mut self, id: &str) -> Result<String, Status> {
        let request = self.request(crate::proto::SchemaRequest { schema_id: id.to_owned() });
        Ok(self.stub.get_schema(request).await?.into_inner().schema_json)
    }
}

impl Call {
    async fn next(&mut self) -> Result<Option<FetchResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("in time")
    }

    /// Takes exactly so many events, asking for more whenever half of the credit is used.
    async fn take(&mut self, count: usize) -> Vec<ConsumerEvent> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await.expect("no error").expect("no end");
            events.extend(response.events);
            let pending = response.pending_num_requested;
            if pending <= 50 && events.len() + usize::try_from(pending).expect("positive") < count {
                let _ = self.requests.send(more(100 - pending)).await;
            }
        }
        events
    }
}

fn fetch(topic: &str, preset: ReplayPreset, replay_id: &[u8], count: i32) -> FetchRequest {
    FetchRequest {
        topic_name: topic.to_owned(),
        replay_preset: preset.into(),
        replay_id: replay_id.to_vec().into(),
        num_requested: count,
        ..FetchRequest::default()
    }
}

fn earliest(topic: &str, count: i32) -> FetchRequest {
    fetch(topic, ReplayPreset::Earliest, b"", count)
}

fn custom(topic: &str, replay_id: &[u8], count: i32) -> FetchRequest {
    fetch(topic, ReplayPreset::Custom, replay_id, count)
}

fn more(count: i32) -> FetchRequest {
    FetchRequest { num_requested: count, ..FetchRequest::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn trailer(status: &Status, name: &str) -> String {
    status.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn error_code(status: &Status) -> String {
    trailer(status, "error-code").replace("sfdc.platform.eventbus.grpc.", "")
}

/// The schemas that events name, parsed by `apache-avro`.
async fn schemas(client: &mut Client, events: &[ConsumerEvent]) -> HashMap<String, apache_avro::Schema> {
    let mut schemas = HashMap::new();
    for event in events.iter().filter_map(|event| event.event.as_ref()) {
        if !schemas.contains_key(&event.schema_id) {
            let json = client.schema(&event.schema_id).await.expect("the schema is served");
            schemas.insert(event.schema_id.clone(), apache_avro::Schema::parse_str(&json).expect("it is Avro"));
        }
    }
    schemas
}
