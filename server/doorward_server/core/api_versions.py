"""Which API version a request speaks.

    api_version:
      header: Fegura-Version
      versions: ["2026-02-01", "2026-08-01"]

A key has the version that was pinned to it when it was made (`keys.api_version`). A request may name another one in
this header. A version that the keyspace does not declare, or two different ones, are as if nothing had been named:
what end users write into a header must be able neither to fail a call nor to invent a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import KeyspaceInvalid
from .rails import API_VERSION
from .words import HEADER, check_each, matching


@dataclass(frozen=True, slots=True)
class ApiVersions:
    """Where requests name a version, and which there are."""

    header: str = ""
    """Lower case; empty: nowhere."""
    versions: frozenset[str] = frozenset()

    def effective(self, headers: Iterable[tuple[str, str]], pinned: str) -> str:
        """Return the version that a request with *headers* speaks, if the key has *pinned*; empty: none is known."""
        if not self.header:
            return pinned
        named = {value for name, value in headers if name.lower() == self.header}
        return named.pop() if len(named) == 1 and named <= self.versions else pinned


def compile_api_versions(document: Mapping[str, Any] | None, pinned: str) -> ApiVersions:
    """Compile `api_version:` of a keyspace file that pins *pinned* to new keys. Raises KeyspaceInvalid."""
    if not document:
        return ApiVersions()
    header = matching("api_version.header", document["header"], HEADER)
    versions = document["versions"]
    check_each("api_version.versions", versions, API_VERSION)
    if pinned and pinned not in versions:
        raise KeyspaceInvalid("keys.api_version", f"{pinned!r} is not one of api_version.versions")
    return ApiVersions(header.lower(), frozenset(versions))
