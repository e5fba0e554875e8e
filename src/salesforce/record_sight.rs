//! Whether the signed-in user sees every record of an object.
//!
//! A record that no query shows is gone, or hidden from the user; an answer does not tell which. But from a user
//! with "View All Records" on the object nothing is hidden by sharing. Salesforce tells who has that permission: the permission
//! sets of a user, that of the profile among them, stand in `PermissionSetAssignment`, and what they allow on objects in
//! `ObjectPermissions`, where "View All Data" shows too. Objects without that permission of their own (Task, Event, User)
//! are never shown to be seen whole.

use tokio::time::Instant;
use tracing::debug;

use crate::salesforce::query::Scope;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::{RestClient, api_name};

/// Permission sets in one question; users have some dozen.
const MOST_SETS: usize = 100;

impl RestClient {
    /// Whether Salesforce says that the user sees all records of an object. Also false where it does not say: a user without
    /// "View Setup and Configuration" may not ask. Two calls, as a rule.
    ///
    /// # Errors
    /// When the deadline passes, or when Salesforce cannot be asked.
    pub async fn sees_all_records(&self, object: &str, deadline: Instant) -> Result<bool, RestError> {
        let object = api_name(object)?;
        let token = self.session().token().await?;
        let Some(user) = token.user_id() else { return Ok(false) };
        let soql = format!("SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = '{user}'");
        let Some(sets) = self.permission_ids(&soql, "PermissionSetId", deadline).await? else { return Ok(false) };
        for sets in sets.chunks(MOST_SETS) {
            let soql = format!(
                "SELECT Id FROM ObjectPermissions WHERE SobjectType = '{object}' AND PermissionsViewAllRecords = true \
                 AND ParentId IN ('{}')",
                sets.join("','")
            );
            if self.permission_ids(&soql, "Id", deadline).await?.is_some_and(|found| !found.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ids that a query finds; none where the user may not ask.
    async fn permission_ids(
        &self,
        soql: &str,
        field: &str,
        deadline: Instant,
    ) -> Result<Option<Vec<String>>, RestError> {
        let mut query = self.query(soql, Scope::Live)?;
        let mut ids = Vec::new();
        loop {
            let page = match query.next_page(deadline).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Some(ids)),
                Err(RestError::Refused { code, .. }) if is_forbidden(&code) => {
                    debug!(code, "the user may not ask what it may see");
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            for record in page.records {
                let row: serde_json::Value = serde_json::from_str(record.get())
                    .map_err(|_| RestError::Unexpected("a row of permissions is no object".to_owned()))?;
                let id = row.get(field).and_then(serde_json::Value::as_str);
                ids.extend(id.filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric())).map(str::to_owned));
            }
        }
    }
}

/// What Salesforce says of objects and fields that the user may not read.
fn is_forbidden(code: &str) -> bool {
    code == "INVALID_TYPE" || code == "INVALID_FIELD" || code.starts_with("INSUFFICIENT_ACCESS")
}
