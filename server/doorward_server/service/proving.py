"""Proof of possession, fast and slow.

What Doorward mints is proved by one HMAC, on the spot. What was imported as a bcrypt hash, or made so because rules
demand it, takes up to a second of a core: that runs on a pool of its own, and a success is remembered, so that it is
paid once per process. Callers whose slow proofs keep failing are sent to a pool that everybody else comes before:
they wait longer, but a right secret is never refused.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter, OrderedDict
from hashlib import sha256

import bcrypt
import structlog

from doorward_server.core.errors import DoorwardError, StoreUnavailable
from doorward_server.core.keytext import SecretText
from doorward_server.core.model import SECOND, Instant, Key
from doorward_server.core.verify import KIND, RetiredPepper, UnknownPepper, Verifier
from doorward_server.service.catalog import DOORWARD
from doorward_server.service.guard import Clock
from doorward_server.service.mint import prehashed
from doorward_server.service.peppers import Keyring
from doorward_server.service.pool import Pool
from doorward_server.store import HeldVerifier, Store

REMEMBERED = 100_000
"""Slow proofs that one process remembers, 200 bytes each."""
FAILURES = 20
"""Slow proofs that a caller may fail from one address within `WINDOW` before its next ones have to stand back."""
AT_ONCE = 4
"""Slow proofs of one origin that wait in the common pool; further ones stand back before they have failed."""
WINDOW = 60 * SECOND
IMPROVING = 8
"""Stored hashes that are being replaced by better ones at the same time; the others wait for their next proof."""
log = structlog.get_logger("doorward")

Origin = tuple[str, str]
"""The caller's key and the client's address: whose budget a failed proof is charged to."""


class Prover:
    """Tells whether a text is the one that a key's secret was made from. Belongs to the event loop's thread."""

    def __init__(
        self, store: Store, keyring: Keyring, slow: Pool, penalty: Pool, writes: Pool, clock: Clock, key: bytes
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._slow = slow
        self._penalty = penalty
        self._writes = writes
        self._clock = clock
        self._key = key  # of this process only: what is remembered is of no use elsewhere
        self._remembered: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._running: Counter[Origin] = Counter()
        self._failures: OrderedDict[Origin, tuple[int, Instant]] = OrderedDict()
        self._improving: dict[str, asyncio.Task[None]] = {}
        self._nobody = Verifier(KIND, keyring.current.peppers.active, bytes(32))

    def proves_at_once(self, text: SecretText, key: Key | None) -> bool | None:
        """Tell what `proves` would, if that takes one keyed hash and nothing is to be done about it; else None.

        Without a key, too: or the time of a denial would tell whether there is one.
        """
        verifier = key.secrets[0].verifier if key is not None else self._nobody
        proven = self._keyring.current.peppers.proves_at_once(text, verifier)
        return proven and key is not None if proven is not None else None

    async def proves(self, text: SecretText, key: Key | None, sound: bool, origin: Origin) -> bool:
        """Tell whether *text* proves possession of *key*, by the one secret in it; without a key, take as long and say
        no.

        *sound*: a fast keyed hash is enough, by the entropy of its format and the rules of its keyspace; it then
        replaces an imported one after the answer. Raises StoreUnavailable if this process cannot tell, Overloaded if
        too many slow proofs wait, RetiredPepper if *key* is under one: then it is old, or should not be there.
        """
        peppers = self._keyring.current.peppers
        if key is None and self._nobody.pepper != peppers.active:
            self._nobody = Verifier(KIND, peppers.active, bytes(32))
        verifier = key.secrets[0].verifier if key else self._nobody
        if key is not None and not _plausible(key, verifier):
            log.error("a secret in the store is hashed as none of its kind is: somebody wrote it there", key=key.id)
            raise StoreUnavailable("What the store holds of this key cannot be trusted to prove it. Ask the operator.")
        try:
            if verifier.kind in ("bcrypt", "bcrypt-sha256"):
                proven = await self._proves_slowly(text, key, origin)
            else:
                proven = peppers.proves(text, verifier)
        except RetiredPepper:
            raise
        except UnknownPepper:
            raise StoreUnavailable(
                "This replica lacks a pepper that the store's keys were made with. Give it the current pepper file."
            ) from None
        if key is None or not proven:
            return False
        if (sound and verifier.kind in ("bcrypt", "sha256")) or verifier.inner:
            self._improve(text, key)
        return True

    def unprovable(self, key: Key | None, problem: RetiredPepper) -> StoreUnavailable:
        """Return the error for a *key* that is under a retired pepper in the store, and log it."""
        log.error(
            "a secret in the store is under a retired pepper: a backup was restored, or somebody who has that pepper "
            "wrote it there. Find out which; after a restore: doorward-server pepper rewrap --retired",
            key=key and key.id,
            organization=key and key.organization,
            pepper=problem.version,
        )
        return StoreUnavailable("What the store holds of this key cannot be trusted to prove it. Ask the operator.")

    async def _proves_slowly(self, text: SecretText, key: Key | None, origin: Origin) -> bool:
        if key is None:
            return False
        secret = key.secrets[0]
        mark = hmac.digest(self._key, text.reveal().encode("utf-8", "surrogatepass"), sha256)
        known = self._remembered.get(secret.id)
        if known is not None and known[0] == secret.verifier.digest and hmac.compare_digest(known[1], mark):
            self._remembered.move_to_end(secret.id)
            return True
        if not origin[1]:
            origin = (origin[0], secret.id)  # one address for all of a caller's clients would be one budget for all
        if not await self._queued(text, secret.verifier, origin):
            self._charge(origin)
            return False
        self._remembered[secret.id] = (secret.verifier.digest, mark)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return True

    async def _queued(self, text: SecretText, verifier: Verifier, origin: Origin) -> bool:
        """Run the slow proof, where an origin that failed often, or has much under way, does not hold up others."""
        many = self._running[origin] >= AT_ONCE
        pool = self._penalty if many or self._spent(origin) else self._slow
        self._running[origin] += 1
        try:
            return await pool.run(_bcrypt_proves, text, verifier)
        finally:
            self._running[origin] -= 1
            if not self._running[origin]:
                del self._running[origin]

    def _improve(self, text: SecretText, key: Key) -> None:
        """Store one keyed hash in place of an imported one or of a chain, after the answer.

        Whoever is first wins, and failing is no harm.
        """
        secret = key.secrets[0]
        if len(self._improving) >= IMPROVING or secret.id in self._improving:
            return
        held = HeldVerifier(key.organization, key.id, secret.id, secret.verifier)
        better = self._keyring.current.peppers.verifier(text)

        async def replace() -> None:
            try:
                await self._writes.run(self._store.peppers.replace, [(held, better)])
            except DoorwardError as problem:
                log.warning("a stored hash stays as it is", key=key.id, why=problem.message)
            finally:
                del self._improving[secret.id]

        self._improving[secret.id] = asyncio.get_running_loop().create_task(replace())

    def _spent(self, origin: Origin) -> bool:
        failures, since = self._failures.get(origin, (0, 0))
        return failures >= FAILURES and self._clock() - since < WINDOW

    def _charge(self, origin: Origin) -> None:
        now = self._clock()
        failures, since = self._failures.pop(origin, (0, now))
        self._failures[origin] = (failures + 1, since) if now - since < WINDOW else (1, now)
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)


def _plausible(key: Key, verifier: Verifier) -> bool:
    """Whether Doorward can have stored *verifier* for *key*: whoever can write to the database has no pepper, but could
    write a hash that needs none.
    """
    if key.keyspace == DOORWARD:
        return verifier.kind == KIND
    return verifier.kind in (KIND, "bcrypt-sha256") or key.external_id is not None


def _bcrypt_proves(text: SecretText, verifier: Verifier) -> bool:
    raw = text.reveal().encode("utf-8", "surrogatepass") if verifier.kind == "bcrypt" else prehashed(text)
    # bcrypt itself refuses more than 72 bytes: other systems cut such texts off there, and so any ending would do.
    return len(raw) <= 72 and bcrypt.checkpw(raw, verifier.digest)  # bcrypt's own limit
