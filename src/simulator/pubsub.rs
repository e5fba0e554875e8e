//! The Pub/Sub API: who may call, and what each call answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::proto::pub_sub_server::PubSub;
use crate::proto::{
    FetchRequest, FetchResponse, ManagedFetchRequest, ManagedFetchResponse, PublishRequest, PublishResponse,
    SchemaInfo, SchemaRequest, TopicInfo, TopicRequest,
};
use crate::simulator::control::Control;
use crate::simulator::objects;
use crate::simulator::org::{Org, Topic};
use crate::simulator::publishing::Publishing;
use crate::simulator::refusal::Refusal;
use crate::simulator::subscription;

/// The service behind every Pub/Sub connection.
#[derive(Debug, Clone)]
pub(crate) struct PubSubService {
    org: Arc<Org>,
    publishing: Publishing,
}

/// Carried from the connection to the call: cancelling it resets the call's HTTP/2 stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamCut(pub(crate) CancellationToken);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PubSubService {
    pub(crate) fn new(org: Arc<Org>, control: Control) -> Self {
        Self { publishing: Publishing::new(Arc::clone(&org), control), org }
    }

    /// Checks the three headers every call must have.
    async fn authenticate(&self, metadata: &MetadataMap, rpc: &str) -> Result<(), Status> {
        let mut values = [""; 3];
        for (value, name) in values.iter_mut().zip(["accesstoken", "instanceurl", "tenantid"]) {
            let header = metadata.get(name).and_then(|header| header.to_str().ok()).filter(|header| !header.is_empty());
            *value = header.ok_or_else(|| {
                self.org.stats.count(|stats| stats.refused_tokens += 1);
                Refusal::missing_header(name).status(rpc)
            })?;
        }
        let [token, instance_url, tenant] = values;
        if self.org.sessions.check(token)
            && instance_url == self.org.instance_url()
            && tenant == self.org.settings.org_id
        {
            return Ok(());
        }
        self.org.stats.count(|stats| stats.refused_tokens += 1);
        tokio::time::sleep(self.org.settings.pubsub.bad_token_delay).await;
        Err(Refusal::bad_token().status(rpc))
    }
}

/// An answer that is withheld, and with it the response headers, until the first message, as the service does.
async fn withheld<T: Send + 'static>(
    mut receiver: mpsc::Receiver<Result<T, Status>>,
) -> Result<Response<Answers<T>>, Status> {
    match receiver.recv().await {
        Some(Ok(first)) => {
            let rest = ReceiverStream::new(receiver);
            Ok(Response::new(Box::pin(stream::once(async { Ok(first) }).chain(rest))))
        }
        Some(Err(status)) => Err(status),
        None => Ok(Response::new(Box::pin(stream::empty()))),
    }
}

#[tonic::async_trait]
impl PubSub for PubSubService {
    type SubscribeStream = Answers<FetchResponse>;
    type PublishStreamStream = Answers<PublishResponse>;
    type ManagedSubscribeStream = Answers<ManagedFetchResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FetchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.authenticate(request.metadata(), "Subscribe").await?;
        let cut = request.extensions().get::<StreamCut>().cloned().unwrap_or_default();
        let (responses, receiver) = mpsc::channel(2);
        tokio::spawn(subscription::serve(Arc::clone(&self.org), request.into_inner(), responses, cut.0));
        withheld(receiver).await
    }

    async fn get_schema(&self, request: Request<SchemaRequest>) -> Result<Response<SchemaInfo>, Status> {
        self.authenticate(request.metadata(), "GetSchema").await?;
        self.org.stats.count(|stats| stats.get_schema += 1);
        if let Some((status, error_code)) = self.org.script.failed_schema() {
            return Err(Refusal::new(Code::from(status), &error_code, "The schema can't be read.").status("GetSchema"));
        }
        let id = request.into_inner().schema_id;
        let schema_json = self.org.schema(&id).ok_or_else(|| Refusal::unknown_schema(&id).status("GetSchema"))?;
        Ok(Response::new(SchemaInfo { schema_json, schema_id: id, rpc_id: Uuid::new_v4().to_string() }))
    }

    async fn get_topic(&self, request: Request<TopicRequest>) -> Result<Response<TopicInfo>, Status> {
        self.authenticate(request.metadata(), "GetTopic").await?;
        self.org.stats.count(|stats| stats.get_topic += 1);
        let topic_name = request.into_inner().topic_name;
        if topic_name.is_empty() {
            return Err(Refusal::empty_topic().status("GetTopic"));
        }
        let topic =
            self.org.topic(&topic_name).ok_or_else(|| Refusal::unknown_topic(&topic_name).status("GetTopic"))?;
        let (can_publish, can_subscribe, schema_id) = match topic {
            Topic::Entity { object, platform } => {
                let objects = objects::all();
                let denied = objects.get(*object).is_some_and(|object| self.org.script.is_denied(object.name));
                (*platform && !denied, !denied, self.org.current_schema(*object))
            }
            // Which id a channel of many events has is not known; none is the honest answer.
            Topic::Channel => (false, true, String::new()),
        };
        let (tenant_guid, rpc_id) = (self.org.settings.org_id.clone(), Uuid::new_v4().to_string());
        Ok(Response::new(TopicInfo { topic_name, tenant_guid, can_publish, can_subscribe, schema_id, rpc_id }))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.authenticate(request.metadata(), "Publish").await?;
        let published = self.publishing.publish(request.into_inner()).await;
        published.map(Response::new).map_err(|refusal| refusal.status("Publish"))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.authenticate(request.metadata(), "PublishStream").await?;
        let (responses, receiver) = mpsc::channel(2);
        tokio::spawn(self.publishing.clone().serve(request.into_inner(), responses));
        withheld(receiver).await
    }

    async fn managed_subscribe(
        &self,
        request: Request<Streaming<ManagedFetchRequest>>,
    ) -> Result<Response<Self::ManagedSubscribeStream>, Status> {
        self.authenticate(request.metadata(), "ManagedSubscribe").await?;
        Err(Status::unimplemented("The simulator has no managed event subscriptions."))
    }
}
