"""Configuration: `DOORWARD_*` variables over a TOML file over defaults; unknown names refused, all problems at once.

The environment is an argument (house rule 4), and pydantic-settings would pass over unknown variables: hence a plain
model.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "DOORWARD_"
CLIENT_NAMES = frozenset(
    PREFIX + name for name in ("TARGET", "KEY", "KEY_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY", "INSECURE")
)
"""Variables of the client and the CLI: on one machine with the server they may stand beside its own."""
CONFIG_FILE = PREFIX + "CONFIG"
SQLITE_DEFAULT = "doorward.db"


class ConfigProblem(Exception):
    """The configuration cannot be used; the message lists every problem, never a value that may be secret."""


class Config(BaseModel):
    """What the server is told from outside. Every field is `DOORWARD_<NAME>`, or `<name>` in the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    listen: str = Field("127.0.0.1:50051", description="Address and port of the gRPC server; port 0 takes a free one.")
    store: str = Field(
        "", repr=False, description="sqlite:///path or postgresql://…; default: doorward.db in the state directory."
    )
    state_dir: Path = Field(Path("var"), description="Where files go that have no place of their own.")
    pepper_file: Path | None = Field(None, description="The peppers; default: peppers.json in the state directory.")
    root_key_file: Path | None = Field(None, description="Where a root key is written; default: root-key, there too.")
    metrics_listen: str = Field("127.0.0.1:9464", description="Address and port of /metrics; empty: none.")
    tls_certificate: Path | None = Field(None, description="PEM file of the server's certificate chain.")
    tls_private_key: Path | None = Field(None, description="PEM file of its private key.")
    tls_client_ca: Path | None = Field(None, description="PEM file: callers must show a certificate signed by it.")
    plaintext: bool = Field(False, description="Serve without TLS although `listen` is not a loopback address.")
    transport: Literal["grpcio", "native"] = Field(
        "grpcio", description="Who speaks HTTP/2. native is an experiment: unary RPCs only, no TLS, fewer bounds."
    )
    behind_proxy: bool = Field(
        False, description="A proxy in front keeps the bounds that `transport = native` does not; docs/operating.md."
    )
    decision_log: Path | None = Field(
        None, description="The file for keyspaces that record decisions in one; default: decisions.jsonl, there too."
    )
    serve_stale_for: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="Seconds for which answers may be out of date while the store is lost; every change then waits so "
        "much longer for a server that does not answer.",
    )
    drain_seconds: float = Field(10.0, ge=0, le=3600, description="How long calls may go on after SIGTERM.")
    bcrypt_cost: int = Field(12, ge=4, le=16, description="Of bcrypt-sha256 secrets that are made from now on.")
    webhook_allow_private: bool = Field(False, description="Send webhooks into private networks, too.")
    webhook_allow_http: bool = Field(False, description="Send webhooks over plain HTTP, too.")
    webhook_ca: Path | None = Field(None, description="PEM file: authorities for webhooks besides the system's.")
    max_keys: int = Field(1_000_000, ge=1, description="Keys per organization.")
    audit_retention_days: int = Field(
        0, ge=0, le=36_500, description="Days that audit events are kept at least; 0: for ever."
    )
    max_bindings: int = Field(100_000, ge=1, description="Bindings per organization.")

    @property
    def store_url(self) -> str:
        """Where the store is. May hold a password: not for logs."""
        return self.store or f"sqlite:///{self.state_dir / SQLITE_DEFAULT}"

    @property
    def peppers(self) -> Path:
        """Where the peppers are."""
        return self.pepper_file or self.state_dir / "peppers.json"

    @property
    def decisions(self) -> Path:
        """Where decisions are recorded, if a keyspace wants them in a file."""
        return self.decision_log or self.state_dir / "decisions.jsonl"

    @property
    def root_key(self) -> Path:
        """Where a new root key goes."""
        return self.root_key_file or self.state_dir / "root-key"


def load(environ: Mapping[str, str]) -> Config:
    """Return the configuration that *environ* describes. Raises ConfigProblem with all that is wrong."""
    problems: list[str] = []
    values = _file(environ.get(CONFIG_FILE, ""), problems)
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX) and name not in CLIENT_NAMES and name != CONFIG_FILE:
            field = name.removeprefix(PREFIX).lower()
            if field in Config.model_fields and name.isupper():
                values[field] = value
            else:
                problems.append(f"{name}: there is no such setting")
    try:
        config = Config(**values)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        problems += [f"{_name(e['loc'])}: {e['msg']}" for e in wrong]
        # What contradicts what is said too: without the settings that are wrong by themselves.
        alone = {e["loc"][0] for e in wrong}
        config = Config(**{name: value for name, value in values.items() if name not in alone})
    problems += _contradictions(config)
    if problems:
        raise ConfigProblem("The configuration cannot be used:\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def _file(path: str, problems: list[str]) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        problems.append(f"{CONFIG_FILE}: the file {path} cannot be read ({error.strerror})")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        problems.append(f"{CONFIG_FILE}: the file {path} is not valid TOML")
    return {}


def _name(location: tuple[int | str, ...]) -> str:
    return PREFIX + ".".join(map(str, location)).upper()


def _contradictions(config: Config) -> list[str]:
    problems = []
    for name in ("listen", "metrics_listen"):
        value = getattr(config, name)
        if (value or name == "listen") and not _is_address(value):
            problems.append(f"{_name((name,))}: must be host:port, e.g. 127.0.0.1:50051 or [::]:50051")
    if (config.tls_certificate is None) != (config.tls_private_key is None):
        problems.append("DOORWARD_TLS_CERTIFICATE and DOORWARD_TLS_PRIVATE_KEY belong together: give both or neither")
    if config.tls_client_ca and not config.tls_certificate:
        problems.append("DOORWARD_TLS_CLIENT_CA needs DOORWARD_TLS_CERTIFICATE and DOORWARD_TLS_PRIVATE_KEY")
    if not (config.tls_certificate or config.plaintext or is_loopback(config.listen)):
        problems.append(
            f"{_name(('listen',))}: {config.listen} is not a loopback address, and keys would travel in clear. "
            "Give a certificate (DOORWARD_TLS_CERTIFICATE, DOORWARD_TLS_PRIVATE_KEY), or say DOORWARD_PLAINTEXT=true "
            "if something in front encrypts"
        )
    if config.transport == "native":
        problems += _of_native(config)
    return problems


def _of_native(config: Config) -> list[str]:
    problems = []
    if config.tls_certificate or config.tls_private_key or config.tls_client_ca:
        problems.append(
            "DOORWARD_TRANSPORT: native has no TLS, and certificates are given. Leave out DOORWARD_TLS_*, or serve "
            "with DOORWARD_TRANSPORT=grpcio"
        )
    if not (config.behind_proxy or is_loopback(config.listen)):
        problems.append(
            f"DOORWARD_TRANSPORT: native does not bound the size of messages, and {config.listen} is not a loopback "
            "address. Say DOORWARD_BEHIND_PROXY=true if callers reach it only through a proxy that does, or serve with "
            "DOORWARD_TRANSPORT=grpcio"
        )
    return problems


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port"; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Tell whether nobody outside this machine can reach *address*."""
    host, _ = split_address(address) if _is_address(address) else ("", 0)
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon and host) and port.isascii() and port.isdigit() and int(port) < 65536
