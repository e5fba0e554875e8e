//! Messages of a Subscribe call, as they come off the wire.
//!
//! A message is refused, or is exactly what the protobuf decoder makes of it; and what is decoded is bounded in number.

#![no_main]

use casewire::proto::FetchResponse;
use casewire::salesforce::reading::{MOST_EVENTS, MOST_HEADERS, fetch_response};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let message = bytes::Bytes::copy_from_slice(data);
    let decoded = FetchResponse::decode(message.clone()).ok();
    let headers = |response: &FetchResponse| -> usize {
        response.events.iter().filter_map(|event| event.event.as_ref()).map(|event| event.headers.len()).sum()
    };
    match fetch_response(message) {
        Ok(response) => {
            assert!(response.events.len() <= MOST_EVENTS && headers(&response) <= MOST_HEADERS);
            assert_eq!(Some(response), decoded);
        }
        Err(status) if status.code() == tonic::Code::OutOfRange => {
            assert!(
                decoded.is_none_or(|decoded| decoded.events.len() > MOST_EVENTS || headers(&decoded) > MOST_HEADERS)
            );
        }
        // Groups, which proto3 does not have, are the one thing that prost reads over and we do not.
        Err(_) => assert!(decoded.is_none() || groups(data), "refused without need: {decoded:?}"),
    }
});

/// Whether any byte could begin a group; a rough look is enough to leave those inputs out.
fn groups(data: &[u8]) -> bool {
    data.iter().any(|byte| matches!(byte & 7, 3 | 4))
}
