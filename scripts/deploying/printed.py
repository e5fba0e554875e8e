"""What the program prints for others: the schema of its configuration, completions, manual pages; and whether it accepts
the configurations that lie in deploy/."""

import json
import os
import re
import shutil
import tomllib

import jsonschema
from place import run


def check_configurations(place):
    keys = place.work / "keys"
    shutil.rmtree(keys, ignore_errors=True)
    code, said = run(place.binary, "keygen", "--client-id", "3MVG9casewire", "--username", "a@example.com", "--directory", keys)
    if code != 0:
        return [f"casewire keygen: {said}"]
    # Theirs is made where they are used.
    environment = dict(os.environ, CASEWIRE__SALESFORCE__PRIVATE_KEY_FILE=str(keys / "casewire.key"))
    complaints = []
    for name in ["deploy/compose/casewire.toml", "deploy/kubernetes/base/casewire.toml"]:
        code, said = run(place.binary, "config", "check", "--config", place.path(name), env=environment)
        if code != 0:
            complaints.append(f"{name}: {said}")
    return complaints


def with_every_key(text):
    """The example with every key that is commented out in it."""
    return tomllib.loads(re.sub(r'^# ("?[A-Za-z0-9_.]+"? = |\[\[\w+\]\]$)', r"\1", text, flags=re.MULTILINE))


def check_schema(place):
    code, said = run(place.binary, "config", "schema")
    if code != 0:
        return [said]
    schema = json.loads(said)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    found = lambda table: list(validator(schema).iter_errors(table))  # noqa: E731
    text = place.text("config/casewire.toml")
    complaints = [f"{error.json_path}: {error.message}" for error in found(tomllib.loads(text))]
    complaints += [f"with every key: {error.json_path}: {error.message}" for error in found(with_every_key(text))]
    for name in ["deploy/compose/casewire.toml", "deploy/kubernetes/base/casewire.toml"]:
        complaints += [f"{name}: {error.json_path}: {error.message}" for error in found(tomllib.loads(place.text(name)))]
    # A schema that accepts everything would have passed so far.
    for wrong in ["surprise = 1", "[kafka]\nbroker = 'b:1'", "[[stream]]\non_gap = 'ignore'", "[batch]\nmax_records = 0", "[gaps]\nheal = 'yes'"]:
        table = tomllib.loads(text)
        for key, value in tomllib.loads(wrong).items():
            old = table.get(key)
            if isinstance(old, dict):
                old.update(value)
            elif isinstance(old, list):
                old[0].update(value[0])
            else:
                table[key] = value
        if not found(table):
            complaints.append(f"it accepts {wrong!r}")
    return complaints


def check_completions(place):
    complaints, seen = [], 0
    for shell, parse in [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])]:
        code, said = run(place.binary, "completions", shell)
        if code != 0 or "dead-letters" not in said:
            complaints.append(f"{shell}: {said[:200]}")
            continue
        script = place.work / f"casewire.{shell}"
        script.write_text(said + "\n", encoding="utf-8")
        if not shutil.which(parse[0]):
            place.note(f"{shell} is not installed, so what is printed for it was not read by it")
            continue
        seen += 1
        code, said = run(*parse, script)
        complaints += [f"{shell}: {line}" for line in said.splitlines()] if code != 0 else []
    if shutil.which("bash"):
        # As one would press the tab key behind `casewire checkpoint `.
        ask = "COMP_WORDS=(casewire checkpoint ''); COMP_CWORD=2; _casewire casewire '' checkpoint; echo ${COMPREPLY[*]}"
        code, said = run("bash", "-c", f"source {place.work}/casewire.bash && {ask}")
        if not {"show", "set", "reset"} <= set(said.split()):
            complaints.append(f"bash completes `casewire checkpoint` with: {said}")
    return complaints


def check_manual(place):
    pages = place.work / "man"
    shutil.rmtree(pages, ignore_errors=True)
    code, said = run(place.binary, "man", pages)
    if code != 0:
        return [said]
    readers = [["groff", "-K", "utf8", "-man", "-Tutf8", "-ww", "-z"], ["mandoc", "-T", "lint", "-W", "error"]]
    reader = next((reader for reader in readers if shutil.which(reader[0])), None)
    if reader is None:
        place.note("neither groff nor mandoc is installed, so that nobody has read the pages")
    complaints = []
    for page in sorted(pages.iterdir()):
        text = page.read_text(encoding="utf-8")
        if not re.search(r"^\.TH ", text, re.MULTILINE) or ".SH NAME" not in text:
            complaints.append(f"{page.name} is no manual page")
        if reader:
            _, said = run(*reader, page)
            complaints += [f"{page.name}: {line}" for line in said.splitlines()]
    for name in ["casewire.1", "casewire-run.1", "casewire-checkpoint-set.1", "casewire-config-schema.1"]:
        if not (pages / name).is_file():
            complaints.append(f"{name} is missing")
    return complaints
