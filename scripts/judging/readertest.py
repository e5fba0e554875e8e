"""The reading half of the judge, against a real broker: what is aborted is not seen, what is open is not the end."""

import json
import unittest
import uuid

from . import ledger, topics, verdict
from .selftest import CASES, LEDGER, ORDERS, ORG, PREFIX, Topics

BOOTSTRAP = None  # set by scripts/judge


class TheReader(unittest.TestCase):
    def setUp(self):
        import confluent_kafka
        import confluent_kafka.admin

        self.kafka = confluent_kafka
        self.prefix = f"judge-{uuid.uuid4().hex[:8]}"
        self.admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": BOOTSTRAP})
        self.written = Topics().records
        names = {self.name(record) for record in self.written}
        self.create({name: 3 if name.endswith(".Case") else 1 for name in names})

    def tearDown(self):
        names = [name for name in self.admin.list_topics(timeout=30).topics if name.startswith(self.prefix)]
        for outcome in self.admin.delete_topics(names).values():
            outcome.result()

    def create(self, partitions):
        new = [self.kafka.admin.NewTopic(name, count, 1) for name, count in partitions.items()]
        for outcome in self.admin.create_topics(new).values():
            outcome.result()

    def name(self, record):
        return record.topic.replace(PREFIX, self.prefix, 1)

    def producer(self, identity):
        settings = {"bootstrap.servers": BOOTSTRAP, "transactional.id": f"{self.prefix}.{identity}", "log_level": 3}
        producer = self.kafka.Producer(settings)
        producer.init_transactions(30)
        return producer

    def write(self, producer, record):
        producer.produce(self.name(record), key=record.key, value=record.value, headers=list(record.headers.items()))

    def judged(self):
        records, self.hidden = topics.read_all(BOOTSTRAP, self.prefix, patience=10)
        events = ledger.read([json.dumps(line) for line in LEDGER], [CASES, ORDERS])
        report, _ = verdict.judge(events, records, self.prefix, ORG, [CASES, ORDERS])
        return report

    def test_only_what_is_committed_counts_and_the_last_offset_is_a_marker(self):
        producer = self.producer("one")
        for record in self.written:
            producer.begin_transaction()
            self.write(producer, record)
            producer.flush(30)
            producer.abort_transaction(30)
            producer.begin_transaction()
            self.write(producer, record)
            producer.commit_transaction(30)
        self.assertEqual(self.judged().faults, {})
        self.assertEqual(self.hidden, len(self.written))
        producer.begin_transaction()
        self.write(producer, self.written[0])
        producer.commit_transaction(30)
        self.assertEqual(set(self.judged().faults), {"doubled record", "wrong order"})

    def test_behind_an_open_transaction_nothing_is_taken_for_the_end(self):
        committed, open_one = self.producer("one"), self.producer("two")
        open_one.begin_transaction()
        self.write(open_one, self.written[0])
        open_one.flush(30)
        committed.begin_transaction()
        for record in self.written:
            self.write(committed, record)
        committed.commit_transaction(30)
        with self.assertRaises(topics.Unreadable):
            topics.read_all(BOOTSTRAP, self.prefix, patience=3)
        open_one.abort_transaction(30)
        self.assertEqual(self.judged().faults, {})
        self.assertEqual(self.hidden, 1)
