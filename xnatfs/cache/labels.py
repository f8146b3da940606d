"""Which bytes of an entry fit together, for those who keep some of them: the kernel its pages, a reader what it had.

Parts of a file go out before the whole can be compared with its digest. If it then does not match, everything is
forgotten and fetched anew, and what went out before must not be joined with what comes after.
"""

from __future__ import annotations

import itertools

_NUMBERS = itertools.count(1)


class Labels:
    """The labels of one entry. No lock of its own: to be used with the entry's."""

    def __init__(self, *, verified: bool) -> None:
        self.now = "" if verified else str(next(_NUMBERS))
        """Equal for equal bytes: empty where the whole was verified from the start, else of this object alone."""
        self._loose = False  # bytes went out under this label that nobody has compared with the digest of the whole
        self._spoilt: set[str] = set()  # earlier labels under which such bytes went out

    def vouch(self, label: str, *, loose: bool) -> str | None:
        """See `Entry.vouch`. ``loose``: the whole has not been verified."""
        if label in self._spoilt:
            return None
        self._loose = self._loose or loose
        return self.now

    def verified(self) -> None:
        """The whole matches its digest, hence all that went out under this label."""
        self._loose = False

    def renew(self) -> None:
        """What comes from now on may be of another version."""
        if self._loose:
            self._spoilt.add(self.now)
        self._loose = False
        self.now = str(next(_NUMBERS))
