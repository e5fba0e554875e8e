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
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\x0a") for word in words)
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
dictionary("text_diff", ["@@ -", " +", " @@\n", "\n-", "\n+", "\n ", "-0,0 +1,1", "--- \n+++ ", "18446744073709551615"])
