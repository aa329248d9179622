"""The server's configuration: variables over a file over defaults, and all that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorward_server.config import Config, ConfigProblem, load


def wrong(**environ: str) -> str:
    with pytest.raises(ConfigProblem) as problem:
        load({f"DOORWARD_{name}": value for name, value in environ.items()})
    return str(problem.value)


def test_without_anything_it_serves_here_from_a_file() -> None:
    config = load({"PATH": "/bin"})
    assert config == load({"DOORWARD_TARGET": "elsewhere:1", "DOORWARD_KEY_FILE": "x", "DOORWARD_INSECURE": "1"})
    assert (config.listen, config.store_url) == ("127.0.0.1:50051", "sqlite:///var/doorward.db")
    assert (config.peppers, config.root_key) == (Path("var/peppers.json"), Path("var/root-key"))


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text('listen = "127.0.0.1:1"\nmax_keys = 7\n')
    config = load({"DOORWARD_CONFIG": str(file), "DOORWARD_LISTEN": "127.0.0.1:2"})
    assert (config.listen, config.max_keys) == ("127.0.0.1:2", 7)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_plaintext_goes_to_this_machine(listen: str) -> None:
    assert load({"DOORWARD_LISTEN": listen}).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "localhost.evil.example:1"])
def test_plaintext_beyond_it_must_be_asked_for(listen: str) -> None:
    assert "is not a loopback address" in wrong(LISTEN=listen)
    assert load({"DOORWARD_LISTEN": listen, "DOORWARD_PLAINTEXT": "true"}).plaintext
    files = {"DOORWARD_TLS_CERTIFICATE": "c", "DOORWARD_TLS_PRIVATE_KEY": "k"}
    assert load({"DOORWARD_LISTEN": listen, **files}).tls_certificate == Path("c")


@pytest.mark.parametrize("listen", ["", "50051", ":50051", "localhost", "localhost:", "localhost:x", "localhost:65536"])
def test_an_address_is_a_host_and_a_port(listen: str) -> None:
    assert "DOORWARD_LISTEN: must be host:port" in wrong(LISTEN=listen)


@pytest.mark.parametrize("given", [{"TLS_CERTIFICATE": "c"}, {"TLS_PRIVATE_KEY": "k"}])
def test_half_of_tls_is_refused(given: dict[str, str]) -> None:
    assert "give both or neither" in wrong(**given)
    assert "DOORWARD_TLS_CLIENT_CA needs" in wrong(TLS_CLIENT_CA="ca", **({} if "TLS_CERTIFICATE" in given else given))


def test_names_that_are_unknown_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "doorward.toml"
    file.write_text('colour = "red"\n')
    said = wrong(CONFIG=str(file), LISTE="x", listen="127.0.0.1:1", MAX_KEYS="0")
    for problem in (
        "DOORWARD_COLOUR",
        "DOORWARD_LISTE: there is no",
        "DOORWARD_listen: there is no",
        "DOORWARD_MAX_KEYS",
    ):
        assert problem in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in wrong(CONFIG=str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b"\xff = 1")
    assert "is not valid TOML" in wrong(CONFIG=str(tmp_path / "bad.toml"))


def test_no_value_is_repeated_that_may_be_a_secret() -> None:
    assert "hunter2" not in wrong(STORE="postgresql://u:hunter2@host/db", DRAIN_SECONDS="hunter2", MAX_KEYS="hunter2")
    assert "hunter2" not in repr(Config.model_validate({"store": "postgresql://u:hunter2@host/db"}))
