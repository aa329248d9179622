"""Taking in keys that another system handed out: their texts, or the hashes it kept of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from doorward_server.core.errors import BuiltIn, DoorwardError, InvalidField, StoreUnavailable
from doorward_server.core.fields import check_id
from doorward_server.core.imported import ForeignHash, read_hash, read_text
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import Actor, Event, Instant, Key, Quotas, Secret
from doorward_server.core.policy import Keyspace
from doorward_server.core.rails import Exceed, check_made, check_made_by
from doorward_server.service.catalog import DOORWARD, Catalog
from doorward_server.service.changes import key_event
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.ids import Random
from doorward_server.service.keys import Keys, active_limit
from doorward_server.service.mint import PENDING, Mint
from doorward_server.service.pool import Pool
from doorward_server.service.requests import own_or
from doorward_server.service.settings import NewKey, draft
from doorward_server.store import Imported, LookupTaken, Store, Written

MAX_ROWS = 10_000
CHUNK = 250
"""Rows that one transaction takes in: a fifth of a second for other writers to wait, and what a lost connection costs
in slow hashes that have to be made again."""
_ATTEMPTS = 3


class Outcome(StrEnum):
    """What became of a row."""

    CREATED = "CREATED"
    EXISTS = "EXISTS"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class Row:
    """One key to take in, as it came in."""

    external_id: str
    proof: SecretText | ForeignHash | None
    """The text itself, or a hash of it."""
    settings: NewKey
    """Organization and keyspace are those of the import, and there is no expiry in it."""
    created_at: Instant | None
    expires_at: Instant | None
    """May be past: then the key is expired, and says so when it is presented."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row in which a field broke a rule as it was parsed."""

    external_id: str
    problem: DoorwardError


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row."""

    external_id: str
    outcome: Outcome
    key: str = ""
    """The id of the key; empty unless it is in."""
    problem: DoorwardError | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The results of an import, in the order of its rows."""

    results: tuple[Result, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class _Import:
    """One call: who imports, where to, and what has been asked about so far."""

    caller: Caller
    actor: Actor
    organization: str
    keyspace: str
    dry_run: bool
    granted: dict[object, DoorwardError | None] = field(default_factory=dict)
    """Whether the caller may hand out these roles, until then: rows are many, distinct ones are few."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A row that keeps every rule that can be told without the store's locks."""

    key: Key
    event: Event
    text: SecretText | None
    """To be hashed slowly, before it is stored."""


class Imports:
    """Takes in keys. Belongs on the event loop; what blocks runs on pools: hashes on one of their own."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        guard: Guard,
        keys: Keys,
        mint: Mint,
        lookup_key: bytes,
        management: Pool,
        hashing: Pool,
        quotas: Quotas,
        clock: Clock,
        random: Random,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._keys = keys
        self._mint = mint
        self._lookup_key = lookup_key
        self._management = management
        self._hashing = hashing
        self._quotas = quotas
        self._clock = clock
        self._random = random

    async def take(
        self,
        caller: Caller,
        organization: str,
        keyspace: str,
        batches: AsyncIterator[Sequence[Row | Unreadable]],
        *,
        dry_run: bool,
    ) -> Taken:
        """Take in every row of *batches*, at most `CHUNK` each, or say for each why not.

        Raises CallerForbidden, UnknownReference (keyspace), BuiltIn, NotFound (organization), OrganizationIsDisabled,
        InvalidField (too many rows), StoreUnavailable, Overloaded. What was taken in before stays: send all again.
        """
        job = await self._management.run(self._begin, caller, organization, keyspace, dry_run)
        results: list[Result] = []
        waiting: list[_Ready | Result] = []
        revision = 0
        async for rows in batches:
            if len(results) + len(waiting) + len(rows) > MAX_ROWS:
                raise InvalidField("row", f"there must be at most {MAX_ROWS:,} in one call")
            # A stream may last: whoever was ended, or lost a right, meanwhile takes in no further batch.
            job = await self._management.run(self._again, job)
            waiting += await self._management.run(self._check, job, rows)
            if not job.dry_run:  # a dry run keeps nothing, so it must see all rows at once to find two that are alike
                revision = await self._keep(job, waiting, results)
                waiting = []
        if waiting or not results:
            revision = await self._keep(job, waiting, results)
        return Taken(tuple(results), revision)

    def _begin(self, caller: Caller, organization: str, keyspace: str, dry_run: bool) -> _Import:
        organization = own_or(caller, organization)
        check_id("header.keyspace", keyspace, "keyspace")
        resource = f"organizations/{organization}/keyspaces/{keyspace}/keys"
        actor = self._guard.require(caller, "keys:import", resource)
        if keyspace == DOORWARD:
            raise BuiltIn("keyspace", DOORWARD)
        self._catalog.get(keyspace, "header.keyspace")
        return _Import(caller, actor, organization, keyspace, dry_run)

    def _again(self, job: _Import) -> _Import:
        caller = self._guard.refreshed(job.caller)
        resource = f"organizations/{job.organization}/keyspaces/{job.keyspace}/keys"
        return replace(job, caller=caller, actor=self._guard.require(caller, "keys:import", resource), granted={})

    # --- what can be told of a row by itself --------------------------------------------------------------------------

    def _check(self, job: _Import, rows: Sequence[Row | Unreadable]) -> list[_Ready | Result]:
        now, keyspace = self._clock(), self._catalog.get(job.keyspace, "header.keyspace")
        ids = [row.external_id for row in rows if isinstance(row, Row)]
        known = self._store.find_imported(job.organization, job.keyspace, ids)
        return [self._check_row(job, keyspace, known, row, now) for row in rows]

    def _check_row(
        self, job: _Import, keyspace: Keyspace, known: dict[str, str], row: Row | Unreadable, now: Instant
    ) -> _Ready | Result:
        if isinstance(row, Row) and row.external_id in known:
            return Result(row.external_id, Outcome.EXISTS, known[row.external_id])
        try:
            if isinstance(row, Unreadable):
                raise row.problem
            return self._ready(job, keyspace, row, now)
        except DoorwardError as problem:
            if isinstance(problem, StoreUnavailable):
                raise
            return Result(row.external_id, Outcome.REJECTED, problem=problem)

    def _ready(self, job: _Import, keyspace: Keyspace, row: Row, now: Instant) -> _Ready:
        key = self._draft(job, keyspace, row, now)
        secret = self._secret(keyspace, key, row.proof)
        self._check_grants(job, keyspace, key, now)
        key = replace(key, secrets=(secret,))
        text = row.proof if isinstance(row.proof, SecretText) and secret.verifier is PENDING else None
        return _Ready(key, key_event(job.actor, "keys:import", None, key, now), text)

    def _draft(self, job: _Import, keyspace: Keyspace, row: Row, now: Instant) -> Key:
        new = replace(row.settings, organization=job.organization, keyspace=job.keyspace)
        if row.created_at is not None and row.created_at > now:
            raise InvalidField("created_at", "must not lie in the future")
        if row.created_at is not None and row.expires_at is not None and row.expires_at <= row.created_at:
            raise InvalidField("expires_at", "must lie after created_at")
        key = draft(new, keyspace, now, self._random)
        key = replace(key, created_at=row.created_at or now, expires_at=row.expires_at, external_id=row.external_id)
        check_made(keyspace.rails, key, now, _span(keyspace, row))
        where = f"organizations/{job.organization}/keyspaces/{job.keyspace}/keys"
        check_made_by(keyspace.rails, job.caller.hand(job.organization, key.owner), "keys:import", where)
        return key

    def _secret(self, keyspace: Keyspace, key: Key, proof: SecretText | ForeignHash | None) -> Secret:
        if isinstance(proof, SecretText):
            known = read_text(
                proof, keyspace.format, keyspace.prefix, key.environment, keyspace.legacy, self._lookup_key
            )
            return self._mint.secret_of_text(keyspace, key, known)
        if proof is None:
            raise InvalidField("proof", "is required: the text, or a hash of it")
        lookup, verifier = read_hash(proof, keyspace.format, keyspace.legacy, self._lookup_key)
        return self._mint.secret_of_hash(key, lookup, verifier, proof.last4)

    def _check_grants(self, job: _Import, keyspace: Keyspace, key: Key, now: Instant) -> None:
        """Ask what CreateKey asks, once for each distinct set of roles. Raises GrantForbidden."""
        asked = (key.owner is None, key.ceiling, key.scopes, key.bindings, key.expires_at)
        if asked not in job.granted:
            try:
                self._keys.check_grants(job.caller, key, keyspace, now)
                job.granted[asked] = None
            except DoorwardError as problem:
                if isinstance(problem, StoreUnavailable):
                    raise
                job.granted[asked] = problem
        refusal = job.granted[asked]
        if refusal is not None:
            raise refusal

    # --- keeping a chunk ----------------------------------------------------------------------------------------------

    async def _keep(self, job: _Import, rows: Sequence[_Ready | Result], results: list[Result]) -> int:
        """Add the results of *rows* to *results*, and return the revision."""
        ready = [await self._hashed(job, row) for row in rows if isinstance(row, _Ready)]
        written = await self._management.run(self._write, job, ready)
        imported = iter(written.value)
        for row in rows:
            results.append(row if isinstance(row, Result) else _result(row.key.external_id or "", next(imported)))
        return written.revision

    async def _hashed(self, job: _Import, row: _Ready) -> tuple[Key, Event]:
        if row.text is None or job.dry_run:
            return row.key, row.event
        verifier = await self._hashing.run(self._mint.slow_verifier, row.text)
        return replace(row.key, secrets=(replace(row.key.secrets[0], verifier=verifier),)), row.event

    def _write(self, job: _Import, ready: Sequence[tuple[Key, Event]]) -> Written[list[Imported]]:
        rails = self._catalog.get(job.keyspace, "header.keyspace").rails
        # Never at the cost of a key that is there: how old a row's is, only the row says.
        limit = active_limit(replace(rails, on_exceed=Exceed.REJECT), job.actor, "keys:import", self._clock())
        for _ in range(_ATTEMPTS):
            try:
                return self._store.import_keys(
                    job.organization, job.keyspace, ready, self._quotas, limit, dry_run=job.dry_run
                )
            except LookupTaken:
                continue
        raise StoreUnavailable


def _span(keyspace: Keyspace, row: Row) -> int | None:
    """Return the span that the row's expiry was once, where a keyspace allows spans only."""
    if keyspace.rails.custom_expiry or row.created_at is None or row.expires_at is None:
        return None
    return row.expires_at - row.created_at


def _result(external_id: str, imported: Imported) -> Result:
    if imported.refusal is not None:
        return Result(external_id, Outcome.REJECTED, problem=imported.refusal)
    return Result(external_id, Outcome.CREATED if imported.new else Outcome.EXISTS, imported.key)
