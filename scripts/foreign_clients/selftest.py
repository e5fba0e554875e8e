"""Shows on a handful of events, written by hand, that the comparison is content with what is right and with nothing else."""

import copy
import json
import unittest
from types import SimpleNamespace

import known_fault
import mutations
from evidence import Evidence
from scenarios import Expected
from schema import BadBitmap, Schema

TOPIC, PLATFORM = "/data/Support__chn", "/event/Alarm__e"
PARTS = ["Street", "City", "State"]


def nullable(name, kind, doc):
    return {"name": name, "type": ["null", kind], "doc": doc, "default": None}


ADDRESS = {"type": "record", "name": "Address", "fields": [{"name": part, "type": ["null", "string"], "default": None} for part in PARTS]}
LISTS = ["nulledFields", "diffFields", "changedFields"]
HEADER = [
    ("entityName", "string"), ("recordIds", {"type": "array", "items": "string"}),
    ("changeType", {"type": "enum", "name": "ChangeType", "symbols": ["CREATE", "UPDATE", "DELETE"]}),
    ("changeOrigin", "string"), ("transactionKey", "string"), ("sequenceNumber", "int"), ("commitTimestamp", "long"),
    ("commitNumber", "long"), ("commitUser", "string"), *((name, {"type": "array", "items": "string"}) for name in LISTS),
]  # fmt: skip
HEADER_TYPE = {"type": "record", "name": "ChangeEventHeader", "fields": [{"name": name, "type": kind} for name, kind in HEADER]}
FIELDS = [
    {"name": "ChangeEventHeader", "type": HEADER_TYPE, "doc": "Data:ComplexValueType"},
    nullable("Name", "string", "Data:Text"),
    nullable("Site__c", ADDRESS, "Data:Address:00N000000000001"),
    nullable("Home__c", "Address", "Data:Address:00N000000000002"),
    nullable("Due__c", "long", "Data:DateTime:00N000000000003"),
    nullable("Day__c", "long", "Data:DateOnly"),
    nullable("Time__c", "long", "Data:TimeOnly"),
    nullable("Tags__c", "string", "Data:MultiEnum"),
    nullable("Fee__c", "double", "Data:Currency"),
    nullable("Open__c", "boolean", "Data:Boolean"),
    nullable("Notes__c", "string", "Data:StringPlusClob"),
]
NAMES = [field["name"] for field in FIELDS]
SPACE = "com.sforce.eventbus"
CHANGE = Schema(json.dumps({"type": "record", "name": "Thing__ChangeEvent", "namespace": SPACE, "fields": FIELDS}))
ALARM_FIELDS = [{"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"}, {"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"}]
ALARM = Schema(json.dumps({"type": "record", "name": "Alarm__e", "namespace": SPACE, "fields": [*ALARM_FIELDS, nullable("Text__c", "string", "Data:Text")]}))


def event(number, change_type, ids, values, changed, raw=((), (), ()), unresolved=(), enriched=None):
    """The same change as the ledger's line and as what each client tells of it. `raw`: nulled, diffs, changed."""
    line = {
        "n": number, "topics": [TOPIC], "replay_id": f"{number:016x}0000", "event_id": f"{number:08}-0000-4000-8000-00000000000{number}",
        "schema_id": CHANGE.fingerprint, "entity": "Thing__c", "change_type": change_type, "record_ids": ids, "commit_timestamp": 1_771_300_995_000 + number,
        "commit_number": "12279648331300", "transaction_key": "00003adb-6942-447e-6033-9e8fe741230f", "sequence_number": number, "user": "005Dp000000PpjsIAC",
        "origin": "com/salesforce/api/rest/66.0", "changed": changed, "unresolved": list(unresolved), "enriched": enriched or {}, "poison": False,
    }  # fmt: skip
    header = {
        "entityName": "Thing__c", "recordIds": ids, "changeType": change_type, "changeOrigin": line["origin"], "transactionKey": line["transaction_key"],
        "sequenceNumber": number, "commitTimestamp": line["commit_timestamp"], "commitNumber": 12279648331300, "commitUser": line["user"],
        **{name: list(elements) for name, elements in zip(LISTS, raw)},
    }  # fmt: skip
    payload = {"ChangeEventHeader": header, **{name: values.get(name) for name in NAMES[1:]}}
    return line, told(line, payload)


def told(line, payload):
    return {"kind": "event", "id": line["event_id"], "position": line["replay_id"], "schema_id": line["schema_id"], "payload": payload}


def alarm():
    line, _ = event(9, None, [], {}, {"CreatedDate": "1970-01-01T00:00:00.007Z", "CreatedById": "005", "Text__c": None})
    line |= {"topics": [PLATFORM], "schema_id": ALARM.fingerprint, "user": "005", "commit_timestamp": 7, "commit_number": None, "transaction_key": None, "sequence_number": None, "origin": ""}
    return line, told(line, {"CreatedDate": 7, "CreatedById": "005", "Text__c": None})


def address(**parts):
    return {part: parts.get(part) for part in PARTS}


EVENTS = [
    event(
        1, "CREATE", ["a0X1"],
        {"Name": "Ünit", "Site__c": address(City="Graz"), "Due__c": -1, "Day__c": -86_400_000, "Time__c": 86_399_999, "Tags__c": "a;b", "Fee__c": 3.0, "Open__c": False},
        {"Name": "Ünit", "Site__c": {"City": "Graz"}, "Due__c": "1969-12-31T23:59:59.999Z", "Day__c": "1969-12-31", "Time__c": "23:59:59.999Z", "Tags__c": ["a", "b"], "Fee__c": 3, "Open__c": False},
    ),
    # Fields 1 and 8 changed, 8 was cleared; of the second compound components 0 and 2, of which 2 was cleared.
    event(2, "UPDATE", ["a0X1", "a0X2"], {"Name": "x", "Home__c": address(Street="1")}, {"Name": "x", "Fee__c": None, "Home__c": {"Street": "1", "State": None}},
          (["0x0100", "3-0x04"], [], ["0x0102", "3-0x05"])),
    # The geocoder: nothing but components.
    event(3, "UPDATE", ["a0X1"], {"Site__c": address(City="Wien")}, {"Site__c": {"City": "Wien"}}, ([], [], ["2-0x02"])),
    # Nothing but one component was cleared, a long text is a diff, and the channel adds the name.
    event(4, "UPDATE", ["a0X2"], {"Notes__c": "--- \n+++ 00", "Name": "added", "Site__c": address()}, {"Site__c": {"State": None}},
          (["2-0x04"], ["0x0400"], ["0x0400", "2-0x04"]), ["Notes__c"], {"Name": "added"}),
    event(5, "DELETE", ["a0X2"], {}, {}),
]  # fmt: skip


class Recorded:
    """A client as far as the comparison knows one."""

    def __init__(self, name, reports, responses=()):
        self.name, self.reports, self.responses = name, {TOPIC: reports[:-1], PLATFORM: reports[-1:]}, responses
        self.schemas = {}

    def reported(self, _scenario, topic, kind):
        return self.reports[topic] if kind == "event" else [response for response in self.responses if response["topic"] == topic]

    def everything(self, _kind):
        return [report for reports in self.reports.values() for report in reports]


def as_node_tells(report):
    """Numbers for positions, and names for bitmaps unless the known fault is in the way."""
    report = copy.deepcopy(report) | {"position": int(report["position"][:16], 16)}
    header = report["payload"].get("ChangeEventHeader", {})
    for name in LISTS if header else ():
        hit = len(header[name]) == 1 and "-" in header[name][0]
        header[name] = [] if hit else CHANGE.names(header[name])
    return report


class Comparison(unittest.TestCase):
    def setUp(self):
        events = [*copy.deepcopy(EVENTS), alarm()]
        self.lines = [line for line, _ in events]
        self.python = Recorded("python", [report for _, report in events])
        responses = [{"topic": TOPIC, "count": 2, "position": 2}, {"topic": TOPIC, "count": 3, "position": 5}, {"topic": PLATFORM, "count": 1, "position": 9}]
        self.node = Recorded("node", [as_node_tells(report) for _, report in events], responses)
        wanted = [Expected("earliest", topic, [line for line in self.lines if topic in line["topics"]]) for topic in (TOPIC, PLATFORM)]
        run = SimpleNamespace(clients=[self.node, self.python], expectations=lambda _ledger: wanted)
        self.wanted = wanted[0]
        self.evidence = Evidence(run, self.lines)
        self.evidence.schemas = {schema.fingerprint: schema for schema in (CHANGE, ALARM)}

    def outcome(self, client):
        return self.evidence.compare(client, self.wanted)

    def test_what_arrived_as_it_was_sent_is_clean_and_the_known_fault_is_counted(self):
        self.assertEqual(list(self.outcome(self.python).faults()), [])
        outcome = self.outcome(self.node)
        self.assertEqual(list(outcome.faults()), [])
        self.assertEqual(list(outcome.excused.values()), [{"changed"}, {"nulled"}])

    def test_every_falsified_ledger_is_noticed_for_both_clients(self):
        self.assertEqual(list(mutations.unnoticed(self.evidence)), [])

    def test_the_known_fault_is_excused_where_it_is_and_nowhere_else(self):
        header = self.node.reports[TOPIC][1]["payload"]["ChangeEventHeader"]
        header["changedFields"] = []
        self.assertEqual(len(self.outcome(self.node).differing), 1, "two elements are read by the client")
        self.setUp()
        header = self.node.reports[TOPIC][2]["payload"]["ChangeEventHeader"]
        header["changedFields"] = ["Site__c.City"]
        self.assertIn("is it mended?", list(self.outcome(self.node).faults())[0])

    def test_events_may_overtake_only_between_responses(self):
        reports = self.node.reports[TOPIC]
        reports[:] = [reports[2], reports[0], reports[3], reports[1], reports[4]]
        outcome = self.outcome(self.node)
        self.assertEqual((list(outcome.faults()), len(outcome.overtaken)), ([], 4))
        reports[0], reports[2] = reports[2], reports[0]
        self.assertFalse(self.outcome(self.node).clean, "two of one response")
        self.setUp()
        self.node.responses[0]["position"] = 1
        self.assertFalse(self.outcome(self.node).clean, "the response did not end there")

    def test_what_comes_twice_or_unasked_or_unreadable_is_a_fault(self):
        for client in (self.python, self.node):
            reports = client.reports[TOPIC]
            reports.append(reports[0])
            self.assertEqual(len(self.outcome(client).extra), 1)
            reports.pop()
            reports[0] |= {"kind": "undecodable"}
            self.assertEqual(len(self.outcome(client).differing), 1)

    def test_a_value_that_did_not_change_must_not_come_along(self):
        self.python.reports[TOPIC][2]["payload"]["Name"] = "unasked"
        self.assertFalse(self.outcome(self.python).clean)
        self.setUp()
        self.python.reports[TOPIC][2]["payload"]["Site__c"]["Street"] = "unasked"
        self.assertFalse(self.outcome(self.python).clean)
        self.setUp()
        self.python.reports[TOPIC][4]["payload"]["Name"] = "in a delete"
        self.assertFalse(self.outcome(self.python).clean)

    def test_a_list_that_contradicts_the_values_is_a_fault(self):
        for name, elements in (("nulledFields", []), ("nulledFields", ["0x0102", "3-0x04"]), ("changedFields", ["0x010002", "3-0x05"]), ("diffFields", ["0x02"])):
            self.setUp()
            self.python.reports[TOPIC][1]["payload"]["ChangeEventHeader"][name] = elements
            self.assertFalse(self.outcome(self.python).clean, (name, elements))


class Bitmaps(unittest.TestCase):
    def test_the_examples_of_the_documentation_are_read_as_it_says(self):
        fields = [f"f{at}" for at in range(70)]
        schema = Schema(json.dumps({"type": "record", "name": "T", "fields": [{"name": name, "type": "string"} for name in fields]}))
        schema.children = {"f4": [f"c{at}" for at in range(8)], "f7": ["a", "b", "c"]}
        self.assertEqual(
            schema.names(["0x650004E0", "4-0x10", "7-0x06"]),
            ["f5", "f6", "f7", "f10", "f24", "f26", "f29", "f30", "f4.c4", "f7.b", "f7.c"],
        )
        self.assertEqual(schema.names(["0x100000000000800000"]), ["f23", "f68"])
        for wrong in ("400800", "0x400000000000000000", "3-0x01", "4-0x0100"):
            with self.assertRaises(BadBitmap):
                schema.names([wrong])

    def test_the_known_fault_is_told_from_bytes_and_from_the_ledger_alike(self):
        for line, report in EVENTS:
            header = report["payload"]["ChangeEventHeader"]
            bitmaps = {kind: header[name] for kind, name in known_fault.LISTS.items()}
            hit, left_open = known_fault.lists_hit_by_ledger(line)
            self.assertEqual(known_fault.lists_hit(bitmaps) - left_open, hit)

    def test_a_compound_with_all_its_components_leaves_open_whether_they_were_named(self):
        def line(**changed):
            return {"change_type": "UPDATE", "poison": False, "unresolved": [], "changed": changed}

        by_ledger = known_fault.lists_hit_by_ledger
        self.assertEqual(by_ledger(line(Id=1, Place={"Latitude": None, "Longitude": 1})), (set(), {"nulled"}))
        self.assertEqual(by_ledger(line(Id=1, Place={"Latitude": None})), ({"nulled"}, set()))
        self.assertEqual(by_ledger(line(Id=None, Place={"Latitude": None, "Longitude": 1})), (set(), set()))
