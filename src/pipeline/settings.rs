//! What each room needs, out of the one configuration.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use crate::change::{EntityPolicy, FieldPolicies, HashKey, Treatment};
use crate::config::{Config, Grant, KafkaConfig, PoliciesConfig, PolicyConfig};
use crate::failure::Failure;
use crate::kafka::{KafkaSettings, TopicDefaults, check_properties};
use crate::pipeline::stop::StreamError;
use crate::salesforce::pubsub::{PubSub, PubSubSettings};
use crate::salesforce::session::{Session, SessionSettings};
use crate::status::Board;
use crate::telemetry::{Exporter, Tracer};

/// The session and the channel of a configuration. Nothing is called yet.
///
/// # Errors
/// When the key, the certificate or a certificate authority cannot be used.
pub fn salesforce(config: &Config) -> Result<PubSub, Failure> {
    let salesforce = &config.salesforce;
    let session = SessionSettings {
        org_id: salesforce.org_id.clone(),
        api_version: salesforce.api_version.clone(),
        extra_ca: salesforce.certificate_authority.clone(),
        maximum_age: salesforce.token_maximum_age,
        ..SessionSettings::new(salesforce.login_url.clone(), salesforce.grant.clone())
    };
    let session = Session::new(session).map_err(|error| error.failure())?;
    let pubsub = &salesforce.pubsub;
    let channel = PubSubSettings {
        extra_ca: pubsub.certificate_authority.clone(),
        ping_interval: pubsub.ping_interval,
        ping_timeout: pubsub.ping_timeout,
        connect_timeout: pubsub.connect_timeout,
        call_timeout: pubsub.call_timeout,
        ..PubSubSettings::new(pubsub.endpoint.clone())
    };
    PubSub::new(channel, session).map_err(|error| error.failure())
}

/// How the app of the Conversation Data API signs in; `None` where messages are fetched over Connect. Where it does is known
/// when the organisation is.
pub fn data_api(config: &Config) -> Option<SessionSettings> {
    let data = config.data_api.as_ref()?;
    let grant =
        Grant::ClientCredentials { client_id: data.client_id.clone(), client_secret: data.client_secret.clone() };
    Some(SessionSettings {
        api_url: Some(data.url.clone()),
        extra_ca: config.salesforce.certificate_authority.clone(),
        maximum_age: config.salesforce.token_maximum_age,
        ..SessionSettings::new(config.salesforce.login_url.clone(), grant)
    })
}

/// Kafka's part.
///
/// # Errors
/// When a property is set that would break the guarantee; each is named.
pub fn kafka(config: &KafkaConfig) -> Result<KafkaSettings, Failure> {
    let refused = check_properties(&config.properties);
    if !refused.is_empty() {
        return Err(StreamError::Properties(refused.join("; ")).into());
    }
    let number = |number: u64| i32::try_from(number).ok().filter(|number| *number > 0).unwrap_or(-1);
    Ok(KafkaSettings {
        brokers: config.brokers.clone(),
        topic_prefix: config.topic_prefix.clone(),
        properties: config.properties.clone(),
        transaction_timeout: config.transaction_timeout,
        call_timeout: config.call_timeout.max(Duration::from_secs(1)),
        topics: TopicDefaults {
            create: config.create_topics,
            check: config.check_topics,
            partitions: number(config.partitions),
            replication: number(config.replication_factor),
        },
    })
}

/// What exports traces and what makes them; `None` where no collector is named.
///
/// # Errors
/// When the way to the collector cannot be prepared.
pub fn traces(config: &Config, board: &Board) -> Result<Option<(Exporter, Tracer)>, Failure> {
    config.telemetry.as_ref().map(|telemetry| Exporter::new(telemetry, board)).transpose()
}

/// What is kept from readers. The only place at which policies are made: whoever renders a value has to be given them.
pub fn policies(config: &PoliciesConfig) -> FieldPolicies {
    let key = config.key.as_ref().map(|key| Arc::new(HashKey::new(key.expose_secret().as_bytes())));
    FieldPolicies::new(config.policies.iter().map(|policy| {
        let PolicyConfig { entity, drop, hash, mask, keep_last } = policy;
        let of = |fields: &[String], treatment| {
            fields.iter().map(move |field| (field.clone(), treatment)).collect::<Vec<_>>()
        };
        let named =
            [of(drop, Treatment::Drop), of(hash, Treatment::Hash), of(mask, Treatment::Mask { keep_last: *keep_last })];
        EntityPolicy::new(entity.as_str(), named.concat(), key.clone())
    }))
}
