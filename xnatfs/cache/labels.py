"""Which bytes of an entry fit together, for those who keep some of them: the kernel its pages, a reader what it had.

A `reset` forgets everything, since the server has another version or the whole did not match its digest. What went out
before must not be joined with what comes after, whether it had been compared with a digest or not.
"""

from __future__ import annotations

import itertools

_NUMBERS = itertools.count(1)


class Labels:
    """The labels of one entry. No lock of its own: to be used with the entry's."""

    def __init__(self, *, verified: bool) -> None:
        self.now = "" if verified else str(next(_NUMBERS))
        """Equal for equal bytes: empty where the whole was verified from the start, else of this object alone."""
        self._out = verified  # somebody may have had bytes under this label
        self._spoilt: set[str] = set()  # earlier labels of which that is so

    def vouch(self, label: str) -> str | None:
        """See `Entry.vouch`."""
        if label in self._spoilt:
            return None
        self._out = True
        return self.now

    def whole(self) -> None:
        """All is there: bytes go out without being vouched for from now on."""
        self._out = True

    def renew(self) -> None:
        """What comes from now on may be of another version."""
        if self._out:
            self._spoilt.add(self.now)
        self._out = False
        self.now = str(next(_NUMBERS))
