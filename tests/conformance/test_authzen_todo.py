"""Every decision of the AuthZEN todo scenario, single and in batches, with keys and with signed-in principals.

authzen_decisions.json is the scenario's own table (github.com/openid/authzen, interop/authzen-todo, MIT).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doorward import Decision, Question
from tests import databases
from tests.conformance.products import Credential, Customer, Desk, SignedIn

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "authzen_decisions.json").read_text("utf-8"))
PEOPLE = {
    "rick@the-citadel.com": ("CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "admin", "evil_genius"),
    "morty@the-citadel.com": ("CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "editor"),
    "summer@the-smiths.com": ("CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "editor"),
    "beth@the-smiths.com": ("CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "viewer"),
    "jerry@the-smiths.com": ("CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", "viewer"),
}


@pytest.fixture(scope="module", params=databases.BACKENDS)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Todo:
    """The application with its five users, and a key of each."""

    smiths: Customer
    keys: dict[str, Credential]

    def credential(self, kind: str, subject: dict[str, str]) -> Credential:
        return self.keys[subject["id"]] if kind == "key" else SignedIn(subject["id"])


@pytest.fixture(scope="module")
def todo(desk: Desk) -> Todo:
    smiths = desk.product(HERE / "authzen_todo.yaml").customer("smiths")
    keys: dict[str, Credential] = {}
    for email, (id, *roles) in PEOPLE.items():
        smiths.person(*roles, id=id, email=email)
        keys[id] = smiths.key(owner=id)
    return Todo(smiths, keys)


def question(asked: dict[str, Any]) -> Question:
    resource = asked["resource"]
    return Question(
        f"{resource['type']}:{asked['action']['name']}",
        f"{resource['type']}/{resource['id']}",
        attributes=resource.get("properties", {}),
    )


with_each = pytest.mark.parametrize("kind", ["key", "principal"])


@with_each
@pytest.mark.parametrize("case", TABLE["evaluation"], ids=lambda case: _named(case["request"]))
def test_single_decisions(todo: Todo, kind: str, case: dict[str, Any]) -> None:
    request = case["request"]
    asked = question(request)
    decision = todo.smiths.ask(
        todo.credential(kind, request["subject"]), asked.action, asked.resource, attributes=asked.attributes
    )
    assert bool(decision) is case["expected"]


@with_each
@pytest.mark.parametrize("case", TABLE["evaluations"], ids=lambda case: _named(case["request"]))
def test_the_scenarios_batches(todo: Todo, kind: str, case: dict[str, Any]) -> None:
    """What an evaluation leaves out is the request's."""
    request = case["request"]
    questions = [question({**request, **each}) for each in request["evaluations"]]
    decisions = todo.smiths.ask_all(todo.credential(kind, request["subject"]), questions)
    assert [bool(it) for it in decisions] == [it["decision"] for it in case["expected"]]


@with_each
@pytest.mark.parametrize("email", PEOPLE)
def test_all_single_decisions_about_one_user_in_one_batch(todo: Todo, kind: str, email: str) -> None:
    subject = {"id": PEOPLE[email][0]}
    cases = [case for case in TABLE["evaluation"] if case["request"]["subject"]["id"] == subject["id"]]
    decisions: list[Decision] = todo.smiths.ask_all(
        todo.credential(kind, subject), [question(case["request"]) for case in cases]
    )
    assert len(cases) == 8
    assert [bool(it) for it in decisions] == [case["expected"] for case in cases]


def _named(request: dict[str, Any]) -> str:
    who = next(email for email, (id, *_) in PEOPLE.items() if id == request["subject"]["id"])
    about = request.get("resource", {})
    return f"{who.partition('@')[0]}-{request['action']['name']}-{about.get('id', 'batch')[-12:]}"
