"""The lock of a run in a bucket: an object that its holder renews, so that one that was killed is found out.

A store has no locks that end with a process. A run creates the object only if there is none, and replaces it every
RENEW_S seconds. One that was not renewed for EXPIRY_S seconds is of a run that is dead. Whoever takes it over replaces
it: a run that was only suspended then fails to renew it, and writes no more.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from lesioncli.errors import InputError
from lesioncli.progress import Ticker, describe_duration
from lesioncli.stores import ConflictError, ObjectFolder, StoredBytes, StoreError, Version

RENEW_S, EXPIRY_S = 60.0, 300.0
POLL_S = 5.0  # between two looks at the lock of a run that may be dead
UNSUPPORTED = "the store answers 501"  # to a conditional write

Note = Callable[[str], None]


class Lease:
    """The lock object `name` of one run. `clock` and `sleep` count in seconds; the clock is that of the epoch."""

    def __init__(
        self,
        objects: ObjectFolder,
        name: str,
        note: Note,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._objects, self._name, self._note = objects, name, note
        self._clock, self._sleep = clock, sleep
        self._token = uuid.uuid4().hex
        self._version: Version | None = None  # None if the store cannot hold locks
        self._renewed_s = 0.0
        self._is_lost = False
        self._mutex = threading.Lock()
        self._ticker = Ticker(self._renew_quietly)

    def acquire(self) -> None:
        """Take the lock; wait for one that was not renewed for a while until it is certain that its run is dead.

        Raises InputError if another run holds it. On a store without conditional writes, nothing is locked.
        """
        try:
            self._version = self._create()
        except StoreError as error:
            if UNSUPPORTED not in str(error.strerror):
                raise
            self._note(f"{self._objects.url}: this store cannot hold locks; start no second run into it")
            return
        self._renewed_s = self._clock()
        self._ticker.start(RENEW_S)

    def _create(self) -> Version:
        first: StoredBytes | None = None
        while True:
            with suppress(ConflictError):
                return self._objects.create(self._name, self._content())
            held = self._objects.read(self._name)
            if held is None:
                continue
            if self._is_ours(held):  # the answer to an earlier attempt was lost
                return held.version
            if first is not None and held.version != first.version:
                raise self._refusal(held)
            first = first or held
            age_s = max(self._clock() - held.modified_s, 0.0)
            if age_s >= EXPIRY_S:
                return self._take_over(held)
            if held is first:
                self._note(
                    f"{self._objects.url / self._name}: lock of {_describe(held)}, renewed {describe_duration(age_s)}"
                    f" ago; waiting until it is {describe_duration(EXPIRY_S)} old; if that run has ended, remove this"
                    " object to continue at once"
                )
            self._sleep(min(POLL_S, EXPIRY_S - age_s))

    def _take_over(self, held: StoredBytes) -> Version:
        try:
            version = self._objects.replace(self._name, self._content(), held.version)
        except ConflictError as error:
            raise self._refusal(held) from error
        self._note(f"{self._objects.url}: continuing after {_describe(held)}, which has ended without a word")
        return version

    def _refusal(self, held: StoredBytes) -> InputError:
        return InputError(
            f"{self._objects.url}: another run is writing there, {_describe(held)}; wait until it ends, or choose"
            " another place with --out"
        )

    def check(self) -> None:
        """Renew the lock if it may have expired, as after a suspension. Raises InputError if another run took it."""
        if self._version and not self._is_lost and self._clock() - self._renewed_s > EXPIRY_S - RENEW_S:
            self._renew()
        if self._is_lost:
            raise InputError(
                f"{self._objects.url}: another run has taken over this place, because this one could not renew its lock"
                " in time; let that one finish"
            )

    def _renew_quietly(self) -> None:
        with suppress(StoreError):  # the next time may succeed, and until somebody else takes it, the lock is ours
            self._renew()

    def _renew(self) -> None:
        with self._mutex:
            if self._version is None or self._is_lost:
                return
            try:
                self._version = self._objects.replace(self._name, self._content(), self._version)
            except ConflictError:
                held = self._objects.read(self._name)
                if held is None or not self._is_ours(held):
                    self._is_lost = True
                    return
                self._version = held.version
            self._renewed_s = self._clock()

    def close(self) -> None:
        """Remove the lock, unless it may be that of another run by now."""
        self._ticker.stop()
        if self._version and not self._is_lost and self._clock() - self._renewed_s < EXPIRY_S:
            with suppress(StoreError):
                self._objects.delete([self._name])

    def _content(self) -> bytes:
        """Return a content that differs each time: the version of an object may be a hash of it."""
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": self._token, "renewed": now}
        return json.dumps(holder).encode()

    def _is_ours(self, held: StoredBytes) -> bool:
        return self._token.encode() in held.content


def refuse_if_held(objects: ObjectFolder, name: str, clock: Callable[[], float] = time.time) -> None:
    """Raise InputError if there is a lock that was renewed lately."""
    held = objects.read(name)
    if held and clock() - held.modified_s < EXPIRY_S:
        raise InputError(
            f"{objects.url / name}: lock of {_describe(held)}, which is writing there; wait until it ends, or, if it"
            f" was killed, until the lock is {describe_duration(EXPIRY_S)} old"
        )


def _describe(held: StoredBytes) -> str:
    """Return who holds a lock; its content may come from anybody."""
    try:
        holder = json.loads(held.content)
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "an unknown process"
