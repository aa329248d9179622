"""Planted bugs: wrong versions of parts of the core, to see that the tests turn red. Only the tests know them.

`DOORWARD_PLANT=<name> pytest tests/core` runs with one; conftest.py plants it before any test module is imported.
Each is a mistake that somebody could make, and each names the test that must notice (test_plants.py).
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable
from typing import Any

from doorward_server.core import decide, keyspace, keytext, model, policy, verify

PLANTS: dict[str, tuple[str, Callable[[], None]]] = {}
"""By name: the test that notices, and what plants it."""

ORACLE = "test_decide_oracle.py::test_agrees_with_the_oracle_in_a_sweep"
HYPOTHESIS = "test_decide_oracle.py::test_agrees_with_the_oracle"
MACHINE = "test_model.py::test_a_key_keeps_its_promises_whatever_is_done_to_it"


def noticed_by(test: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a plant under the name of its function."""

    def register(plant: Callable[[], None]) -> Callable[[], None]:
        PLANTS[plant.__name__.replace("_", "-")] = (test, plant)
        return plant

    return register


def put(where: object, name: str, wrong: object) -> None:
    """Replace an attribute of a module or a class."""
    assert hasattr(where, name), f"{where} has no {name}: the plant is out of date"
    setattr(where, name, wrong)


# --- the decision -----------------------------------------------------------------------------------------------------


@noticed_by(HYPOTHESIS)
def allow_beats_deny() -> None:
    right = decide._judge

    def judge(held: Any, question: Any, now: int, lacking: Any) -> Any:
        def without(effect: policy.Effect) -> Any:
            return tuple(
                dataclasses.replace(
                    holding,
                    role=dataclasses.replace(
                        holding.role,
                        rules={
                            action: tuple(rule for rule in rules if rule.effect is not effect)
                            for action, rules in holding.role.rules.items()
                        },
                    ),
                )
                for holding in held
            )

        allowed = right(without(policy.Effect.DENY), question, now, lacking)
        return allowed if allowed.allowed else right(held, question, now, lacking)

    put(decide, "_judge", judge)


@noticed_by(ORACLE)
def organization_after_roles() -> None:
    """A wildcard crosses: whoever holds something on every resource is not asked for its organization."""
    right = decide._place

    def place(subject: Any, question: Any, keyspace: Any) -> Any:
        held = (*(subject.ceiling or ()), *(subject.roles or ()))
        if any(policy.EVERYTHING in holding.resources for holding in held):
            question = dataclasses.replace(question, organization=None)
        return right(subject, question, keyspace)

    put(decide, "_place", place)


@noticed_by("test_decide_properties.py::test_nothing_crosses_without_an_operator_whatever_is_granted")
def any_keyspace_has_an_operator() -> None:
    right = decide._place

    def place(subject: Any, question: Any, keyspace: Any) -> Any:
        return right(subject, question, dataclasses.replace(keyspace, operator=subject.organization.id))

    put(decide, "_place", place)


@noticed_by(ORACLE)
def expired_binding_counts() -> None:
    put(decide.Held, "active", lambda self, now: self.not_before is None or self.not_before <= now)


@noticed_by("test_decide_properties.py::test_a_binding_counts_from_not_before_until_expires_at")
def binding_counts_a_moment_too_long() -> None:
    def active(self: Any, now: int) -> bool:
        return (self.not_before is None or self.not_before <= now) and (
            self.expires_at is None or now <= self.expires_at
        )

    put(decide.Held, "active", active)


@noticed_by("test_decide_properties.py::test_an_address_that_was_not_given_is_in_no_network")
def absent_address_passes() -> None:
    right = decide.in_network
    put(decide, "in_network", lambda subject, client_ip: client_ip is None or right(subject, client_ip))


@noticed_by("test_decide_properties.py::test_an_inheriting_key_may_do_what_both_it_and_its_owner_may")
def owner_is_not_asked_of_a_list() -> None:
    right = decide.key_subject

    def key_subject(key: Any, *rest: Any) -> Any:
        subject = right(key, *rest)
        return dataclasses.replace(subject, roles=None) if key.ceiling is model.Ceiling.LIST else subject

    put(decide, "key_subject", key_subject)


@noticed_by(ORACLE)
def bindings_of_a_key_without_owner_count() -> None:
    """As the core had it once."""
    right = decide.key_subject

    def key_subject(key: Any, secret: Any, organization: Any, owner: Any, bindings: Any, keyspace: Any) -> Any:
        subject = right(key, secret, organization, owner, bindings, keyspace)
        asked = subject.roles is not None
        return dataclasses.replace(subject, roles=decide.held_roles(bindings, keyspace) if asked else None)

    put(decide, "key_subject", key_subject)


@noticed_by(ORACLE)
def deny_without_its_relation_denies() -> None:
    right = decide._judge

    def judge(held: Any, question: Any, now: int, lacking: Any) -> Any:
        eager = dataclasses.replace(question, relations=frozenset({"owner", "assigned"}))
        denied = right(held, eager, now, lacking)
        return denied if denied.reason is decide.Reason.DENIED_BY_RULE else right(held, question, now, lacking)

    put(decide, "_judge", judge)


@noticed_by(ORACLE)
def superseded_secret_works() -> None:
    put(model.Secret, "alive", lambda self, now: True)


@noticed_by("test_decide_properties.py::test_ending_anything_never_allows_more")
def owner_may_be_disabled() -> None:
    put(model.Principal, "alive", property(lambda self: self.deleted_at is None))


@noticed_by(ORACLE)
def included_roles_are_left_out() -> None:
    right = keyspace._Roles._role
    put(keyspace._Roles, "_role", lambda self, name, documents, included: right(self, name, documents, included[:1]))


# --- patterns ---------------------------------------------------------------------------------------------------------


@noticed_by("test_policy.py::test_matches_what_the_model_matches")
def final_star_is_none_or_more() -> None:
    right = policy.Pattern.matches
    put(policy.Pattern, "matches", lambda self, path: right(self, path) or self.text == "/".join((*path, "*")))


@noticed_by("test_policy.py::test_covers_if_and_only_if_all_is_matched")
def one_segment_covers_many() -> None:
    right = policy.Pattern.covers
    put(policy.Pattern, "covers", lambda self, other: right(self, other) or self.matches((*other.head, "*")))


# --- key text and possession ------------------------------------------------------------------------------------------


@noticed_by("test_keytext.py::test_every_substitution_is_refused")
def checksum_is_skipped() -> None:
    def parse(text: str) -> keytext.KeyText:
        match = keytext._SHAPE.fullmatch(text) if len(text) <= 200 else None
        if match is None:
            raise keytext.MalformedText("not a key text")
        return keytext.KeyText(match["prefix"], match["environment"], match["body"][:10], keytext.SecretText(text))

    put(keytext, "parse", parse)


@noticed_by("test_keytext.py::test_garbage_is_malformed")
def text_is_trimmed() -> None:
    right = keytext.parse
    put(keytext, "parse", lambda text: right(text.strip()))


@noticed_by("test_keytext.py::test_a_secret_does_not_print")
def secret_prints() -> None:
    put(keytext.SecretText, "__str__", lambda self: self._text)


@noticed_by("test_verify.py::test_one_changed_bit_of_what_is_stored_does_not_prove")
def possession_by_a_prefix_of_the_digest() -> None:
    def proves(self: Any, secret: Any, verifier: Any) -> bool:
        return hmac.compare_digest(self._digest(verifier.pepper, secret)[:8], verifier.digest[:8])

    put(verify.Peppers, "proves", proves)


@noticed_by("test_verify.py::test_one_changed_character_anywhere_does_not_prove")
def possession_by_the_first_characters() -> None:
    right = verify.Peppers._digest

    def digest(self: Any, version: int, secret: Any) -> bytes:
        return right(self, version, keytext.SecretText(secret.reveal()[:50]))

    put(verify.Peppers, "_digest", digest)


@noticed_by("test_verify.py::test_an_unknown_version_is_an_outage_and_never_a_denial")
def unknown_pepper_denies() -> None:
    put(verify.Peppers, "_pepper", lambda self, version: self.versions.get(version, b""))


# --- keys -------------------------------------------------------------------------------------------------------------


@noticed_by(MACHINE)
def rotation_extends_life() -> None:
    put(model.Secret, "end_by", lambda self, at: dataclasses.replace(self, expires_at=at))


@noticed_by(MACHINE)
def revocation_can_be_undone() -> None:
    put(model.Key, "_refuse_if_revoked", lambda self: None)


@noticed_by(MACHINE)
def deletion_is_no_change() -> None:
    """As the core had it once: a revoked key was deleted, and again, under the same version."""
    put(model.Key, "delete", lambda self, at: dataclasses.replace(self.revoke(at, "deleted"), deleted_at=at))
