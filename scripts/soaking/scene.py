"""Everything that takes part in a run, what lasts for a while, and what all of it together can be waited for."""

import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timezone

from .broker import Broker, BrokerError, Probe
from .casewire import PREFIX, Casewire, CasewireError, checkpoint_topic, configuration
from .follower import GAPS, LETTERS, Follower
from .org import STREAMS, Org
from .traffic import Traffic

# Whatever has not happened by then hangs. Beyond the longest pause that casewire makes between two attempts.
PATIENCE = 240
LOOK = 0.02


class Hang(Exception):
    """Something that has to happen did not."""


def free_ports(count):
    """Ports below the range from which the system itself gives out ports, so that nobody gets one between two lives of a process."""
    dice, held = random.SystemRandom(), []
    while len(held) < count:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", dice.randrange(10_000, 30_000)))
            held.append(listener)
        except OSError:
            listener.close()
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


class Scene:
    """The broker, the organisation, casewire, and whoever watches them."""

    def __init__(self, binary, directory, seed, rate):
        self.binary, self.directory = binary, directory
        self.dice = random.Random(f"faults {seed}")
        self.inflicted, self.kills, self.cuts = Counter(), 0, 0
        self.lives, self.current = [], None
        self.lasting, self._restarting, self._broken = {}, None, None
        self.began, self.longest_settling = time.monotonic(), 0.0
        self.usual, self.slowed, self.added = [], [], 0
        self.broker = Broker(directory)
        checkpoints = [checkpoint_topic(stream) for stream in STREAMS]
        self.broker.create_topics(checkpoints, [GAPS, LETTERS, Probe.TOPIC])
        self.probe = Probe(self.broker.bootstrap)
        *ports, first, second = free_ports(5)
        self.admin = [first, second]
        self.org = Org(binary, directory, seed, ports)
        self.follower = Follower(self.broker.bootstrap)
        self.traffic = Traffic(self.org, seed, rate)
        self._stopped = False
        self._watch = threading.Thread(target=self._look, name="watch", daemon=True)
        self._watch.start()

    # --- casewire ------------------------------------------------------------------------------

    def start(self):
        """Another life of casewire. Two may run at a time; their admin ports differ."""
        number = len(self.lives) + 1
        admin = self.admin[number % 2]
        self.current = Casewire(self.binary, self.directory, number, configuration(self.org, self.broker.bootstrap, admin), admin)
        self.lives.append(self.current)

    def kill(self, casewire):
        casewire.kill()
        self.kills += 1

    def alive(self):
        return [life for life in self.lives if life.ended is None]

    def _look(self):
        while not self._stopped:
            for life in self.alive():
                life.look()
            time.sleep(0.5)

    # --- what lasts ----------------------------------------------------------------------------

    def last(self, what, seconds, end):
        """Lets `end` undo something after so many seconds."""
        self.lasting[what] = (time.monotonic() + seconds, end)

    def end(self, *names):
        """Undoes now what lasts, by name or all of it."""
        for name in names or list(self.lasting):
            _, end = self.lasting.pop(name, (0, None))
            if end is not None:
                end()

    def forget(self, name):
        """What has lasted has come to its end by itself."""
        self.lasting.pop(name, None)

    def restart_broker(self):
        """Starts the broker again, while everything else goes on."""

        def restart():
            try:
                self.broker.restart()
            except Exception as error:  # noqa: BLE001 - raised where the run can end with it
                self._broken = error

        self._restarting = threading.Thread(target=restart, daemon=True)
        self._restarting.start()

    def broker_up(self):
        """The broker runs, is not frozen, and its disk is as fast as it is."""
        self.end("broker")
        if self._restarting:
            self._restarting.join(PATIENCE)
            self._restarting = None
        self.check()

    # --- waiting -------------------------------------------------------------------------------

    def check(self):
        """Whatever has gone wrong by itself ends the run."""
        for life in self.alive():
            life.check()
        if self.org.process.poll() is not None:
            raise CasewireError(f"the simulator ended by itself; see {self.org.log}")
        for failure in (self._broken, self.traffic.failure, self.follower.failure):
            if failure is not None:
                raise failure

    def tick(self):
        """Undoes what has lasted long enough."""
        now = time.monotonic()
        for name in [name for name, (due, _) in self.lasting.items() if due <= now]:
            self.end(name)
        self.check()

    def pass_time(self, until):
        while time.monotonic() < until:
            self.tick()
            time.sleep(min(LOOK, max(0.0, until - time.monotonic())))

    def wait(self, what, condition, patience=PATIENCE):
        """Waits for something to have happened."""
        until = time.monotonic() + patience
        while not condition():
            self.tick()
            if time.monotonic() > until:
                raise Hang(f"waited {patience} s in vain for {what}")
            time.sleep(LOOK)

    def delivered_some(self, least, most, patience):
        """Publishes, and waits until some of it has been sent, usually not all; or, in an outage, for no longer than that."""
        before = self.org.stats()["events_sent"]
        count = self.dice.randint(least, most)
        wanted = before + self.dice.randint(1, count)
        self.org.generate(count)
        until = time.monotonic() + patience
        while self.org.stats()["events_sent"] < wanted and time.monotonic() < until:
            self.tick()
            time.sleep(0.003)

    @contextmanager
    def quiet(self):
        """No traffic meanwhile but what is ordered."""
        self.traffic.pause()
        try:
            yield
        finally:
            self.traffic.resume()

    def all_committed(self):
        """Waits, without traffic, until the newest event of every stream is in a committed position."""
        self.org.read_ledger()
        last = dict(self.org.last)
        self.wait(f"the newest events to be committed: {last}", lambda: self.follower.has(last))

    def settle(self):
        """Lets whatever lasts come to its end, and waits until all that was published is committed."""
        self.wait("what lasts to end", lambda: not self.lasting)
        began = time.monotonic()
        self.broker_up()
        with self.quiet():
            self.all_committed()
        self.longest_settling = max(self.longest_settling, time.monotonic() - began)

    # --- the disk, the bus ---------------------------------------------------------------------

    def measure(self, into, patience):
        """Has the probe produce a record."""
        seconds = self.probe.seconds(patience)
        if seconds is not None:
            into.append(seconds)

    def cut(self, moved):
        """All that was published becomes unreadable. Nothing may be published meanwhile."""
        lines = self.org.read_ledger()
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with open(self.directory / "cuts.jsonl", "a", encoding="ascii") as cuts:
            cuts.write(json.dumps({"lines": lines, "at": at, "moved": moved}) + "\n")
        self.org.fault("reset-bus" if moved else "expire-retention")
        self.cuts += 1

    def go_on_behind_the_cut(self):
        """Waits until each stream stands behind an event that can be read. Another cut before that would find a stream
        that asks for the oldest event, which no server refuses."""
        for _ in range(2):
            self.org.one_on_each_stream()
            self.all_committed()

    # --- the end -------------------------------------------------------------------------------

    def close(self):
        """Ends all that was started, whatever state it is in."""
        self._stopped = True
        self.traffic.stop()
        for life in self.lives:
            life.abandon()
        self.follower.stop()
        self.org.stop()
        self.broker.slow_disk(0)
        if self._restarting:
            self._restarting.join(PATIENCE)
        log = self.broker.directory / "1" / "broker.log"
        if log.exists():
            (self.directory / "broker.log").write_bytes(log.read_bytes())
        try:
            self.broker.stop()
        except BrokerError as error:
            print(f"soak: {error}")
