"""Processes of a run: starting, what the kernel says about them, and their end."""

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
running = []


class Unmeasurable(Exception):
    """Why there is no figure. Not the same as a figure that misses its target."""


class Process:
    """A program in the background. What it writes to its standard output is read line by line; the rest goes to a file."""

    def __init__(self, command, log, environment=None):
        self.log = Path(log)
        with open(self.log, "ab") as errors:
            self.child = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                text=True, env=os.environ | (environment or {}))
        running.append(self)

    def line(self):
        """The next line of its output."""
        line = self.child.stdout.readline()
        if not line:
            raise Unmeasurable(f"{self.child.args[0]} ended with {self.child.wait()}: {self.last_words()}")
        return line

    def figures(self):
        """The last line of its output, which is JSON, once it has ended."""
        out = self.child.stdout.read()
        if self.child.wait() != 0:
            raise Unmeasurable(f"{' '.join(self.child.args[:2])} failed: {self.last_words()}")
        running.remove(self)
        return json.loads(out.splitlines()[-1])

    def last_words(self):
        return self.log.read_text(errors="replace").strip()[-1500:] or "it said nothing"

    def processor_seconds(self):
        """User and system time of the process and its threads so far."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self, which):
        """VmRSS or VmHWM in MB (of 1,000,000 bytes)."""
        for line in self._proc("status").splitlines():
            name, _, value = line.partition(":")
            if name == which:
                return int(value.split()[0]) * 1024 / 1e6
        raise Unmeasurable(f"{self.child.args[0]} has no {which}")

    def _proc(self, name):
        if self.child.poll() is not None:
            raise Unmeasurable(f"{self.child.args[0]} ended with {self.child.returncode}: {self.last_words()}")
        return Path(f"/proc/{self.child.pid}/{name}").read_text()

    def end(self, patience=30):
        if self in running:
            running.remove(self)
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.child.stdout.close()
        return self.child.returncode


def end_all():
    for process in list(running):
        process.end(patience=5)


def run(command, **options):
    """A program in the foreground; its processor time comes with its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise Unmeasurable(f"{' '.join(str(part) for part in command[:2])} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def idle_share(seconds=1.0):
    """How much of the processors nobody used over the last moment; other work on the machine spoils a measurement."""
    def look():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return fields[3] + fields[4], sum(fields[:8])
    idle, total = look()
    time.sleep(seconds)
    idle_later, total_later = look()
    return (idle_later - idle) / max(1, total_later - total)
