"""Where Doorward is and how to reach it safely. Half-configured security is refused, with all problems in one error."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from doorward.errors import Misconfigured
from doorward.secret import Secret, reveal

DEFAULT_TARGET = "127.0.0.1:50051"

_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("", "0", "false", "no", "off"), False)


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificates, each as the path of a PEM file or as its bytes.

    `ca` proves the server; None means the authorities that grpc brings along. `certificate` and `private_key` belong
    together and prove this client (mTLS).
    """

    ca: str | os.PathLike[str] | bytes | None = None
    certificate: str | os.PathLike[str] | bytes | None = None
    private_key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Cache:
    """How a client remembers decisions: up to `size` of them, 0 for none, some 2 KiB each.

    Those of `keyspaces` only, if any are named: do so where the client's own key may lease (`decisions:lease`) fewer
    keyspaces than it may ask about.
    """

    size: int = 10_000
    keyspaces: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Pem:
    """The contents of a TLS, as `grpc.ssl_channel_credentials` takes them."""

    ca: bytes | None
    private_key: bytes | None = field(repr=False)
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach Doorward, checked. `pem` is None on plaintext."""

    target: str
    key: Secret
    pem: Pem | None


def check(target: str, key: str | Secret, tls: TLS | None, insecure: bool) -> Settings:
    """Return the settings. Raises Misconfigured."""
    problems: list[str] = []
    pem = _read(tls, problems)
    text = reveal(key)
    if not target:
        problems.append("the target is empty")
    if not text:
        problems.append("the key is empty")
    elif not (text.isascii() and text.isprintable()) or " " in text:
        problems.append("the key holds a character that no key has, such as a space or a line end")
    if tls and insecure:
        problems.append("TLS and 'insecure' exclude each other")
    if target and not tls and not insecure and not is_loopback(target):
        problems.append(
            f"{target} is not this machine, and plaintext would show the key on the network: give TLS settings, "
            "or ask for plaintext by name (insecure=True, DOORWARD_INSECURE=1, --insecure)"
        )
    if problems:
        raise Misconfigured(problems)
    return Settings(target, Secret(text), pem)


def from_env(environ: Mapping[str, str]) -> Settings:
    """Return the settings that DOORWARD_* variables give; `Client.from_env` lists them. Raises Misconfigured."""
    problems: list[str] = []
    key = _key(environ, problems)
    tls = _tls(environ)
    insecure = _BOOLEANS.get(environ.get("DOORWARD_INSECURE", "").lower())
    if insecure is None:
        problems.append("DOORWARD_INSECURE is neither 1 nor 0")
    try:
        # Where the key is the problem it has been named already; the rest is checked with a stand-in.
        settings = check(environ.get("DOORWARD_TARGET") or DEFAULT_TARGET, key or "none", tls, insecure or False)
    except Misconfigured as error:
        problems += error.problems
    if problems:
        raise Misconfigured(problems)
    return settings


def is_loopback(target: str) -> bool:
    """Tell whether a gRPC target is certainly on this machine; a name that only might be is not."""
    scheme, separator, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract") and separator:
        return True
    if scheme == "dns":
        authority, _, rest = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest)
        return not authority and _is_loopback_host(rest)
    if scheme in ("ipv4", "ipv6"):
        return all(_is_loopback_host(address) for address in rest.removeprefix("///").split(","))
    return _is_loopback_host(target)


def _is_loopback_host(address: str) -> bool:
    match = re.fullmatch(r"(\[[^]]+]|[^]:[]+)(:\d+)?", address)
    if not match:
        return False
    host = match[1].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(environ: Mapping[str, str], problems: list[str]) -> str:
    text, path = environ.get("DOORWARD_KEY", ""), environ.get("DOORWARD_KEY_FILE", "")
    if text and path:
        problems.append("DOORWARD_KEY and DOORWARD_KEY_FILE are both set: unset one")
    elif path:
        text = (_file(path, "DOORWARD_KEY_FILE", problems) or b"").decode("utf-8", "replace").rstrip("\r\n")
        if not text and not problems:
            problems.append(f"DOORWARD_KEY_FILE: {path} is empty")
    elif not text:
        problems.append("there is no key: set DOORWARD_KEY_FILE to the path of a file with one, or DOORWARD_KEY")
    return text


def _tls(environ: Mapping[str, str]) -> TLS | None:
    ca, certificate, key = (environ.get(f"DOORWARD_TLS_{part}") or None for part in ("CA", "CERT", "KEY"))
    return TLS(None if ca == "system" else ca, certificate, key) if ca or certificate or key else None


def _read(tls: TLS | None, problems: list[str]) -> Pem | None:
    if tls is None:
        return None
    if (tls.certificate is None) != (tls.private_key is None):
        problems.append("a TLS certificate and its private key go together: one of them is missing")
    ca, key, certificate = (
        value if value is None or isinstance(value, bytes) else _file(value, f"the TLS {what}", problems)
        for value, what in ((tls.ca, "CA"), (tls.private_key, "private key"), (tls.certificate, "certificate"))
    )
    return Pem(ca, key, certificate)


def _file(path: str | os.PathLike[str], what: str, problems: list[str]) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        problems.append(f"{what}: {path}: {error.strerror}")
        return None
