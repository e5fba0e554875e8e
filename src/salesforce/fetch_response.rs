//! A FetchResponse is looked over before it is decoded.
//!
//! A decoded event takes more memory than an encoded one: an empty one has two bytes on the wire and a hundred and
//! more in memory, so the 8 MiB that a message may have could become a gigabyte. Salesforce never sends more events than
//! were asked for, so their number is counted first, and a message with too many is not decoded at all.

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use crate::proto::{FetchRequest, FetchResponse};
use crate::salesforce::credit::MOST_OUTSTANDING;

/// Events in one response: everything that can have been asked for, and as much again for a server that miscounts.
pub const MOST_EVENTS: usize = 2 * MOST_OUTSTANDING as usize;

/// Headers of all events of one response. Salesforce reserves them, and no captured event has any.
pub const MOST_HEADERS: usize = 100 * MOST_EVENTS;

/// Field numbers of the contract on the way to an event's headers.
const EVENTS: u64 = 1;
const EVENT: u64 = 1;
const HEADERS: u64 = 4;

/// The codec of the Subscribe call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FetchCodec;

impl Codec for FetchCodec {
    type Encode = FetchRequest;
    type Decode = FetchResponse;
    type Encoder = <ProstCodec<FetchRequest, FetchResponse> as Codec>::Encoder;
    type Decoder = FetchDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<FetchRequest, FetchResponse>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        FetchDecoder
    }
}

/// The reading side of [`FetchCodec`].
#[derive(Debug)]
pub(crate) struct FetchDecoder;

impl Decoder for FetchDecoder {
    type Item = FetchResponse;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<FetchResponse>, Status> {
        // In one piece: events then refer to their bytes in it instead of copying them.
        let message = bytes::Buf::copy_to_bytes(message, bytes::Buf::remaining(message));
        read(message).map(Some)
    }
}

/// Decodes one message.
///
/// # Errors
/// `OUT_OF_RANGE` if it has more events or headers than a response can have; `INTERNAL` if it is none.
pub fn read(message: bytes::Bytes) -> Result<FetchResponse, Status> {
    let broken = || Status::internal("The server sent a message that is no FetchResponse");
    let (mut events, mut headers) = (0_usize, 0_usize);
    each_field(&message, EVENTS, &mut |event| {
        events += 1;
        each_field(event, EVENT, &mut |content| {
            each_field(content, HEADERS, &mut |_| {
                headers += 1;
                Some(())
            })
        })
    })
    .ok_or_else(broken)?;
    if events > MOST_EVENTS {
        let asked = MOST_OUTSTANDING;
        return Err(Status::out_of_range(format!("A response has {events} events; at most {asked} can be asked for")));
    }
    if headers > MOST_HEADERS {
        return Err(Status::out_of_range(format!("The events of a response have {headers} headers")));
    }
    FetchResponse::decode(message).map_err(|_| broken())
}

/// Calls `visit` with each length-delimited field `number` of a message. `None` where the message is malformed, or uses
/// the groups that proto3 does not have.
fn each_field(mut message: &[u8], number: u64, visit: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let skipped = match key & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(skipped)?;
        if key >> 3 == number && key & 7 == 2 {
            visit(value)?;
        }
        message = rest;
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for at in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::*;
    use crate::proto::{ConsumerEvent, EventHeader, ProducerEvent};

    fn response(events: usize, headers: usize) -> Bytes {
        let header = EventHeader { key: "k".into(), value: Bytes::from_static(b"v") };
        let content = ProducerEvent { id: "e".into(), headers: vec![header; headers], ..ProducerEvent::default() };
        let event = ConsumerEvent { event: Some(content), replay_id: Bytes::from_static(&[0, 7]) };
        let response = FetchResponse {
            events: vec![event; events],
            latest_replay_id: Bytes::from_static(&[0, 7]),
            rpc_id: "r".into(),
            pending_num_requested: 3,
        };
        response.encode_to_vec().into()
    }

    #[test]
    fn a_response_is_decoded_if_it_can_have_been_asked_for() {
        let most = read(response(MOST_EVENTS, 1)).expect("as many as can be");
        assert_eq!((most.events.len(), most.pending_num_requested), (MOST_EVENTS, 3));
        let error = read(response(MOST_EVENTS + 1, 0)).expect_err("one too many");
        assert_eq!(error.code(), Code::OutOfRange);
        assert!(error.message().contains("201 events"), "{error}");
        let error = read(response(10, MOST_HEADERS / 10 + 1)).expect_err("too many headers");
        assert_eq!(error.code(), Code::OutOfRange);
    }

    #[test]
    fn events_without_content_are_counted_and_what_is_no_response_is_refused() {
        let empty = Bytes::from([0x0a, 0x00].repeat(MOST_EVENTS + 1));
        assert_eq!(read(empty).expect_err("too many").code(), Code::OutOfRange);
        for broken in [&[0x0a, 0x05][..], &[0x0b, 0x0a, 0x00], &[0xff; 11], &[0x0a, 0x02, 0x0a, 0x09], &[0x1a, 1, 0xff]]
        {
            assert_eq!(read(Bytes::copy_from_slice(broken)).expect_err("broken").code(), Code::Internal, "{broken:?}");
        }
        // Fields that are added one day are read over.
        let unknown = [0x28, 0x01, 0x31, 1, 2, 3, 4, 5, 6, 7, 8, 0x3d, 1, 2, 3, 4, 0x20, 0x05];
        assert_eq!(read(Bytes::copy_from_slice(&unknown)).expect("a keepalive").pending_num_requested, 5);
    }
}
