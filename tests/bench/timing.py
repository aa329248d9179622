"""How long a denial takes, by what was wrong with the text; and whether comparing tells where two digests differ.

Two experiments, both with interleaved samples in an order that is drawn anew for every round:

- over `Authorizer`, in process on SQLite: unknown id, wrong secret, malformed text. gRPC would only add noise.
- over `Peppers.proves` without its hash: a digest that differs in its first byte against one that differs in its last;
  as it is, and with a planted `==`, which must show. Through a whole Authorize no `==` could be seen: what it tells is
  a few nanoseconds, and the noise of one call is ten thousand of them.

Prints, as JSON, Welch's t of each pair: the largest of those over all samples and over the quicker ones.
"""

from __future__ import annotations

import argparse
import gc
import hmac
import json
import math
import operator
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from doorward_server.core import keytext, verify  # noqa: E402
from doorward_server.core.keytext import SecretText  # noqa: E402
from doorward_server.core.reasons import Reason  # noqa: E402
from doorward_server.core.verify import KIND, Peppers, Verifier  # noqa: E402
from doorward_server.service.questions import Ask, Item  # noqa: E402
from tests.fakes import FakeClock  # noqa: E402
from tests.service.door import Door, keyspace, opened_door  # noqa: E402

TEXTS = 64
"""Different texts of each kind: one alone would measure its own place in the index."""
PERCENTILES = (0.3, 0.5, 0.7, 0.9, 1.0)
"""What the machine does besides sits in the upper ones; which of them matter is not known beforehand."""
REPEATS = 5
"""Proofs in one sample of `comparisons`."""
Samples = dict[str, list[int]]


def welch(first: Sequence[int], second: Sequence[int]) -> float:
    """Welch's t, over the samples below that of their common percentiles at which it is largest."""
    pooled = sorted([*first, *second])
    found = []
    for percentile in PERCENTILES:
        bound = pooled[int((len(pooled) - 1) * percentile)]
        a, b = ([it for it in samples if it <= bound] for samples in (first, second))
        if min(len(a), len(b)) > 1:
            spread = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
            found.append((statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(spread))
    return max(found, key=abs)


def wrong(text: str, dice: random.Random) -> str:
    """The same public part with another secret, and a checksum that is right."""
    head = text[: -keytext.CHECKSUM_LENGTH - keytext.SECRET_LENGTH]
    body = head + "".join(dice.choices(keytext.ALPHABET, k=keytext.SECRET_LENGTH))
    return body + keytext.checksum(body)


def texts(door: Door, organization: str, dice: random.Random) -> dict[Reason, dict[str, list[str]]]:
    """By the reason that must come of it, the kinds of text that are told apart."""
    good = [door.create(organization, "timed").secret for _ in range(TEXTS)]
    unknown = [keytext.mint("timed", "live", dice.randbytes(32)).secret.reveal() for _ in range(TEXTS)]
    return {
        Reason.KEY_UNKNOWN: {"unknown": unknown, "wrong": [wrong(text, dice) for text in good]},
        Reason.CREDENTIAL_MALFORMED: {"malformed": [text[:-1] + ("0" if text[-1] != "0" else "1") for text in good]},
    }


async def denials(door: Door, organization: str, rounds: int) -> Samples:
    """Nanoseconds of *rounds* denials of each kind."""
    dice = random.Random(7)
    caller = await door.app.authorizer.authenticate([("authorization", f"Bearer {door.root}")], None)
    item = Item("things:read", None, organization)
    kinds = {
        kind: (reason, [Ask(SecretText(text), "timed", "", "", False) for text in some])
        for reason, found in KINDS.items()
        for kind, some in found.items()
    }
    samples: Samples = {kind: [] for kind in kinds}
    order = list(kinds)
    for turn in range(rounds + 500):
        dice.shuffle(order)
        for kind in order:
            reason, asks = kinds[kind]
            ask = dice.choice(asks)
            began = time.perf_counter_ns()
            answer = await door.app.authorizer.authorize(caller, ask, item)
            took = time.perf_counter_ns() - began
            if answer.decision.reason is not reason:
                raise SystemExit(f"{kind}: {answer.decision.reason}")
            if turn >= 500:
                samples[kind].append(took)
    return samples


KINDS: dict[Reason, dict[str, list[str]]] = {}


def comparisons(rounds: int, compare: Callable[[bytes, bytes], bool] = hmac.compare_digest) -> Samples:
    """Nanoseconds of `REPEATS` proofs that fail at the first byte, and at the last; another *compare* is planted.

    The hash is left out, as it takes a hundred times as long as what is looked for.
    """
    dice = random.Random(7)
    peppers, text = Peppers({1: bytes(32)}, 1), SecretText("x" * 48)
    right = peppers.verifier(text).digest
    changed = {"first": bytes([right[0] ^ 1]) + right[1:], "last": right[:-1] + bytes([right[-1] ^ 1])}
    # Many equal ones: where in memory an object lies makes a difference, too.
    mixed = [(kind, Verifier(KIND, 1, bytes([*digest]))) for kind, digest in changed.items() for _ in range(TEXTS)]
    samples: Samples = {kind: [] for kind in changed}
    real = vars(verify)["hmac"]
    vars(verify)["hmac"] = SimpleNamespace(digest=lambda *_: right, compare_digest=compare)
    try:
        for _ in range(rounds // TEXTS + 1):
            dice.shuffle(mixed)
            for kind, verifier in mixed:
                began = time.perf_counter_ns()
                for _ in range(REPEATS):
                    peppers.proves(text, verifier)
                samples[kind].append(time.perf_counter_ns() - began)
    finally:
        vars(verify)["hmac"] = real
    return samples


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, required=True, help="of each kind")
    rounds = parser.parse_args().samples
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="doorward-timing-") as folder:
        url = f"sqlite:///{folder}/timing.db"
        with opened_door(url, Path(folder), FakeClock()) as door:
            door.apply(keyspace("timed", "prefix: timed"))
            organization = door.organization()
            KINDS.update(texts(door, organization, random.Random(3)))
            took = door.run(denials(door, organization, rounds))
    honest, planted = comparisons(rounds), comparisons(rounds, operator.eq)
    found = {
        "samples": rounds,
        "unknown_vs_wrong_t": welch(took["unknown"], took["wrong"]),
        "unknown_per_wrong": statistics.median(took["unknown"]) / statistics.median(took["wrong"]),
        "malformed_vs_wrong_t": welch(took["malformed"], took["wrong"]),
        "malformed_per_wrong": statistics.median(took["malformed"]) / statistics.median(took["wrong"]),
        "compare_first_vs_last_byte_t": welch(honest["first"], honest["last"]),
        "compare_first_vs_last_byte_t_planted_eq": welch(planted["first"], planted["last"]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
