//! HTTP for operators and probes.
//!
//! - `server`: `/live`, `/ready`, `/metrics` and `/status`
//! - `snapshots`: `POST /snapshots`

mod server;
mod snapshots;

pub use server::{AdminError, bind, serve};
pub use snapshots::{SnapshotDoor, Wanted, ask};
