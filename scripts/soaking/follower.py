"""What stands committed in Kafka: the checkpoints, the gap ledger and the dead letters, as a `read_committed` consumer sees
them. What a run waits for is what can be read there, not what casewire says of itself."""

import json
import threading
import time

from .casewire import PREFIX, checkpoint_topic
from .org import STREAMS

GAPS, LETTERS = f"{PREFIX}.gaps", f"{PREFIX}.dead-letters"


class Follower:
    """Reads on in a thread of its own until it is stopped."""

    def __init__(self, bootstrap):
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        self.taken = {stream: set() for stream in STREAMS}
        self.writer = dict.fromkeys(STREAMS)
        self.events = dict.fromkeys(STREAMS, 0)
        self.commits, self.longest_pause, self.counted = 0, 0.0, {GAPS: 0, LETTERS: 0}
        self._gaps = set()
        self.failure, self._stopped, self._last = None, False, None
        self._stream_of = {checkpoint_topic(stream): stream for stream in STREAMS}
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": "casewire-soak",  # asked for by the client; no offset is ever committed
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
            "error_cb": lambda _error: None,  # a broker that is down is part of the run
        }
        self._consumer = Consumer(settings)
        self._consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in (*self._stream_of, GAPS, LETTERS)])
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._thread.start()

    def _follow(self):
        try:
            while not self._stopped:
                for message in self._consumer.consume(num_messages=200, timeout=0.2):
                    # An error is a broker on its way down or up again; what never arrives is found by whoever waits.
                    if message.error() is None:
                        self._take(message.topic(), message.key(), message.value())
        except Exception as error:  # noqa: BLE001 - whatever it was, the run has to end with it
            self.failure = error
        finally:
            self._consumer.close()

    def _take(self, topic, key, value):
        if topic in self.counted:
            self.counted[topic] += 1
            if topic == GAPS:
                self._gaps.add(key)
            return
        stream, checkpoint = self._stream_of[topic], json.loads(value)
        position = checkpoint["position"]
        self.taken[stream] = {*position.get("recent", []), *position.get("already", [])}
        self.writer[stream] = checkpoint["writer"]["run_id"]
        self.events[stream] = checkpoint["event_count"]
        self.commits += 1
        now = time.monotonic()
        if self._last is not None:
            self.longest_pause = max(self.longest_pause, now - self._last)
        self._last = now

    def opened(self):
        """How many gaps were opened, and how many dead letters written."""
        return [len(self._gaps), self.counted[LETTERS]]

    def has(self, last):
        """Whether the newest events, by stream, are in the committed positions."""
        return all(event in self.taken[stream] for stream, event in last.items())

    def is_written_by(self, run_id):
        """Whether one run wrote the newest checkpoint of every stream."""
        return run_id is not None and all(writer == run_id for writer in self.writer.values())

    def stop(self):
        self._stopped = True
        self._thread.join(10)
