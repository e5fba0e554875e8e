//! Whether the fields that the policies name exist.
//!
//! A misspelt name keeps nothing: the field that was meant would go out as it is. So nothing is carried before every name
//! is known, from the schema of the object's events or from describe. The schema comes first because it has the fields
//! that the user may not see, and costs none of the org's API requests; describe knows objects that have no events.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::change::{EntityPolicy, FieldPolicies, ObjectDescription, Treatment, WriterSchema};
use crate::config::CONVERSATION_ENTRY;
use crate::failure::{Exit, Failure};
use crate::identity::{SchemaId, TopicName};
use crate::pipeline::context::RECOVERY;
use crate::salesforce::backoff::Backoff;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::rest::RestError;
use crate::status::StreamBoard;

/// Why a policy cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It names what is not there.
    #[error("The policy of {entity} names fields that {entity} does not have: {}", .fields.join(", "))]
    UnknownFields {
        /// The object.
        entity: String,
        /// Each with the name that was probably meant, where there is one.
        fields: Vec<String>,
    },
    /// There is no object of this name, for this user.
    #[error("The policy of {entity} cannot be checked: the user sees no object and no platform event of this name")]
    UnknownEntity {
        /// As the configuration names it.
        entity: String,
    },
    /// A component whose compound casewire would not find in an event.
    #[error("The policy of {entity} names {field}, which is a part of {compound}: name {compound} in its place")]
    Component {
        /// The object.
        entity: String,
        /// As the configuration names it.
        field: String,
        /// What it is a part of.
        compound: String,
    },
    /// Salesforce did not say.
    #[error("The policy of {entity} cannot be checked: {error}")]
    Unanswered {
        /// The object.
        entity: String,
        /// What it said instead.
        error: RestError,
    },
}

impl PolicyError {
    /// Whether waiting may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unanswered { error, .. } if error.is_retryable())
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let remedy = match self {
            Self::UnknownFields { entity, .. } => format!(
                "Correct the names in [[policy]], or take them out: upper and lower case count, and a misspelt name would let the \
                 field through. Setup > Object Manager > {entity} > Fields & Relationships shows the API names."
            ),
            Self::UnknownEntity { .. } => "Correct `entity` in [[policy]] (upper and lower case count), or grant the integration user Read \
                                           on the object: Setup > Permission Sets > the integration user's set > Object Settings."
                .to_owned(),
            Self::Component { .. } => "Name the compound in [[policy]]; all of its components are covered by it.".to_owned(),
            Self::Unanswered { error, .. } => return error.failure().told_as(self.to_string()),
        };
        Failure::new(Exit::Configuration, self.to_string(), remedy)
    }
}

/// Holds every policy against the org.
///
/// # Errors
/// The first that cannot be relied on.
pub async fn check(policies: &FieldPolicies, pubsub: &PubSub) -> Result<(), PolicyError> {
    for policy in policies.all() {
        check_one(policy, pubsub).await?;
        info!(entity = policy.entity(), policy = in_words(policy), "field policy in effect");
    }
    Ok(())
}

/// Holds one policy against the org.
///
/// # Errors
/// When a name is none of the object's, or Salesforce does not tell.
pub async fn check_one(policy: &EntityPolicy, pubsub: &PubSub) -> Result<(), PolicyError> {
    // Its members are casewire's own, and the configuration knows them.
    if policy.entity() == CONVERSATION_ENTRY {
        return Ok(());
    }
    let schema = schema_of(policy.entity(), pubsub).await;
    let unknown = |schema: &WriterSchema| -> Vec<String> {
        policy.named().iter().map(|(name, _)| name).filter(|name| !schema.has_field(name)).cloned().collect()
    };
    let left = match &schema {
        Some(schema) => unknown(schema),
        None => policy.named().iter().map(|(name, _)| name.clone()).collect(),
    };
    if left.is_empty() {
        return Ok(());
    }
    let entity = || policy.entity().to_owned();
    let path = format!("/services/data/v{}/sobjects/{}/describe", pubsub.session().api_version(), policy.entity());
    match pubsub.session().get_json::<ObjectDescription>(&path).await {
        Ok(described) => held_against(policy, &left, &described),
        // Of a platform event the schema is all there is.
        Err(RestError::Refused { status: 404, .. }) if schema.is_some() => {
            Err(PolicyError::UnknownFields { entity: entity(), fields: left })
        }
        Err(RestError::Refused { status: 404, .. }) => Err(PolicyError::UnknownEntity { entity: entity() }),
        Err(error) => Err(PolicyError::Unanswered { entity: entity(), error }),
    }
}

/// The newest schema of the events of an object, or of a platform event; none where it has no events for this user.
async fn schema_of(entity: &str, pubsub: &PubSub) -> Option<WriterSchema> {
    let topics = match entity.strip_suffix("__c") {
        Some(custom) => vec![format!("/data/{custom}__ChangeEvent")],
        None if entity.ends_with("__e") => vec![format!("/event/{entity}")],
        None => vec![format!("/data/{entity}ChangeEvent"), format!("/event/{entity}")],
    };
    for topic in topics {
        let Ok(topic) = topic.parse::<TopicName>() else { continue };
        let Ok(info) = pubsub.topic(&topic).await else { continue };
        let Ok(answer) = pubsub.schema(&SchemaId::from(info.schema_id.as_str())).await else { continue };
        return WriterSchema::parse(&answer.schema_json).ok();
    }
    None
}

/// Holds names against what describe shows.
fn held_against(policy: &EntityPolicy, names: &[String], described: &ObjectDescription) -> Result<(), PolicyError> {
    let entity = policy.entity().to_owned();
    // Describe does not mind the case of an object's name; records do.
    if described.name != entity {
        return Err(PolicyError::UnknownEntity { entity });
    }
    let mut unknown = Vec::new();
    for name in names {
        let (field, part) = name.split_once('.').unwrap_or((name, ""));
        let Some(known) = described.fields.iter().find(|known| known.name == field) else {
            let meant = described.fields.iter().find(|known| known.name.eq_ignore_ascii_case(field));
            unknown.push(meant.map_or_else(|| name.clone(), |meant| format!("{name} (it is {})", meant.name)));
            continue;
        };
        let mut of_compound =
            described.fields.iter().filter(|other| other.compound_field_name.as_deref() == Some(field));
        let is_part = |flat: &str| flat.strip_suffix("__s").unwrap_or(flat).ends_with(part);
        if !part.is_empty() && !of_compound.any(|flat| flat.name != field && is_part(&flat.name)) {
            unknown.push(name.clone());
        }
        if let Some(compound) = known.compound_field_name.as_deref().filter(|compound| *compound != field)
            && described.shows(compound)
            && !policy.covers(compound, field)
        {
            return Err(PolicyError::Component { entity, field: name.clone(), compound: compound.to_owned() });
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(PolicyError::UnknownFields { entity, fields: unknown }) }
}

/// `1 dropped, 2 hashed with the key 3f2a91bc, 1 masked`
pub fn in_words(policy: &EntityPolicy) -> String {
    let count = |wanted: fn(&Treatment) -> bool| policy.named().iter().filter(|(_, how)| wanted(how)).count();
    let hashed = count(|how| *how == Treatment::Hash);
    let key = policy.key_id().map(|id| format!(" with the key {id}")).unwrap_or_default();
    let words = [
        (count(|how| *how == Treatment::Drop), "dropped".to_owned()),
        (hashed, format!("hashed{key}")),
        (count(|how| matches!(how, Treatment::Mask { .. })), "masked".to_owned()),
    ];
    let words = words.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    words.collect::<Vec<_>>().join(", ")
}

/// Returns when every policy can be relied on; false when `stop` came first. A disturbance is waited for. What is wrong in the
/// configuration ends the process, also one that ran before: only another configuration and another start mend it, and whoever
/// has just changed it has to see that.
///
/// # Errors
/// What an operator has to mend.
pub async fn hold(
    policies: &FieldPolicies,
    pubsub: &PubSub,
    boards: &[StreamBoard],
    stop: &CancellationToken,
) -> Result<bool, Failure> {
    let mut backoff = Backoff::new(RECOVERY);
    loop {
        let checked = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            checked = check(policies, pubsub) => checked,
        };
        let Err(error) = checked else { return Ok(true) };
        let (failure, wait) = (error.failure(), backoff.next_wait());
        if !error.is_retryable() {
            return Err(failure);
        }
        warn!(error = failure.what, ?wait, "the field policies cannot be checked; trying again");
        for board in boards {
            board.recovering(&failure, wait);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> ObjectDescription {
        let field = |name: &str, kind: &str, compound: Option<&str>| serde_json::json!({"name": name, "type": kind, "compoundFieldName": compound});
        let answer = serde_json::json!({"name": "Account", "fields": [
            field("Id", "id", None),
            field("Description", "textarea", None),
            field("BillingStreet", "textarea", Some("BillingAddress")),
            field("BillingAddress", "address", None),
            field("OddStreet__pc", "string", Some("Odd__pc")),
            field("Odd__pc", "address", None),
        ]});
        ObjectDescription::parse(answer.to_string().as_bytes()).expect("described")
    }

    fn verdict(name: &str) -> Result<(), String> {
        let policy = EntityPolicy::new("Account", [(name.to_owned(), Treatment::Drop)], None);
        held_against(&policy, &[name.to_owned()], &described()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_describe_does_not_show_is_refused_with_the_one_that_was_meant() {
        for name in ["Description", "BillingStreet", "BillingAddress", "BillingAddress.Street"] {
            assert_eq!(verdict(name), Ok(()), "{name}");
        }
        assert!(verdict("Descripton").expect_err("misspelt").ends_with("does not have: Descripton"));
        assert!(verdict("description").expect_err("case").ends_with("description (it is Description)"));
        assert!(verdict("BillingAddress.Planet").is_err());
        assert!(verdict("OddStreet__pc").expect_err("no name that events have").contains("name Odd__pc in its place"));
        let other = EntityPolicy::new("account", [("Description".to_owned(), Treatment::Drop)], None);
        assert!(matches!(held_against(&other, &[], &described()), Err(PolicyError::UnknownEntity { .. })));
    }

    #[test]
    fn a_policy_in_words_counts_its_fields() {
        let key = std::sync::Arc::new(crate::change::HashKey::new(&[7; 32]));
        let named = [("A", Treatment::Drop), ("B", Treatment::Hash), ("C", Treatment::Hash)];
        let policy = EntityPolicy::new("Case", named.map(|(name, how)| (name.to_owned(), how)), Some(key.clone()));
        assert_eq!(in_words(&policy), format!("1 dropped, 2 hashed with the key {}", key.id()));
    }
}
