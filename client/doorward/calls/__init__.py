"""Every RPC, described once: arguments in, a request to send and how to read its answer out. Nothing here does I/O.

`Client` and `AsyncClient` turn the descriptions into methods of the same name and with the same arguments; what their
docstrings say holds for both. Every call takes `timeout`, in seconds; None means the client's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

A = TypeVar("A", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[A, T]):
    """One call: send the request, read its answer."""

    request: Message = field(repr=False)  # it may hold a secret
    answer: type[A]
    read: Callable[[A], T]
    timeout: float | None
    patience: float = 0
    """Seconds to wait at least, where neither the call nor the client has more."""

    @property
    def kind(self) -> type[Message]:
        return type(self.request)

    @property
    def sent(self) -> Message:
        return self.request


@dataclass(frozen=True, slots=True)
class Stream(Generic[A, T]):
    """One call that sends several messages, and gets one answer."""

    requests: Sequence[Message] = field(repr=False)
    answer: type[A]
    read: Callable[[A], T]
    timeout: float | None
    patience: float

    @property
    def kind(self) -> type[Message]:
        return type(self.requests[0])

    @property
    def sent(self) -> Iterator[Message]:
        return iter(self.requests)

    @property
    def opening(self) -> Stream[A, None]:
        """The same call without all that follows its first message."""
        return Stream(self.requests[:1], self.answer, lambda answer: None, self.timeout, self.patience)


@dataclass(frozen=True, slots=True)
class Feed(Generic[A, T]):
    """One call that gets many answers, read as they come. It lasts as long as it lasts, unless *timeout* says less."""

    request: Message = field(repr=False)
    answer: type[A]
    read: Callable[[A], T]
    timeout: float | None

    @property
    def kind(self) -> type[Message]:
        return type(self.request)


Streams = Iterator[Stream[A, T]]
"""Work in several calls, one after the other."""


@dataclass(frozen=True, slots=True)
class Pages(Generic[A, T]):
    """A list that comes in pages: the request for the first, how to read one, and how to turn to the next."""

    first: Message = field(repr=False)
    answer: type[A]
    read: Callable[[A], Iterable[T]]
    timeout: float | None

    def page(self, token: str) -> Call[A, tuple[Iterable[T], str]]:
        """Return the call for the page that *token* (empty: none) stands for; it gives items and the next token."""
        request: Any = type(self.first)()
        request.CopyFrom(self.first)
        request.page_token = token
        return Call(request, self.answer, self._read, self.timeout)

    def _read(self, answer: Any) -> tuple[Iterable[T], str]:
        return self.read(answer), answer.next_page_token
