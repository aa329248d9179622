"""When keys and secrets were last used. No revision, no audit event: it changes no decision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from doorward_server.core.model import Instant, Use

from .transaction import Transaction

CHUNK = 1000

_USES_OF_KEYS = """
WITH u (organization, key, keyspace, at) AS (VALUES {values})
INSERT INTO key_use (organization, key, at)
SELECT u.organization, u.key, max(u.at) FROM u JOIN key AS k ON k.organization = u.organization AND k.id = u.key
WHERE u.keyspace IN ('', k.keyspace) GROUP BY u.organization, u.key ORDER BY u.organization, u.key
ON CONFLICT (organization, key) DO UPDATE SET at = excluded.at WHERE key_use.at < excluded.at
"""
_USES_OF_SECRETS = """
WITH u (organization, key, keyspace, secret, at) AS (VALUES {values})
INSERT INTO secret_use (organization, key, secret, at)
SELECT u.organization, u.key, u.secret, max(u.at) FROM u
JOIN key AS k ON k.organization = u.organization AND k.id = u.key
JOIN secret AS s ON s.organization = u.organization AND s.key = u.key AND s.id = u.secret
WHERE u.keyspace IN ('', k.keyspace) GROUP BY u.organization, u.key, u.secret ORDER BY u.organization, u.key, u.secret
ON CONFLICT (organization, key, secret) DO UPDATE SET at = excluded.at WHERE secret_use.at < excluded.at
"""


def record(tx: Transaction, uses: Sequence[Use]) -> None:
    """Move last uses forward. In order of id, so that two replicas that flush at once do not wait in a circle."""
    of_keys: dict[tuple[str, ...], Instant] = {}
    of_secrets: dict[tuple[str, ...], Instant] = {}
    for use in uses:
        for latest, id in (
            (of_keys, (use.organization, use.key, use.keyspace)),
            (of_secrets, (use.organization, use.key, use.keyspace, use.secret)),
        ):
            latest[id] = max(use.at, latest.get(id, use.at))
    _upsert(tx, _USES_OF_KEYS, of_keys)
    _upsert(tx, _USES_OF_SECRETS, of_secrets)


def _upsert(tx: Transaction, statement: str, latest: dict[tuple[str, ...], Instant]) -> None:
    if not latest:
        return
    rows = [(*id, at) for id, at in sorted(latest.items())]
    one = f"({', '.join('?' * len(rows[0]))})"
    text = statement.format(values=", ".join([one] * len(rows)))
    tx.dialect.database.execute_sql(text.replace("?", tx.dialect.param), tuple(value for row in rows for value in row))


def chunks(uses: Sequence[Use]) -> list[list[Use]]:
    """Cut *uses* into transactions of at most `CHUNK`."""
    rest = iter(sorted(uses, key=lambda use: (use.organization, use.key, use.secret)))
    return list(iter(lambda: list(islice(rest, CHUNK)), []))
