"""What a warm Authorize costs inside the process, without the network: from the handler that grpcio calls to its bytes.

CPU time, the least of several repeats, as a ratio to a fixed piece of work (`reference`) that is measured between them:
so the numbers of two versions can be compared on a machine that does other things, too. Prints JSON.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402
import yaml  # noqa: E402

from doorward.v1 import authz_pb2, directory_pb2  # noqa: E402
from doorward_server.wire.gate import Gate  # noqa: E402
from doorward_server.wire.server import QUIET  # noqa: E402
from tests.databases import fresh  # noqa: E402
from tests.fakes import FakeClock  # noqa: E402
from tests.service.door import Door, opened_door  # noqa: E402

CALLS, REPEATS = 200, 150
KEYS = 200
ACTION = "flows:update"
Handler = Callable[[bytes, Any], Awaitable[Any]]


class Context:
    """What the handler reads of a call: its metadata as h2load sends it, its peer, and that it has no deadline."""

    def __init__(self, key: str, timeout: float | None = None) -> None:
        self._metadata = (("user-agent", "h2load nghttp2/1.52.0"), ("authorization", f"Bearer {key}"))
        self._timeout = timeout

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50123"

    def time_remaining(self) -> float | None:
        return self._timeout


def reference() -> float:
    """Seconds of CPU of a fixed piece of interpreted work: calls, dictionaries, small objects."""
    started = time.process_time()
    seen: dict[int, tuple[int, str]] = {}
    for number in range(5_000):
        seen[number % 512] = _step(number, seen)
    return time.process_time() - started


def _step(number: int, seen: dict[int, tuple[int, str]]) -> tuple[int, str]:
    before = seen.get(number % 512)
    return (number, before[1] if before else "none")


def uncounted(source: str) -> str:
    """A keyspace file without what asks the store about each decision now and then, or records it there."""
    document = yaml.safe_load(source)
    for part in ("limits", "alerts", "decision_log", "tests"):
        document.pop(part, None)
    return str(yaml.safe_dump(document, sort_keys=False))


def furnished(door: Door, count: int = KEYS) -> tuple[str, list[str], str]:
    """Make what `make bench` makes; return the backend's key, keys that may change flows, and one that may not."""
    door.apply(uncounted((ROOT / "examples/keyspaces/factorythread.yaml").read_text("utf-8")))
    organization = door.organization("bench", "alice")
    binding = directory_pb2.Binding(
        organization=organization, principal="alice", keyspace="factorythread", role="editor"
    )
    door.run(door.directory.CreateBinding(directory_pb2.CreateBindingRequest(binding=binding), door.caller()))
    keys = [
        door.create(organization, "factorythread", scopes=["full-access"], owner="alice", name=f"key {n}").secret
        for n in range(count)
    ]
    reader = door.create(organization, "factorythread", scopes=["read-only"], owner="alice").secret
    return door.create(organization, "doorward", scopes=["backend"]).secret, keys, reader


def warmed(door: Door) -> None:
    """Give the process a lease, as its tail would."""
    freshness = door.app.freshness
    freshness.cache.start(door.app.store.revision())
    freshness.lease.until = freshness.boot() + 3600 * 10**9


def handler(door: Door, method: str) -> tuple[Handler, Callable[[Any], bytes]]:
    """Return what grpcio is given for one RPC of AuthzService: the handler, and what makes bytes of its answer."""
    gate = Gate(door.app.authorizer, door.app.metrics, QUIET, door.app.waiting.wait)
    service = authz_pb2.DESCRIPTOR.services_by_name["AuthzService"]
    made = gate.guarded(door.authz, service)[method]
    return cast(Handler, made.unary_unary), made.response_serializer or bytes


async def calls(call: Handler, written: Callable[[Any], bytes], bodies: list[bytes], context: Context) -> int:
    """Make one call for each of *bodies*; return the bytes of all answers."""
    size = 0
    for body in bodies:
        size += len(written(await call(body, context)))
    return size


def bodies(organization: str, keys: list[str]) -> list[bytes]:
    """So many requests: every key in turn, each about another flow."""
    return [
        authz_pb2.AuthorizeRequest(
            key=keys[n % len(keys)],
            keyspace="factorythread",
            action=ACTION,
            resource=authz_pb2.Resource(type="flows", id=f"flow-{n}"),
            organization=organization,
        ).SerializeToString()
        for n in range(CALLS)
    ]


def measure(door: Door, work: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Return microseconds of CPU of one call, and how many per mille of the reference that is: the least of each."""
    times, references = [], []
    for _ in range(REPEATS):
        references.append(reference())
        started = time.process_time()
        door.run(cast(Any, work()))
        times.append((time.process_time() - started) / CALLS)
    return {"us": min(times) * 1e6, "per_mille": min(times) / min(references) * 1000}


def main() -> None:
    """Measure and print; with `profile`, print where the time goes instead."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with (
        tempfile.TemporaryDirectory() as name,
        fresh("sqlite", Path(name)) as url,
        opened_door(url, Path(name), FakeClock()) as door,
    ):
        backend, keys, reader = furnished(door)
        organization = door.caller(backend).organization
        warmed(door)
        call, written = handler(door, "Authorize")
        context = Context(backend)
        many, denied = bodies(organization, keys), bodies(organization, [reader])
        door.run(cast(Any, calls(call, written, many, context)))
        if "profile" in sys.argv:
            profile = cProfile.Profile()
            profile.enable()
            door.run(cast(Any, calls(call, written, many * 25, context)))
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(60)
            return
        found = {
            "allowed": measure(door, lambda: calls(call, written, many, context)),
            "with_a_deadline": measure(door, lambda: calls(call, written, many, Context(backend, 5.0))),
            "denied": measure(door, lambda: calls(call, written, denied, context)),
        }
        print(json.dumps({name: {k: round(v, 2) for k, v in it.items()} for name, it in found.items()}))


if __name__ == "__main__":
    main()
