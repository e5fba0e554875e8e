"""The judge judged: a small run that is right, and the same run with one thing wrong at a time."""

import copy
import json
import re
import unittest

from . import fold, jobs, ledger, retention, verdict
from .topics import Record

ORG, PREFIX = "00D8d00000AbCdEEAV", "salesforce"
CASES, ORDERS = "/data/CaseChangeEvent", "/event/Order__e"
FIRST, SECOND = "5008d000000047SAAQ", "5008d000000047TAAQ"


def sent(n, change_type, ids, **more):
    line = {
        "n": n,
        "topics": [CASES, "/data/ChangeEvents"],
        "replay_id": f"{n:016x}0000",
        "event_id": f"e{n}",
        "schema_id": "fu0f4hMtqehVVUQ7_l39Zg",
        "entity": "Case",
        "change_type": change_type,
        "record_ids": ids,
        "commit_timestamp": 1771300995000 + n * 1000,
        "commit_number": str(12279648331868 + n),
        "transaction_key": f"0000a269-e524-4e36-97f3-{n:012x}",
        "sequence_number": 1,
        "user": "0058d000004XyZaAAK",
        "origin": "com/salesforce/api/soap/66.0;client=x",
        "changed": {},
        "unresolved": [],
        "enriched": {},
        "poison": False,
    }
    return line | more


LEDGER = [
    sent(1, "CREATE", [FIRST], changed={"Status": "New", "ContactId": "0038d0000001AAAAA2", "Description": "long"}),
    sent(2, "UPDATE", [FIRST], changed={"Status": "Working", "ContactId": None}, unresolved=["Description"]),
    sent(3, "UPDATE", [FIRST, SECOND], changed={"Priority": "High"}, enriched={"Origin": "Web"}),
    sent(4, "GAP_UPDATE", [SECOND]),
    sent(5, "GAP_OVERFLOW", ["000000000000000AAA"]),
    sent(6, "UPDATE", [SECOND], changed={"Score__c": 9007199254740993}),
    sent(7, "DELETE", [FIRST]),
    sent(8, "UPDATE", [SECOND], poison=True),
    sent(9, None, [], topics=[ORDERS], entity="Order__e", changed={"Number__c": "4711"}),
    sent(10, "UPDATE", ["0018d000000047SAAQ"], topics=["/data/AccountChangeEvent"], entity="Account"),
    sent(11, "UNDELETE", [FIRST], changed={"Status": "Closed"}),
    sent(12, "SNAPSHOT", [FIRST]),
    sent(13, "UPDATE", ["500*"]),
]


class Topics:
    """What a right casewire would have written for LEDGER; built here without the judge's own expectations. The events
    `lost` by number left retention before they were read: the stream went on from the oldest event behind them."""

    def __init__(self, lost=()):
        self.records = []
        seq, taken = {}, {}
        for line in LEDGER:
            stream = line["topics"][0]
            if stream == "/data/AccountChangeEvent":
                continue
            if line["n"] in lost:
                taken[stream] = []
                continue
            if line["n"] - 1 in lost:
                seq[stream] += 1
                anew = {"v": 1, "seq": seq[stream], "position": {"anchor": {"earliest": {}}}, "writer": {"run_id": "r1"}}
                self.put(f"{PREFIX}.{CHECKPOINTS}", "position", anew, {})
            self._event(line, stream)
            seq[stream] = seq.get(stream, 0) + 1
            taken.setdefault(stream, []).append(f"{line['replay_id']}/{line['event_id']}")
            position = {"anchor": {"after": line["replay_id"]}, "recent": taken[stream][:-1], "already": taken[stream][-1:]}
            value = {"v": 1, "seq": seq[stream], "position": position, "writer": {"run_id": "r1"}}
            name = {CASES: "data.CaseChangeEvent", ORDERS: "event.Order__e"}[stream]
            self.put(f"{PREFIX}.checkpoints.{ORG}.{name}", "position", value, {})

    def put(self, topic, key, value, headers, partition=0):
        raw = None if value is None else json.dumps(value).encode()
        self.records.append(Record(topic, partition, len(self.records), key, raw, dict(headers)))

    def _event(self, line, stream):
        ids, kind = line["record_ids"], line["change_type"]
        op = {"CREATE": "create", "UPDATE": "update", "DELETE": "delete", "UNDELETE": "undelete", "GAP_UPDATE": "gap"}.get(kind)
        if line["poison"]:
            headers = {name: line[name] for name in ("replay_id", "event_id", "schema_id")}
            headers |= {"casewire": "1", "org": ORG, "topic": stream, "reason": "cut short"}
            self.put(f"{PREFIX}.dead-letters", "letter", {"raw": 1}, headers)
            return
        cause = {"GAP_UPDATE": "gap_event", "GAP_OVERFLOW": "overflow", "SNAPSHOT": "snapshot"}.get(kind)
        cause = "wildcard" if ids == ["500*"] else cause
        if cause:
            entry = {"id": f"gap{line['n']}", "state": "open", "cause": cause, "org": ORG, "topic": stream, "entity": "Case"}
            entry |= {"records": ids}
            entry |= {"source": {"replay_id": line["replay_id"], "event_id": line["event_id"]}}
            self.put(f"{PREFIX}.gaps", f"gap{line['n']}", entry, {})
        if stream == ORDERS:
            op, ids = "event", [line["event_id"]]
        if op is None or ids == ["500*"]:
            return
        for index, identifier in enumerate(ids):
            self._record(line, stream, op, identifier, index, len(ids))

    def _record(self, line, stream, op, identifier, index, of):
        committed = {} if op == "event" else {"committed_at": f"2026-02-17T04:03:{15 + line['n']:02d}.000Z"}
        source = {"org": ORG, "topic": stream, "index": index, "of": of} | committed
        source |= {name: line[name] for name in ("replay_id", "event_id", "schema_id")}
        if op != "event":
            source |= {name: line[name] for name in ("change_type", "commit_number", "user", "origin")}
            source |= {"transaction": line["transaction_key"], "sequence": line["sequence_number"]}
        value = {"op": op, "entity": line["entity"], "id": identifier, "changed": line["changed"], "record": None, "source": source}
        value |= {name: line[name] for name in ("unresolved", "enriched") if line[name]}
        headers = {"casewire": "1", "content-type": "application/json", "entity": line["entity"], "op": op, "org": ORG}
        headers |= {"event_id": line["event_id"], "replay_id": line["replay_id"]} | committed
        self.put(f"{PREFIX}.{line['entity']}", identifier, value, headers)

    def at(self, topic, nth=0):
        return self.at_all(topic)[nth]

    def at_all(self, topic):
        return [at for at, record in enumerate(self.records) if record.topic == f"{PREFIX}.{topic}"]

    def change(self, at, **attributes):
        record = self.records[at]
        kept = {name: getattr(record, name) for name in record.__dataclass_fields__}
        self.records[at] = Record(**(kept | attributes))

    def rewrite(self, at, change):
        value = json.loads(self.records[at].value)
        change(value)
        self.change(at, value=json.dumps(value).encode())

    def append_copy(self, at, **attributes):
        self.records.append(self.records[at])
        self.change(-1, **({"offset": len(self.records)} | attributes))


def judged(topics, tombstones=False, lines=LEDGER, cuts=(), tolerance=0):
    events = ledger.read([json.dumps(line) for line in lines], [CASES, ORDERS])
    records = sorted(topics.records, key=lambda record: (record.topic, record.partition, record.offset))
    cuts = retention.read([json.dumps(cut) for cut in cuts])
    report, owed = verdict.judge(events, records, PREFIX, ORG, [CASES, ORDERS], tombstones, cuts, tolerance)
    fold.examine(report, owed, records, PREFIX)
    return report


CHECKPOINTS = f"checkpoints.{ORG}.data.CaseChangeEvent"


class EachFaultIsFound(unittest.TestCase):
    def red(self, kind, break_it, **options):
        topics = Topics()
        break_it(topics)
        faults = judged(topics, **options).faults
        self.assertIn(kind, faults)
        return faults

    def test_a_right_run_is_clean(self):
        report = judged(Topics())
        self.assertEqual(report.faults, {})
        self.assertEqual((report.seen["events"], report.seen["records"], report.seen["gap entries"]), (12, 9, 4))

    def test_records(self):
        case = Topics().at("Case")
        self.red("missing record", lambda topics: topics.records.pop(case))
        self.red("missing record", lambda topics: topics.records.pop(topics.at("Case", 3)))
        self.red("missing record", lambda topics: topics.records.pop(topics.at("Order__e")))
        self.red("doubled record", lambda topics: topics.append_copy(case))
        self.red("stray record", lambda topics: topics.append_copy(case, topic=f"{PREFIX}.Account"))
        self.red("stray record", lambda topics: topics.rewrite(case, lambda value: value["source"].update(event_id="e99")))
        self.red("stray record", lambda topics: topics.change(case, value=None))
        self.red("not JSON", lambda topics: topics.change(case, value=b"{"))
        self.red("wrong value", lambda topics: topics.change(case, key="5008d000000047S"))

    def test_values(self):
        def wrong(nth, change):
            self.red("wrong value", lambda topics: topics.rewrite(topics.at("Case", nth), change))

        wrong(0, lambda value: value["changed"].update(Status="Closed"))
        wrong(0, lambda value: value["changed"].update(Extra=None))
        wrong(1, lambda value: value["changed"].pop("ContactId"))
        wrong(1, lambda value: value.pop("unresolved"))
        wrong(1, lambda value: value["changed"].update(Description="--- \n+++ diff"))
        wrong(2, lambda value: value["enriched"].update(Origin="Phone"))
        wrong(2, lambda value: value.update(id=SECOND))
        wrong(5, lambda value: value["changed"].update(Score__c=9007199254740992))
        wrong(5, lambda value: value["changed"].update(Score__c="9007199254740993"))
        wrong(6, lambda value: value.update(op="update"))
        wrong(6, lambda value: value.update(record={"Id": SECOND}, record_as_of="2026-02-17T04:03:15.000Z", record_from="rest"))
        wrong(6, lambda value: value.update(record_from="rest"))

    def test_every_field_of_the_source_and_every_header_counts(self):
        topics = Topics()
        at = topics.at("Case")
        for name in json.loads(topics.records[at].value)["source"]:
            kind = "stray record" if name in ("replay_id", "event_id", "index") else "wrong value"
            self.red(kind, lambda topics: topics.rewrite(at, lambda value: value["source"].update({name: "other"})))
        for name in topics.records[at].headers:
            headers = {key: value for key, value in topics.records[at].headers.items() if key != name}
            self.red("wrong value", lambda topics: topics.change(at, headers=headers))
        self.red("wrong value", lambda topics: topics.change(at, repeated_headers=("op",)))

    def test_order(self):
        def swap(topics):
            first, second = topics.at("Case", 0), topics.at("Case", 1)
            offsets = topics.records[first].offset, topics.records[second].offset
            topics.change(first, offset=offsets[1])
            topics.change(second, offset=offsets[0])

        self.red("wrong order", swap)
        self.red("split key", lambda topics: topics.change(topics.at("Case", 1), partition=1))

    def test_tombstones(self):
        self.red("missing tombstone", lambda topics: None, tombstones=True)
        right = Topics()
        delete = right.at("Case", 6)
        right.append_copy(delete, value=None, offset=right.records[delete].offset + 1)
        self.assertEqual(judged(right, tombstones=True).faults, {})
        self.red("missing tombstone", lambda topics: topics.append_copy(delete, value=None), tombstones=True)
        after = right.records[delete].offset + 1
        self.red("wrong value", lambda topics: topics.append_copy(delete, value=None, offset=after, headers={}), tombstones=True)
        self.red("stray record", lambda topics: topics.put(f"{PREFIX}.Case", SECOND, None, {}), tombstones=True)

    def test_gaps_and_letters(self):
        for nth in range(4):
            self.red("missing gap entry", lambda topics: topics.records.pop(topics.at("gaps", nth)))
        self.red("doubled gap entry", lambda topics: topics.append_copy(topics.at("gaps")))
        self.red("stray gap", lambda topics: topics.rewrite(topics.at("gaps"), lambda value: value["source"].update(event_id="e1")))
        for name in ("id", "cause", "org", "topic", "entity", "records"):
            self.red("wrong value", lambda topics: topics.rewrite(topics.at("gaps"), lambda value: value.update({name: "other"})))
        self.red("missing letter", lambda topics: topics.records.pop(topics.at("dead-letters")))
        self.red("doubled letter", lambda topics: topics.append_copy(topics.at("dead-letters")))
        self.red("wrong value", lambda topics: topics.change(topics.at("dead-letters"), value=None))
        self.red("stray letter", lambda topics: topics.change(topics.at("dead-letters"), headers={"event_id": "e1"}))

    def test_records_that_were_read(self):
        gap = Topics().at("Case", 4)

        def read(topics, op, **more):
            topics.rewrite(gap, lambda value: value.update({"op": op} | more))
            topics.change(gap, headers=topics.records[gap].headers | {"op": op})

        refreshed = {"record": {"Id": SECOND, "Status": "Closed"}, "record_as_of": "2026-02-17T04:03:19.000Z", "record_from": "rest"}
        deleted = {"record_as_of": "2026-02-17T04:03:20.000Z", "record_from": "rest"}
        for op, more in (("refresh", refreshed), ("delete", deleted)):
            right = Topics()
            read(right, op, **more)
            right.records.pop(right.at("gaps"))
            self.assertEqual(judged(right).faults, {}, op)
            # What was read needs no entry, and what was not read is no refresh.
            self.red("missing gap entry", lambda topics: read(topics, op, **more))
            self.red("wrong value", lambda topics: read(topics, op))
        older = refreshed | {"record_as_of": "2026-02-17T04:03:18.000Z"}
        self.red("wrong value", lambda topics: read(topics, "refresh", **older))
        self.red("wrong value", lambda topics: read(topics, "update", **refreshed))

        def resolve(topics, text):
            def change(value):
                value.pop("unresolved")
                value["changed"]["Description"] = text

            topics.rewrite(topics.at("Case", 1), change)

        right = Topics()
        resolve(right, "longer")
        self.assertEqual(judged(right).faults, {})
        self.red("wrong value", lambda topics: resolve(topics, 7))

        def entry(topics, **more):
            value = {"state": "open", "cause": "unread", "entity": "Case", "records": [FIRST], "detail": "why", "source": None}
            topics.put(f"{PREFIX}.gaps", "unread-1", value | more, {})

        right = Topics()
        entry(right)
        self.assertEqual(judged(right).faults, {})
        self.red("stray gap", lambda topics: entry(topics, records=["5008d000000099TAAQ"]))
        self.red("stray gap", lambda topics: entry(topics, records=[]))
        self.red("stray gap", lambda topics: entry(topics, cause="gap_event"))

    def test_checkpoints(self):
        def each(kind, change, nth=-1):
            self.red(kind, lambda topics: topics.rewrite(topics.at(CHECKPOINTS, nth), change))

        self.red("checkpoint sequence", lambda topics: topics.records.pop(topics.at(CHECKPOINTS, 3)))
        self.red("checkpoint sequence", lambda topics: topics.records.pop(topics.at(CHECKPOINTS, 0)) and topics.records.pop(topics.at(CHECKPOINTS, 0)))
        self.red("checkpoint sequence", lambda topics: topics.append_copy(topics.at(CHECKPOINTS, -1)))
        self.red("checkpoint position", lambda topics: topics.records.pop(topics.at(CHECKPOINTS, -1)))
        each("checkpoint position", lambda value: value["position"].update(already=["00/none"]))
        each("checkpoint position", lambda value: value["position"].update(already=[], recent=value["position"]["recent"][:3]))
        each("checkpoint", lambda value: value.pop("writer"))
        each("checkpoint", lambda value: value.pop("position"))
        self.red("checkpoint", lambda topics: topics.records.pop(topics.at(f"checkpoints.{ORG}.event.Order__e")))
        foreign = f"{PREFIX}.checkpoints.{ORG}.data.AccountChangeEvent"
        self.red("stray record", lambda topics: topics.append_copy(topics.at(CHECKPOINTS), topic=foreign))

    def test_a_start_in_the_middle_owes_nothing_of_before(self):
        lines = [json.dumps(line) for line in LEDGER]
        later = ledger.read(lines, [CASES], from_replay=LEDGER[3]["replay_id"])
        self.assertEqual([event.n for event in later], [5, 6, 7, 8, 11, 12, 13])
        with self.assertRaises(ledger.LedgerError):
            ledger.read(lines, [CASES], from_replay="00")

    def test_a_ledger_that_contradicts_itself_is_refused(self):
        for lines in ([LEDGER[0], LEDGER[0]], [LEDGER[1], LEDGER[0]], [{"n": 1}]):
            with self.assertRaises(ledger.LedgerError):
                judged(Topics(), lines=lines)
        both = copy.deepcopy(LEDGER[0]) | {"topics": [CASES, ORDERS]}
        with self.assertRaises(ledger.LedgerError):
            judged(Topics(), lines=[both])


class WhatLeftRetentionUnread(unittest.TestCase):
    """Events 2 and 3 left retention while the stream stood behind event 1; an entry says so, and the stream goes on from event 4."""

    CUT = {"lines": 3, "at": "2026-02-17T05:00:00.000Z", "moved": False}

    def topics(self):
        topics = Topics(lost=(2, 3))
        entry = {"id": "refused", "state": "open", "cause": "refused", "org": ORG, "topic": CASES, "entity": None, "records": []}
        entry |= {"source": None, "opened_at": "2026-02-17T05:00:01.000Z"}
        entry |= {"from": {"replay_id": LEDGER[0]["replay_id"], "time": "2026-02-17T04:03:16.000Z"}}
        entry |= {"to": {"time": "2026-02-17T04:03:19.000Z"}}
        topics.put(f"{PREFIX}.gaps", "refused", entry, {})
        return topics

    def red(self, kind, break_it, cuts=(CUT,), **options):
        topics = self.topics()
        break_it(topics)
        self.assertIn(kind, judged(topics, cuts=cuts, **options).faults)

    def test_what_an_entry_owns_up_to_is_no_fault(self):
        report = judged(self.topics(), cuts=[self.CUT])
        self.assertEqual(report.faults, {})
        self.assertEqual(report.seen["events lost to retention, owned up to by the gap ledger"], 2)
        self.assertEqual(report.seen["entries about refused positions"], 1)

    def test_without_a_cut_it_is(self):
        self.red("missing record", lambda topics: None, cuts=())
        self.red("stray gap", lambda topics: None, cuts=())
        later = self.CUT | {"at": "2026-02-17T05:00:02.000Z"}
        self.red("missing record", lambda topics: None, cuts=[later])
        self.red("stray gap", lambda topics: None, cuts=[later])
        self.red("missing record", lambda topics: None, cuts=[self.CUT | {"lines": 2}])

    def test_an_event_beside_the_range_is_missing(self):
        for nth in (0, -1):
            self.red("missing record", lambda topics: topics.records.pop(topics.at("Case", nth)))
        self.red("missing record", lambda topics: topics.records.pop(topics.at("Order__e")))

    def test_an_entry_has_to_tell_the_truth(self):
        def wrong(kind, change, **options):
            self.red(kind, lambda topics: topics.rewrite(topics.at("gaps", -1), change), **options)

        self.red("missing record", lambda topics: topics.records.pop(topics.at("gaps", -1)))
        self.red("doubled gap entry", lambda topics: topics.append_copy(topics.at("gaps", -1)))
        wrong("missing record", lambda value: value.update(topic=ORDERS))
        wrong("missing record", lambda value: value.update(state="closed"))
        wrong("missing record", lambda value: value["from"].update(replay_id=LEDGER[1]["replay_id"]))
        wrong("stray gap", lambda value: value["from"].update(replay_id="?"))
        wrong("gap range", lambda value: value["to"].update(time="2026-02-17T04:03:17.500Z"))
        wrong("gap range", lambda value: value["from"].update(time="2026-02-17T04:03:17.500Z"))
        wrong("wrong value", lambda value: value.update(cause="moved"))
        wrong("wrong value", lambda value: value.update(org="other"))
        wrong("wrong value", lambda value: None, cuts=[self.CUT | {"moved": True}])

    def test_the_times_of_an_entry_may_be_off_by_the_tolerance(self):
        topics = self.topics()
        topics.rewrite(topics.at("gaps", -1), lambda value: value["to"].update(time="2026-02-17T04:03:17.500Z"))
        self.assertEqual(judged(topics, cuts=[self.CUT], tolerance=1).faults, {})

    def test_half_an_event_is_never_lost_to_retention(self):
        line = LEDGER[2]
        self.red("missing record", lambda topics: topics._record(line, CASES, "update", SECOND, 1, 2))

    def test_a_position_goes_back_only_behind_what_was_refused(self):
        def back(value):
            value["position"] = {"anchor": {"earliest": {}}}

        self.red("checkpoint position", lambda topics: topics.rewrite(topics.at(CHECKPOINTS, 4), back))

    def test_the_position_of_a_keepalive_and_of_a_bus_that_began_anew_has_its_place(self):
        lines = [sent(n, "UPDATE", [FIRST], replay_id=f"{number:016x}0000") for n, number in enumerate([9000, 9004, 9013, 4000, 4007], 1)]
        bus = retention.Bus(ledger.read([json.dumps(line) for line in lines], [CASES]))
        places = {9000: 1, 9001: 1, 9012: 2, 9014: 3, 9999: 3, 4000: 4, 4006: 4, 4008: 5, 3999: 3, 8999: 0}
        self.assertEqual({number: bus.last_before(f"{number:016x}0000") for number in places}, places)

    def test_cuts_that_are_no_list_of_cuts_are_refused(self):
        for lines in (["{"], ['{"lines": 1}'], [json.dumps(self.CUT), json.dumps(self.CUT | {"lines": 1})]):
            with self.assertRaises(ledger.LedgerError):
                retention.read(lines)


class WhatJobsWrote(unittest.TestCase):
    """A run in which a job healed the overflow: SECOND was read again, FIRST found deleted, the entry closed."""

    JOB = "heal-00000000000000000007-0000"

    def healed(self):
        topics = Topics()
        for op, key, at in (("refresh", SECOND, "2026-02-17T04:03:40.000Z"), ("delete", FIRST, "2026-02-17T04:03:41.000Z")):
            value = {"op": op, "entity": "Case", "id": key, "changed": {}, "record": None, "record_as_of": at, "record_from": "rest"}
            value["source"] = {"org": ORG, "topic": CASES, "job": self.JOB}
            headers = {"casewire": "1", "content-type": "application/json", "entity": "Case", "op": op, "org": ORG}
            if op == "refresh":
                value |= {"record": {"Id": key, "Status": "New", "Site": {"City": "Bonn"}}}
            topics.put(f"{PREFIX}.Case", key, value, headers)
        entry = json.loads(topics.records[topics.at("gaps", 1)].value)
        entry |= {"state": "healed", "rows_reread": 1, "deletes_found": 1, "unread": [], "closed_by": "r1"}
        topics.put(f"{PREFIX}.gaps", entry["id"], entry | {"closed_at": "2026-02-17T04:04:00.000Z"}, {})
        return topics

    def faults(self, topics):
        events = ledger.read([json.dumps(line) for line in LEDGER], [CASES, ORDERS])
        records = sorted(topics.records, key=lambda record: (record.topic, record.partition, record.offset))
        return verdict.judge(events, records, PREFIX, ORG, [CASES, ORDERS])[0]

    def red(self, kind, change, at=None, nth=-2):
        topics = self.healed()
        change(topics, topics.at("Case", nth) if at is None else at)
        self.assertIn(kind, self.faults(topics).faults)

    def test_what_a_job_wrote_is_no_fault(self):
        report = self.faults(self.healed())
        self.assertEqual(report.faults, {})
        self.assertEqual((report.seen["records of jobs"], report.seen["gaps healed"]), (2, 1))

    def test_records_of_jobs(self):
        def rewritten(kind, change, nth=-2):
            self.red(kind, lambda topics, at: topics.rewrite(at, change), nth=nth)

        rewritten("wrong job record", lambda value: value.update(op="update"))
        rewritten("wrong job record", lambda value: value.update(id=FIRST))
        rewritten("wrong job record", lambda value: value.update(changed={"Status": "New"}))
        rewritten("wrong job record", lambda value: value.update(record=None))
        rewritten("wrong job record", lambda value: value["record"].update(attributes={}))
        rewritten("wrong job record", lambda value: value.update(record_from="event"))
        rewritten("wrong job record", lambda value: value["source"].update(org="00D"))
        rewritten("wrong job record", lambda value: value["source"].update(topic="/data/AccountChangeEvent"))
        rewritten("wrong job record", lambda value: value.pop("record_as_of"), nth=-1)
        rewritten("wrong job record", lambda value: value["source"].update(committed_at=value["record_as_of"]), nth=-1)
        rewritten("stray record", lambda value: value["source"].pop("job"))
        rewritten("late job record", lambda value: value.update(record_as_of="2026-02-17T04:03:20.000Z"))
        rewritten("late job record", lambda value: value.update(record_as_of="2026-02-17T04:03:25.000Z"), nth=-1)
        self.red("wrong job record", lambda topics, at: topics.change(at, headers={}))
        self.red("doubled job record", lambda topics, at: topics.append_copy(at))
        self.red("split key", lambda topics, at: topics.change(at, partition=1))

    def snapshot(self, op="read", job="snapshot-00000000000000000009-0000", source=CASES):
        """A record that no event ever told of, read by a snapshot."""
        topics, key = self.healed(), "5008d000000047ZAAQ"
        value = {"op": op, "entity": "Case", "id": key, "changed": {}, "record": {"Id": key, "Status": "New"}}
        value |= {"record_as_of": "2026-02-16T04:03:40.000Z", "record_from": "bulk"}
        value["source"] = {"org": ORG, "topic": source, "job": job}
        headers = {"casewire": "1", "content-type": "application/json", "entity": "Case", "op": op, "org": ORG}
        topics.put(f"{PREFIX}.Case", key, value, headers)
        return topics

    def test_a_snapshot_reads_what_no_event_told(self):
        report = self.faults(self.snapshot())
        self.assertEqual(report.faults, {})
        self.assertEqual(report.seen["records of snapshots"], 1)
        self.assertIn("wrong job record", self.faults(self.snapshot(op="refresh")).faults)
        self.assertIn("wrong job record", self.faults(self.snapshot(job=self.JOB)).faults)
        self.assertIn("wrong job record", self.faults(self.snapshot(source="/data/AccountChangeEvent")).faults)
        twice = self.snapshot()
        twice.append_copy(twice.at("Case", -1))
        self.assertIn("doubled job record", self.faults(twice).faults)

    def test_a_row_that_undoes_what_stands_before_it_is_found(self):
        def modified(topics, at):
            topics.rewrite(topics.at("Case", -1), lambda value: value["record"].update(LastModifiedDate=f"2026-02-16T04:03:{at}.000Z"))

        for second, faults in (("38", set()), ("40", set()), ("37", {"back in time"})):
            topics = self.snapshot()
            modified(topics, "38")
            topics.append_copy(topics.at("Case", -1))
            topics.rewrite(topics.at("Case", -1), lambda value: value["source"].update(job="snapshot-00000000000000000019-0000"))
            modified(topics, second)
            self.assertEqual(set(self.faults(topics).faults), faults, second)

    def beside(self, *names, entity="Conversation"):
        """A record that was read beside messages, as often as it has had another name."""
        topics, key = self.healed(), "0dw8d0000000001AAA"
        headers = {"casewire": "1", "content-type": "application/json", "entity": entity, "op": "refresh", "org": ORG}
        for second, name in enumerate(names):
            value = {"op": "refresh", "entity": entity, "id": key, "changed": {}, "record": {"Id": key, "Name": name}}
            value |= {"record_as_of": f"2026-02-17T04:03:4{second}.000Z", "record_from": "rest"}
            value["source"] = {"org": ORG, "topic": CASES, "job": "messages"}
            topics.put(f"{PREFIX}.{entity}", key, value, headers)
        return self.faults(topics)

    def test_records_beside_messages_stand_there_when_they_changed(self):
        report = self.beside("a", "b", "a")
        self.assertEqual(report.faults, {})
        self.assertEqual(report.seen["records beside messages"], 3)
        self.assertIn("doubled job record", self.beside("a", "b", "b").faults)
        self.assertIn("stray job record", self.beside("a", entity="Contact").faults)

    def test_an_entry_about_messages_names_a_session_or_a_conversation_and_ends(self):
        entry = {"v": 1, "id": "messages-1", "state": "open", "cause": "unread", "org": ORG, "topic": CASES, "entity": "ConversationEntry"}
        entry |= {"records": ["36b0f4d9-7c14-43dc-bb9e-7713a4930df0"], "from": {}, "to": {}, "detail": "why", "source": None}
        entry |= {"opened_at": "2026-02-17T04:04:00.000Z", "opened_by": "r1"}
        closed = entry | {"state": "healed", "rows_reread": 0, "deletes_found": 0, "unread": [], "closed_at": "2026-02-17T04:05:00.000Z", "closed_by": "r1"}
        for kind, values in (
            (None, (entry, closed)),
            ("stray gap", (entry | {"id": "event-1"},)),
            ("stray gap", (entry | {"detail": ""},)),
            ("stray gap", (closed,)),
            ("wrong value", (entry, closed | {"state": "given_up"})),
        ):
            topics = self.healed()
            for value in values:
                topics.put(f"{PREFIX}.gaps", value["id"], value, {})
            found = self.faults(topics).faults
            self.assertTrue(kind in found if kind else found == {}, found)

    def test_a_job_without_a_gap_is_found(self):
        topics = self.healed()
        topics.records = [record for record in topics.records if record.topic != f"{PREFIX}.gaps"]
        self.assertIn("stray job record", self.faults(topics).faults)

    def compared(self, **more):
        """The same run without the overflow: a comparison named the records that the job wrote."""
        topics = self.healed()
        value = {"id": "reconciled-1", "state": "open", "cause": "reconciled", "org": ORG, "topic": CASES, "entity": "Case"}
        value |= {"records": [SECOND, FIRST], "absent": [FIRST], "known": {FIRST: "2026-02-17T04:03:26.000Z"}, "held": 2}
        value |= {"detail": "why", "source": None, "opened_at": "2026-02-17T04:03:39.000Z", "compared_at": "2026-02-17T04:03:38.000Z"} | more
        topics.put(f"{PREFIX}.gaps", value["id"], value, {})
        closed = {"state": "healed", "rows_reread": 1, "deletes_found": 1, "unread": [], "closed_by": "r1"}
        topics.put(f"{PREFIX}.gaps", value["id"], value | closed | {"closed_at": "2026-02-17T04:04:00.000Z"}, {})
        return topics

    def test_what_a_comparison_asked_for(self):
        report = self.faults(self.compared())
        self.assertEqual(report.faults, {})
        self.assertEqual((report.seen["entries of comparisons"], report.seen["gaps healed"]), (1, 2))
        self.assertEqual(self.faults(self.compared(absent=[], known={})).faults, {})
        for wrong in (
            {"org": "00D"}, {"entity": None}, {"detail": ""}, {"opened_at": "now"}, {"compared_at": None}, {"compared_at": "2026-02-17T04:03:40.000Z"}, {"records": None}, {"records": [FIRST, FIRST]},
            {"records": ["500*"], "absent": [], "known": {}}, {"absent": ["5008d000000099TAAQ"]}, {"absent": None}, {"known": {}},
            {"known": {FIRST: "soon"}}, {"known": {FIRST: "2026-02-17T04:03:26.000Z", "5008d000000099TAAQ": "2026-02-17T04:03:26.000Z"}},
            {"held": 0}, {"held": None}, {"source": {"event_id": "e1"}},
        ):  # fmt: skip
            self.assertIn("wrong value", self.faults(self.compared(**wrong)).faults, wrong)

    def test_a_record_that_no_gap_names_is_found(self):
        def only_compared(records, **more):
            topics = self.compared(records=records, **more)
            entries = [record for record in topics.records if record.topic == f"{PREFIX}.gaps"]
            others = [record for record in entries if record.key != "reconciled-1"]
            topics.records = [record for record in topics.records if record not in others]
            return self.faults(topics).faults.get("stray job record", [])

        self.assertEqual(only_compared([SECOND, FIRST]), [])
        self.assertEqual(len(only_compared([SECOND], absent=[], known={})), 1)
        self.assertEqual(only_compared([], absent=[], known={}), [], "all records that were changed since then")

    def test_ends_of_gaps(self):
        def rewritten(kind, change):
            self.red(kind, lambda topics, at: topics.rewrite(topics.at("gaps", -1), change))

        for name in ("rows_reread", "deletes_found", "unread", "closed_at", "closed_by"):
            rewritten("wrong value", lambda value: value.pop(name))
        rewritten("wrong value", lambda value: value.update(cause="wildcard"))
        rewritten("wrong value", lambda value: value.update(state="given_up"))
        rewritten("wrong value", lambda value: value.update(unread=[FIRST]))
        rewritten("stray gap", lambda value: value.update(state="forgotten"))
        self.red("stray gap", lambda topics, at: topics.change(topics.at("gaps", -1), key="another"))

    def test_the_truth(self):
        lines = [
            {"id": SECOND, "deleted": False, "fields": {"Status": "New", "Site": {"City": "Bonn"}}},
            {"id": FIRST, "deleted": True, "fields": {}},
        ]

        def faults(lines):
            report = self.faults(self.healed())
            jobs.truth(report, report.states, [json.dumps(line) for line in lines], PREFIX, "Case")
            return report.faults

        self.assertEqual(faults(lines), {})
        for change in ({"deleted": True}, {"fields": {"Status": "Old", "Site": {"City": "Bonn"}}}, {"fields": {"Status": "New"}}):
            self.assertIn("not the truth", faults([lines[0] | change, lines[1]]))
        self.assertIn("not the truth", faults([lines[0], lines[1] | {"deleted": False}]))
        self.assertIn("not the truth", faults(lines[1:]))
        self.assertIn("not the truth", faults([*lines, lines[0] | {"id": "5008d000000047UAAQ"}]))


class LettersThatWereRedriven(unittest.TestCase):
    """Event 8 cannot be decoded, and its object was read anew; event 7 could not, and its record was; event 9 is a
    platform event that was put away and is written now."""

    JOB = "heal-00000000000000000009-0000"
    WHOLE, NAMED, EVENT = (f"{LEDGER[n - 1]['replay_id']}-e{n}" for n in (8, 7, 9))

    def letter(self, topics, n):
        line = LEDGER[n - 1]
        headers = {name: line[name] for name in ("replay_id", "event_id", "schema_id")}
        headers |= {"casewire": "1", "org": ORG, "topic": line["topics"][0], "reason": "no schema"}
        topics.put(f"{PREFIX}.dead-letters", f"{line['replay_id']}-e{n}", {"raw": 1}, headers)

    def entry(self, topics, letter, n, records, state="healed"):
        line = LEDGER[n - 1]
        entry = {"id": f"letter-{letter}", "state": "open", "cause": "redriven", "org": ORG, "topic": line["topics"][0]}
        entry |= {"entity": line["entity"], "records": records, "source": None, "letter": letter}
        topics.put(f"{PREFIX}.gaps", entry["id"], entry, {})
        closed = {"rows_reread": 1, "deletes_found": 0, "unread": [], "closed_by": "r1", "closed_at": "2026-02-17T04:04:00.000Z"}
        if state != "open":
            topics.put(f"{PREFIX}.gaps", entry["id"], entry | closed | {"state": state}, {})

    def redriven(self):
        topics = Topics()
        topics.change(topics.at("dead-letters"), key=self.WHOLE)
        event = topics.records.pop(topics.at("Order__e"))
        topics.records.pop(topics.at("Case", 6))
        for n in (7, 9):
            self.letter(topics, n)
        for letter, n, records in ((self.WHOLE, 8, []), (self.NAMED, 7, [FIRST]), (self.EVENT, 9, [])):
            self.entry(topics, letter, n, records)
        topics.put(event.topic, event.key, json.loads(event.value), event.headers | {"redriven_from": self.EVENT})
        for letter, op, key in ((self.WHOLE, "refresh", SECOND), (self.NAMED, "delete", FIRST)):
            value = {"op": op, "entity": "Case", "id": key, "changed": {}, "record": None}
            value |= {"record_as_of": "2026-02-17T04:03:40.000Z", "record_from": "rest"}
            value["source"] = {"org": ORG, "topic": CASES, "job": self.JOB}
            value |= {"record": {"Id": key, "Status": "New"}} if op == "refresh" else {}
            headers = {"casewire": "1", "content-type": "application/json", "entity": "Case", "op": op, "org": ORG}
            topics.put(f"{PREFIX}.Case", key, value, headers | {"redriven_from": letter})
        return topics

    def faults(self, topics):
        events = ledger.read([json.dumps(line) for line in LEDGER], [CASES, ORDERS])
        records = sorted(topics.records, key=lambda record: (record.topic, record.partition, record.offset))
        return verdict.judge(events, records, PREFIX, ORG, [CASES, ORDERS])[0]

    def red(self, kind, break_it):
        topics = self.redriven()
        break_it(topics)
        self.assertIn(kind, self.faults(topics).faults)

    def test_what_was_redriven_is_no_fault(self):
        report = self.faults(self.redriven())
        self.assertEqual(report.faults, {})
        self.assertEqual((report.seen["records redriven"], report.seen["gaps healed"], report.seen["dead letters"]), (2, 3, 3))

    def test_a_letter_that_is_under_way_is_not_owed_yet_and_one_that_was_given_up_may_be_redriven_again(self):
        topics = self.redriven()
        topics.records.pop(topics.at("Order__e"))
        topics.records.pop(topics.at("gaps", -1))
        report = self.faults(topics)
        self.assertEqual((report.faults, report.seen["gaps open"]), ({}, 5))
        topics = self.redriven()
        topics.rewrite(topics.at("gaps", -1), lambda value: value.update(state="given_up", unread=[self.EVENT]))
        event = topics.records.pop(topics.at("Order__e"))
        self.assertEqual(self.faults(topics).faults, {})
        self.entry(topics, self.EVENT, 9, [])
        topics.put(event.topic, event.key, json.loads(event.value), event.headers)
        self.assertEqual(self.faults(topics).faults, {})

    def test_platform_events(self):
        at = self.redriven().at("Order__e")
        self.red("missing record", lambda topics: topics.records.pop(at))
        self.red("doubled record", lambda topics: topics.append_copy(at))
        self.red("wrong value", lambda topics: topics.change(at, headers={k: v for k, v in topics.records[at].headers.items() if k != "redriven_from"}))
        self.red("wrong value", lambda topics: topics.rewrite(at, lambda value: value["changed"].update(Number__c="4712")))

    def test_change_events(self):
        original = Topics().records[Topics().at("Case", 6)]
        self.red("stray record", lambda topics: topics.put(original.topic, original.key, json.loads(original.value), original.headers))
        row = self.redriven().at("Case", -2)
        headers = self.redriven().records[row].headers
        self.red("wrong job record", lambda topics: topics.change(row, headers=headers | {"redriven_from": "00-e1"}))
        self.red("wrong job record", lambda topics: topics.change(row, headers=headers | {"redriven_from": self.EVENT}))

    def test_letters_and_their_entries(self):
        def without(topics, letter):
            topics.records = [record for record in topics.records if record.key != f"letter-{letter}"]

        self.red("stray letter", lambda topics: without(topics, self.EVENT))
        self.red("stray letter", lambda topics: without(topics, self.NAMED))
        self.red("missing record", lambda topics: without(topics, self.NAMED))
        self.red("doubled letter", lambda topics: topics.append_copy(topics.at("dead-letters", 1)))
        self.red("doubled gap entry", lambda topics: self.entry(topics, self.EVENT, 9, [], "open"))
        self.red("stray gap", lambda topics: self.entry(topics, "00-e1", 8, []))
        self.red("stray gap", lambda topics: topics.change(topics.at("gaps", -2), key="another"))
        for name in ("org", "topic", "entity", "records", "source"):
            self.red("wrong value", lambda topics: topics.rewrite(topics.at("gaps", -4), lambda value: value.update({name: "other"})))
        self.red("wrong value", lambda topics: topics.rewrite(topics.at("gaps", -1), lambda value: value.update(records=["e9"])))


class TheFoldOfThePage(unittest.TestCase):
    def test_a_stale_field_is_found(self):
        topics = Topics()
        topics.rewrite(topics.at("Case", 1), lambda value: value.pop("unresolved"))
        self.assertIn("fold", judged(topics).faults)
        topics = Topics()
        topics.records.pop(topics.at("Case", 4))  # the gap of SECOND
        self.assertIn("fold", judged(topics).faults)

    def test_every_example_of_the_page_is_json_and_folds(self):
        page = fold.from_the_page()
        blocks = re.findall(r"^```json\n(.*?)^```", fold.PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        changes = [block for block in map(json.loads, blocks) if "op" in block and "conversation" not in block]
        operations = {change["op"] for change in changes}
        self.assertEqual(operations, {"create", "update", "delete", "undelete", "read", "refresh", "gap", "event"})
        for change in changes:
            state = page["fold"](page["State"](), change)
            self.assertEqual(state.exists, {"delete": False, "gap": None, "event": None}.get(change["op"], True), change["op"])

    def test_changes_apply_in_their_order_whatever_the_second_that_a_server_stamps_on_them(self):
        page = fold.from_the_page()
        state = page["State"]()
        for second, status in ((4, "Working"), (3, "Closed")):
            source = {"committed_at": f"2026-11-22T10:15:{second:02d}.000Z"}
            state = page["fold"](state, {"op": "update", "changed": {"Status": status}, "record": None, "source": source})
        self.assertEqual(state.value("Status"), "Closed")

    def test_what_was_read_skips_the_changes_that_it_has_already(self):
        page = fold.from_the_page()

        def change(op, second, **more):
            source = {"committed_at": f"2026-11-22T10:15:{second:02d}.000Z"} | more.pop("source", {})
            return {"op": op, "changed": {"Status": "Old"}, "record": None, "source": source} | more

        state = page["fold"](page["State"](), change("refresh", 0, source={"committed_at": None}, record={"Status": "New"}, record_as_of="2026-11-22T10:15:09.000Z"))
        for older in ("update", "delete", "create", "gap"):
            kept = page["fold"](state, change(older, 8))
            self.assertEqual((kept.exists, kept.value("Status"), kept.as_of[-2:]), (True, "New", "09"), older)
        found = {"source": {"job": "heal-1", "committed_at": None}, "record_as_of": "2026-11-22T10:15:11.000Z"}
        gone = page["fold"](state, change("delete", 11, **found))
        self.assertEqual(page["fold"](gone, change("update", 10)).exists, False, "the delete was found by reading")
        self.assertEqual(page["fold"](gone, change("undelete", 11)).exists, True)

    def test_a_full_record_beats_what_is_older_and_equal_seconds_apply(self):
        page = fold.from_the_page()
        State, run = page["State"], page["fold"]

        def change(op, second, changed=None, record=None, as_of=None, **more):
            source = {"committed_at": f"2026-11-22T10:15:{second:02d}.000Z"}
            read = {"record": record, "record_as_of": as_of and f"2026-11-22T10:15:{as_of:02d}.500Z"}
            return {"op": op, "changed": changed or {}, "source": source} | (read if record else {"record": None}) | more

        state = run(State(), change("update", 3, {"Status": "Working"}))
        self.assertEqual((state.value("Status"), state.value("Subject") is page["UNKNOWN"]), ("Working", True))
        state = run(state, change("refresh", 9, record={"Status": "Closed", "Address": {"City": "Bonn", "Zip": "53111"}}, as_of=9))
        self.assertEqual((state.value("Subject"), state.value("Address.City")), (None, "Bonn"))
        state = run(state, change("update", 8, {"Status": "Working"}))
        self.assertEqual(state.value("Status"), "Closed", "the record was read after this change")
        state = run(state, change("update", 9, {"Status": "New", "Address": {"City": "Köln"}}, unresolved=["Description"]))
        self.assertEqual((state.value("Status"), state.value("Address.City"), state.value("Address.Zip")), ("New", "Köln", "53111"))
        self.assertIs(state.value("Description"), page["UNKNOWN"])
        state = run(state, change("update", 10, {"Address": None, "Description": "short"}))
        self.assertEqual((state.value("Address.Zip"), state.value("Description")), (None, "short"))
        self.assertEqual(run(state, change("delete", 8)).value("Description"), "short", "restored when it was read")
        gone = run(state, change("delete", 11) | {"record_as_of": "2026-11-22T10:15:14.000Z"})
        for older in (change("update", 13, {"Status": "New"}), change("delete", 12)):
            self.assertIs(run(gone, older).exists, False, "found deleted when it was read")
        self.assertIs(run(gone, change("undelete", 15)).exists, True)
        state = run(state, change("gap", 11))
        self.assertIs(state.value("Status"), page["UNKNOWN"])
        self.assertIs(run(state, change("delete", 12)).exists, False)
