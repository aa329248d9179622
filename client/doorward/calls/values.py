"""Instants, expiries, enums, masks and the word for "as it is": what all descriptions share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any, Final, Literal, NoReturn, Protocol, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.model import Propagation
from doorward.v1 import freshness_pb2, keys_pb2

E = TypeVar("E", bound=StrEnum)
K = TypeVar("K")
V = TypeVar("V")

Expires = datetime | timedelta | date | Literal["30d", "90d", "1y", "none"] | None
"""When a key shall end: at an instant, after a while, at the end of a day, after a usual time, or (None) never."""

_PRESETS = {
    "30d": keys_pb2.EXPIRY_PRESET_DAYS_30,
    "90d": keys_pb2.EXPIRY_PRESET_DAYS_90,
    "1y": keys_pb2.EXPIRY_PRESET_YEAR_1,
    "none": keys_pb2.EXPIRY_PRESET_NONE,
}


class Unchanging(dict[K, V]):
    """A dict that nobody changes: several callers may be given the same answer."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("an answer is not changed: make a dict of your own from it")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[dict[K, V]], tuple[dict[K, V]]]:
        return dict, (dict(self),)


class Keep(Enum):
    """The type of KEEP, which stands for "not given": in an update, None means to clear."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep.KEEP


def given(**values: object) -> dict[str, Any]:
    """Return the values without those that are to be kept."""
    return {name: value for name, value in values.items() if value is not KEEP}


def mask(changes: Mapping[str, object]) -> FieldMask:
    """Return the mask that names the changes."""
    return FieldMask(paths=sorted(changes))


def timestamp(field: str, at: datetime | None) -> Timestamp | None:
    """Return an instant as the wire has it; *field* is what an error calls it."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"{field}: an instant needs a time zone, e.g. datetime.now(UTC)")
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def duration(length: timedelta | None) -> Duration | None:
    """Return a length of time as the wire has it."""
    if length is None:
        return None
    made = Duration()
    made.FromTimedelta(length)
    return made


def expiry(expires: Expires, time_zone: str) -> keys_pb2.Expiry | None:
    """Return an expiry as the wire has it."""
    match expires:
        case None:
            return None
        case str():
            if expires not in _PRESETS:
                raise ValueError(f"expires: {expires!r} is none of {', '.join(_PRESETS)}")
            return keys_pb2.Expiry(preset=_PRESETS[expires])
        case timedelta():
            return keys_pb2.Expiry(duration=duration(expires))
        case datetime():
            return keys_pb2.Expiry(instant=timestamp("expires", expires))
        case date():
            return keys_pb2.Expiry(date=keys_pb2.ExpiryDate(date=expires.isoformat(), time_zone=time_zone))


def instant(stamp: Timestamp) -> datetime:
    """Return an instant that is always there."""
    return stamp.ToDatetime(UTC)


def instant_or_none(message: Message, field: str) -> datetime | None:
    """Return an instant that may be absent."""
    return instant(getattr(message, field)) if message.HasField(field) else None


def words(kind: type[E], wire: Any, prefix: str) -> Mapping[int, E]:
    """Return the members of a StrEnum by their numbers on the wire. A number that is missing is UNKNOWN to us."""
    return {number: kind(name.removeprefix(prefix)) for name, number in wire.items() if number}


def numbers(table: Mapping[int, E]) -> Mapping[str, int]:
    """Return the inverse of `words`; UNKNOWN is not in it, since it cannot be sent."""
    return {word: number for number, word in table.items()}


PROPAGATIONS = words(Propagation, freshness_pb2.Propagation, "PROPAGATION_")


class Answered(Protocol):
    """The answer to a change, whatever else it holds."""

    @property
    def revision(self) -> int: ...
    @property
    def propagation(self) -> freshness_pb2.Propagation.ValueType: ...


class Effect(TypedDict, total=False):
    """What a value says of the change that answered with it; empty where it was only read."""

    revision: int
    propagation: Propagation


def effect(answer: Answered) -> Effect:
    """Return what *answer* says of the change that was made."""
    return Effect(revision=answer.revision, propagation=PROPAGATIONS.get(answer.propagation, Propagation.UNKNOWN))
