"""A Kafka broker of the soak's own: killed, frozen, and slowed down at its disk."""

import os
import struct
import subprocess
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
PATIENCE = 180
DAY = "86400000"


class BrokerError(Exception):
    """The broker could not be had, or did not do as it was told."""


class Broker:
    """One broker with its data in `directory`. All its files are on the disk that can be slowed."""

    def __init__(self, directory):
        self.directory = directory / "kafka"
        self.disk = directory / "slow-disk"
        self.disk.write_bytes(bytes(4))
        library = directory / "slow_disk.so"
        source = Path(__file__).parent / "slow_disk.c"
        built = subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], capture_output=True, text=True)
        if built.returncode:
            raise BrokerError(f"cc cannot build the slow disk: {built.stderr.strip()}")
        self.environment = os.environ | {"LD_PRELOAD": str(library), "SLOW_DISK": str(self.disk)}
        told = self._script("start", "--owner", str(os.getpid()))
        self.bootstrap = next((line.split("=", 1)[1] for line in told.splitlines() if line.startswith("KAFKA_BOOTSTRAP=")), None)
        if self.bootstrap is None:
            raise BrokerError(f"scripts/kafka start did not say where the broker is: {told}")

    def _script(self, command, *options):
        call = [SCRIPTS / "kafka", command, "--directory", self.directory, *options]
        # Into a file, because the broker inherits the descriptors and a pipe would never end.
        with open(f"{self.directory}-{command}.out", "w+b") as out:
            done = subprocess.run(call, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, timeout=PATIENCE)
            out.seek(0)
            told = out.read().decode(errors="replace")
        if done.returncode:
            raise BrokerError(f"scripts/kafka {command} failed: {told.strip()}")
        return told

    def crash(self):
        self._script("crash")

    def restart(self):
        self._script("restart")

    def freeze(self):
        self._script("freeze")

    def thaw(self):
        self._script("thaw")

    def stop(self):
        self._script("stop")

    def slow_disk(self, seconds):
        """Holds back each write and sync by so much; 0 ends it."""
        with open(self.disk, "r+b") as disk:
            disk.write(struct.pack("=I", round(seconds * 1e6)))

    def create_topics(self, checkpoints, others):
        """Makes topics of one partition that no compaction touches for a day: that nothing is missing and nothing stands
        there twice can only be seen while all of it is there."""
        from confluent_kafka.admin import AdminClient, NewTopic

        kept = {"cleanup.policy": "compact", "min.compaction.lag.ms": DAY}
        topics = [NewTopic(name, 1, 1, config=kept) for name in checkpoints]
        topics += [NewTopic(name, 1, 1, config=kept if name.endswith(".gaps") else {}) for name in others]
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for made in admin.create_topics(topics, operation_timeout=30).values():
            made.result()


class Probe:
    """Produces a record now and then to see how long the broker takes to have it."""

    TOPIC = "probe"

    def __init__(self, bootstrap):
        from confluent_kafka import Producer

        self.producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0, "error_cb": lambda _error: None})

    def seconds(self, patience):
        """How long one record takes; None where it was not there in time."""
        outcome = []
        began = time.monotonic()
        self.producer.produce(self.TOPIC, b"x", on_delivery=lambda error, _record: outcome.append(error))
        self.producer.flush(patience)
        return time.monotonic() - began if outcome == [None] else None
