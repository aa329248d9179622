"""Compiling the part `keys` of a keyspace document into guard rails. All raise KeyspaceInvalid."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import KeyspaceInvalid
from .model import Ceiling
from .policy import Keyspace
from .rails import API_VERSION, TYPE, Exceed, Hand, Need, Rails
from .words import Document, check_each, check_known, matching, span

_NEEDS = {"required": Need.REQUIRED, "optional": Need.OPTIONAL, "none": Need.FORBIDDEN, "forbidden": Need.FORBIDDEN}


def compile_rails(document: Document) -> Rails:
    scopes, expiry, active, rotation, name = (
        document.get(part) or {} for part in ("scopes", "expiry", "active_per_owner", "rotation", "name")
    )
    types = tuple(document.get("types") or ())
    check_each("keys.types", types, TYPE)
    version = document.get("api_version") or ""
    return Rails(
        owner=_NEEDS[document.get("owner") or "optional"],
        min_scopes=scopes.get("min") or 0,
        max_scopes=scopes.get("max"),
        scopes_by_environment={it: frozenset(roles) for it, roles in (scopes.get("environments") or {}).items()},
        selective=frozenset(scopes.get("selective") or ()),
        expiry=_NEEDS[expiry.get("need") or "optional"],
        default_lifetime=_maybe_span("keys.expiry.default", expiry.get("default")),
        max_lifetime=_maybe_span("keys.expiry.maximum", expiry.get("maximum")),
        lifetimes=_lifetimes(expiry.get("allowed")),
        custom_expiry=expiry.get("custom", True),
        max_active_per_owner=active.get("maximum"),
        on_exceed=Exceed((active.get("on_exceed") or "reject").upper()),
        made_by=_hands(document.get("made_by")),
        ended_by=_hands(document.get("ended_by")),
        name_pattern=name.get("pattern") or "",
        types=types,
        default_types=dict(document.get("default_type") or {}),
        rotate_every=_maybe_span("keys.rotation.every", rotation.get("every")),
        rotate_every_by_type={
            type: span(f"keys.rotation.types.{type}", text) for type, text in (rotation.get("types") or {}).items()
        },
        overlap=rotation.get("overlap", True),
        api_version=version and matching("keys.api_version", version, API_VERSION),
    )


def _maybe_span(place: str, text: str | None) -> int | None:
    return None if text is None else span(place, text)


def _lifetimes(texts: Iterable[str] | None) -> frozenset[int] | None:
    if texts is None:
        return None
    return frozenset(span(f"keys.expiry.allowed[{i}]", text) for i, text in enumerate(texts))


def _hands(words: Iterable[str] | None) -> frozenset[Hand]:
    return frozenset(Hand) if words is None else frozenset(Hand(word.upper()) for word in words)


def check_rails(keyspace: Keyspace) -> None:
    """Refuse guard rails that contradict each other, or name what the keyspace does not have."""
    rails = keyspace.rails
    if rails.max_scopes is not None and rails.max_scopes < rails.min_scopes:
        raise KeyspaceInvalid("keys.scopes.max", f"must be at least keys.scopes.min, {rails.min_scopes}")
    for environment, roles in rails.scopes_by_environment.items():
        place = f"keys.scopes.environments.{environment}"
        check_known(place, "environment", environment, keyspace.environments)
        for role in sorted(roles):
            check_known(place, "role", role, keyspace.roles)
    for role in sorted(rails.selective):
        check_known("keys.scopes.selective", "role", role, keyspace.roles)
    for environment, type in rails.default_types.items():
        check_known(f"keys.default_type.{environment}", "environment", environment, keyspace.environments)
        _check_key_type(f"keys.default_type.{environment}", type, rails)
    for type in rails.rotate_every_by_type:
        _check_key_type(f"keys.rotation.types.{type}", type, rails)
    if rails.owner is Need.FORBIDDEN:
        for place, needs_owner in (
            ("keys.active_per_owner", rails.max_active_per_owner is not None),
            ("keys.made_by", Hand.ADMINISTRATOR not in rails.made_by),
            ("ceilings", Ceiling.OWNER in keyspace.ceilings),
        ):
            if needs_owner:
                raise KeyspaceInvalid(place, "needs keys with owners, and keys.owner is 'none'")
    _check_lifetimes(rails)


def _check_lifetimes(rails: Rails) -> None:
    spans = {"default": rails.default_lifetime, "maximum": rails.max_lifetime, "allowed": rails.lifetimes}
    for word, given in spans.items():
        if rails.expiry is Need.FORBIDDEN and given is not None:
            raise KeyspaceInvalid(
                f"keys.expiry.{word}", "goes with keys that expire, and keys.expiry.need is 'forbidden'"
            )
    longest = max(rails.lifetimes or (), default=0)
    if rails.max_lifetime is not None and longest > rails.max_lifetime:
        raise KeyspaceInvalid("keys.expiry.allowed", "must not be longer than keys.expiry.maximum")
    default = rails.default_lifetime
    if default is not None and rails.max_lifetime is not None and default > rails.max_lifetime:
        raise KeyspaceInvalid("keys.expiry.default", "must not be longer than keys.expiry.maximum")
    if default is not None and rails.lifetimes is not None and default not in rails.lifetimes:
        raise KeyspaceInvalid("keys.expiry.default", "must be one of keys.expiry.allowed")


def _check_key_type(place: str, type: str, rails: Rails) -> None:
    matching(place, type, TYPE)
    if rails.types:
        check_known(place, "type", type, rails.types)
