"""Secrets leave once, in the answer that made them, and are nowhere else.

Canaries: the texts and secret parts of every key that a scenario makes or presents, the pepper, the store's password.
They are looked for in what the server writes to its terminal, in the database's files (pages, WAL), in every other
file it keeps but the two that hold them, in /metrics, in all errors and answers, and in repr()s. The last tests plant
bugs (planted.py) that must turn the search red.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

import doorward
from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.app import build, opened
from doorward_server.config import Config
from doorward_server.core.keytext import SecretText, checksum
from doorward_server.core.model import KeyFilter
from tests import databases
from tests.e2e.processes import PROGRAM, ROOT, Process, free_port, server
from tests.fakes import FakeClock, FakeRandom
from tests.wire.serving import Api, bearer, refused

PASSWORD = "hunter2-in-the-dsn"
PLANTED = (sys.executable, "-m", "tests.e2e.planted")


@dataclass
class Scenario:
    """What was secret, and what came out where."""

    canaries: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, bytes] = field(default_factory=dict)

    def key(self, name: str, text: str) -> str:
        """Keep a key's text, and its secret part alone, as canaries."""
        assert len(text) > 40
        self.canaries[name] = text.encode()
        self.canaries[f"{name}, secret part"] = text[-30:-6].encode()
        return text

    def leaks(self) -> list[tuple[str, str]]:
        """Which canary is where."""
        return sorted(
            (name, place)
            for name, canary in self.canaries.items()
            for place, text in self.told.items()
            if canary in text
        )


def ring_of(file: Path) -> dict[str, str]:
    """Every secret in a pepper file, by what it is for."""
    document = json.loads(file.read_text())
    lookup = {"lookup": document.pop("lookup")}
    return lookup | {name: part["keys"]["1"] for name, part in document.items()}


def act(process: Process, metrics: int) -> Scenario:
    """Make, present, damage, rotate and revoke keys; gather all that the server answered beside the new secrets."""
    scenario = Scenario()
    root = scenario.key("root", process.root)
    scenario.canaries["DSN"] = PASSWORD.encode()
    for name, text in ring_of(process.var / "peppers.json").items():
        scenario.canaries |= {f"{name}, hex": text.encode(), name: bytes.fromhex(text)}
    answers: list[Any] = []
    with grpc.insecure_channel(process.target) as channel:
        api = Api(channel, bearer(root))
        new = keys_pb2.CreateKeyRequest(
            organization="acme", keyspace="aiia", name="canary", scopes=["read:findings"], request_id="one"
        )
        made = api.keys.CreateKey(new)
        text = scenario.key("key", made.secret)
        rotated = api.keys.RotateKey(keys_pb2.RotateKeyRequest(organization="acme", id=made.key.id))
        second = scenario.key("rotated", rotated.secret)
        wrong = scenario.key("wrong", _with_another_secret(text))
        answers += [made.key, rotated.key, api.keys.CreateKey(new)]
        for presented in (text, second, wrong, scenario.key("damaged", text[:-8] + "zzzzzzzz")):
            ask: dict[str, Any] = {"keyspace": "aiia", "organization": "acme", "action": "findings:read"}
            answers.append(api.authz.Authorize(authz_pb2.AuthorizeRequest(key=presented, **ask)))
            http = authz_pb2.HttpRequest(
                headers=[authz_pb2.HttpHeader(name="Authorization", value=f"ApiKey {presented}")]
            )
            answers.append(api.authz.Authorize(authz_pb2.AuthorizeRequest(http=http, **ask)))
            answers.append(api.authz.Introspect(authz_pb2.IntrospectRequest(key=presented, keyspace="aiia")))
            other = authz_pb2.AuthorizeRequest(key=presented, **{**ask, "action": "findings:burn"})
            answers.append(refused(lambda o=other: api.authz.Authorize(o)))  # type: ignore[misc]  # bound
            caller = Api(channel, bearer(presented))
            answers.append(refused(lambda c=caller: c.keys.ListKeys(keys_pb2.ListKeysRequest())))  # type: ignore[misc]
        member = api.keys.CreateKey(keys_pb2.CreateKeyRequest(organization="acme", keyspace="doorward", name="weak"))
        weak = Api(channel, bearer(scenario.key("caller", member.secret)))
        answers.append(refused(lambda: weak.keys.ListKeys(keys_pb2.ListKeysRequest())))
        api.keys.RevokeKey(keys_pb2.RevokeKeyRequest(organization="acme", id=made.key.id))
        answers.append(api.authz.Authorize(authz_pb2.AuthorizeRequest(key=second, **ask)))
        answers.append(api.keys.ListKeys(keys_pb2.ListKeysRequest(organization="acme")))
    with doorward.Client(process.target, root) as client:
        issued = client.create_key(organization="acme", keyspace="aiia", name="by the client", scopes=["read:findings"])
        assert issued.secret is not None
        scenario.key("client", issued.secret.reveal())
        answers += [client, issued, issued.secret, f"{issued.secret}", vars(client)]
        with pytest.raises(doorward.CallFailed) as failed:
            client.authorize(issued.secret, keyspace="aiia", organization="acme", action="findings:burn")
        answers += [failed.value, vars(failed.value)]
    scenario.told["answers"] = "\n".join(map(repr, answers)).encode() + b"".join(
        getattr(a, "raw", b"") for a in answers
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=30) as page:
        scenario.told["metrics"] = page.read()
    assert b"doorward_decisions_total" in scenario.told["metrics"]
    return scenario


def _with_another_secret(text: str) -> str:
    body = text[:-30] + "C4n4ryC4n4ryC4n4ryC4n4ry"
    return body + checksum(body)


@contextmanager
def played(backend: str, folder: Path, program: tuple[str, ...] = PROGRAM) -> Iterator[Scenario]:
    """The scenario, and then all files while the server still runs, and its terminal after it."""
    metrics = free_port()
    with databases.fresh(backend, folder, migrated=False) as url:
        store = url.replace("postgres:@", f"postgres:{PASSWORD}@")
        with server(
            folder, store, "--demo", str(ROOT / "examples" / "keyspaces"), program=program,
            metrics_listen=f"127.0.0.1:{metrics}",
        ) as process:  # fmt: skip
            process.wait_for("doorward authorize")
            scenario = act(process, metrics)
            files = [path for path in folder.rglob("*") if path.is_file()]
            if backend == "postgresql":
                databases.administer("CHECKPOINT")
                files += [path for path in Path(databases.server().pgdata).rglob("*") if path.is_file()]
            else:
                assert {path.suffix for path in files} >= {".db", ".db-wal"}
            for path in files:
                if path not in (process.var / "root-key", process.var / "peppers.json") and path.exists():
                    scenario.told[str(path)] = path.read_bytes()
            process.stop()
            scenario.told["terminal"] = process.output.encode()
        yield scenario


@pytest.mark.parametrize("backend", databases.BACKENDS)
def test_no_secret_is_anywhere_but_in_the_answer_that_made_it(backend: str, tmp_path: Path) -> None:
    with played(backend, tmp_path) as scenario:
        assert len(scenario.canaries) >= 15
        assert scenario.leaks() == []
        names = b"".join(scenario.told.values())
        assert b"by the client" in names  # the search does look where the keys are


@pytest.mark.parametrize(("plant", "place"), [("print", "terminal"), ("file", "trace")])
def test_the_search_finds_what_a_server_tells_that_should_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str, place: str
) -> None:
    monkeypatch.setenv("PLANT", plant)
    with played("sqlite", tmp_path, PLANTED) as scenario:
        leaks = scenario.leaks()
    assert {name for name, _ in leaks} >= {"key", "key, secret part", "rotated", "wrong", "damaged"}
    assert {Path(found).name for _, found in leaks} == {place}


def test_a_key_that_is_logged_by_mistake_is_blotted_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT", "log")
    with played("sqlite", tmp_path, PLANTED) as scenario:
        assert b'"event": "asked"' in scenario.told["terminal"]
        assert b"[a key]" in scenario.told["terminal"]
        assert scenario.leaks() == []


def test_nothing_that_holds_a_secret_prints_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    config = Config.model_validate({"store": url, "state_dir": tmp_path})
    secret = Config.model_validate({"store": f"postgresql://u:{PASSWORD}@host/db"})
    with opened(config, FakeClock(), FakeRandom()) as (store, keyring, _):
        app = build(config, store, keyring, FakeClock(), FakeRandom())
        root = config.root_key.read_text().strip()
        key = store.list_keys("operator", KeyFilter(), None, 1, 0)[0]
        things = [app, config, secret, str(secret), store, keyring, keyring.current, key, SecretText(root), vars(app)]
        told = "\n".join(map(repr, things))
        for pool in app.pools:
            pool.close()
    ring = ring_of(config.peppers).values()
    held = [*ring, *(repr(bytes.fromhex(text)) for text in ring), repr(key.secrets[0].verifier.digest)]
    for canary in (root, root[-30:-6], *held, PASSWORD):
        assert canary not in told
