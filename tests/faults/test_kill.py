"""SIGKILL at any moment while files arrive: what the next mount reads is the truth.

``XNATFS_KILLS`` says how often; each time with other files under way, over one cache directory that is never cleared:
``XNATFS_KILLS=500 scripts/test tests/faults/test_kill.py -s`` prints what it counted.
"""

from __future__ import annotations

import os
import random
import threading

import pytest
from support.faces import start_mount, stop_mount, until
from support.studies import one_session
from support.truth import content, tree

from xnatfs.demo import DemoServer, ServerOptions

KILLS = int(os.environ.get("XNATFS_KILLS", "5"))
SEED = int(os.environ.get("XNATFS_KILL_SEED", "1"))


def _read(path):
    try:
        with open(path, "rb") as opened:
            return opened.read()
    except OSError:
        return None


@pytest.mark.mount
@pytest.mark.timeout(120 + 10 * KILLS)
def test_killed_at_any_moment_the_next_mount_reads_the_truth(tmp_path):
    chance = random.Random(SEED)
    archive = one_session(scans=3, resources=("R",), files=12, size=400_000)
    truth = {path: content(stored) for path, stored in tree(archive, "P").items()}
    paths = sorted(truth)
    whole = broken_off = beside = 0
    with DemoServer(archive, options=ServerOptions(bandwidth=30e6)) as server:
        for number in range(KILLS):
            face = start_mount(server.url, tmp_path / "mnt", tmp_path, loop=chance.choice(["fast", "plain"]))
            try:
                # what the one before left behind, before anything else is fetched
                for path in chance.sample(paths, 4):
                    assert _read(face.path(path)) == truth[path], (number, path)
                    whole += 1
                before = sum(request.bytes_sent for request in server.requests)
                found: dict[str, bytes | None] = {}

                def fetch(path, found=found, face=face):
                    found[path] = _read(face.path(path))

                readers = [threading.Thread(target=fetch, args=(path,)) for path in chance.sample(paths, 8)]
                for reader in readers:
                    reader.start()
                limit = before + chance.randrange(2_000_000)
                until(
                    lambda limit=limit, readers=readers: (
                        sum(request.bytes_sent for request in server.requests) >= limit
                        or not any(reader.is_alive() for reader in readers)
                    )
                )
            finally:
                face.kill()
            for reader in readers:
                reader.join(30)
                assert not reader.is_alive()
            for path, data in found.items():
                assert data is None or data == truth[path], (number, path)
                broken_off += data is None
                beside += data is not None
            stop_mount(face)
            server.reset_log()
            if number % 3 == 2:  # a cache that holds everything would not be written to any more
                for path in (tmp_path / "cache").glob("v*/*/??/*"):
                    if chance.random() < 0.5:
                        path.unlink()
        face = start_mount(server.url, tmp_path / "mnt", tmp_path)
        try:
            for path in paths:
                assert _read(face.path(path)) == truth[path], path
        finally:
            stop_mount(face)
    print(
        f"{KILLS} kills, {broken_off} reads broken off by them; compared: {whole} files right after a kill, "
        f"{beside} read beside it, {len(paths)} at the end: no wrong byte"
    )
    assert whole == 4 * KILLS
    assert broken_off
