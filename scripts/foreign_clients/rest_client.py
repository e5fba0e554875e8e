"""simple-salesforce against the simulated org: describes objects, queries, retrieves and runs a Bulk API 2.0 query, and
writes what it was given into a file, as it was given."""

import csv
import io
import json
import os
import sys
import time

import jwt
import requests
from simple_salesforce import Salesforce

ENV = os.environ


def connection():
    """By the JWT bearer flow; the library signs in only at hosts that end in `salesforce.com`, and takes a token from elsewhere."""
    with open(ENV["KEY_FILE"], "rb") as key:
        claims = {"iss": ENV["CLIENT_ID"], "sub": ENV["USERNAME"], "aud": ENV["LOGIN_URL"], "exp": int(time.time()) + 180}
        assertion = jwt.encode(claims, key.read(), algorithm="RS256")
    session = requests.Session()
    session.verify = ENV["CA_FILE"]
    # A proxy or a bundle of certificates of the environment is not for a simulator on this machine.
    session.trust_env = False
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    answer = session.post(f"{ENV['LOGIN_URL']}/services/oauth2/token", data=form, timeout=30).json()
    return Salesforce(instance_url=answer["instance_url"], session_id=answer["access_token"], version="66.0", session=session)


def read(org, name, retrieved):
    kind = getattr(org, name)
    fields = kind.describe()["fields"]
    names = [field["name"] for field in fields]
    soql = f"SELECT {', '.join(names)} FROM {name}"
    query = org.query_all(soql)["records"]
    everything = org.query_all(soql, include_deleted=True)["records"]
    ids = [record["Id"] for record in query[:retrieved]]
    flat = [field["name"] for field in fields if field["type"] not in ("address", "location")]
    # Small pages, so that there are several. What is deleted is not among them: this client runs `query`.
    pages = getattr(org.bulk2, name).query(f"SELECT {', '.join(flat)} FROM {name}", max_records=300, wait=0.2)
    bulk = [row for page in pages for row in csv.DictReader(io.StringIO(page, newline=""))]
    told = [{key: field[key] for key in ("name", "type", "compoundFieldName")} for field in fields]
    return {"describe": told, "query": query, "queryAll": everything, "ids": ids, "retrieve": [kind.get(id) for id in ids], "bulk": bulk}


def main():
    output, retrieved, *objects = sys.argv[1:]
    org = connection()
    found = {name: read(org, name, int(retrieved)) for name in objects}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
