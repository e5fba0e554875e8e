//! What the user may read of each object, asked once and kept.
//!
//! It is asked again when an event comes with a schema that was not there at the last time (a field was added,
//! removed or converted), when Salesforce says that a field is none (`INVALID_FIELD`), and after an hour: a
//! permission that is granted tells nobody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::change::{FieldDescription, FieldKind, FieldPolicies, ObjectDescription, RowPlan};
use crate::config::FieldChoice;
use crate::identity::SchemaId;
use crate::salesforce::rest::{RestError, RestRequest};
use crate::salesforce::rest_client::{RestClient, api_name};

/// The age at which a description is asked for again.
const MAXIMUM_AGE: Duration = Duration::from_secs(3600);

/// The descriptions of one stream, as plans for reading. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Descriptions {
    client: RestClient,
    choice: Arc<FieldChoice>,
    /// What is read of objects that have a choice of their own.
    others: Arc<HashMap<String, FieldChoice>>,
    policies: FieldPolicies,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug)]
struct Known {
    plan: Arc<RowPlan>,
    at: Instant,
    /// The schemas of events that it was found good for.
    schemas: HashSet<SchemaId>,
}

impl Descriptions {
    /// Nothing is known yet. `choice` says which of the readable fields are read, and `policies` what is kept of them.
    pub fn new(client: RestClient, choice: FieldChoice, policies: FieldPolicies) -> Self {
        Self { client, choice: Arc::new(choice), others: Arc::default(), policies, known: Arc::default() }
    }

    /// Lets some objects have choices of their own.
    #[must_use]
    pub fn choosing(self, others: impl IntoIterator<Item = (String, FieldChoice)>) -> Self {
        Self { others: Arc::new(others.into_iter().collect()), ..self }
    }

    /// The plan for reading an object of which an event came with `schema`.
    ///
    /// # Errors
    /// When the object cannot be described and never was.
    pub async fn plan(
        &self,
        object: &str,
        schema: Option<&SchemaId>,
        deadline: Instant,
    ) -> Result<Arc<RowPlan>, RestError> {
        let mut known = self.known.lock().await;
        let old = known.get(object).map(|known| {
            let new_schema = schema.is_some_and(|schema| !known.schemas.contains(schema));
            (known.plan.clone(), !new_schema && known.at.elapsed() < MAXIMUM_AGE)
        });
        if let Some((plan, true)) = old {
            return Ok(plan);
        }
        match self.describe(object, deadline).await {
            Ok(plan) => Ok(Self::keep(&mut known, object, schema, plan)),
            Err(error) => match old {
                // Whatever it lacks, what it names was readable; if that has changed, reading says so.
                Some((plan, _)) if error.is_retryable() => {
                    warn!(object, error = %error, "object not described anew, going on with what is known");
                    Ok(plan)
                }
                _ => Err(error),
            },
        }
    }

    /// The plan after `refused` was: described anew, unless somebody else has done so meanwhile.
    ///
    /// # Errors
    /// When the object cannot be described.
    pub async fn replace(&self, refused: &Arc<RowPlan>, deadline: Instant) -> Result<Arc<RowPlan>, RestError> {
        let object = refused.object();
        let mut known = self.known.lock().await;
        if let Some(known) = known.get(object).filter(|known| !Arc::ptr_eq(&known.plan, refused)) {
            return Ok(known.plan.clone());
        }
        let plan = self.describe(object, deadline).await?;
        Ok(Self::keep(&mut known, object, None, plan))
    }

    fn keep(
        known: &mut HashMap<String, Known>,
        object: &str,
        schema: Option<&SchemaId>,
        plan: Arc<RowPlan>,
    ) -> Arc<RowPlan> {
        let mut schemas = known.remove(object).map(|known| known.schemas).unwrap_or_default();
        schemas.extend(schema.cloned());
        known.insert(object.to_owned(), Known { plan: plan.clone(), at: Instant::now(), schemas });
        plan
    }

    async fn describe(&self, object: &str, deadline: Instant) -> Result<Arc<RowPlan>, RestError> {
        let path = self.client.path(&format!("sobjects/{}/describe", api_name(object)?));
        let request = RestRequest::get(path);
        let answer = self.client.call(&request, deadline).await?;
        let unexpected = |what: String| RestError::Unexpected(format!("{}: {what}", request.resource()));
        let description = ObjectDescription::parse(&answer).map_err(unexpected)?;
        let choice = self.others.get(object).unwrap_or(&self.choice);
        let plan = RowPlan::new(&description, &self.policies, |field| chosen(choice, field));
        let plan = plan.map_err(|fault| unexpected(fault.to_string()))?;
        for name in choice.names().iter().filter(|name| !description.shows(name)) {
            warn!(
                object,
                field = name,
                "a field of the configuration is none of the object's, or the user may not read it"
            );
        }
        info!(object, fields = plan.fields().len(), "object described");
        Ok(Arc::new(plan))
    }
}

/// A row holds the path of a file, not its content, so files are read only by name.
fn chosen(choice: &FieldChoice, field: &FieldDescription) -> bool {
    let named = choice.names().contains(&field.name);
    match choice {
        FieldChoice::All => field.kind != FieldKind::Base64,
        FieldChoice::Only(_) => named,
        FieldChoice::Except(_) => !named && field.kind != FieldKind::Base64,
    }
}
