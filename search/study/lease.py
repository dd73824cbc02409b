"""One driver at a time writes a study: a lease with a heartbeat and a fencing number.

Every driver leaves one claim, `<number>-<token>.json`, in the study's lease folder. The claim
with the highest number holds the lease; its owner rewrites it every HEARTBEAT_SECONDS. A claim
that does not change for LEASE_SECONDS is dead, and the next driver takes a higher number. Before
each row a driver looks for a number above its own: one that slept through its lease writes
nothing more.

No clocks of two machines are compared, and no more is asked of the storage than that a file which
was written is listed (S3 and local folders do; NFS with attribute caching does after seconds).
"""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from search.errors import LeaseError, StorageError
from search.study import storage

LEASE_SECONDS = 30.0
"""A silent holder loses the lease after this time: long enough for a busy driver and a slow
storage, short enough for a restarted pod to wait."""
HEARTBEAT_SECONDS = 5.0
ATTEMPTS = 20
"""Times that drivers which start at the very same moment step back from each other."""
PATIENCE_SECONDS = 120.0

log = logging.getLogger("paretune")


@dataclass(frozen=True)
class Claim:
    """What a driver says of itself in the lease folder."""

    number: int
    token: str
    host: str
    pid: int
    process: str
    """Boot, process-id namespace and start time: the same process id later is another process."""
    beat: int = 0
    released: bool = False

    @property
    def name(self) -> str:
        """Give the file name."""
        return f"{self.number:010d}-{self.token}.json"

    @property
    def owner(self) -> str:
        """Say whose it is."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_over(self) -> bool:
        """Whether the owner let go, or was a process of this machine that has ended."""
        if self.released:
            return True
        boot, space, started = [*self.process.split(), "", "", ""][:3]
        return [boot, space] == _machine() and _start_time(self.pid) != started


class Lease:
    """The right to write a study, held by this process."""

    def __init__(self, folder: str, claim: Claim) -> None:
        self.folder = folder
        self.claim = claim
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Make sure that no other driver has taken over.

        Raises:
            LeaseError: one has.
            StorageError: the storage refused, for longer than PATIENCE_SECONDS.
        """
        names = storage.list_names(self.folder, patience_seconds=PATIENCE_SECONDS)
        newer = [name for name in names if _number(name) > self.claim.number]
        if newer:
            other = _read(self.folder, newer[-1])
            whose = f"{other.owner} has" if other else "another driver has"
            raise LeaseError(
                f"{whose} taken over the study of {self.folder.removesuffix('/lease')}, because "
                f"this driver gave no sign of life for {LEASE_SECONDS:g} seconds. Nothing more is "
                "written here; all rows written so far are kept"
            )

    def start(self) -> None:
        """Begin to give signs of life."""
        self._thread.start()

    def release(self) -> None:
        """Let the next driver in at once."""
        self._ended.set()
        self._thread.join()
        with suppress(StorageError):  # then it expires
            self._write(released=True)

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beat += 1
            with suppress(StorageError):  # `check` tells, before a row is written
                self._write(beat=beat)

    def _write(self, *, beat: int = 0, released: bool = False) -> None:
        claim = Claim(**{**asdict(self.claim), "beat": beat, "released": released})
        _write(self.folder, claim)


@contextmanager
def hold_lease(folder: str) -> Iterator[Lease]:
    """Hold the lease of a study.

    Where the lease seems to be held, this waits: less than a heartbeat if the holder lives, up to
    LEASE_SECONDS until a dead one's lease is over.

    Raises:
        LeaseError: another driver holds it; the message says which.
        StorageError: the storage refused.
    """
    lease = Lease(folder, _claim(folder))
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


def _claim(folder: str) -> Claim:
    for _ in range(ATTEMPTS):
        highest, expired = _wait_for_end(folder)
        claim = Claim(
            number=highest + 1,
            token=secrets.token_hex(4),
            host=socket.gethostname(),
            pid=os.getpid(),
            process=" ".join([*_machine(), _start_time(os.getpid())]),
        )
        _write(folder, claim)
        names = storage.list_names(folder)
        # Of two that write at once, each sees the other or comes later and sees the first: nobody
        # holds the lease beside somebody else. If both saw both, both step back. That goes for a
        # lower number too: its owner may have been slow to write.
        rivals = any(_number(n) >= claim.number and n != claim.name for n in names)
        if not rivals and all(c.token == expired for c in _living(folder, highest)):
            for name in names:
                if 0 < _number(name) < claim.number:
                    storage.remove(storage.join(folder, name))
            return claim
        storage.remove(storage.join(folder, claim.name))
        time.sleep(random.uniform(0.05, 1.0))  # noqa: S311 - to be unequal, not to be secret
    raise LeaseError(f"many drivers start on the study of {folder} at once; try again")


def _wait_for_end(folder: str) -> tuple[int, str]:
    """Wait until nobody holds the lease.

    Returns:
        The highest number so far, and the token of its owner if that gave no sign of life.
    """
    seen: Claim | None = None
    deadline = 0.0
    while True:
        numbers = [_number(name) for name in storage.list_names(folder)]
        highest = max(numbers, default=0)
        living = _living(folder, highest)
        if not living:
            return highest, ""
        claim = living[-1]
        if seen is None or claim.token != seen.token:
            seen, deadline = claim, time.monotonic() + LEASE_SECONDS
            log.info("waiting to see whether %s is alive", claim.owner)
        elif claim.beat != seen.beat:
            raise LeaseError(
                f"{folder.removesuffix('/lease')} is in use: {claim.owner} runs this study. Wait "
                f"for it, or end it; its lease is over {LEASE_SECONDS:g} seconds after its last "
                "sign of life"
            )
        elif time.monotonic() > deadline:
            return claim.number, claim.token
        time.sleep(min(0.5, HEARTBEAT_SECONDS / 4))


def _living(folder: str, number: int) -> list[Claim]:
    """Give the claims of a number whose owners may be alive.

    Several drivers can claim one number at once until all but one step back: one that has
    stepped back, or died, says nothing of the others.
    """
    names = [name for name in storage.list_names(folder) if number and _number(name) == number]
    claims = [_read(folder, name) for name in names]
    return [claim for claim in claims if claim is not None and not claim.is_over]


# --- claims as files -----------------------------------------------------------------------------


def _number(name: str) -> int:
    """Give the fencing number in the name of a claim; 0 for a foreign file."""
    digits, _, rest = name.partition("-")
    return int(digits) if digits.isdecimal() and rest.endswith(".json") else 0


def _write(folder: str, claim: Claim) -> None:
    storage.write_whole(storage.join(folder, claim.name), json.dumps(asdict(claim)).encode())


def _read(folder: str, name: str) -> Claim | None:
    """Give a claim; None if it was withdrawn meanwhile, or is damaged."""
    try:
        found = json.loads(storage.read(storage.join(folder, name)))
        return Claim(**found)
    except (StorageError, ValueError, TypeError, RecursionError):
        return None


# --- which process -------------------------------------------------------------------------------


def _machine() -> list[str]:
    """Give what tells whether a process id of another claim means something here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, str(Path("/proc/self/ns/pid").readlink())]
    except OSError:  # not Linux: leases of processes that ended expire
        return ["", ""]


def _start_time(pid: int) -> str:
    """Give when a process of this machine started; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
