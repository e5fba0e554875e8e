//! What `--version` says.

use std::sync::LazyLock;

/// casewire's version, the commit that was built and the version of librdkafka, in one line. `build.rs` finds the commit.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        let debug = if cfg!(debug_assertions) { ", debug build" } else { "" };
        format!("{} (commit {}, librdkafka {librdkafka}{debug})", env!("CARGO_PKG_VERSION"), env!("CASEWIRE_COMMIT"))
    });
    &LONG
}
