//! Many records by their ids in one call: sObject Collections, `POST /composite/sobjects/<Object>`.
//!
//! The answer has a place for each id, in order; the place of a record that is missing, deleted or not visible to the
//! user is `null`.

use std::fmt;
use std::sync::Arc;

use serde::Deserializer;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::json;
use tokio::time::Instant;

use crate::change::{Row, RowFault, RowPlan};
use crate::salesforce::rest::{MAX_ANSWER_BYTES, RestError, RestRequest, RestVerdict, without_content};
use crate::salesforce::rest_client::{RestClient, api_name};

/// The most that Salesforce takes in one call.
const MOST_IDS: usize = 2_000;

/// The bytes of one answer that are aimed at, well below what is read: rows differ.
const AIM_BYTES: usize = MAX_ANSWER_BYTES / 4;

/// What stands in the place of an id.
pub(crate) type Place = Option<Result<Row, RowFault>>;

impl RestClient {
    /// Reads records by their ids; there are as many places as ids, in order. One call for up to 2,000 ids, fewer
    /// where the rows of the object are large.
    pub(crate) async fn retrieve(
        &self,
        plan: &Arc<RowPlan>,
        ids: &[&str],
        deadline: Instant,
    ) -> Result<Vec<Place>, RestError> {
        let mut places = Vec::with_capacity(ids.len());
        let mut most = MOST_IDS;
        while let Some(rest) = ids.get(places.len()..).filter(|rest| !rest.is_empty()) {
            let fitting = self.row_bytes(plan.object()).map_or(MOST_IDS, |bytes| AIM_BYTES / bytes.max(1));
            let count = rest.len().min(fitting.max(1)).min(most);
            let (asked, _) = rest.split_at(count);
            match self.retrieve_once(plan, asked, deadline).await {
                Ok(part) => places.extend(part),
                Err(error) if error.verdict() == RestVerdict::AskForLess && count > 1 => {
                    most = count / 2;
                    self.note_row_bytes(plan.object(), AIM_BYTES / most);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(places)
    }

    async fn retrieve_once(
        &self,
        plan: &Arc<RowPlan>,
        ids: &[&str],
        deadline: Instant,
    ) -> Result<Vec<Place>, RestError> {
        let object = api_name(plan.object())?;
        let body = json!({"ids": ids, "fields": plan.fields()});
        let request = RestRequest::post(self.path(&format!("composite/sobjects/{object}")), body.to_string());
        let answer = self.call(&request, deadline).await?;
        let bytes = answer.len();
        let (plan, resource) = (plan.clone(), request.resource().to_owned());
        // Rows of many fields take some ten milliseconds, for which no worker can be spared.
        let rendered = tokio::task::spawn_blocking(move || render(&plan, &resource, &answer)).await;
        let places = rendered.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(RestError::Unexpected(format!("{}: the process is ending", request.resource()))),
        })?;
        if places.len() != ids.len() {
            let what = format!("{}: {} places for {} ids", request.resource(), places.len(), ids.len());
            return Err(RestError::Unexpected(what));
        }
        if let Some(each) = bytes.checked_div(places.iter().flatten().count()) {
            self.note_row_bytes(object, each);
        }
        for (place, id) in places.iter().zip(ids) {
            if let Some(Ok(row)) = place
                && row.id != *id
            {
                let what = format!("{}: the record {} in the place of {id}", request.resource(), row.id);
                return Err(RestError::Unexpected(what));
            }
        }
        Ok(places)
    }
}

/// Renders the rows of an answer in one pass over it.
fn render(plan: &RowPlan, resource: &str, answer: &[u8]) -> Result<Vec<Place>, RestError> {
    let text = std::str::from_utf8(answer).map_err(|_| RestError::Unexpected(format!("{resource}: it is no UTF-8")))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let places = Places(plan).deserialize(&mut json).and_then(|places| json.end().map(|()| places));
    places.map_err(|error| RestError::Unexpected(format!("{resource}: {}", without_content(&error))))
}

/// The array of an answer.
struct Places<'p>(&'p RowPlan);

impl<'de> DeserializeSeed<'de> for Places<'_> {
    type Value = Vec<Place>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Places<'_> {
    type Value = Vec<Place>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
        let mut places = Vec::new();
        while let Some(place) = rows.next_element_seed(Slot(self.0))? {
            places.push(place);
        }
        Ok(places)
    }
}

/// A row, or `null`.
struct Slot<'p>(&'p RowPlan);

impl<'de> DeserializeSeed<'de> for Slot<'_> {
    type Value = Place;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_> {
    type Value = Place;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a row or null")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}
