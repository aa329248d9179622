"""Running the tests that a keyspace file brings along: the same `decide` as for real questions, on worlds in memory.

Nothing is read or written, and time stands still, so a file's tests come out the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from doorward_server.core.credential import find_credential
from doorward_server.core.decide import DENIED, Decision, Question, decide
from doorward_server.core.errors import InvalidField, KeyspaceInvalid
from doorward_server.core.facts import Context
from doorward_server.core.fields import check_address
from doorward_server.core.formats import present
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.service.keyspace_cases import Ask, Case, Expectation, Expected, Http
from doorward_server.service.keyspace_file import KeyspaceFile, line_of
from doorward_server.service.keyspace_scenes import Scene, build, check_attributes, instant, read_path, values
from doorward_server.service.messages import MESSAGES

MAX_QUESTIONS = 2000
"""Of one file: they are asked, and told of, in one call."""
MAX_SHOWN = 200
"""Characters of a value that is otherwise than expected."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one question of one test."""

    name: str
    asked: str
    """The action and the resource, e.g. "flows:execute flows/abc"."""
    line: int
    """Of the question in the file, from 1."""
    problem: str
    """What is otherwise than expected; empty if nothing is."""

    @property
    def passed(self) -> bool:
        """Whether everything is as expected."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class _Question:
    """One question of a test, and where its expectation stands."""

    ask: Ask
    expect: Expectation
    place: str


def run_cases(file: KeyspaceFile) -> tuple[CaseResult, ...]:
    """Run every test of *file*. Raises KeyspaceInvalid for a test that makes no sense in its keyspace."""
    if sum(max(1, len(case.table)) for case in file.cases) > MAX_QUESTIONS:
        raise KeyspaceInvalid("tests", f"must ask at most {MAX_QUESTIONS:,} questions", line_of(file.lines, "tests"))
    try:
        return tuple(result for i, case in enumerate(file.cases) for result in _run(file, f"tests[{i}]", case))
    except KeyspaceInvalid as problem:
        raise KeyspaceInvalid(problem.field, problem.rule, line_of(file.lines, problem.field)) from None


def _run(file: KeyspaceFile, place: str, case: Case) -> Iterator[CaseResult]:
    scene = build(file.keyspace, place, case.given)
    for question in _questions(place, case):
        expected = _expected(question.place, question.expect, file.keyspace)
        asked = f"{question.ask.action} {question.ask.resource}".strip()
        problem = "; ".join(_differences(scene, question.ask, expected))
        yield CaseResult(case.name, asked, line_of(file.lines, question.place), problem)


def _questions(place: str, case: Case) -> Iterator[_Question]:
    if (case.expect is None) == (not case.table):
        raise KeyspaceInvalid(place, "must have either 'expect' or 'table'")
    if case.expect is not None:
        yield _Question(case.ask, case.expect, f"{place}.expect")
        return
    if case.ask.action or case.ask.resource:
        raise KeyspaceInvalid(f"{place}.ask", "must leave action and resource to the table")
    for row, expect in case.table.items():
        action, _, resource = row.partition(" ")
        ask = case.ask.model_copy(update={"action": action, "resource": resource.strip()})
        yield _Question(ask, expect, f"{place}.table.{row}")


def _expected(place: str, expect: Expectation, keyspace: Keyspace) -> Expected:
    if isinstance(expect, str):
        decides = expect in ("ALLOW", "DENY")
        expect = Expected.model_validate({"decision" if decides else "reason": expect})
    if expect.reason is not None and expect.reason not in tuple(Reason):
        raise KeyspaceInvalid(place, f"{expect.reason!r} is no reason, nor ALLOW or DENY")
    if expect.role is not None and expect.role not in keyspace.roles:
        raise KeyspaceInvalid(place, f"there is no role {expect.role!r}")
    return expect


def _differences(scene: Scene, ask: Ask, expected: Expected) -> Iterator[str]:
    decision = _decide(scene, ask)
    answer = scene.keyspace.http.answer(decision.reason, MESSAGES[decision.reason], decision.missing)
    key = scene.subject.key
    pinned = key.api_version if key else ""
    headers = tuple(ask.http.headers.items()) if ask.http else ()
    found = {
        "decision": "ALLOW" if decision.allowed else "DENY",
        "reason": decision.reason.value,
        "status": answer.status,
        "body": answer.body if isinstance(expected.body, str) else _json(answer.body),
        "missing": sorted(decision.missing),
        "missing_context": sorted(decision.missing_context),
        "role": decision.match.rule.role if decision.match else "",
        "api_version": scene.keyspace.api_versions.effective(headers, pinned),
    }
    for word, value in found.items():
        wanted = getattr(expected, word)
        wanted = sorted(wanted) if isinstance(value, list) and isinstance(wanted, list) else wanted
        if wanted is not None and wanted != value:
            told = f" ({decision.reason})" if word == "decision" else ""
            yield f"{word} is {_shown(value)}{told}, not {_shown(wanted)}"


def _decide(scene: Scene, ask: Ask) -> Decision:
    place, keyspace = f"{scene.place}.ask", scene.keyspace
    if ask.action not in keyspace.permissions:
        raise KeyspaceInvalid(place, f"the action {ask.action!r} is not declared under types")
    path = read_path(f"{place}.resource", ask.resource or ask.action.partition(":")[0], keyspace)
    environment = ask.environment or keyspace.environments[0]
    if environment not in keyspace.environments:
        raise KeyspaceInvalid(f"{place}.environment", f"there is no environment {environment!r}")
    now = instant(f"{place}.at", ask.at)
    context = values(ask.context)
    check_attributes(f"{place}.context", context, partial(keyspace.declared.check_context, ""))
    try:
        address = check_address("client_ip", ask.client_ip)
    except InvalidField as problem:
        raise KeyspaceInvalid(f"{place}.client_ip", problem.metadata["rule"]) from None
    question = Question(
        action=ask.action,
        path=path,
        organization=ask.organization or None,
        environment=environment,
        client_ip=address,
        facts=scene.facts(ask, path),
        context=Context(None, context),
    )
    denial = None if ask.http is None else _unproven(scene, ask.http)
    return DENIED[denial] if denial else decide(scene.subject, question, keyspace, now)


def _unproven(scene: Scene, http: Http) -> Reason | None:
    """Return why the given key is not the one that *http* presents; None if it is."""
    if not scene.text:
        raise KeyspaceInvalid(f"{scene.place}.ask.http", "there is no key in given to be found in it")
    other = build(scene.keyspace, f"{scene.place}.other", scene.given).text
    headers = [(name, _filled(value, scene.text, other)) for name, value in http.headers.items()]
    found = find_credential(headers, _filled(http.query, scene.text, other), scene.keyspace)
    if isinstance(found, Reason):
        return found
    if found.reveal() == scene.text:
        return None
    keyspace = scene.keyspace
    known = present(found.reveal(), keyspace.format, keyspace.prefix, keyspace.legacy, b"")
    return Reason.CREDENTIAL_MALFORMED if known is None else Reason.KEY_UNKNOWN


def _filled(text: str, key: str, other: str) -> str:
    return text.replace("{key}", key).replace("{other}", other)


def _json(body: str) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _shown(value: object) -> str:
    if isinstance(value, list) and all(isinstance(it, str) for it in value):
        text = ", ".join(value) or "nothing"
    else:
        text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
