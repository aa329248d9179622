"""Where the client finds Doorward, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doorward import TLS, AsyncClient, Client, Misconfigured, Secret
from doorward.config import check, from_env, is_loopback
from tests.client.door import KEY, Door


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051", "127.0.0.1", "127.1.2.3:1", "localhost:50051", "localhost", "[::1]:50051", "[::1]",
        "dns:localhost:50051", "dns:///localhost:50051", "dns:///127.0.0.1:50051",
        "ipv4:127.0.0.1:50051", "ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:50051",
        "unix:/run/doorward.sock", "unix:///run/doorward.sock", "unix:doorward.sock", "unix-abstract:doorward",
    ],
)  # fmt: skip
def test_this_machine(target: str) -> None:
    assert is_loopback(target)


@pytest.mark.parametrize(
    "target",
    [
        "", "10.0.0.1:50051", "doorward:50051", "doorward.example", "127.0.0.1.example:50051", "localhost.example:1",
        "localhost@doorward.example:1", "127.0.0.1:1,10.0.0.1:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "0.0.0.0:50051",
        "[::]:50051", "[::1]x:50051", "dns://8.8.8.8/localhost:50051", "dns:///doorward.example", "xds:///localhost",
        "127.0.0.1:50051/..", "localhost:///doorward.example", "unix", "passthrough:///127.0.0.1:1",
    ],
)  # fmt: skip
def test_perhaps_not_this_machine(target: str) -> None:
    assert not is_loopback(target)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "line\r", "\N{SNOWMAN}", "nul\0", " "])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(Misconfigured, match="the key") as caught:
        check("127.0.0.1:1", f"hush{key}" if key else "", None, False)
    assert "hush" not in str(caught.value)


def test_a_key_may_be_wrapped() -> None:
    assert check("127.0.0.1:1", Secret(KEY), None, False).key == Secret(KEY)


def test_half_of_tls_and_both_ways_at_once_are_refused() -> None:
    with pytest.raises(Misconfigured, match="go together"):
        check("127.0.0.1:1", KEY, TLS(certificate=b"a"), False)
    with pytest.raises(Misconfigured, match="exclude each other"):
        check("127.0.0.1:1", KEY, TLS(), True)


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"timeout": 0}, {"authorize_timeout": -1}, {"timeout": float("nan")}]
)
def test_counts_and_times_are_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="must be positive"):
        Client("127.0.0.1:1", KEY, **wrong)


def test_the_environment_alone_is_enough(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    environ = {"DOORWARD_TARGET": door.target, "DOORWARD_KEY_FILE": str(file), "DOORWARD_KEY": ""}
    with Client.from_env(environ) as client:
        client.whoami()
    assert door.last.metadata["authorization"] == f"Bearer {KEY}"


def test_defaults_of_the_environment() -> None:
    settings = from_env({"DOORWARD_KEY": KEY})
    assert (settings.target, settings.key, settings.pem) == ("127.0.0.1:50051", Secret(KEY), None)


def test_tls_from_the_environment(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(name)
    files = {f"DOORWARD_TLS_{name.upper()}": str(tmp_path / name) for name in ("ca", "cert", "key")}
    pem = from_env({"DOORWARD_KEY": KEY, "DOORWARD_TARGET": "doorward.example:1"} | files).pem
    assert pem
    assert (pem.ca, pem.certificate, pem.private_key) == (b"ca", b"cert", b"key")
    pem = from_env({"DOORWARD_KEY": KEY, "DOORWARD_TARGET": "d.example:1", "DOORWARD_TLS_CA": "system"}).pem
    assert pem
    assert pem.ca is None


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_plaintext_may_be_asked_for(word: str) -> None:
    assert from_env({"DOORWARD_KEY": KEY, "DOORWARD_TARGET": "d.example:1", "DOORWARD_INSECURE": word}).pem is None


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_all_problems_are_told_at_once(kind: type[Client | AsyncClient], tmp_path: Path) -> None:
    environ = {
        "DOORWARD_TARGET": "doorward.example:50051",
        "DOORWARD_KEY_FILE": str(tmp_path / "missing"),
        "DOORWARD_TLS_CERT": str(tmp_path / "missing.pem"),
        "DOORWARD_INSECURE": "maybe",
    }
    with pytest.raises(Misconfigured) as caught:
        kind.from_env(environ)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    for what in ("DOORWARD_KEY_FILE", "DOORWARD_INSECURE", "go together", "missing.pem: No such file"):
        assert what in told


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({}, "there is no key"),
        ({"DOORWARD_KEY": KEY, "DOORWARD_KEY_FILE": "x"}, "both set"),
        ({"DOORWARD_KEY_FILE": "/dev/null"}, "is empty"),
        ({"DOORWARD_KEY": KEY, "DOORWARD_TARGET": "doorward.example:1"}, "is not this machine"),
    ],
)
def test_one_problem_is_told_once(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        from_env(environ)
    assert len(caught.value.problems) == 1
    assert problem in str(caught.value)
    assert KEY not in str(caught.value)
