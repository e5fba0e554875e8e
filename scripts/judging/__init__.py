"""The judge: compares what a Salesforce organisation sent with what a Kafka consumer reads.

It shares no code with casewire. What it knows is the ledger of the simulator, the contract of
`docs/records.md`, and what a public Kafka client returns under `read_committed`.

    ledger.py     the events that were sent, and the records that have to come of each
    topics.py     all records of a topic prefix, up to the true end of every partition
    verdict.py    the comparison: pure, every difference is a fault of a named kind
    retention.py  what left retention unread, and the entries that own up to it
    checkpoints.py  the stream's own topic: dense sequence, position at the end
    messages.py   what was written of conversations, against what was said
    jobs.py       what jobs wrote without an event, and the ends of gaps; the records as they truly are
    redriven.py   dead letters that were redriven
    fold.py       the consumer's fold of docs/records.md against the model that the ledger gives
    kafka_client.py  installs the client and goes on with it
    selftest.py   shows that each kind of fault is found
    messagetest.py the same of messages
    readertest.py shows on a real broker that the reading half sees what is committed, all of it and no more
"""
