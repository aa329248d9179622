"""What the global options say, and the client that they lead to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from doorward import errors

if TYPE_CHECKING:
    from doorward import Client


class Output(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"


@dataclass
class Session:
    """The global options of one run. gRPC is imported only once a command asks for the client."""

    environ: Mapping[str, str]
    organization: str
    acting_for: str
    output: Output
    timeout: float | None

    @cached_property
    def client(self) -> Client:
        from doorward import Client

        if self.timeout is None:
            client = Client.from_env(self.environ)
        else:
            client = Client.from_env(self.environ, authorize_timeout=self.timeout, timeout=self.timeout)
        return client.acting_for(self.acting_for) if self.acting_for else client

    @property
    def json(self) -> bool:
        return self.output is Output.JSON

    def asks(self, yes: bool) -> bool:
        """Tell whether `confirm` would ask: on a terminal, unless *yes* was said. Elsewhere there is nobody to ask."""
        return not yes and sys.stdin.isatty()

    def confirm(self, what: str, yes: bool) -> None:
        """Ask, if there is somebody to ask. Raises Exit if the answer is no."""
        if not self.asks(yes):
            return
        # Not typer.confirm, which writes a blank to standard output, where a secret is to stand alone.
        print(plain(f"{what}? [y/N]: "), end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            tell("Nothing was done.")
            raise typer.Exit(2)


def environment(**options: str | None) -> dict[str, str]:
    """Return the environment with the options in place of its variables; a key file outdoes both variables for keys."""
    environ = dict(os.environ)
    if options["key_file"]:
        environ.pop("DOORWARD_KEY", None)
    given = {f"DOORWARD_{name.upper()}": value for name, value in options.items() if value}
    return environ | given


def tell(message: str) -> None:
    """Write a message to standard error."""
    print(plain(message), file=sys.stderr)


def plain(text: str) -> str:
    """Return the text with what would steer a terminal made visible: names come from other people."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


_EXIT_CODES = {
    errors.Unauthenticated: 3,
    errors.PermissionDenied: 3,
    errors.NotFound: 4,
    errors.AlreadyExists: 5,
    errors.FailedPrecondition: 5,
    errors.Aborted: 5,
    errors.ResourceExhausted: 5,
}

_ADVICE = {
    errors.Unavailable: "Is the server up, and is this its address? --target or DOORWARD_TARGET says where it is.",
    errors.DeadlineExceeded: "--timeout gives it more time. If this was a change, see first whether it was made.",
    errors.Unauthenticated: "--key-file or DOORWARD_KEY_FILE says where your key is.",
    errors.PermissionDenied: "`doorward whoami` shows what your key is and holds.",
    errors.NotFound: "What was deleted is not found either; `list` shows what there is.",
    errors.Internal: "This is a defect of the server; its log says more.",
}


def exit_code(error: Exception) -> int:
    """Return the exit code for an error, by the table of `doorward.cli`."""
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 2)


def explain(error: Exception) -> str:
    """Return what went wrong, where, and what to do about it."""
    if isinstance(error, errors.Misconfigured):
        return "\n".join(error.problems)
    lines = [str(error)]
    if isinstance(error, errors.CallFailed):
        if error.field and error.field not in error.message:
            lines.append(f"The field is {error.field}.")
        if request := error.metadata.get("request"):
            lines.append(f"The request is {request}.")
    return "\n".join(lines + [advice for kind, advice in _ADVICE.items() if isinstance(error, kind)])
