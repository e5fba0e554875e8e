//! HTTP for operators and probes.
//!
//! - `server`: `/live`, `/ready`, `/metrics` and `/status`, and the ways to the rest
//! - `page`: `/`, the status page; `page.html` is all of it
//! - `events`: `/events`, the page's news
//! - `view`: what the page shows as one document, and what has changed in it
//! - `denial`: what the port says no with, and what mends that
//! - `guard`: who may look, and who may have something done
//! - `pause`: `POST /streams/pause` and `POST /streams/resume`
//! - `snapshots`: `POST /snapshots`
//! - `comparisons`: `POST /comparisons`

mod comparisons;
pub(crate) mod denial;
mod events;
mod guard;
mod page;
mod pause;
mod server;
mod snapshots;
mod view;

pub use comparisons::{WantedComparison, ask_to_compare, no_messages};
pub use denial::AdminError;
pub use guard::Guard;
pub use server::{bind, serve};
pub use snapshots::{SnapshotDoor, Wanted, ask};
