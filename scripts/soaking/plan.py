"""The table of faults, and the schedule that a seed draws from it."""

import random
from dataclasses import dataclass

HOUR = 3600.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how often an hour, and what it does, for the report."""

    name: str
    an_hour: int
    does: str
    kills: bool = False


KINDS = [
    Kind("process-kill", 110, "casewire is killed (SIGKILL) and started again", kills=True),
    Kind("broker-kill", 12, "the broker is killed (SIGKILL) and started again on its data", kills=True),
    Kind("take-over", 6, "casewire is frozen, a second instance takes over, the first one thaws and stands by; one of the two is killed", kills=True),
    Kind("process-freeze", 16, "casewire is frozen (SIGSTOP) for 1 to 15 s, the transaction time-out being 10 s"),
    Kind("orderly-restart", 6, "casewire is ended by SIGTERM and started again"),
    Kind("broker-freeze", 12, "the broker is frozen for 1 to 14 s"),
    Kind("slow-disk", 14, "each write and sync of the broker's files takes 20 to 400 ms longer, for 4 to 15 s"),
    Kind("stream-cut", 30, "every Subscribe call is reset (RST_STREAM)"),
    Kind("stream-end", 18, "every Subscribe call ends with OK"),
    Kind("stream-error", 14, "every Subscribe call ends with an error of the service"),
    Kind("connection-drop", 24, "every Pub/Sub connection is closed at once"),
    Kind("go-away", 24, "every Pub/Sub connection is sent GOAWAY"),
    Kind("black-hole", 12, "the Pub/Sub connections stay open and nothing passes any more, pings included"),
    Kind("silence", 12, "calls stay open without events or keepalives, longer than the silence limit"),
    Kind("unreachable", 12, "every connection to the organisation is closed and refused for 1 to 6 s"),
    Kind("token-revoked", 24, "every access token becomes invalid, and the calls end"),
    Kind("http-5xx", 14, "the next HTTP calls are answered with 500 or 503, and a token is needed"),
    Kind("sign-in-refused", 8, "the next token request fails at the server, and a token is needed"),
    Kind("schema-refused", 10, "the next GetSchema calls fail, and an event has a new schema"),
    Kind("schema-change", 24, "an object gets a new field or change type"),
    Kind("poison", 20, "the payloads of one to three events cannot be decoded"),
    Kind("redelivery", 30, "the next call begins 1 to 60 events earlier than it was asked to"),
    Kind("shared-ids", 16, "an update of 10 to 60 records becomes as many enriched events with one replay id, and the calls are cut among them"),
    Kind("permission-lost", 3, "the user loses an object's permission until the stream stops, and gets it back; then a restart"),
    Kind("retention-lost", 12, "what was published while casewire was away, or all that it has read, leaves retention"),
    Kind("org-moved", 4, "the organisation moves: replay ids are invalid and begin lower, the instance has another URL"),
    Kind("clock-shift", 6, "the organisation's clock jumps by up to 2 s and back"),
]
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Planned:
    """A fault and when it is due, in seconds after the start."""

    at: float
    kind: str


def schedule(seed, seconds, only=None, without=()):
    """The faults of a run, at least one of each kind, evenly spread but for chance. The seed decides all of it."""
    dice = random.Random(f"plan {seed}")
    chosen = [kind for kind in KINDS if (only is None or kind.name in only) and kind.name not in without]
    deck = [kind.name for kind in chosen for _ in range(max(1, round(kind.an_hour * seconds / HOUR)))]
    dice.shuffle(deck)
    pause = seconds / (len(deck) + 1)
    due = sorted((at + 0.5 + dice.random()) * pause for at in range(len(deck)))
    return [Planned(at, kind) for at, kind in zip(due, deck)]
