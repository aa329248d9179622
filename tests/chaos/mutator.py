"""Somebody who changes things all the time, in every way there is, and looks at once whether it counts. A program.

Manners: waiting; in a hurry, so that the call times out, and then again; without waiting; without waiting, and then the
same once more, waiting; at a database prompt. What nobody knows the outcome of is written down as that.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from tests.chaos.actors import Api, connect, first_order, in_background, orders, question, reason, tell
from tests.chaos.history import DEFAULT, FRESH, Credential, Recorder, boottime
from tests.chaos.plot import Action, Plot
from tests.store import hands

PATIENCE = 3.0
"""Seconds for a call that is meant to succeed."""
AVOIDED = 2.0
"""Seconds for which nothing is asked of a replica that did not answer: most changes should be made, and soon."""
GIVE_UP = 30.0
"""Seconds after which a change that keeps failing is left alone, with everything that belongs to it."""
UNKNOWN = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"}
"""Errors after which a change may have been made, or may still be made."""
WARMING = 0.3
"""Seconds, at most, for asking about something before it is changed."""
LOOK = 4.0
"""Seconds for which an answer is waited for, in the background."""
OK, LOST, REFUSED = "ok", "lost", "refused"


class Mutator:
    """One process's changes."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._name: str = told["name"]
        self._dice = random.Random(told["seed"])
        self._recorder = Recorder(Path(told["history"]), self._name)
        self._far = connect(told["far"], told["key"])
        self._near = connect(told["targets"], told["key"])
        self._store: str = told["store"]
        self._by_hand: bool = told["by_hand"]
        self._pace: float = told["pace"]
        self._fresh: bool = told["fresh"]
        self._revision = 0
        self._avoided: dict[Api, float] = {}
        self._looking: list[tuple[str, str, int, Any, list[int], str]] = []
        self._plots = 0
        self.stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self._plot = self._new_plot()

    def run(self) -> None:
        """Change things until told to stop."""
        while not self.stopping.is_set():
            try:
                if self._plot.worn or not self._plot.keys:
                    self._move()
                self._plot.refill(self._call)
                tell(retire=self._plot.forget_the_dead())
            except grpc.RpcError as error:
                self.counts[f"building failed: {error.code().name}"] += 1
                self._plot.worn = True
                self.stopping.wait(0.2)
                continue
            self._perform(self._plot.next())
            self._gather()
            tell(changed=self.counts["changed"])
            self.stopping.wait(self._dice.random() * self._pace)
        self._gather()
        self._recorder.close()
        tell(counts=self.counts)

    # --- the plot -----------------------------------------------------------------------------------------------------

    def _new_plot(self) -> Plot:
        self._plots += 1
        return Plot(f"{self._name}x{self._plots}", self._dice, self._publish)

    def _move(self) -> None:
        """Leave the plot, on which too little is known for sure, for a new one."""
        old, self._plot = self._plot, self._new_plot()
        tell(retire=old.credentials())
        self._plot.build(self._call, lambda facts: self._recorder.change("initial", facts, 0, 0, waited=True))

    def _publish(self, credential: Credential, text: str, keyspace: str) -> None:
        self._recorder.credential(credential)
        tell(credential=credential.id, text=text, keyspace=keyspace)

    def _call(self, service: str, rpc: str, request: Any) -> Any:
        """Make a call that only adds to what nobody knows yet, whatever it takes. Raises grpc.RpcError."""
        if "no_wait" in request.DESCRIPTOR.fields_by_name:
            request.no_wait = True  # what is asked about these is read after the keys are made, which come last
        give_up, lost = time.monotonic() + GIVE_UP, False
        while True:
            api = self._anyone()
            try:
                response = api.call(service, rpc, request, PATIENCE)
            except grpc.RpcError as error:
                self._avoid(api)
                code = error.code().name
                if lost and code == "ALREADY_EXISTS":
                    return None
                if code not in UNKNOWN or self.stopping.is_set() or time.monotonic() > give_up:
                    raise
                lost = True
            else:
                return None if lost else response

    def _anyone(self) -> Api:
        everybody = self._near + self._far
        now = time.monotonic()
        return self._dice.choice([it for it in everybody if self._avoided.get(it, 0) < now] or everybody)

    def _avoid(self, api: Api) -> None:
        self._avoided[api] = time.monotonic() + AVOIDED

    # --- a change -----------------------------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        about = self._about(action)
        tell(hot=about)
        self._warm(about)
        if action.sql and self._by_hand and self._dice.random() < 0.6:
            self._type(action)
            return
        manner = self._dice.random()
        waits = action.again and "no_wait" in action.request.DESCRIPTOR.fields_by_name
        if manner < 0.25 and action.for_good:
            self.counts["in a hurry"] += 1
            if self._attempt(action, self._dice.uniform(0.004, 0.08)) == OK:
                self._look(about, 0)
                return
        elif manner < (0.5 if action.for_good else 0.2) and waits:
            self.counts["without waiting"] += 1
            if self._attempt(action, PATIENCE, wait=False) == OK:
                if self._fresh:
                    self._look(about, self._revision)
                if self._dice.random() < 0.5:
                    return
        self._insist(action, about, 1.0 if manner > 0.95 else PATIENCE)

    def _about(self, action: Action) -> list[str]:
        about = list(action.about) or self._plot.credentials()
        return self._dice.sample(about, min(2, len(about)))

    def _insist(self, action: Action, about: list[str], timeout: float) -> None:
        """Send it until it is known to be made, with waiting, and look."""
        give_up, tried = time.monotonic() + GIVE_UP, 0
        while not self.stopping.is_set() and time.monotonic() < give_up:
            outcome = self._attempt(action, timeout)
            tried += 1
            if outcome == OK:
                self._look(about, 0)
                return
            if outcome == REFUSED:
                if tried > 1:  # an attempt that nobody knew the outcome of was made after all
                    self._note(action)
                return
            if not action.again or (tried == 2 and not action.for_good):
                action.lost()
                self._plot.worn = self._plot.worn or action.again
                return
            timeout = PATIENCE
            self.stopping.wait(0.2)
        self._plot.worn = True

    def _attempt(self, action: Action, timeout: float, *, wait: bool = True) -> str:
        request = action.request
        if not wait:
            request = type(request)()
            request.CopyFrom(action.request)
            request.no_wait = True
        api, start = self._anyone(), boottime()
        try:
            response = api.call(action.service, action.rpc, request, timeout)
        except grpc.RpcError as error:
            code = error.code().name
            if code in UNKNOWN:
                if timeout >= 1:
                    self._avoid(api)
                self._record(action, start, None, wait)
                return LOST
            self.counts[f"refused: {action.kind}: {code}"] += 1
            if code != "FAILED_PRECONDITION":
                self._plot.worn = True
            return REFUSED
        end = boottime()
        self._record(action, start, end, wait)
        if wait:
            self._recorder.wait(_propagation(response), end - start)
        self._note(action)
        action.done(response)
        self._revision = response.revision
        return OK

    def _record(self, action: Action, start: int, end: int | None, waited: bool) -> None:
        for effect in action.effects:
            self._recorder.change(action.kind, effect, start, end, waited)

    def _note(self, action: Action) -> None:
        self.counts["changed"] += 1
        for effect in action.effects:
            self._plot.apply(effect)

    def _type(self, action: Action) -> None:
        """Make it at a database prompt, which waits for nobody."""
        assert action.sql
        statement, values = action.sql
        start, end = boottime(), None
        try:
            with hands.at(self._store) as hand:
                if not hand.postgresql:
                    hand.run("PRAGMA busy_timeout = 4000")
                hand.run(statement, *values)
            end = boottime()
        except Exception as error:  # noqa: BLE001  # of two drivers, for whatever the faults do to a database
            self.counts[f"by hand, failed: {type(error).__name__}"] += 1
        for effect in action.effects:
            self._recorder.change(f"{action.kind}, by hand", effect, start, end, waited=False)
        if end is None:
            action.lost()
            self._plot.worn = True
            return
        self._note(action)
        self.counts["by hand"] += 1
        action.done(None)

    # --- looking ------------------------------------------------------------------------------------------------------

    def _look(self, about: list[str], revision: int) -> None:
        """Ask every replica as soon as the change has returned. Who is stopped answers when it wakes: see `_gather`."""
        consistency = FRESH if revision else DEFAULT
        for id in about:
            request = question(self._plot.texts[id], self._plot.name, consistency, revision)
            for api in self._near:
                ended: list[int] = []
                start = boottime()
                answer = api.begin("authz", "Authorize", request, LOOK)
                answer.add_done_callback(lambda _, ended=ended: ended.append(boottime()))
                self._looking.append((id, api.place, start, answer, ended, consistency))

    def _warm(self, about: list[str]) -> None:
        """Have every replica remember what is about to change, mostly: who has nothing in its cache is never wrong."""
        if self._dice.random() < 0.2:
            return
        before = len(self._looking)
        self._look(about, 0)
        until = time.monotonic() + WARMING
        for _, _, _, answer, _, _ in self._looking[before:]:
            with suppress(grpc.RpcError, grpc.FutureTimeoutError):
                answer.result(max(0.0, until - time.monotonic()))

    def _gather(self) -> None:
        """Write down what has been answered."""
        looking, self._looking = self._looking, []
        for id, place, start, answer, ended, consistency in looking:
            if not ended and not self.stopping.is_set():
                self._looking.append((id, place, start, answer, ended, consistency))
                continue
            try:
                said = answer.result()
            except grpc.RpcError:
                self._recorder.unanswered()
            else:
                self._recorder.question(id, start, ended[0] if ended else boottime(), reason(said), place, consistency)


def _propagation(response: Any) -> str:
    """Return what a response says of who has seen the change; empty if it says nothing."""
    field = response.DESCRIPTOR.fields_by_name.get("propagation")
    return field.enum_type.values_by_number[response.propagation].name if field else ""


def main() -> None:
    """Change things until told to stop."""
    mutator = Mutator(first_order())

    def listen() -> None:
        for _ in orders():
            pass
        mutator.stopping.set()

    in_background(listen)
    mutator.run()


if __name__ == "__main__":
    main()
    sys.exit(0)
