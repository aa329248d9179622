"""kill -9 around every statement of a change: what was acknowledged is there, and nothing is there by halves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from doorward_server.store import Store
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import the_key

ROOT = Path(__file__).parents[2]
WHOLE = {
    "keys without a secret": """SELECT k.id FROM key k LEFT JOIN secret s ON s.organization = k.organization
        AND s.key = k.id WHERE s.id IS NULL""",
    "secrets without a key": """SELECT s.id FROM secret s LEFT JOIN key k ON k.organization = s.organization
        AND k.id = s.key WHERE k.id IS NULL""",
    "keys without the event of their creation": """SELECT k.id FROM key k LEFT JOIN event e
        ON e.organization = k.organization AND e.target = k.id AND e.action = 'keys:create' WHERE e.target IS NULL""",
    "events of keys that are not there": """SELECT e.target FROM event e LEFT JOIN key k
        ON k.organization = e.organization AND k.id = e.target
        WHERE k.id IS NULL AND e.action IN ('keys:create', 'keys:rotate')""",
    "rotations without an event, or the other way round": """SELECT k.id FROM key k WHERE k.version - 1 <>
        (SELECT count(*) FROM event e WHERE e.target = k.id AND e.action = 'keys:rotate')""",
    "rotations without a secret, or the other way round": """SELECT k.id FROM key k WHERE k.version <>
        (SELECT count(*) FROM secret s WHERE s.key = k.id)""",
    "tallies that are not so": """SELECT t.organization FROM tally t WHERE t.keys <> (SELECT count(*) FROM key k
        WHERE k.organization = t.organization AND k.revoked_at IS NULL AND k.deleted_at IS NULL)""",
    "requests remembered for nothing": """SELECT r.key FROM replay r LEFT JOIN key k ON k.id = r.key
        WHERE k.id IS NULL""",
    "keys missing in the change log": """SELECT k.id FROM key k LEFT JOIN changes c ON c.kind = 'KEY'
        AND c.name = k.id WHERE c.name IS NULL""",
}


def run_killing(url: str, when: str, what: str) -> list[str]:
    """The ids that were acknowledged."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"}
    command = [sys.executable, str(Path(__file__).parent / "killing.py"), url, when, what]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def check_nothing_is_half(store: Store, prompt: Hands, acknowledged: list[str]) -> None:
    """What must hold after any crash."""
    for what, query in WHOLE.items():
        assert prompt.run(query) == [], what
    for organization in ("acme", "umbra"):
        assert store.verify_chain(organization).ok
    for id in acknowledged:
        found = the_key(store, id)
        assert store.find_record("aiia", found.secrets[0].lookup).record is not None


@pytest.mark.parametrize("what", ["add", "rotate"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_process_leaves_no_half_change(store: Store, store_url: str, when: str, what: str) -> None:
    """The planted bug `event-outside` must fail here."""
    acknowledged = run_killing(store_url, when, what)
    assert len(acknowledged) == 1, "the one that lived"
    tried = int(acknowledged[0].rpartition("_")[2])
    assert tried > 8, "it was killed around fewer statements than there are"
    with hands.at(store_url) as prompt:
        check_nothing_is_half(store, prompt, acknowledged)
        made = prompt.one("SELECT count(*) FROM replay")
    # Killed after the commit, before it could say so: kept all the same.
    assert made == (2 if when == "after" else 1)
