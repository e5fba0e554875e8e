#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets into fuzz/corpus/. They are made up here, not captured."""

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
