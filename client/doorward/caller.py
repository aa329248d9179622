"""What both clients have: whom to call, as whom, over what, how long to wait, and what is remembered of decisions."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self

from doorward import config
from doorward.cache import Asked
from doorward.calls import Call, Stream
from doorward.calls.authz import Deciding
from doorward.calls.decided import read_decision
from doorward.channels import DECISIONS, C, Pool
from doorward.config import TLS, Cache, Settings
from doorward.decision import Decision
from doorward.errors import CallFailed, Misconfigured
from doorward.keeping import LeasedByTask, LeasedByThread, bearer
from doorward.model import CacheInfo
from doorward.outage import Outage
from doorward.secret import Secret
from doorward.v1 import authz_pb2

AUTHORIZE_TIMEOUT = 2.0
TIMEOUT = 10.0


class Caller(Generic[C]):
    """Whom to call, as whom, over what, and how long to wait: what both clients have."""

    _open_pool: Callable[[Settings, int], Pool[C]]
    _open_cache: Callable[[Pool[C], Settings, Cache], Any]
    _cached: LeasedByThread | LeasedByTask | None

    def __init__(
        self,
        target: str,
        key: str | Secret,
        *,
        tls: TLS | None = None,
        insecure: bool = False,
        channels: int = 1,
        authorize_timeout: float = AUTHORIZE_TIMEOUT,
        timeout: float = TIMEOUT,
        cache: int | Cache = 0,
    ) -> None:
        """Make a client that calls *target* with a key of the keyspace `doorward`. Nothing is opened before a call.

        Without `tls`, and without `insecure`, only targets on this machine are called. `channels` connections are used
        in turn: each is served by one worker process of the server. `authorize_timeout` is how many seconds the methods
        that decide wait by default, `timeout` how many the others do. With `cache`, up to so many decisions are
        remembered (some 2 KiB each) and given again without a call while they are true: as soon as a change that ends
        one has returned, on whatever server, it is gone from here. That takes a stream of its own, and the permission
        `decisions:lease`; a Cache instead of a number says more. Raises Misconfigured.
        """
        self._set_up(config.check(target, key, tls, insecure), channels, authorize_timeout, timeout, cache)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        channels: int = 1,
        authorize_timeout: float = AUTHORIZE_TIMEOUT,
        timeout: float = TIMEOUT,
        cache: int | Cache = 0,
    ) -> Self:
        """Make a client as the environment says. Raises Misconfigured with everything that is wrong.

        DOORWARD_TARGET (127.0.0.1:50051); DOORWARD_KEY_FILE (path of a file with the key) or DOORWARD_KEY; for TLS
        DOORWARD_TLS_CA (path, or `system` for the authorities that grpc brings along), DOORWARD_TLS_CERT and
        DOORWARD_TLS_KEY (paths); DOORWARD_INSECURE (1: plaintext even to other machines).
        """
        caller = cls.__new__(cls)
        caller._set_up(config.from_env(environ), channels, authorize_timeout, timeout, cache)
        return caller

    def _set_up(
        self, settings: Settings, channels: int, authorize_timeout: float, timeout: float, cache: int | Cache
    ) -> None:
        caching = Cache(cache) if isinstance(cache, int) else cache
        if channels < 1 or not authorize_timeout > 0 or not timeout > 0 or caching.size < 0:
            raise Misconfigured(
                ["channels, authorize_timeout and timeout must be positive, cache must not be negative"]
            )
        if isinstance(caching.keyspaces, str):
            raise Misconfigured(["cache: keyspaces must be a list of names, e.g. ['aiia']"])
        self._settings = settings
        self._authorize_timeout = authorize_timeout
        self._timeout = timeout
        self._acting_for = ""
        self._pool = type(self)._open_pool(settings, channels)
        self._outage = Outage()
        self._cached = type(self)._open_cache(self._pool, settings, caching) if caching.size else None

    def acting_for(self, principal: str) -> Self:
        """Return a view of this client whose calls are made for a principal ("acme/alice") that you have signed in.

        They have the rights of both, and need `principals:act`. The view shares the connections: closing either
        closes both.
        """
        if not re.fullmatch(r"[!-~]+/[!-~]+", principal):
            raise ValueError("acting_for: write <organization>/<principal>, e.g. acme/alice")
        view = copy.copy(self)
        view._acting_for = principal
        return view

    def cache_info(self) -> CacheInfo | None:
        """Return what became of the questions so far; None without a cache."""
        return self._cached.info() if self._cached is not None else None

    def assumed(self) -> Mapping[str, int]:
        """Return how many answers were assumed because of `on_unavailable`, by what they were: "deny", "allow"."""
        return self._outage.assumed()

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        # Made for each call, so that no attribute shows the key.
        own = bearer(self._settings)
        return [own, ("doorward-acting-for", self._acting_for)] if self._acting_for else [own]

    def _recall(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[Decision | None, bytes | None]:
        """Return the decision on a question that was asked in the same words before, and what stands for those."""
        if self._cached is None:
            return None, None
        cache = self._cached.decisions()
        words = cache.words(self._acting_for, args, kwargs)
        return (None if words is None else cache.find_said(words)), words

    def _look(self, request: authz_pb2.AuthorizeRequest, words: bytes | None) -> Decision | Asked | None:
        """Return the decision that is remembered, or what a new one is to be remembered under; None: it is not."""
        if self._cached is None:
            return None
        cache = self._cached.decisions()
        key = cache.key(request, self._acting_for)
        if key is None:
            return None
        found = cache.find(key)
        return cache.begin(key, words) if found is None else found

    def _learned(self, question: Deciding, answer: authz_pb2.AuthorizeResponse, asked: Asked | None) -> Decision:
        """Return what a server has decided, once what may be remembered is."""
        decision = read_decision(answer)
        self._outage.heard(question.request, answer)
        if asked is not None:
            asked.cache.offer(asked, question.request, answer, decision)
            if asked.cache.wanted and self._cached is not None:
                self._cached.start()
        return question.check(decision)

    def _assumed(self, question: Deciding, failed: CallFailed) -> Decision | None:
        assumed = self._outage.assume(question.request, failed, question.on_unavailable)
        return None if assumed is None else question.check(assumed)

    def _deadline(self, call: Call[Any, Any] | Stream[Any, Any]) -> float:
        if call.timeout is not None:
            return call.timeout
        usual = self._authorize_timeout if call.kind.DESCRIPTOR.full_name in DECISIONS else self._timeout
        return max(usual, call.patience)

    def __repr__(self) -> str:
        acting = f", acting for {self._acting_for}" if self._acting_for else ""
        return f"<{type(self).__name__} of {self._settings.target}{acting}>"
