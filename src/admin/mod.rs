//! HTTP for operators and probes.
//!
//! - `server`: `/live`, `/ready`, `/metrics` and `/status`

mod server;

pub use server::{AdminError, bind, serve};
