"""`doorward`: the command line. Everything it does, it does with `doorward.Client`.

Keys are never given on the command line, where every user of the machine can read them: the caller's own comes from
--key-file, DOORWARD_KEY_FILE or DOORWARD_KEY, one to be judged from a file or standard input. A new secret goes to
standard output, once and alone (with --output json: in one object), and so does one that is revealed; all messages go
to standard error.

Exit codes:

0  done; authorize: allowed
1  authorize: denied; keys import: some rows were rejected; keyspaces test: some questions are answered otherwise;
   audit verify: the log was changed; scan: keys were found; webhooks test: the receiver does not have it
2  could not ask: wrong usage or configuration, invalid input, no connection, no answer; authorize: every failure
3  not permitted: Doorward does not accept the caller's key, or the key may not do this
4  not found
5  conflict: exists already, changed meanwhile, not in this state, or a quota is used up; keyspaces apply: it would
   strand keys, or its tests fail
130  interrupted
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Says what to install if its parts are missing."""
    try:
        from doorward.cli.app import app  # absent without the extra
    except ImportError as missing:
        print(
            f"doorward needs the module {missing.name!r}. Install the command line's parts: "
            "pip install 'doorward[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    app()
