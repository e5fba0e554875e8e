"""The Kafka client of the judge, in a virtual environment of its own, pinned and with the digests of its files."""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "judge.requirements.txt"


def ensure(script):
    """Goes on with `script` in the environment that has the client; makes it the first time."""
    pin = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "casewire"
    home = cache / f"judge-{pin}"
    if Path(sys.prefix).resolve() == home.resolve():
        return
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"judge-{pin}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = home / "complete"
        if not complete.exists():
            print(f"{script.name}: installing {REQUIREMENTS.name} into {home}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
            complete.touch()
    os.execv(home / "bin" / "python", [str(home / "bin" / "python"), str(script), *sys.argv[1:]])
