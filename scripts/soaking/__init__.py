"""The soak: random traffic and random faults for as long as wanted, and the judge at the end.

    plan.py      what goes wrong, how often an hour, and when: drawn from a seed
    org.py       the simulated organisation, a process that is ordered about over its control port
    broker.py    a Kafka broker of its own, to be killed, frozen and given a slow disk; slow_disk.c is preloaded into it
    casewire.py  one process of casewire: its configuration, its signals, its memory, its log
    follower.py  what stands committed in Kafka, as a `read_committed` consumer sees it
    scene.py     everything that takes part, and what all of it together can be waited for
    faults.py    what each fault of the plan does
    run.py       from the first event to the judge's verdict
    findings.py  what a run has to show besides the judge's verdict
    report.py    the progress lines, the table, the Markdown section
    selftest.py  shows that the plan is that of its seed, and that each finding is one
"""
