"""A secret leaves once, by name."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from typing import Any

import pytest

from doorward import TLS, Secret
from doorward.v1 import keys_pb2
from tests.client.door import KEY, Door

TEXT = "aiia_key_live_canary0123456789"


def test_a_secret_is_not_seen() -> None:
    secret = Secret(TEXT)
    for seen in (repr(secret), str(secret), f"{secret}", f"{secret!s:>40}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert TEXT not in seen
    assert not hasattr(secret, "__dict__")
    assert secret.reveal() == TEXT


def test_a_secret_is_not_written() -> None:
    secret = Secret(TEXT)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert copy.deepcopy(secret) is copy.copy(secret) is secret


def test_secrets_are_equal_to_secrets_of_the_same_text() -> None:
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret(TEXT) != TEXT
    with pytest.raises(TypeError):
        hash(Secret(TEXT))


def test_an_issued_key_shows_nothing(client: Any, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    door.will("CreateKey", keys_pb2.CreateKeyResponse(secret=TEXT))
    issued = client.create_key(keyspace="aiia", name="n")
    assert issued.secret.reveal() == TEXT
    for seen in (repr(issued), str(issued), str(dataclasses.asdict(issued)), caplog.text):
        assert TEXT not in seen
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(issued)


def test_a_client_shows_its_target_alone(make: Any) -> None:
    client = make("127.0.0.1:1", KEY, tls=TLS(b"ca", b"certificate", b"private"))
    client = getattr(client, "_client", client)
    assert repr(client) == f"<{type(client).__name__} of 127.0.0.1:1>"
    view = client.acting_for("acme/alice")
    assert repr(view) == f"<{type(client).__name__} of 127.0.0.1:1, acting for acme/alice>"
    assert KEY not in str(vars(client))
    assert "private" not in str(vars(client))
    assert "private" not in repr(TLS(private_key=b"private"))
    with pytest.raises(TypeError):
        pickle.dumps(client)
