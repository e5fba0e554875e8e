"""All records of a topic prefix as a `read_committed` consumer sees them, up to the true end.

The end is the high watermark that a `read_uncommitted` client is told. A `read_committed` one is told
the last stable offset, which an open transaction holds back: it would call an unfinished topic read.
A time-out is never an end; it is an error.
"""

import time
from dataclasses import dataclass


class Unreadable(Exception):
    """The topics could not be read to their end, so nothing can be said about them."""


@dataclass(frozen=True)
class Record:
    """One committed record."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: dict
    repeated_headers: tuple = ()

    @property
    def place(self):
        return f"{self.topic}/{self.partition}@{self.offset}"


def read_all(bootstrap, prefix, patience):
    """Every committed record of every topic `<prefix>.…`, by partition and offset; and how many there are of transactions
    that were aborted, which nobody should see."""
    import confluent_kafka as kafka

    common = {
        "bootstrap.servers": bootstrap,
        "group.id": "casewire-judge",  # asked for by the client; no offset is ever committed
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "log_level": 3,
        "error_cb": lambda _error: None,  # a broker that comes back is no fault; patience bounds the wait
    }
    uncommitted = kafka.Consumer(common | {"isolation.level": "read_uncommitted"})
    committed = kafka.Consumer(common | {"isolation.level": "read_committed"})
    try:
        return _read(kafka, uncommitted, committed, prefix, patience)
    except kafka.KafkaException as error:
        raise Unreadable(f"Kafka refused: {error}") from error
    finally:
        uncommitted.close()
        committed.close()


def _read(kafka, uncommitted, committed, prefix, patience):
    topics = uncommitted.list_topics(timeout=patience).topics
    topics = {name: sorted(topic.partitions) for name, topic in topics.items() if name.startswith(prefix + ".")}
    ends, begins = {}, []
    for name, partitions in sorted(topics.items()):
        for partition in partitions:
            low, high = uncommitted.get_watermark_offsets(kafka.TopicPartition(name, partition), timeout=patience)
            if high > low:
                ends[name, partition] = high
                begins.append(kafka.TopicPartition(name, partition, low))
    records, all_written = [], []
    if begins:
        committed.assign(begins)
        _drain(kafka, committed, dict(ends), lambda message: records.append(_record(message)), patience)
        uncommitted.assign(begins)
        _drain(kafka, uncommitted, dict(ends), lambda message: all_written.append(message.offset()), patience)
    records.sort(key=lambda record: (record.topic, record.partition, record.offset))
    return records, len(all_written) - len(records)


def _drain(kafka, consumer, missing, take, patience):
    """Polls until every partition in `missing` has been read up to its high watermark; `take` gets each record below it."""
    ends, last_progress = dict(missing), time.monotonic()
    while missing:
        messages = consumer.consume(num_messages=500, timeout=0.5)
        for message in messages:
            place = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                reached = message.offset() + 1
                if reached <= ends[place]:
                    take(message)
                    last_progress = time.monotonic()
            elif error.code() == kafka.KafkaError._PARTITION_EOF:
                # Also behind the commit marker that ends most partitions, where no record will ever come.
                reached = message.offset()
            elif error.retriable() or error.code() in (kafka.KafkaError._TRANSPORT, kafka.KafkaError._ALL_BROKERS_DOWN):
                continue
            else:
                raise Unreadable(f"Reading {place[0]}/{place[1]} failed: {error}")
            if place in missing and reached >= missing[place]:
                del missing[place]
                last_progress = time.monotonic()
        if time.monotonic() - last_progress > patience:
            rest = ", ".join(f"{topic}/{partition} up to {high}" for (topic, partition), high in missing.items())
            raise Unreadable(f"Nothing came for {patience:.0f} s, an open transaction may hold the end: not read {rest}.")


def _record(message):
    headers, repeated = {}, []
    for name, value in message.headers() or []:
        if name in headers:
            repeated.append(name)
        headers[name] = None if value is None else value.decode("utf-8", "replace")
    key = message.key()
    return Record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=None if key is None else key.decode("utf-8", "replace"),
        value=message.value(),
        headers=headers,
        repeated_headers=tuple(repeated),
    )
