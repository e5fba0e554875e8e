//! `GET /tooling/query` of `PlatformEventChannelMember`: what is selected on which channel.
//!
//! Whoever asks needs the permission "View Setup and Configuration" (Tooling API guide, "PlatformEventChannelMember"); a user
//! without it is told that there is no such object. How `EventChannel` names a custom channel is not documented beyond the
//! Metadata API, which says `MyChannel__chn`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::Refused;
use super::permissions::{object, rows_of};
use crate::simulator::org::Org;
use crate::simulator::record_id::record_id;
use crate::simulator::soql;

const MEMBER: &str = "PlatformEventChannelMember";

/// Answers a query.
pub(super) async fn query(
    State(org): State<Arc<Org>>,
    Path(version): Path<String>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, Refused> {
    let soql = parameters.get("q").map_or("", String::as_str);
    let statement = soql::parse(soql)?;
    if !statement.object.text.eq_ignore_ascii_case(MEMBER) || org.script.is_denied(MEMBER) {
        let message = format!("sObject type '{}' is not supported.", statement.object.text);
        return Err(Refused::bad("INVALID_TYPE", message));
    }
    Ok(rows_of(MEMBER, members(&org), &statement, &version, soql)?)
}

/// One row for each object of each channel; the standard channel has all objects with change events.
fn members(org: &Org) -> Vec<Map<String, Value>> {
    let objects = org.records.objects();
    let event = |name: &str| objects.iter().find(|one| one.name == name).map(|one| one.event_name());
    let standard =
        objects.iter().filter(|one| !one.is_platform_event()).map(|one| ("ChangeEvents".to_owned(), one.event_name()));
    let custom = org.settings.channels.iter().flat_map(|channel| {
        let events = channel.entities.iter().filter_map(|name| event(name));
        events.map(|event| (channel.name.clone(), event)).collect::<Vec<_>>()
    });
    let row = |(number, (channel, event)): (u64, (String, String))| {
        object(&[
            ("Id", json!(record_id("0v8", number))),
            ("DeveloperName", json!(format!("{}_{event}", channel.replace("__", "_")))),
            ("EventChannel", json!(channel)),
            ("SelectedEntity", json!(event)),
        ])
    };
    (1..).zip(standard.chain(custom)).map(row).collect()
}
