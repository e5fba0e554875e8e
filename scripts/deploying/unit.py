"""The systemd unit: what systemd itself says of it, and what it has to have for `casewire run`."""

import configparser
import os

from place import program, run

# systemd's own measure, in tenths, from 0 (shut in) to 100; the unit stands at 15.
MOST_EXPOSED = 20


def check(place):
    analyze = program("systemd-analyze")
    text = place.text("deploy/casewire.service")
    unit = place.work / "casewire.service"
    # It complains of a program that is not there, and casewire is not installed here.
    unit.write_text(text.replace("ExecStart=/usr/local/bin/casewire", "ExecStart=/bin/true"), encoding="utf-8")
    code, said = run(analyze, "verify", unit, env=dict(os.environ, SYSTEMD_LOG_LEVEL="warning"))
    complaints = said.splitlines() if said else ([] if code == 0 else [f"systemd-analyze verify ended with {code}"])
    code, said = run(analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)
    if code != 0:
        complaints.append("less shut in than it was: " + said.splitlines()[-1])
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str
    parsed.read_string(text)
    service = parsed["Service"]
    for key, wanted in [("Type", "notify"), ("TimeoutStartSec", "infinity"), ("WatchdogSec", "2min"), ("Restart", "on-failure")]:
        if service.get(key) != wanted:
            complaints.append(f"{key} is {service.get(key)}, not {wanted}")
    if int(service["TimeoutStopSec"]) <= 30:
        complaints.append("TimeoutStopSec leaves no time for shutdown_timeout (30 s)")
    return complaints
