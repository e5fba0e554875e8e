//! How many events to ask for, and when.
//!
//! A Subscribe call has a credit: events asked for and not yet delivered. Salesforce
//! caps it at 100. Too little and the server idles for a round trip; too
//! many FetchRequests and it answers RESOURCE_EXHAUSTED; none for 60 s at a credit of
//! zero and it ends the call.
//!
//! `pending_num_requested` of a response is the truth, but as of when the response was
//! written: a FetchRequest on its way is not in it. Adding what it lacks a second time would
//! exceed the cap. So a request counts as outstanding until a response shows that it arrived.

use std::collections::VecDeque;

/// The most events that may be outstanding on one Subscribe call.
pub const MOST_OUTSTANDING: u32 = 100;

/// The most FetchRequests under way at a time.
pub const MOST_REQUESTS: usize = 4;

/// The credit of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    target: u32,
    outstanding: u32,
    /// Requests that no response has shown to have arrived, oldest first.
    unconfirmed: VecDeque<u32>,
}

impl Credit {
    /// The credit of a call whose first FetchRequest asks for `first` events.
    pub fn opened_with(target: u32, first: u32) -> Self {
        Self { target: target.clamp(1, MOST_OUTSTANDING), outstanding: first, unconfirmed: VecDeque::new() }
    }

    /// Takes a response: how many events it brought, and what it says is left.
    ///
    /// Returns the number of events that came without having been asked for, which a
    /// correct server never sends.
    pub fn received(&mut self, events: u32, pending: i32) -> u32 {
        let unasked = events.saturating_sub(self.outstanding);
        let pending = u32::try_from(pending).unwrap_or(0);
        // Had none of the unconfirmed requests arrived, the server would have this much left. Less than nothing
        // means that some of the events were delivered on their account. They arrive in order: each that is needed to
        // explain what is left has arrived, and no other.
        let mut explained = i64::from(self.outstanding) - i64::from(events) - i64::from(self.under_way());
        while i64::from(pending) > explained
            && let Some(arrived) = self.unconfirmed.pop_front()
        {
            explained += i64::from(arrived);
        }
        self.outstanding = pending.saturating_add(self.under_way());
        unasked
    }

    fn under_way(&self) -> u32 {
        self.unconfirmed.iter().fold(0, |sum, asked| sum.saturating_add(*asked))
    }

    /// How many events to ask for now, given the room downstream; zero for none.
    ///
    /// Asks when half of the target is used up, so that the other half covers the round
    /// trip, and only for a quarter of the target or more, so that a downstream which
    /// frees its room event by event does not cause a FetchRequest each. It does not wait for the request
    /// before to arrive: on a slow line a server that answers in pieces would be left without credit for a round trip.
    pub fn due(&self, room: u32) -> u32 {
        let wanted = self.target.min(room).saturating_sub(self.outstanding);
        if self.is_short() && wanted >= self.least() { wanted } else { 0 }
    }

    /// Notes that a FetchRequest for `events` was sent.
    pub fn asked(&mut self, events: u32) {
        self.unconfirmed.push_back(events);
        self.outstanding = self.outstanding.saturating_add(events);
    }

    fn is_short(&self) -> bool {
        self.unconfirmed.len() < MOST_REQUESTS && self.outstanding <= self.target / 2
    }

    /// The fewest events worth a FetchRequest.
    fn least(&self) -> u32 {
        if self.outstanding == 0 { 1 } else { self.target.div_ceil(4) }
    }

    /// The room downstream that [`Credit::due`] waits for, if room is all it waits for.
    pub fn waits_for_room(&self) -> Option<u32> {
        self.is_short().then(|| self.outstanding.saturating_add(self.least()))
    }

    /// The events asked for and not delivered, as far as known.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }
}

/// How many events the first FetchRequest asks for; at least one, because
/// Salesforce refuses a request for none.
pub fn first_request(target: u32, room: u32) -> u32 {
    target.clamp(1, MOST_OUTSTANDING).min(room.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_top_up_is_due_when_half_of_the_target_is_used_up() {
        for (outstanding, room, due) in [
            (100, 1000, 0),
            (51, 1000, 0),
            (50, 1000, 50),
            (1, 1000, 99),
            (0, 1000, 100),
            (50, 60, 0),
            (50, 75, 25),
            (20, 20, 0),
            (0, 0, 0),
            (0, 3, 3),
        ] {
            assert_eq!(Credit::opened_with(100, outstanding).due(room), due, "{outstanding} outstanding, room {room}");
        }
        assert_eq!(Credit::opened_with(1, 0).due(5), 1);
        assert_eq!(Credit::opened_with(500, 0).due(1000), 100, "the target itself is capped");
        assert_eq!((first_request(100, 30), first_request(100, 0), first_request(0, 9)), (30, 1, 1));
    }

    #[test]
    fn a_request_on_its_way_is_not_asked_for_again() {
        let mut credit = Credit::opened_with(100, 100);
        credit.received(50, 50);
        assert_eq!(credit.due(1000), 50);
        credit.asked(50);
        credit.received(10, 40);
        assert_eq!((credit.outstanding(), credit.due(1000)), (90, 0), "written before our request arrived");
        credit.received(40, 0);
        assert_eq!((credit.outstanding(), credit.due(1000)), (50, 50), "all that is left is on its way to the server");
        credit.asked(50);
        credit.received(5, 45);
        assert_eq!((credit.outstanding(), credit.due(1000)), (95, 0), "the first has arrived, the second has not");
        credit.received(0, 95);
        assert_eq!((credit.outstanding(), credit.under_way()), (95, 0));
    }

    /// A line of half a round trip each way and a server that answers in pieces, drawn as in the simulated org.
    #[test]
    fn a_slow_line_is_used_to_the_full_with_two_requests_a_round_trip() {
        const ROUND_TRIPS: u64 = 2000;
        let mut dice = 1_u64;
        let mut piece_of = |left: u32| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let drawn = u32::try_from(dice >> 33).expect("31 bits");
            if drawn % 10 < 6 { left } else { 1 + drawn / 10 % left }
        };
        let mut credit = Credit::opened_with(100, 100);
        let (mut server, mut events, mut requests) = (0, 0_u64, 0);
        let mut asked = vec![100];
        for _ in 0..ROUND_TRIPS {
            let mut responses = Vec::new();
            for request in asked.drain(..) {
                server += request;
                assert!(server <= MOST_OUTSTANDING);
                while server > 0 {
                    let piece = piece_of(server);
                    server -= piece;
                    responses.push((piece, i32::try_from(server).expect("small")));
                }
            }
            for (piece, pending) in responses {
                events += u64::from(piece);
                credit.received(piece, pending);
                let due = credit.due(1000);
                if due > 0 {
                    requests += 1;
                    credit.asked(due);
                    asked.push(due);
                }
            }
        }
        assert!(events * 100 >= ROUND_TRIPS * 100 * 97, "{events} events in {ROUND_TRIPS} round trips");
        assert!(requests <= ROUND_TRIPS * 3, "{requests} requests");
    }

    #[test]
    fn a_server_that_sends_or_claims_nonsense_is_followed_without_overflow() {
        let mut credit = Credit::opened_with(100, 10);
        assert_eq!(credit.received(25, -3), 15, "fifteen events nobody asked for");
        assert_eq!(credit.outstanding(), 0);
        credit.asked(100);
        assert_eq!(credit.received(0, i32::MAX), 0);
        assert_eq!(credit.due(u32::MAX), 0);
    }

    #[test]
    fn what_waits_for_room_gets_its_request_when_the_room_is_there() {
        let mut credit = Credit::opened_with(100, 0);
        assert_eq!(credit.waits_for_room(), Some(1));
        credit.asked(1);
        assert_eq!((credit.waits_for_room(), credit.due(25), credit.due(26)), (Some(26), 0, 25));
        (1..MOST_REQUESTS).for_each(|_| credit.asked(1));
        assert_eq!((credit.waits_for_room(), credit.due(1000)), (None, 0), "as many requests as may be under way");
        let credit = Credit::opened_with(100, 40);
        assert_eq!(credit.waits_for_room(), Some(65));
        assert_eq!((credit.due(64), credit.due(65)), (0, 25));
    }

    proptest! {
        /// A server with delay in both directions: requests arrive late, responses are read late.
        #[test]
        fn the_server_never_sees_more_than_the_cap_and_is_never_starved_for_good(
            target in 1_u32..=100,
            steps in prop::collection::vec((0_u8..4, 1_u32..60), 1..300),
        ) {
            let mut credit = Credit::opened_with(target, first_request(target, 1000));
            let mut server = credit.outstanding();
            let mut requests = std::collections::VecDeque::new();
            let mut responses = std::collections::VecDeque::new();
            // In the end everything on its way arrives, a keepalive too, and the client may ask once more.
            let settle = std::iter::once((1, 0)).chain([(0, 0)]).chain(vec![(2, 0); 301]).chain([(3, 0)]);
            for (step, amount) in steps.into_iter().chain(settle) {
                match step {
                    0 => {
                        let events = amount.min(server);
                        server -= events;
                        responses.push_back((events, i32::try_from(server).expect("small")));
                    }
                    1 => if let Some(asked) = requests.pop_front() {
                        server += asked;
                        prop_assert!(server <= MOST_OUTSTANDING);
                    },
                    2 => if let Some((events, pending)) = responses.pop_front() {
                        prop_assert_eq!(credit.received(events, pending), 0);
                    },
                    _ => {
                        let due = credit.due(1000);
                        if due > 0 {
                            credit.asked(due);
                            requests.push_back(due);
                            prop_assert!(requests.len() <= MOST_REQUESTS);
                        }
                    }
                }
                prop_assert!(credit.outstanding() <= MOST_OUTSTANDING);
            }
            prop_assert!(server + requests.iter().sum::<u32>() > 0, "credit is there or on its way");
        }
    }
}
