"""A process that fills entries of a cache directory, for tests that kill it or run it beside another.

    python -m support.cache_worker ROOT SEED [endless]

Each entry N has known content; after each block a line ``N BLOCK`` says that it is down. Ends with status 1 if anything
that it could read was not the truth.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

from support.cachedir import block, fill, identity_of, open_store, readable
from xnatfs.cache.blocks import BLOCK, block_count

ENTRIES = 12


def content_of(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK * (number % 5) + 1000 + number)


def main(root: Path, seed: int, endless: bool) -> None:
    store = open_store(root)
    chance = random.Random(seed)
    for number in itertools.count() if endless else chance.sample(range(ENTRIES), ENTRIES):
        content = content_of(number)
        entry = store.open(identity_of(content))
        total = block_count(len(content))
        for which in chance.sample(range(total), total):
            entry.write(which, block(content, which))
            print(number, which, flush=True)
        fill(entry, content)
        assert readable(entry, content) == set(range(total))
        entry.release()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), endless=len(sys.argv) > 3)
