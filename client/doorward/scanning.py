"""Looking for keys in files, folders, git repositories and streams, in bounded memory.

Texts are looked for as they stand: in any encoding that writes ASCII as ASCII, and in UTF-16 with a byte order mark.
What is compressed, encrypted, or written in base64 or another encoding is not looked into.
"""

from __future__ import annotations

import codecs
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from doorward.secret import Secret
from doorward.shapes import CONTEXT, LONGEST, Shapes

CHUNK = 1 << 20
"""Bytes that are looked at together."""
LARGEST = 50 << 20
"""Bytes of a file that is looked into, unless told otherwise."""
_PROBE = 8192
_BOMS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A key, and where it is."""

    keyspace: str
    format: str
    place: str
    """A file, `-` for a stream, or `<commit>:<path>` in a git repository."""
    line: int
    """From 1."""
    masked: str
    secret: Secret
    """The text, for a report of it; it does not print."""


class Reads(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes: ...


class Scanner:
    """Looks for the keys of some shapes."""

    def __init__(
        self, shapes: Shapes, largest: int = LARGEST, skipped: Callable[[str, str], None] | None = None
    ) -> None:
        """*skipped* is told of what is not looked into, and why."""
        self._shapes = shapes
        self._largest = largest
        self._skipped = skipped or (lambda place, why: None)

    def path(self, path: Path) -> Iterator[Finding]:
        """Look into a file, or into all files below a folder; not into `.git`, nor along links. Raises OSError for a
        path that is not there.
        """
        if not path.is_dir():
            yield from self._file(path)
            return
        for folder, folders, files in os.walk(path, onerror=self._unreadable):
            folders[:] = sorted(name for name in folders if name != ".git")
            for name in sorted(files):
                file = Path(folder, name)
                if not file.is_symlink() and file.is_file():
                    try:
                        yield from self._file(file)
                    except OSError as problem:
                        self._unreadable(problem)

    def stream(self, stream: Reads, place: str = "-") -> Iterator[Finding]:
        """Look into a stream. One that seems to hold no text is skipped."""
        first = stream.read(_PROBE)
        encoding = _BOMS.get(first[:2])
        if encoding is None and b"\0" in first:
            self._skipped(place, "it is no text")
            return
        seen = 1
        for data, start, end in _stretches(_chunks(first, stream, encoding)):
            hits = sorted(self._shapes.hits(data, start, end), key=lambda hit: hit.start)
            at = start
            for hit in hits:
                seen += data.count(b"\n", at, hit.start)
                at = hit.start
                yield Finding(hit.shape.keyspace, hit.shape.name, place, seen, hit.masked, Secret(hit.text))
            seen += data.count(b"\n", at, end)

    def git(self, repository: Path) -> Iterator[Finding]:
        """Look into every object of a git repository, also into those that no branch leads to.

        Raises OSError if git cannot be run, or says that this is no repository.
        """
        listing = ("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype) %(objectsize)")
        with _git(repository, *listing) as objects, _git(repository, "cat-file", "--batch") as contents:
            for line in _lines(objects):
                name, kind, size = line.split()
                if kind == "tree":
                    continue
                if int(size) > self._largest:
                    self._skipped(name, "it is too large")
                    continue
                body = _Object(contents, name)
                found = list(self.stream(body, name))
                body.finish()
                where = _where(repository, name, kind) if found else ""
                yield from (Finding(it.keyspace, it.format, where, it.line, it.masked, it.secret) for it in found)

    def _file(self, path: Path) -> Iterator[Finding]:
        if path.is_file() and path.stat().st_size > self._largest:
            self._skipped(str(path), "it is too large")
            return
        with path.open("rb") as file:
            yield from self.stream(file, str(path))

    def _unreadable(self, problem: OSError) -> None:
        self._skipped(str(problem.filename), problem.strerror or "it cannot be read")


def _chunks(first: bytes, stream: Reads, encoding: str | None) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    chunk = first
    while chunk:
        yield decoder.decode(chunk).encode("utf-8", "replace") if decoder else chunk
        chunk = stream.read(CHUNK)


def _stretches(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield (bytes, from, to): what begins from *from* to *to* ends in these bytes; the next goes on at *to*."""
    data, start = b"", 0
    for chunk in chunks:
        data += chunk
        end = len(data) - LONGEST - 1
        if end > start:
            yield data, start, end
            begin = max(0, end - CONTEXT - 1)
            data, start = data[begin:], end - begin
    yield data, start, len(data)


@contextmanager
def _git(repository: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run git, which follows no setting of the repository that would run something else."""
    command = ["git", "-C", str(repository), "-c", "core.fsmonitor=false", "--no-pager", *words]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)  # noqa: S603  # no shell
    with process:
        try:
            yield process
        finally:
            process.kill()


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    if process.stdout is None or process.stderr is None:
        raise OSError("git cannot be read from")
    for line in process.stdout:
        yield line.decode("ascii").strip()
    if process.wait():
        raise OSError(f"git: {process.stderr.read().decode('utf-8', 'replace').strip()}")


class _Object:
    """The content of one object, from `git cat-file --batch`."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("git cannot be read from")
        self._from: IO[bytes] = process.stdout
        process.stdin.write(f"{name}\n".encode())
        process.stdin.flush()
        header = self._from.readline().split()
        if len(header) != 3:
            raise OSError(f"git: the object {name} cannot be read")
        self._left = int(header[2])

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, none at the end."""
        got = self._from.read(min(size, self._left))
        self._left -= len(got)
        return got

    def finish(self) -> None:
        """Read over what is left, so that the next object can be asked for."""
        while self._left and self.read(CHUNK):
            pass
        self._from.read(1)


def _where(repository: Path, name: str, kind: str) -> str:
    """Return the commit that brought an object in, and its path; or that no branch or tag leads to it."""
    if kind != "blob":
        return f"{kind} {name[:12]}"
    # Nothing that the repository's own configuration names is run: no signature is shown, no diff is made by others.
    quietly = ("--no-show-signature", "--no-ext-diff", "--no-textconv")
    words = ("-c", "core.quotePath=false", "log", "--all", "-m", *quietly, "--name-only")
    with _git(repository, *words, "--format=%x01%H", "--diff-filter=d", f"--find-object={name}") as log:
        out, _ = log.communicate()
    commit, found = "", f"object {name[:12]}, to which no branch leads"
    for line in out.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("\x01"):
            commit = line[1:13]
        elif line:
            found = f"{commit}:{line}"  # the last one told is the first one made
    return found
