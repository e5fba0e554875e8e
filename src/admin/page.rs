//! `GET /`: the status page. One file, which needs nothing else and runs nothing else.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// Style and script are allowed by what they are: whatever else gets into the page does not run. Strings are never made into
/// code or into markup (`require-trusted-types-for`), requests go nowhere else, and nobody frames the page.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (style, script) = (digest("style"), digest("script"));
    format!(
        "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
});

/// The page.
pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, Html(PAGE)).into_response()
}

/// The hash of the page's one element of this name, in the words of a policy.
fn digest(element: &str) -> String {
    let begin = PAGE.split_once(&format!("<{element}>")).map(|(_, rest)| rest).unwrap_or_default();
    let text = begin.split_once(&format!("</{element}>")).map(|(text, _)| text).unwrap_or_default();
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_in_itself_and_makes_no_markup_of_text() {
        for element in ["style", "script"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "one {element}, without attributes");
            assert_ne!(digest(element), format!("sha256-{}", STANDARD.encode(Sha256::digest(b""))), "{element}");
        }
        let policy = POLICY.as_str();
        assert!(!policy.contains("unsafe"), "{policy}");
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "style=\"",
            "onclick=",
            "src=\"",
            "@import",
            "url(",
        ] {
            assert!(!PAGE.contains(word), "{word}");
        }
        let addresses = PAGE.match_indices("://").map(|(at, _)| &PAGE[at.saturating_sub(5)..(at + 22).min(PAGE.len())]);
        let elsewhere: Vec<&str> = addresses.filter(|address| !address.contains("http://www.w3.org/2000")).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
    }
}
