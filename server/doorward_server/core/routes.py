"""Which HTTP request asks for which action on which resource, as a keyspace's `routes:` says.

    routes:
      - {match: GET /api/assessments/queue, action: assessments:list}
      - {match: "GET /api/assessments/{aid}", action: assessments:get, resource: "assessments/{aid}"}
      - match: "GET /api/assessments/vuln/{vid}"
        action: vulnerabilities:get
        resource: "vulnerabilities/{vid}"

A path is compared segment by segment. `{name}` stands for one whole segment, `{name...}`, at the end, for one or more;
a resource can only name what the path has. Without `resource`, the collection of the action's type is asked about. A
path that several routes match is the business of the one whose first differing segment is the more exact: text before
`{name}` before `{name...}`. Routes are kept for a later version: nothing asks them yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import KeyspaceInvalid
from .words import Document, check_known

if TYPE_CHECKING:
    from .policy import Keyspace

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "*"})
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@%-]+", re.ASCII)
_PLACEHOLDER = re.compile(r"\{([a-z][A-Za-z0-9_]{0,30})(\.\.\.)?\}", re.ASCII)
_ANY, _REST = "{}", "{...}"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of `routes:`."""

    method: str
    """Upper case; `*`: any."""
    path: tuple[str, ...]
    """Segments; placeholders as they are written, in braces."""
    action: str
    resource: tuple[str, ...]
    """Segments, placeholders among them; the type alone is a collection."""

    @property
    def shape(self) -> tuple[str, ...]:
        """The path with its placeholders made alike: two routes of one shape match the same requests."""
        return tuple(_shape(segment) for segment in self.path)


def compile_routes(documents: Iterable[Document], keyspace: Keyspace) -> tuple[Route, ...]:
    """Compile `routes:` of a keyspace file. Raises KeyspaceInvalid."""
    routes: list[Route] = []
    seen: dict[tuple[str, ...], int] = {}
    for i, document in enumerate(documents):
        route = _route(f"routes[{i}]", document, keyspace)
        earlier = seen.setdefault((route.method, *route.shape), i)
        if earlier != i:
            raise KeyspaceInvalid(f"routes[{i}].match", f"matches the same requests as routes[{earlier}]")
        routes.append(route)
    return tuple(routes)


def _route(place: str, document: Document, keyspace: Keyspace) -> Route:
    method, _, path = document["match"].partition(" ")
    if method not in METHODS:
        raise KeyspaceInvalid(f"{place}.match", f"must begin with one of {', '.join(sorted(METHODS))} and a space")
    segments = _path(f"{place}.match", path)
    action = document["action"]
    if action not in keyspace.permissions:
        raise KeyspaceInvalid(f"{place}.action", f"{action!r} is not declared under types")
    resource = document.get("resource") or action.partition(":")[0]
    return Route(method, segments, action, _resource(f"{place}.resource", resource, segments, keyspace))


def _path(place: str, path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        raise KeyspaceInvalid(place, "must have a path that begins with '/', as in 'GET /flows/{id}'")
    segments = tuple(path[1:].split("/")) if path != "/" else ()
    names: set[str] = set()
    for i, segment in enumerate(segments):
        match = _PLACEHOLDER.fullmatch(segment)
        if match is None and not _SEGMENT.fullmatch(segment):
            raise KeyspaceInvalid(place, f"has a segment {segment!r} that is neither plain text nor one {{name}}")
        if match is None:
            continue
        if match[2] and i != len(segments) - 1:
            raise KeyspaceInvalid(place, f"has {segment!r} before its end, where only one segment can stand")
        if match[1] in names:
            raise KeyspaceInvalid(place, f"has {{{match[1]}}} twice")
        names.add(match[1])
    return segments


def _resource(place: str, text: str, path: tuple[str, ...], keyspace: Keyspace) -> tuple[str, ...]:
    segments = tuple(text.split("/"))
    check_known(place, "type", segments[0], keyspace.types)
    for segment in segments[1:]:
        if _PLACEHOLDER.fullmatch(segment):
            if segment not in path:
                raise KeyspaceInvalid(place, f"names {segment}, which the path does not have")
        elif not _SEGMENT.fullmatch(segment):
            raise KeyspaceInvalid(place, f"has a segment {segment!r} that is neither plain text nor one {{name}}")
    return segments


def _shape(segment: str) -> str:
    match = _PLACEHOLDER.fullmatch(segment)
    if match is None:
        return segment
    return _REST if match[2] else _ANY
