"""The judge of messages judged: a right run, and the same with one thing wrong at a time."""

import json
import unittest

from . import messages, verdict
from .topics import Record

ORG, TOPIC = "00D8d00000AbCdEEAV", "salesforce.ConversationEntry"
SENDER = {"role": "EndUser", "app_type": "conversation", "subject": "uid:1"}


def said(identifier, text, redactions=0):
    entry = {"identifier": identifier, "conversation": "c", "session": "0Mw", "text": text, "redactions": redactions}
    return json.dumps(entry | SENDER)


def written(offset, op, identifier, text, **more):
    value = {"op": op, "id": identifier, "conversation": "c", "session": "0Mw", "case": None, "sender": SENDER, "text": text}
    value |= {"type": None, "payload": None, "client_time": None, "server_time": "2026-11-22T10:14:58.250Z"}
    value |= {"source": {"org": ORG, "api": "connect", "trigger": "event", "fetched_at": "2026-11-22T10:15:02.412Z"}} | more
    headers = {"casewire": "1", "content-type": "application/json", "entity": "ConversationEntry", "op": op, "org": ORG, "entry_id": identifier}
    return Record(TOPIC, 0, offset, "c", json.dumps(value).encode(), headers)


TRUTH = [said("a", "***", 1), said("b", None)]
RIGHT = [written(0, "message", "a", "Hello"), written(1, "message", "b", None), written(2, "redaction", "a", "***")]


def judged(records, truth):
    report = verdict.Report()
    messages.truth(report, records, messages.examine(report, records, ORG), truth)
    return set(report.faults)


class EachFaultIsFound(unittest.TestCase):
    def test_a_right_run_is_clean(self):
        self.assertEqual(judged(RIGHT, TRUTH), set())

    def test_missing_doubled_stray_and_wrong_messages(self):
        for kind, records, truth in (
            ("missing message", RIGHT[:1] + RIGHT[2:], TRUTH),
            ("doubled message", [*RIGHT, written(3, "redaction", "b", None)], TRUTH),
            ("doubled message", [*RIGHT, written(3, "redaction", "a", "other")], TRUTH),
            ("message", [*RIGHT, written(3, "message", "a", "other")], TRUTH),
            ("stray message", [*RIGHT, written(3, "message", "c", "x")], TRUTH),
            ("wrong message", RIGHT[:2], TRUTH),
            ("wrong message", [RIGHT[0], RIGHT[2], written(1, "message", "b", None, session="0Mx")], TRUTH),
            ("message", [*RIGHT[1:], written(0, "message", "a", "***", server_time="2026-11-22 10:14")], TRUTH),
            ("message", [written(0, "message", "a", "***", surplus=1), RIGHT[1]], TRUTH),
            ("message", [*RIGHT[:2], written(2, "redaction", "a", "***", source={"org": ORG, "api": "bulk"})], TRUTH),
        ):
            self.assertIn(kind, judged(sorted(records, key=lambda record: record.offset), truth), records[-1])

    def test_keys_and_headers(self):
        for change in ({"key": "d"}, {"headers": {}}, {"value": b"{"}):
            broken = Record(**({name: getattr(RIGHT[1], name) for name in Record.__dataclass_fields__} | change))
            report = verdict.Report()
            messages.examine(report, [RIGHT[0], broken, RIGHT[2]], ORG)
            self.assertIn("message", report.faults, change)
