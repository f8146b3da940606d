"""What makes two files the same bytes, and the name that this gives a cached file. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from xnatfs.cache.hashing import usable_digest
from xnatfs.cache.index import KEY_BYTES
from xnatfs.xnat.records import FileRecord


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two files the same bytes: the address and size, and the digest, or else the date.

    The address also where there is a digest: parts are used before the whole was compared with it, and of two files
    of which the listing tells the same wrong digest one would be read as the other.
    """

    uri: str
    size: int
    digest: str = ""
    """MD5 in hex as the listing has it; empty when it has none."""
    stamp: str = ""
    """Anything that changes when the content does (the server's date); used where there is no digest."""

    @classmethod
    def of(cls, file: FileRecord, size: int, stamp: str) -> Identity:
        """That of a listed file; ``size`` in bytes, which the listing need not have."""
        return cls(uri=file.base + file.path, size=size, digest=file.digest, stamp=stamp)


def key_of(namespace: str, identity: Identity) -> str:
    """The name of an entry: 40 hex digits that tell nothing of it."""
    digest = usable_digest(identity.digest)
    tells = ("digest", digest) if digest else ("date", identity.stamp)
    text = "\0".join((namespace, str(identity.size), *tells, identity.uri))
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES).hexdigest()
