"""Planted bugs: wrong versions of parts of the core, to see that the tests turn red. Only the tests know them.

`DOORWARD_PLANT=<name> pytest tests/core` runs with one; conftest.py plants it before any test module is imported.
Each is a mistake that somebody could make, and each names the test that must notice (test_plants.py).
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable
from typing import Any

from doorward_server.core import (
    decide,
    directory,
    explain,
    facts,
    keytext,
    model,
    policy,
    rails,
    reasons,
    roles,
    selectors,
    subject,
    verify,
)  # fmt: skip
from doorward_server.service import conditions

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

    def judge(who: Any, held: Any, question: Any, now: int, *rest: Any) -> Any:
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

        allowed = right(who, without(policy.Effect.DENY), question, now, *rest)
        return allowed if allowed.allowed else right(who, held, question, now, *rest)

    put(decide, "_judge", judge)


@noticed_by(ORACLE)
def organization_after_roles() -> None:
    """A wildcard crosses: whoever holds something on every resource is not asked for its organization."""
    right = decide.placed

    def place(subject: Any, question: Any, keyspace: Any) -> Any:
        held = (*(subject.ceiling or ()), *(subject.roles or ()))
        if any(policy.EVERYTHING in holding.resources for holding in held):
            question = question._replace(organization=None)
        return right(subject, question, keyspace)

    put(decide, "placed", place)


@noticed_by("test_decide_properties.py::test_nothing_crosses_without_an_operator_whatever_is_granted")
def any_keyspace_has_an_operator() -> None:
    right = decide.placed

    def place(subject: Any, question: Any, keyspace: Any) -> Any:
        return right(subject, question, dataclasses.replace(keyspace, operator=subject.organization.id))

    put(decide, "placed", place)


@noticed_by(ORACLE)
def expired_binding_counts() -> None:
    put(subject.Held, "active", lambda self, now: self.not_before is None or self.not_before <= now)


@noticed_by("test_decide_properties.py::test_a_binding_counts_from_not_before_until_expires_at")
def binding_counts_a_moment_too_long() -> None:
    def active(self: Any, now: int) -> bool:
        return (self.not_before is None or self.not_before <= now) and (
            self.expires_at is None or now <= self.expires_at
        )

    put(subject.Held, "active", active)


@noticed_by("test_decide_properties.py::test_an_address_that_was_not_given_is_in_no_network")
def absent_address_passes() -> None:
    right = subject.in_network
    put(decide, "in_network", lambda subject, client_ip: client_ip is None or right(subject, client_ip))


@noticed_by("test_decide_properties.py::test_an_inheriting_key_may_do_what_both_it_and_its_owner_may")
def owner_is_not_asked_of_a_list() -> None:
    right = subject.key_subject

    def key_subject(key: Any, *rest: Any) -> Any:
        made = right(key, *rest)
        return dataclasses.replace(made, roles=None) if key.ceiling is model.Ceiling.LIST else made

    put(subject, "key_subject", key_subject)


@noticed_by(ORACLE)
def bindings_of_a_key_without_owner_count() -> None:
    """As the core had it once."""
    right = subject.key_subject

    def key_subject(
        key: Any, secret: Any, organization: Any, owner: Any, bindings: Any, keyspace: Any, *rest: Any
    ) -> Any:
        made = right(key, secret, organization, owner, bindings, keyspace, *rest)
        asked = made.roles is not None
        return dataclasses.replace(made, roles=subject.held_roles(bindings, keyspace) if asked else None)

    put(subject, "key_subject", key_subject)


@noticed_by(ORACLE)
def deny_without_its_relation_denies() -> None:
    right = decide._judge

    def judge(who: Any, held: Any, question: Any, now: int, *rest: Any) -> Any:
        every = frozenset({"owner", "assigned", "parent.owner", "parent.assigned"})
        eager = question._replace(facts=dataclasses.replace(question.facts, relations=every))
        denied = right(who, held, eager, now, *rest)
        return denied if denied.reason is reasons.Reason.DENIED_BY_RULE else right(who, held, question, now, *rest)

    put(decide, "_judge", judge)


@noticed_by(ORACLE)
def superseded_secret_works() -> None:
    put(model.Secret, "alive", lambda self, now: True)


@noticed_by("test_decide_properties.py::test_ending_anything_never_allows_more")
def owner_may_be_disabled() -> None:
    put(directory.Principal, "alive", property(lambda self: self.deleted_at is None))


@noticed_by(ORACLE)
def included_roles_are_left_out() -> None:
    right = roles.Roles._role
    put(roles.Roles, "_role", lambda self, name, documents, included: right(self, name, documents, included[:1]))


# --- relations and conditions -----------------------------------------------------------------------------------------


def misjudge(outcome: Callable[[Any, Any], Any]) -> None:
    """Plant what conditions come to: *outcome* is given the right outcome and the rule."""
    right = decide.Scales.weigh
    put(decide.Scales, "weigh", lambda self, holding, rule: outcome(right(self, holding, rule), rule))


@noticed_by(ORACLE)
def deny_that_cannot_be_evaluated_is_passed_over() -> None:
    def outcome(right: Any, rule: Any) -> Any:
        return False if isinstance(right, policy.Unknown) and rule.effect is policy.Effect.DENY else right

    misjudge(outcome)


@noticed_by(ORACLE)
def missing_attribute_allows() -> None:
    misjudge(lambda right, rule: right if right is False or rule.effect is policy.Effect.DENY else True)


@noticed_by("test_decide_facts.py::test_what_is_neither_true_nor_false_is_broken")
def truthy_is_true() -> None:
    def outcome(self: Any, condition: Any) -> Any:
        told = True if condition is None else condition.evaluate(self.look)
        return told if isinstance(told, policy.Unknown) else bool(told)

    put(decide.Scales, "outcome", outcome)


@noticed_by(ORACLE)
def binding_conditions_are_ignored() -> None:
    put(policy.Keyspace, "condition", lambda self, text: None)


@noticed_by("test_decide_facts.py::test_a_repeatable_answer_is_the_same_whatever_else_is_said")
def everything_is_repeatable() -> None:
    right = decide._judge
    put(decide, "_judge", lambda *given: right(*given)._replace(repeatable=True))


@noticed_by("test_decide_facts.py::test_what_is_stored_changes_nothing_where_it_is_not_needed")
def parents_are_not_needed() -> None:
    put(roles, "_asks_stored", lambda rule: rule.relation != "" and not rule.relation.startswith("parent."))


def combined(change: Callable[[Any, Any], Any]) -> None:
    """Plant what is known of a resource: *change* is given the right facts and what was sent."""
    right = facts.combine
    put(facts, "combine", lambda path, sent, *rest: change(right(path, sent, *rest), sent))


@noticed_by(ORACLE)
def parents_relation_is_the_resources() -> None:
    def change(right: Any, sent: Any) -> Any:
        return dataclasses.replace(right, relations=frozenset(it.removeprefix("parent.") for it in right.relations))

    combined(change)


@noticed_by(ORACLE)
def sent_attribute_beats_the_stored_one() -> None:
    combined(lambda right, sent: dataclasses.replace(right, attributes={**right.attributes, **sent.attributes}))


@noticed_by("test_decide_facts.py::test_a_sent_parent_counts_only_where_none_is_stored")
def sent_parent_beats_the_stored_one() -> None:
    right = facts.combine

    def combine(path: Any, sent: Any, attributes: Any, parent: str, *rest: Any) -> Any:
        return right(path, sent, attributes, "" if sent.parent else parent, *rest)

    put(facts, "combine", combine)


@noticed_by(ORACLE)
def relation_of_a_group_is_ignored() -> None:
    right = facts._is_theirs
    put(facts, "_is_theirs", lambda it, *who: it.subject_kind is not directory.SubjectKind.GROUP and right(it, *who))


@noticed_by(ORACLE)
def relation_of_a_group_is_anybodys() -> None:
    right = facts._is_theirs
    put(facts, "_is_theirs", lambda it, *who: it.subject_kind is directory.SubjectKind.GROUP or right(it, *who))


@noticed_by("test_conditions.py::test_what_costs_too_much_or_misleads_is_refused")
def comprehensions_are_compiled() -> None:
    put(conditions, "check_macros", lambda parsed: None)


@noticed_by("test_conditions.py::test_a_value_of_another_type_was_not_told")
def types_are_not_checked() -> None:
    put(conditions, "_value", lambda type, value: list(value) if isinstance(value, tuple) else value)


# --- explanations and lists -------------------------------------------------------------------------------------------

EXPLAIN = "test_explain.py::test_the_trace_comes_to_the_decision"
BRUTE_FORCE = "test_selectors.py::test_selectors_fit_exactly_what_is_allowed"


@noticed_by(EXPLAIN)
def trace_passes_over_a_deny_that_cannot_be_evaluated() -> None:
    put(explain, "_DENYING", {explain.Outcome.MATCHED})


@noticed_by(EXPLAIN)
def trace_forgets_windows() -> None:
    right = explain._outcome

    def outcome(holding: Any, *rest: Any) -> Any:
        return right(dataclasses.replace(holding, not_before=None, expires_at=None), *rest)

    put(explain, "_outcome", outcome)


@noticed_by(BRUTE_FORCE)
def residual_is_dropped_from_a_selector() -> None:
    right = selectors._left
    put(selectors, "_left", lambda *given: None if right(*given) is None else {})


@noticed_by(BRUTE_FORCE)
def relation_is_dropped_from_a_selector() -> None:
    right = selectors._selector
    put(selectors, "_selector", lambda pattern, relations, left: right(pattern, set(), left))


@noticed_by(BRUTE_FORCE)
def denied_selectors_of_the_ceiling_are_lost() -> None:
    right = selectors._select

    def select(held: Any, action: str, effect: Any, *rest: Any) -> Any:
        own = effect is policy.Effect.DENY and all(holding.binding == "" for holding in held)
        return iter(()) if own else right(held, action, effect, *rest)

    put(selectors, "_select", select)


@noticed_by("test_selectors.py::test_a_denied_selector_that_cannot_be_told_apart_denies")
def denied_selector_without_context_is_lost() -> None:
    right = selectors._left
    put(selectors, "_left", lambda given, effect, scales: right(given, policy.Effect.ALLOW, scales))


@noticed_by("test_policy.py::test_both_match_exactly_what_each_matches")
def wider_of_two_patterns_is_taken_for_both() -> None:
    right = policy.Pattern.both
    put(
        policy.Pattern,
        "both",
        lambda self, other: right(self, other) and (self if self.covers(other) else right(self, other)),
    )


# --- patterns ---------------------------------------------------------------------------------------------------------


@noticed_by("test_policy.py::test_matches_what_the_model_matches")
def final_star_is_none_or_more() -> None:
    right = policy.Pattern.matches
    put(policy.Pattern, "matches", lambda self, path: right(self, path) or self.text == "/".join((*path, "*")))


@noticed_by("test_policy.py::test_covers_if_and_only_if_all_is_matched")
def one_segment_covers_many() -> None:
    right = policy.Pattern.covers
    put(policy.Pattern, "covers", lambda self, other: right(self, other) or self.matches((*other.head, "*")))


@noticed_by("test_rails_selective.py::test_none_that_are_named_is_refused")
def none_chosen_is_all_of_them() -> None:
    right = rails._is_chosen
    put(rails, "_is_chosen", lambda pattern: pattern == "*" or right(pattern))


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
