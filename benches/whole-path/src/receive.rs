//! The floor: a subscriber made of the generated stubs and tonic, with nothing of casewire's client. It keeps 100
//! events asked for, as casewire has to, counts what comes, and does nothing with it.

use casewire::proto::pub_sub_client::PubSubClient;
use casewire::proto::{FetchRequest, FetchResponse, ReplayPreset};
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Endpoint;

use crate::{Failure, clocks};

/// What the protocol allows to be outstanding.
const CREDIT: i32 = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// http://host:port of the Pub/Sub API
    #[arg(long)]
    endpoint: String,
    #[arg(long, env = "ACCESS_TOKEN", hide_env_values = true)]
    access_token: String,
    #[arg(long)]
    instance_url: String,
    #[arg(long)]
    org: String,
    #[arg(long)]
    topic: String,
    /// Ends after so many
    #[arg(long)]
    events: u64,
    /// Gives also when each event came, by its id
    #[arg(long)]
    times: bool,
}

/// What has come. Rates count from the first response on, so that connecting and signing in are no part of them.
#[derive(Default)]
struct Received {
    first_at: u64,
    in_first: u64,
    events: u64,
    payload_bytes: u64,
    responses: u64,
    requests: u64,
    times: Option<Map<String, Value>>,
}

impl Received {
    fn take(&mut self, response: &FetchResponse) {
        if self.responses == 0 {
            (self.first_at, self.in_first) = (clocks::now(), response.events.len() as u64);
        }
        if let Some(times) = &mut self.times {
            let ids = response.events.iter().filter_map(|event| Some(event.event.as_ref()?.id.clone()));
            times.extend(ids.map(|id| (id, clocks::now().into())));
        }
        self.responses += 1;
        self.events += response.events.len() as u64;
        let payloads = response.events.iter().filter_map(|event| event.event.as_ref());
        self.payload_bytes += payloads.map(|event| event.payload.len() as u64).sum::<u64>();
    }

    fn figures(&self) -> Result<Value, Failure> {
        let seconds = clocks::now().saturating_sub(self.first_at) as f64 / 1e6;
        Ok(json!({
            "events": self.events,
            "payload_bytes": self.payload_bytes,
            "responses": self.responses,
            "requests": self.requests,
            "seconds": seconds,
            "rate": (self.events - self.in_first) as f64 / seconds.max(f64::EPSILON),
            "processor_seconds": clocks::processor_seconds()?,
            "times": self.times,
        }))
    }
}

#[tokio::main]
pub(crate) async fn run(arguments: Arguments) -> Result<Value, Failure> {
    let endpoint = Endpoint::from_shared(arguments.endpoint)?
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(64 * 1024 * 1024);
    let mut client = PubSubClient::new(endpoint.connect().await?).max_decoding_message_size(8 * 1024 * 1024);
    let (requests, receiver) = mpsc::channel(16);
    requests.try_send(FetchRequest {
        topic_name: arguments.topic,
        replay_preset: ReplayPreset::Earliest.into(),
        num_requested: CREDIT,
        ..FetchRequest::default()
    })?;
    let mut call = Request::new(ReceiverStream::new(receiver));
    for (name, value) in [
        ("accesstoken", &arguments.access_token),
        ("instanceurl", &arguments.instance_url),
        ("tenantid", &arguments.org),
    ] {
        call.metadata_mut().insert(name, value.parse()?);
    }
    let mut responses = client.subscribe(call).await?.into_inner();
    let times = arguments.times.then(Map::new);
    let mut received = Received { requests: 1, times, ..Received::default() };
    let mut outstanding = CREDIT;
    while let Some(response) = responses.message().await? {
        received.take(&response);
        if received.events >= arguments.events {
            return received.figures();
        }
        outstanding -= i32::try_from(response.events.len())?;
        if outstanding <= CREDIT / 2 || response.pending_num_requested == 0 {
            let num_requested = CREDIT - outstanding;
            requests.send(FetchRequest { num_requested, ..FetchRequest::default() }).await?;
            (received.requests, outstanding) = (received.requests + 1, CREDIT);
        }
    }
    Err(format!("the call ended after {} of {} events", received.events, arguments.events).into())
}
