"""doorward keys import."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from doorward.cli.output import write_json
from doorward.cli.rows import Format, Line, format_of, read
from doorward.cli.session import Session, tell
from doorward.cli.words import BadWord
from doorward.imports import ImportOutcome, ImportResult, ImportRow

Write = Callable[[int, ImportResult], None]
"""Takes the result of a line, by its number."""


def import_keys(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with a header, or JSON lines.", exists=True, dir_okay=False)],
    keyspace: Annotated[str, typer.Option(help="The keyspace.")],
    kind: Annotated[Format | None, typer.Option("--format", help="Default: by the file's extension.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, but keep none.")] = False,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what became of each row, as CSV or .jsonl.")
    ] = None,
) -> None:
    """Take in keys that another system handed out. Exit code 0: all are in, 1: some were rejected.

    Columns: external_id, name, and one of text, sha256 and bcrypt; lookup and last4 with a hash; description, owner,
    environment, type, ceiling, scopes, bindings, allowed_cidrs, metadata or metadata.NAME, created_at, expires_at,
    api_version. Scopes and networks are separated by spaces or ';', and so are bindings, each ROLE=PATTERN,….

    The same file can be sent again: what is in already, by its external_id, is left alone.
    """
    session: Session = ctx.obj
    kind = format_of(file, kind)
    if results is not None and results.exists() and results.samefile(file):
        raise BadWord("the results must not go where the rows come from")
    total = sum(1 for _ in read(file, kind)) if file.is_file() else None
    with ExitStack() as stack:
        tally = _Tally(_writer(results, stack) if results else None)
        stack.callback(_sum_up, session, tally, dry_run)
        tally.advance = stack.enter_context(_progress(total))
        session.client.import_keys(
            tally.fed(read(file, kind)),
            keyspace=keyspace,
            organization=session.organization,
            dry_run=dry_run,
            progress=tally.took,
            timeout=session.timeout,
        )
        tally.finish()
    if tally.counts[ImportOutcome.REJECTED] or tally.counts[ImportOutcome.UNKNOWN]:
        raise typer.Exit(1)


class _Tally:
    """Lines on their way: brings results back to the lines they are of, counts them and tells the rejected ones."""

    def __init__(self, write: Write | None) -> None:
        self.counts: Counter[ImportOutcome] = Counter()
        self.done = False
        self.advance: Callable[[], None] = lambda: None
        self._write = write
        self._lines: deque[Line] = deque()

    def fed(self, lines: Iterable[Line]) -> Iterator[ImportRow]:
        """Yield the rows of the lines that have one, and remember all of them."""
        for line in lines:
            self._lines.append(line)
            if line.row is not None:
                yield line.row

    def took(self, results: list[ImportResult]) -> None:
        """Take the results of the oldest rows that have none yet, and those of the bad lines between them."""
        for result in results:
            self._bad_lines()
            self._note(self._lines.popleft(), result)

    def finish(self) -> None:
        """All rows have their results: take those of the bad lines at the end."""
        self._bad_lines()
        self.done = True

    def _bad_lines(self) -> None:
        while self._lines and self._lines[0].row is None:
            line = self._lines.popleft()
            self._note(line, ImportResult(line.external_id, ImportOutcome.REJECTED, "", "INVALID_FIELD", line.problem))

    def _note(self, line: Line, result: ImportResult) -> None:
        self.counts[result.outcome] += 1
        self.advance()
        if result.outcome is ImportOutcome.REJECTED:
            tell(f"line {line.number}, {result.external_id or 'no external_id'}: {result.reason}: {result.message}")
        if self._write is not None:
            self._write(line.number, result)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error, if that is a terminal; give what moves it on by a row."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _writer(file: Path, stack: ExitStack) -> Write:
    opened = stack.enter_context(file.open("w", encoding="utf-8", newline=""))
    if file.suffix.lower() == ".jsonl":

        def write_line(number: int, result: ImportResult) -> None:
            opened.write(json.dumps(_told(number, result)) + "\n")

        return write_line
    table = csv.writer(opened)
    table.writerow(_told(0, ImportResult("", ImportOutcome.UNKNOWN)))

    def write_row(number: int, result: ImportResult) -> None:
        table.writerow(_told(number, result).values())

    return write_row


def _told(number: int, result: ImportResult) -> dict[str, str | int]:
    return {
        "line": number,
        "external_id": result.external_id,
        "outcome": result.outcome.value,
        "key_id": result.key_id,
        "reason": result.reason,
        "message": result.message,
    }


def _sum_up(session: Session, tally: _Tally, dry_run: bool) -> None:
    created, exists, rejected, unknown = (
        tally.counts[outcome]
        for outcome in (
            ImportOutcome.CREATED,
            ImportOutcome.EXISTS,
            ImportOutcome.REJECTED,
            ImportOutcome.UNKNOWN,
        )
    )
    if session.json:
        write_json({"created": created, "existing": exists, "rejected": rejected, "finished": tally.done})
    odd = f", {unknown:,} of an outcome that this client does not know" if unknown else ""
    tell(f"Keys {'that would be taken in' if dry_run else 'taken in'}: {created:,}; in already: {exists:,}; "
         f"rejected: {rejected:,}{odd}.")  # fmt: skip
    if not tally.done:
        tell("Not finished. Give the same command again: what is in already is left alone.")
