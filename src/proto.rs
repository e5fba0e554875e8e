//! The generated types of the Salesforce Pub/Sub API (`proto/pubsub_api.proto`).
#![allow(clippy::doc_markdown, missing_docs)]

tonic::include_proto!("eventbus.v1");
