//! casewire carries the change events of a Salesforce organisation into Kafka, exactly once.
//!
//! The rooms, in the order in which an event passes through them:
//!
//! | room | holds |
//! |---|---|
//! | [`config`] | file and environment to one validated configuration |
//! | [`salesforce`] | everything that speaks to Salesforce: session, Pub/Sub channel, subscription |
//! | [`change`] | what a change event means: schema, header, bitmaps, rendering; no I/O |
//! | [`pipeline`] | the only room that carries from one side to the other: stations and run loop of a stream |
//! | [`kafka`] | everything that speaks to Kafka: transactions, checkpoint, topics |
//! | [`status`] | the board that everybody writes to and operators read |
//! | [`telemetry`] | traces of events for an OpenTelemetry collector |
//! | [`admin`] | HTTP: probes, metrics, status |
//! | [`doctor`] | everything that has to be in order, looked at one by one |
//! | [`simulator`] | a Salesforce org in a box |
//! | [`cli`] | one file a command |
//!
//! [`identity`], [`position`] and [`failure`] are the values that pass between them.

pub mod admin;
pub mod change;
pub mod cli;
pub mod config;
pub mod doctor;
#[cfg(test)]
mod documents;
pub mod failure;
pub mod identity;
pub mod kafka;
pub mod pipeline;
pub mod position;
pub mod proto;
pub mod salesforce;
pub mod simulator;
pub mod status;
pub mod telemetry;
