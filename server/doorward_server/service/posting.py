"""Sending what somebody else has said where to: over HTTP, and only to where it may go.

A name is looked up once for each attempt, every address that it has is checked, and the connection is made to an
address that was checked: what the name says a moment later makes no difference. TLS is verified against the name.
Redirects are not followed, proxies of the environment are not used, and nothing of an answer is read but its status.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from doorward_server.core.webhooks import is_public

SECONDS = 10.0
"""For one attempt, from the connection to the status; a name takes as long to look up as the resolver lets it."""
Places = list[tuple[int, int, int, str, tuple[str | int, ...]]]
Resolve = Callable[[str, int], Places]
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of it."""

    status: int
    """Of the answer; 0: there was none."""
    problem: str
    """What was wrong, in words; empty: it was accepted."""

    @property
    def accepted(self) -> bool:
        """Whether the receiver has it."""
        return not self.problem


class _Refused(Exception):
    """It must not go there. The message says why."""


def resolve(host: str, port: int) -> Places:
    """Look up a name. Raises OSError."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]  # addresses, in tuples


class Poster:
    """Sends. Blocking, for any thread; each attempt has a connection of its own."""

    def __init__(
        self, tls: ssl.SSLContext, *, allow_private: bool, seconds: float = SECONDS, resolve: Resolve = resolve
    ) -> None:
        self._tls = tls
        self._allow_private = allow_private
        self._seconds = seconds
        self._resolve = resolve

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Posted:
        """Send *body* to *url*, a checked one. However it fails, that is what is returned, in words."""
        parts = urlsplit(url)
        try:
            with self._connected(parts) as connection:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("POST", path, body, {"Host": parts.netloc, **headers})
                return _judged(connection.getresponse().status)
        except _Refused as refusal:
            return Posted(0, str(refusal))
        except ssl.SSLCertVerificationError as problem:
            return Posted(0, f"The certificate is not good for {parts.hostname}: {problem.verify_message}.")
        except TimeoutError:
            return Posted(0, f"No answer within {self._seconds:g} s.")
        except (OSError, http.client.HTTPException, ValueError) as problem:
            return Posted(0, f"No answer: {type(problem).__name__}.")

    @contextmanager
    def _connected(self, parts: SplitResult) -> Iterator[http.client.HTTPConnection]:
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        family, _, _, _, address = self._place(host, port)
        with closing(socket.socket(family, socket.SOCK_STREAM)) as plain, _ended_after(plain, self._seconds) as late:
            plain.settimeout(self._seconds)
            try:
                plain.connect(address)
                secure = self._tls.wrap_socket(plain, server_hostname=host) if parts.scheme == "https" else plain
                with closing(secure), closing(http.client.HTTPConnection(host, port)) as connection:
                    connection.sock = secure  # made already, to an address that was checked
                    yield connection
            except (OSError, http.client.HTTPException):
                if not late.is_set():
                    raise
            if late.is_set():  # http.client takes an end within the headers for the end of the headers
                raise TimeoutError

    def _place(self, host: str, port: int) -> tuple[int, int, int, str, tuple[str | int, ...]]:
        try:
            places = self._resolve(host, port)
        except OSError:
            raise _Refused(f"The name {host} is not known.") from None
        for *_, address in places:
            if not (self._allow_private or is_public(ip_address(str(address[0]).partition("%")[0]))):
                raise _Refused(f"{host} leads into a private network, where webhooks are not sent.")
        if not places:
            raise _Refused(f"The name {host} is not known.")
        return places[0]


def _judged(status: int) -> Posted:
    if 200 <= status < 300:
        return Posted(status, "")
    if 300 <= status < 400:
        return Posted(status, f"The answer was {status}: redirects are not followed.")
    return Posted(status, f"The answer was {status}.")


@contextmanager
def _ended_after(connection: socket.socket, seconds: float) -> Iterator[threading.Event]:
    """End *connection* after so many *seconds*, however slowly it goes on; what is yielded says whether that was so.

    A timeout of the socket alone is one for each piece: who sends a byte a second would hold a thread for ever.
    """
    late = threading.Event()
    with closing(connection.dup()) as same:  # TLS takes the first one over

        def end() -> None:
            late.set()
            with suppress(OSError):  # it is not connected yet, and then its own timeout ends it, or no longer
                same.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()
