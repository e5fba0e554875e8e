#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets into fuzz/corpus/, under names that tell what they are, and the dictionaries.

They are made up here, not captured. What stands beside them under a digest for a name was found by `scripts/fuzz --keep`.
"""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent


def long(value):
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(0x80 | (rest & 0x7F))
        rest >>= 7
    return bytes(encoded) + bytes([rest])


def text(value):
    return long(len(value.encode())) + value.encode()


def texts(values):
    return (long(len(values)) + b"".join(map(text, values)) if values else b"") + b"\0"


def update(nulled, diff, changed, body):
    header = text("Sample") + texts(["500000000000001AAA"]) + b"\x02" + text("") + text("key")
    numbers = long(1) + long(1771300995000) + long(12279648331300)
    return header + numbers + text("user") + texts(nulled) + texts(diff) + texts(changed) + body


def field(avro, doc="Data:Text"):
    schema = {"type": "record", "name": "Sample__e", "fields": [{"name": "f", "type": avro, "doc": doc}]}
    return json.dumps(schema, separators=(",", ":"))


def write(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def event(schema, payload):
    return struct.pack(">H", len(schema.encode())) + schema.encode() + payload


change_event = json.dumps(json.loads((HERE / "fuzz_targets" / "bitmap.avsc").read_text()), separators=(",", ":"))
street = b"\x02\x02" + text("s") + b"\0"
events = {
    "update": (change_event, update([], [], ["0x04"], b"\0\x02" + text("New") + b"\0")),
    "nested": (change_event, update(["3-0x02"], [], ["3-0x03"], b"\0\0" + street)),
    "diff": (change_event, update([], ["0x04"], ["0x04"], b"\0\x02" + text("--- \n+++ ab") + b"\0")),
    "person": (change_event, update([], [], ["1-0x01"], b"\x04\x02" + text("Ada") + b"\0\0\0")),
    "date_time": (field(["null", "long"], "Data:DateTime"), b"\x02" + long(1771300995000)),
    "multi_select": (field(["null", "string"], "Data:MultiEnum"), b"\x02" + text("A;B")),
    "number": (field("double"), struct.pack("<d", 37.793113)),
    "array": (field({"type": "array", "items": "null"}), long(-3) + long(0) + b"\0"),
    "map": (field({"type": "map", "values": "bytes"}), long(1) + text("k") + text("b") + b"\0"),
    "recursion": (field(["null", "Sample__e"]), b"\x02\x02\0"),
    "decimal": (field({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}), text("\x04R")),
}
for name, (schema, payload) in events.items():
    write("decode", name, event(schema, payload))

lists = {
    "top": "0x04\n\n\n\n",
    "nested": "0x04\n3-0x03\n\n3-0x02\n\n",
    "diff": "0x04\n\n\n\n0x04",
    "long": "0x100000000000800000\n6-0x0180\n\n\n\n",
}
for name, value in lists.items():
    write("bitmap", name, value.encode())

at = "2026-02-17T04:03:15Z"
writer = {"run_id": "c604fa9c", "host": "h", "version": "0.1.0"}
keys = ["0001/a", "0001/sha256:00112233445566778899aabbccddeeff"]
positions = {
    "after": {"anchor": {"after": "00000000001790510000"}, "already": keys, "recent": ["0000/b"], "time": at},
    "earliest": {"anchor": {"earliest": {"since": at}}, "time": None, "repeats_until": at},
    "latest": {"anchor": {"latest": {"since": "2026-02-17T05:03:15.123456789+01:00"}}, "time": None},
}
for name, position in positions.items():
    record = {"v": 1, "seq": 7, "position": position, "writer": writer, "committed_at": at, "event_count": 12}
    if name == "after":
        record |= {"instance_url": "https://example.my.salesforce.com", "jobs": {"snapshot": {"after": 1.5e300}}}
    write("checkpoint", name, json.dumps(record, separators=(",", ":")).encode())
write("checkpoint", "version", b'{"v":2,"position":"unheard of"}')
write("checkpoint", "course", bytes(range(1, 120)))

shortest = """[salesforce]
username = "integration@example.com"
client_id = "3MVG9"
[[stream]]
topic = "/data/CaseChangeEvent"
start = "earliest"
[kafka]
brokers = "127.0.0.1:9092"
"""
variables = """
%
BATCH__MAX_RECORDS=7
STREAM__0__TOMBSTONES=true
STREAM__1__TOPIC=/event/A__e
STREAM__1__START=latest
KAFKA__PROPERTIES__COMPRESSION_TYPE=zstd
BATCH__MAX_AGE=1ms"""
everything = """create_topics = false
[batch]
max_bytes = 4096
[buffer]
max_events = 100
[admin]
listen = '127.0.0.1:1'
[log]
filter = 'casewire=debug'
format = 'json'
[salesforce.pubsub]
endpoint = 'http://127.0.0.1:7443'
"""
secret = "[salesforce]\nclient_secret = 's'\nlogin_url = 'https://a.my.salesforce.com'"
faults = "surprise = 1\n[salesforce]\nsandbox = 'yes'\n[[stream]]\ntopic = 7\n[kafka]\npartitions = -1\n"
configurations = {
    "shortest": shortest,
    "variables": shortest + variables,
    "properties": shortest + '[kafka.properties]\n"sasl.password" = "x"\n"linger.ms" = 5\n"a b" = true\nf = 1.5\n',
    "secret": shortest.replace("[salesforce]", secret),
    "everything": "shutdown_timeout = '1min'\n" + shortest + everything,
    "faults": faults,
}
for name, file in configurations.items():
    write("configuration", name, file.encode())

identity = "https://login.salesforce.com/id/00D8d00000AbCdEEAV/0058d000004XyZaAAK"
granted = {"access_token": "00D8d!AQ0AQtoken", "instance_url": "https://a.my.salesforce.com", "id": identity}
prefix = "sfdc.platform.eventbus.grpc."
# Who answers, the status as a place in the target's list or a gRPC code, the body.
answers = {
    "granted": (0, 0, json.dumps(granted)),
    "token_elsewhere": (0, 0, json.dumps(granted | {"access_token": "another", "instance_url": "00D8d!AQ0AQtoken"})),
    "token_misplaced": (0, 0, json.dumps(granted | {"instance_url": "00D8d!AQ0AQtoken"})),
    "invalid_grant": (0, 5, '{"error":"invalid_grant","error_description":"user hasn\'t approved this consumer"}'),
    "echo": (0, 5, '{"error":"invalid_grant","error_description":"bad eyJhbGciOiJSUzI1NiJ9.assertion"}'),
    "rate": (0, 5, '{"error":"rate_limit_exceeded"}'),
    "html": (0, 14, "<html><title>Maintenance</title></html>"),
    "rest": (1, 6, '[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]'),
    "rest_limit": (1, 7, '[{"message":"TotalRequests Limit exceeded.","errorCode":"REQUEST_LIMIT_EXCEEDED"}]'),
    "replay_id": (2, 3, prefix + "subscription.fetch.replayid.corrupted\nThe Replay ID validation failed. rpcId: 1"),
    "auth": (2, 16, prefix + "service.auth.error\nAn authentication exception occurred."),
    "unavailable": (2, 13, prefix + "service.unavailable\nThe service is unavailable. Try again later."),
    "allocation": (2, 8, prefix + "subscription.limit.exceeded\nYou have exceeded the event delivery limit."),
    "transport": (2, 14, "\nupstream connect error or disconnect/reset before headers"),
}
for name, (who, status, body) in answers.items():
    write("answers", name, bytes([who, status]) + body.encode())

allowance = {"Max": 250000, "Remaining": -3, "Ant Migration Tool": {"Max": 0, "Remaining": 0}}
bodies = {
    "limits": (0, json.dumps({"DailyDeliveredPlatformEvents": allowance, "DailyApiRequests": allowance})),
    "limits_text": (0, '{"DailyApiRequests":{"Max":"cOnTenT","Remaining":1}}'),
    "limits_null": (0, '{"DailyApiRequests":null,"Other":1e400}'),
    "record": (1, '{"attributes":{"type":"Case"},"Id":"500A","SystemModstamp":"2026-02-17T04:03:15.000+0000"}'),
    "record_number": (1, '{"Id":7,"SystemModstamp":["cOnTenT"]}'),
    "two": (1, '{"Id":"a"}{"Id":"b"}'),
}
for name, (resource, body) in bodies.items():
    write("rest", name, bytes([resource]) + body.encode())

# Bodies of pages of a Bulk query job; the first byte says that they are that.
columns = "Id,IsDeleted,SystemModstamp,Subject,Topics__c,Flag__c,Count__c,Amount__c,At__c,Day__c,Clock__c,ParentId"
columns += ",FirstName,LastName,Name,BillingCity,BillingLatitude"
record = "500000000000001AAA,false,2026-02-17T04:03:15.000Z,plain,A;B,true,7,1.5e-7,1771300995000,2026-02-17,04:03:15.000Z"
record += ",500000000000002,Ada,Lovelace,Ada Lovelace,,50.9"
pages = {
    "page": f"{columns}\n{record}\n{record}\n",
    "quoted": columns.replace(",", '","').join('""') + "\r\n" + record.replace(",", '","').join('""') + "\r\n",
    "line_breaks": f"{columns}\n{record}\n".replace("plain", '"a ""b"",\r\nc"'),
    "not_a_number": f"{columns}\n{record}\n".replace(",7,", ",cOnTenT,"),
    "no_id": f"{columns}\n{record}\n".replace("\n500000000000001AAA", "\ncOnTenT and more"),
    "no_column": f"{columns}\n{record}\n".replace("Subject", "Object"),
    "short_row": f"{columns}\n{record[:-9]}\n",
    "names_alone": f"\ufeff{columns}\n",
    "open_quote": f"{columns}\n{record}\n".replace("plain", '"plain'),
    "not_utf8": f"{columns}\n{record}\n".replace("plain", "\xfc"),
}
for name, body in pages.items():
    write("bulk_csv", name, b"\1" + body.encode("latin-1" if name == "not_utf8" else "utf-8"))

said = {"identifier": "e-1", "clientTimestamp": 4, "sender": {"role": "EndUser", "appType": "chat", "subject": "s"}}
over_connect = said | {"serverReceivedTimestamp": 6, "messageText": "cOnTenT", "relatedRecords": ["0Mw8d0000000001AAA"]}
payload = {"entryType": "Message", "abstractMessage": {"staticContent": {"formatType": "Text", "text": "cOnTenT"}}}
over_data = said | {"transcriptedTimestamp": 5, "entryType": "Message", "entryPayload": payload}
choices = {"abstractMessage": {"choices": {"text": "Which?", "optionItems": []}}}


def conversation(*entries, token=None):
    return json.dumps({"conversationEntries": entries, "nextPageToken": token}, separators=(",", ":"))


# Which API, from when to when and behind which token, as a byte; the answer.
conversations = {
    "connect": (1, conversation(over_connect, {"identifier": "a", "clientTimestamp": 1})),
    "data": (0, conversation(over_data, over_data | {"identifier": "b", "entryPayload": choices}, token="t2")),
    "repeated": (1, conversation(over_connect, over_connect, over_connect | {"serverReceivedTimestamp": 3})),
    "within": (2 | 8, conversation(over_connect, over_data | {"transcriptedTimestamp": 99})),
    "circle": (16, conversation(over_data, token="t1")),
    "default_page": (1, conversation(*[{"identifier": f"{n}", "clientTimestamp": n // 5} for n in range(25)])),
    "no_time": (1, conversation({"identifier": "a", "messageText": "cOnTenT"})),
    "no_identifier": (1, conversation({"identifier": "", "clientTimestamp": 1})),
    "text_for_time": (0, conversation({"identifier": "a", "clientTimestamp": "cOnTenT"})),
    "empty": (1, conversation()),
}
for name, (choice, answer) in conversations.items():
    write("conversation_entries", name, bytes([choice << 1 | 1]) + answer.encode())

digest = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
talk = {"cursor": 1790000000000, "floor": 1789913600000, "known": {"e-1": [1790000000000, digest], "e-2": [7, ""]}}
talk |= {"open": ["0Mw8d0000000001AAA"], "final_at": 1, "asked_at": 2, "sweep_every": 60000, "in_vain_since": at}
talk |= {"entry": {"id": "messages-1", "state": "open"}, "over_data_api": True, "records": {"0dw1": digest}}
trigger = {"session": "0Mw8d0000000001AAA", "reason": "event", "since": at}
listed = {"found_at": at, "sessions": [["0Mw8d0000000002AAA", 1771300995], ["0Mw8d0000000003AAA", 1771300000]]}
history_list = "history/67e55044-10b1-426f-9247-bb680e5fe0c8"


def line(key, value):
    return f"{key} {json.dumps(value, separators=(',', ':'))}\n"


stored = {
    "conversation": line("conversation/36b0f4d9-7c14", talk) + line("conversation/new", {"cursor": 0}),
    "conversation_of_others": line("conversation/a", {"cursor": "cOnTenT"}) + line("conversation/b", {"known": {"e": [1]}}),
    "trigger": line("trigger/0Mw8d0000000001AAA", trigger) + line("trigger/0Mw8d0000000002AAA", trigger),
    "trigger_told": line("trigger/0Mw8d0000000001AAA", trigger | {"entry": {"id": "x"}}) + line("trigger/x", "cOnTenT"),
    "list": line(history_list, listed) + line(f"{history_list}/done", 1),
    "list_done": line(history_list, listed) + line(f"{history_list}/done", 2**64 - 1) + line(history_list.upper(), listed),
    "poll": line("poll/CaseComment", {"from": at}) + line("poll/Account", {"from": "cOnTenT"}) + line("poll/User", {}),
}
for name, lines in stored.items():
    write("kept", name, b"\0" + lines.encode())
heals = {"entity": "Case", "heals": ["gap"], "opened_at": at, "told_at": at, "whole": True, "listing": {"after": "500A"}}
bulk = {"job": {"id": "750A", "version": "66.0"}, "marker": 7, "created_at": at, "found": 9, "dealt": 2, "before": 3}
taken = {"entity": "Case", "heals": ["a"], "opened_at": at, "whole": True, "listing": {}}
jobs = {
    "single": {"heal-1-0": {"entity": "Case", "heals": ["gap"], "opened_at": at, "ids": ["500A"], "gone": ["500A"]}},
    "whole": {"heal-1-0": heals | {"known": {"500A": 7}, "deleted": {"500A": -1}, "held": 5}},
    "bulk": {"snapshot-1-0": heals | {"heals": [], "bulk": bulk, "passes": 1, "snapshot": {"expected": 9}}},
    "part": {"snapshot-1-0": heals | {"snapshot": {"since": at, "condition": "A = 1", "include_deleted": True}}},
    "two": {"heal-1-0": taken, "heal-2-0": taken | {"heals": ["b"], "compared_at": at}, "other": {"cOnTenT": [1]}},
    "most": {"heal-1-0": taken | {"rows": 2**64 - 1, "opened_at": "-262143-01-01T00:00:00Z"}},
}
for name, members in jobs.items():
    write("kept", f"jobs_{name}", b"\1" + json.dumps(members, separators=(",", ":")).encode())
gap = {"id": "gap", "state": "open", "cause": "x", "topic": "/data/CaseChangeEvent", "entity": None, "records": []}
one = {"entity": "Case", "records": ["5008d000000047SAAQ"], "to": {"time": at}, "source": {"replay_id": "00"}}
found = {"cause": "reconciled", "absent": ["5008d000000047SAAQ"], "known": {"5008d000000047SAAQ": at}, "held": 7}
gaps = {
    "range": (0, gap | {"from": {"time": at}, "opened_at": at}),
    "records": (0, gap | one),
    "wildcard": (0, gap | one | {"records": ["500*"]}),
    "reconciled": (0, gap | one | found | {"compared_at": at}),
    "letter": (0, gap | one | {"letter": "00-e1", "deleted": ["5008d000000047SAAQ", "5008d000000047TAAQ"]}),
    "channel": (1, gap | {"topic": "/data/ChangeEvents"}),
    "event": (2, gap | {"topic": "/event/Order__e", "letter": "00-e1"}),
    "messages": (3, gap | {"topic": "/data/MessagingSessionChangeEvent", "entity": "ConversationEntry"}),
    "closed": (0, gap | {"state": "healed", "rows_reread": 2**64 - 1}),
    "counted": (0, gap | one | {"rows_reread": 2**64 - 1, "deletes_found": 2**64 - 1}),
}
for name, (topic, value) in gaps.items():
    write("kept", f"gap_{name}", bytes([2, topic]) + json.dumps(value, separators=(",", ":")).encode())

# The course of each of these begins with its own byte.
for number in range(8):
    choices = bytes((number * 41 + at_byte * 23) % 256 for at_byte in range(200))
    write("bulk_csv", f"rows_{number}", b"\0" + choices)
    write("conversation_entries", f"course_{number}", b"\0" + choices)
    write("kept", f"course_{number}", b"\3" + choices)

# Read as choices and lengths: what they come to is found out by running them.
for number in range(8):
    write("schema", f"types_{number}", bytes((number * 37 + at * 29) % 256 for at in range(96)))
    write("text_diff", f"choices_{number}", bytes((number * 53 + at * 31) % 256 for at in range(64)))
write("text_diff", "hunks", b"a\nb\r\nc@@ -1,1 +1,1 @@\n-a\n+b\n@@ -3,0 +4,1 @@\n+d")


def delimited(number, value):
    return bytes([number << 3 | 2]) + protobuf_length(value) + value


def protobuf_length(value):
    length, encoded = len(value), bytearray()
    while length > 0x7F:
        encoded.append(0x80 | (length & 0x7F))
        length >>= 7
    return bytes(encoded) + bytes([length])


replay_id = bytes.fromhex("00000000001790510000")
header = delimited(4, delimited(1, b"X-B3-TraceId") + delimited(2, b"7"))
content = delimited(1, b"366d9355") + delimited(2, b"fu0f4hMtqehVVUQ7_l39Zg") + delimited(3, b"payload") + header
event_with_place = delimited(1, delimited(1, content) + delimited(2, replay_id))
tail = delimited(2, replay_id) + delimited(3, b"c604fa9c") + b"\x20\x62"
write("response", "events", event_with_place * 2 + tail)
write("response", "keepalive", tail)
write("response", "empty_events", b"\x0a\x00" * 201)
write("response", "unknown_fields", b"\x28\x01\x31" + bytes(8) + b"\x3d" + bytes(4) + tail)
write("response", "group", b"\x2b\x0a\x00\x2c" + tail)


def dictionary(target, words):
    folder = HERE / "dictionaries"
    folder.mkdir(exist_ok=True)
    printable = {ord("\\"): "\\\\", ord('"'): '\\"'} | {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in '\\"'}
    quoted = ("".join(printable.get(byte, f"\\x{byte:02x}") for byte in word.encode()) for word in words)
    (folder / target).write_text("".join(f'"{word}"\n' for word in quoted))


types = "null boolean int long float double bytes string array map record enum fixed".split()
members = "type name namespace fields items values symbols size doc logicalType precision scale".split()
logical = "date time-millis timestamp-millis timestamp-nanos decimal Data:DateTime Data:MultiEnum".split()
opened = ['{"type":', '"fields":[', '["null",', "ChangeEventHeader"]
dictionary("decode", [f'"{word}"' for word in types + members + logical] + opened)
dictionary("bitmap", ["0x", "0X", "1-0x", "3-0x", "-", "\n\n", "0x04", "0x0e", "ffffffff", "99-0x01"])
times = ['"time":"', '"repeats_until":"', '"earliest":{"since":"', '"latest":{"since":"', "+262142-12-31T23:59:60Z"]
numbers = ['"seq":', '"event_count":', "18446744073709551615", "null", "\\u0000"]
dictionary("checkpoint", ['"after":"', '"already":["', '"recent":["', '"jobs":{', "/sha256:"] + times + numbers)
sections = "salesforce salesforce.pubsub batch buffer kafka kafka.properties admin log".split()
keys = "sandbox login_url client_id org_id api_version topic start on_gap tombstones max_records max_bytes max_age".split()
keys += "topic_prefix partitions listen filter endpoint shutdown_timeout".split()
marks = ["\n[[stream]]\n", "\n%\n", "STREAM__0__", "KAFKA__PROPERTIES__", "__", "'''", '"""', "true", "latest"]
dictionary("configuration", [f"\n{key} = " for key in keys] + [f"\n[{name}]\n" for name in sections] + marks)
codes = "invalid_grant rate_limit_exceeded slow_down server_error replayid.corrupted service.auth.error".split()
codes += "service.unavailable subscription.limit.exceeded topic.not.found".split()
members = "error error_description errorCode message access_token instance_url id".split()
texts = ["http://", "https://", "eyJhbGciOiJSUzI1NiJ9.assertion", "Replay ID", prefix, "\\u0001"]
dictionary("answers", codes + [f'"{member}":"' for member in members] + texts)
members = "DailyDeliveredPlatformEvents DailyApiRequests Max Remaining Id SystemModstamp".split()
dictionary("rest", [f'"{name}":' for name in members] + ["cOnTenT", "null", "{", "}", "9223372036854775808", "-1", "1e5"])
names = columns.split(",")
dictionary("bulk_csv", names + ["cOnTenT", '""', '","', "\n", "\r\n", '"\n', ",,", "true", "+0000", "Z", "1e5", "\ufeff"])
members = "conversationEntries nextPageToken identifier clientTimestamp serverReceivedTimestamp transcriptedTimestamp".split()
members += "messageText entryType entryPayload abstractMessage staticContent choices text sender role appType".split()
members += "subject relatedRecords".split()
dictionary("conversation_entries", [f'"{name}":' for name in members] + ["cOnTenT", "null", '"t1"', "9223372036854775807"])
members = list(talk) + list(trigger) + list(listed) + list(heals) + list(bulk) + list(gap) + list(one) + list(found)
members += "ids unread gone deleted compared_at listed rows deletes absent passes snapshot since condition letter".split()
members += "include_deleted expected ended locator rows_reread deletes_found time".split()
keys = ["\nconversation/", "\ntrigger/", "\nhistory/", "/done ", "\npoll/", "heal-", "snapshot-", "0Mw8d0000000001AAA"]
texts = ["cOnTenT", "null", "18446744073709551615", "+262142-12-31T23:59:60Z", "/data/CaseChangeEvent", "open"]
dictionary("kept", [f'"{name}":' for name in dict.fromkeys(members)] + keys + texts)
dictionary("text_diff", ["@@ -", " +", " @@\n", "\n-", "\n+", "\n ", "-0,0 +1,1", "--- \n+++ ", "18446744073709551615"])
