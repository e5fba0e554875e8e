"""Where the files are that are looked at, and what with."""

import shutil
import subprocess
from pathlib import Path

import yaml

PATIENCE = 300


class NotRun(Exception):
    """A check that cannot be made on this machine, with the reason."""


class Place:
    """A checkout (or a changed copy of its deployment files), a casewire, and a directory to work in."""

    def __init__(self, root, binary, work):
        self.root, self.binary, self.work = Path(root), Path(binary), Path(work)
        self.notes = []

    def note(self, text):
        """A part of a check that could not be made, while the rest was."""
        self.notes.append(text)

    def taken_notes(self):
        notes, self.notes = self.notes, []
        return notes

    def path(self, name):
        return self.root / name

    def text(self, name):
        return self.path(name).read_text(encoding="utf-8")

    def documents(self, name):
        return documents(self.text(name))


def documents(text):
    """The documents of a YAML text; a key that is there twice is an error, which PyYAML would not say."""
    return [document for document in yaml.load_all(text, Loader=Strict) if document is not None]


class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1 and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def run(*command, **options):
    """A program to its end: exit code, and all that it said."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False, **options
    )
    return done.returncode, done.stdout.strip()


def program(*names):
    """The first of these programs that there is."""
    for name in names:
        if shutil.which(name):
            return name
    raise NotRun(f"{' or '.join(names)} is not installed")
