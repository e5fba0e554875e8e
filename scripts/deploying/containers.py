"""The Dockerfile, what is sent to the builder, and compose.yaml."""

import fnmatch
import json
import re
import shutil
import tomllib

import jsonschema
from place import NotRun, program, run

# The module of Docker's that has the schema of compose files.
COMPOSE_MODULE = "github.com/compose-spec/compose-go/v2@v2.16.2"


def instructions(text):
    """The instructions of a Dockerfile, their lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [line.split(None, 1) for line in joined.splitlines() if line.strip()]


def check_dockerfile(place):
    text = place.text("Dockerfile")
    code, said = run(program("hadolint"), "--no-color", place.path("Dockerfile"))
    complaints = said.splitlines() if code != 0 else []
    steps = instructions(text)
    manifest = tomllib.loads(place.text("Cargo.toml"))
    bases = [words.split()[0] for name, words in steps if name == "FROM"]
    for base in bases:
        _, _, tag = base.rpartition(":")
        if ":" not in base or tag == "latest":
            complaints.append(f"the base {base} has no tag that says which one it is")
    if not bases[0].startswith(f"rust:{manifest['package']['rust-version']}-"):
        complaints.append(f"it is built with {bases[0]}, and Cargo.toml asks for Rust {manifest['package']['rust-version']}")
    users = [words for name, words in steps if name == "USER"]
    if not users or not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", users[-1]):
        complaints.append("it does not end as a user with a number other than root's")
    checks = [words for name, words in steps if name == "HEALTHCHECK"]
    if not any('"/usr/local/bin/casewire"' in words for words in checks):
        complaints.append("nothing asks the binary for its health")
    for feature in re.findall(r"--features (\S+)", text):
        if feature not in manifest["features"]:
            complaints.append(f"Cargo.toml has no feature {feature}")
    return complaints


def context(place):
    """The names at the top of what is sent to the builder; the .dockerignore names what is, and nothing else."""
    lines = [line.strip() for line in place.text(".dockerignore").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines[:1] != ["*"]:
        raise NotRun("the .dockerignore does not begin with *, and this check knows no other form")
    return [line[1:] for line in lines[1:] if line.startswith("!")]


def check_context(place):
    """Whether cargo finds all that the manifests name in what is sent to the builder."""
    copy = place.work / "context"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    complaints = []
    for name in context(place):
        source = place.path(name)
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("target", "__pycache__"))
        elif source.is_file():
            shutil.copy(source, copy / name)
        else:
            complaints.append(f".dockerignore lets {name} in, which does not exist")
    code, said = run(program("cargo"), "metadata", "--locked", "--no-deps", "--format-version", "1", cwd=copy)
    if code != 0:
        return [*complaints, f"cargo cannot read it: {said.splitlines()[-1]}"]
    package = next(one for one in json.loads(said[said.index("{") :])["packages"] if one["name"] == "casewire")
    # What the sources include by its path from them.
    for source in (copy / "src").rglob("*.rs"):
        code = source.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0]
        if not fnmatch.fnmatch(source.name, "*tests.rs"):
            for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', code):
                if not (source.parent / included).is_file():
                    complaints.append(f"{source.relative_to(copy)} includes {included}, which is not sent")
    for path in [package["readme"], "proto/pubsub_api.proto", "build.rs", ".commit"]:
        if path and not (copy / path).is_file():
            complaints.append(f"{path} is not sent")
    return complaints


def compose_schema(place):
    go = program("go")
    code, said = run(go, "mod", "download", "-json", COMPOSE_MODULE, cwd=place.work)
    if code != 0:
        raise NotRun(f"{COMPOSE_MODULE} could not be had: {said.splitlines()[-1]}")
    with open(f"{json.loads(said)['Dir']}/schema/compose-spec.json", encoding="utf-8") as schema:
        return json.load(schema)


def check_compose(place):
    [compose] = place.documents("deploy/compose.yaml")
    complaints = []
    if run("docker", "compose", "version")[0] == 0 if shutil.which("docker") else False:
        code, said = run("docker", "compose", "--file", place.path("deploy/compose.yaml"), "config", "--quiet")
        complaints += said.splitlines() if code != 0 else []
    else:
        place.note("docker compose is not installed; the file is held against the schema of compose files instead")
    try:
        schema = compose_schema(place)
        found = jsonschema.validators.validator_for(schema)(schema).iter_errors(compose)
        complaints += [f"{error.json_path}: {error.message}" for error in found]
    except NotRun as reason:
        place.note(f"the schema of compose files: {reason}")
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                complaints.append(f"{name}: the port {port} is open to others")
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            complaints.append(f"{name}: {image} has no tag that says which one it is")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (place.path("deploy") / source).exists() if source.startswith(".") else source in compose["volumes"]
            if not there:
                complaints.append(f"{name}: {source} does not exist")
    return complaints
