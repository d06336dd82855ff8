"""Words of shared memory on which processes count and sleep: Linux' futex system call through ctypes.

No compiler is needed and nothing but the kernel is trusted with atomicity: FUTEX_WAKE_OP adds to a word and wakes
its sleepers in one system call, with full ordering (futex(2)). A word is aligned to a cache line, so reading it is
one machine load; what its writer stored before adding to it is then there to be read. A word that its only writer
sets with a plain store is for others to read after some later word was reached.
"""

import ctypes
import errno
import os
import platform
import signal
import time
from mmap import mmap
from typing import Final

from moe_runtime.errors import CommunicationTimeout

_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}
_WAKE_OP: Final = 5
_WAIT_BITSET: Final = 9
_WAKE_BITSET: Final = 10
_OP_ADD: Final = 1 << 28
_CMP_EQUAL: Final = 0 << 24
_EVERYBODY: Final = 0x7FFFFFFF
_BEHIND: Final = 0x80000000
_WORD: Final = 0xFFFFFFFF

LINE = 64
"""Bytes that a word takes: one cache line."""
ALL_BITS = 0xFFFFFFFF
"""Mask of all sleepers of a word."""
MOST_ARRIVALS = 2047
"""Most arrivals that one counter counts: FUTEX_WAKE_OP compares 12 signed bits."""

_SET_PARENT_DEATH_SIGNAL: Final = 1


class Timespec(ctypes.Structure):
    """struct timespec of the 64-bit ABIs."""

    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


_libc = ctypes.CDLL(None, use_errno=True)
_futex = _libc["syscall"]
_futex.restype = ctypes.c_long
_futex.argtypes = (
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint32,
)
_machine = platform.machine()
_SYSCALL: Final = _FUTEX_NUMBER.get(_machine, -1)
_LOADS_MAY_PASS: Final = _machine != "x86_64"


class Word:
    """A 32-bit counter in shared memory."""

    __slots__ = ("_address", "_deadline", "_deadline_address", "_idle", "_view")

    def __init__(self, memory: mmap, offset: int) -> None:
        assert offset % LINE == 0
        if _SYSCALL < 0:
            raise OSError(f"shared memory between ranks needs Linux on {' or '.join(_FUTEX_NUMBER)}, not {_machine}")
        self._view = memoryview(memory)[offset : offset + 8].cast("I")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory, offset))
        # The second word of the line is one that nobody sleeps on: FUTEX_WAKE_OP always wakes somebody somewhere.
        self._idle = self._address + 4
        self._deadline = Timespec()
        self._deadline_address = ctypes.addressof(self._deadline)

    def read(self) -> int:
        """The count now."""
        return self._view[0]

    def write(self, value: int) -> None:
        """Set the count. Only while nobody else adds to it."""
        self._view[0] = value

    def add(self, count: int = 1) -> None:
        """Add atomically, 1 to 2047, and wake nobody."""
        _checked(_futex(_SYSCALL, self._idle, _WAKE_OP, 1, 0, self._address, _OP_ADD | count << 12 | 0xFFF))

    def add_and_wake(self) -> None:
        """Add 1 atomically and wake all sleepers."""
        _checked(_futex(_SYSCALL, self._address, _WAKE_OP, _EVERYBODY, 0, self._address, _OP_ADD | 1 << 12 | 0xFFF))

    def arrive(self, expected: int) -> None:
        """Add 1 atomically and, if that made `expected`, wake all sleepers."""
        operation = _OP_ADD | _CMP_EQUAL | 1 << 12 | expected - 1
        _checked(_futex(_SYSCALL, self._idle, _WAKE_OP, 1, _EVERYBODY, self._address, operation))

    def wake(self, mask: int = ALL_BITS) -> None:
        """Wake the sleepers that share a bit with `mask`."""
        _checked(_futex(_SYSCALL, self._address, _WAKE_BITSET, _EVERYBODY, 0, 0, mask))

    def reached(self, target: int) -> bool:
        """Whether the count is at `target` or past it; both wrap at 2³²."""
        if (self._view[0] - target) & _BEHIND:
            return False
        if _LOADS_MAY_PASS:
            self._fence()
        return True

    def wait(self, target: int, what: str, timeout_s: float, bits: int = ALL_BITS) -> None:
        """Sleep until the count is at `target` or past it, or somebody wakes a bit of `bits` and it is by then.

        Raises CommunicationTimeout, which names `what` was awaited, when `timeout_s` have gone by.
        """
        view = self._view
        if (view[0] - target) & _BEHIND:
            give_up = time.monotonic() + timeout_s
            while ((seen := view[0]) - target) & _BEHIND:
                if not self._sleep(seen, give_up, bits):
                    missing = (target - seen) & _WORD
                    raise CommunicationTimeout(f"waited {timeout_s:.0f} s for {what}; {missing} arrivals were missing")
        if _LOADS_MAY_PASS:
            self._fence()

    def wait_change(self, seen: int, timeout_s: float) -> bool:
        """Sleep until the count is no longer `seen`; False when `timeout_s` have gone by."""
        give_up = time.monotonic() + timeout_s
        while self._view[0] == seen:
            if not self._sleep(seen, give_up, ALL_BITS):
                return False
        if _LOADS_MAY_PASS:
            self._fence()
        return True

    def _sleep(self, seen: int, give_up: float, bits: int) -> bool:
        """Sleep until woken or the count is not `seen`; False when it is past `give_up`."""
        self._deadline.seconds = int(give_up)  # to the second is near enough, and cheap
        if _futex(_SYSCALL, self._address, _WAIT_BITSET, seen, self._deadline_address, 0, bits) == 0:
            return True
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            raise OSError(code, os.strerror(code))
        return code != errno.ETIMEDOUT

    def _fence(self) -> None:
        """Let no later load pass an earlier one: the kernel fences fully before it looks for sleepers."""
        _checked(_futex(_SYSCALL, self._idle, _WAKE_BITSET, 1, 0, 0, ALL_BITS))


class Barrier:
    """All of `size` processes arrive before one leaves; each arrival is one system call.

    Three counters take turns, since one may only be cleared when nobody looks at it any more: after barrier n is
    passed, all have arrived at it and so left n − 1, whose counter is next used at n + 2, which nobody reaches
    before the process that clears it has arrived at n + 1.
    """

    LINES = 3
    """Cache lines that a barrier takes."""

    def __init__(self, memory: mmap, offset: int, size: int) -> None:
        assert 1 <= size <= MOST_ARRIVALS
        self._words = tuple(Word(memory, offset + LINE * turn) for turn in range(self.LINES))
        self._turn = 0
        self._size = size

    def arrive(self) -> None:
        """Say that this process is here; it may do other things before it waits."""
        self._turn = (self._turn + 1) % self.LINES
        self._words[self._turn].arrive(self._size)

    def wait(self, what: str, timeout_s: float) -> None:
        """Sleep until all have arrived. Raises CommunicationTimeout, naming `what` was awaited."""
        self._words[self._turn].wait(self._size, what, timeout_s)

    def lacks(self, most: int) -> bool:
        """Whether no more than so many have still to arrive; asked after one's own `arrive`."""
        return self._words[self._turn].reached(self._size - most)

    def clear(self) -> None:
        """Clear the previous counter: done by one process, between its `wait` and its next `arrive`."""
        self._words[self._turn - 1].write(0)


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends, or now if it has (prctl(2))."""
    _checked(_libc["prctl"](_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
