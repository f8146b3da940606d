"""The short form of ``scripts/soak``."""

from __future__ import annotations

import os

import pytest
from support.faces import mounted
from support.soak import Soak
from support.studies import ONE_FILE, one_file

from xnatfs.demo import DemoServer, Rule

SECONDS = float(os.environ.get("XNATFS_SOAK", "12"))


@pytest.mark.mount
@pytest.mark.timeout(SECONDS + 200)
def test_random_readers_under_random_faults(tmp_path):
    report = Soak(tmp_path, SECONDS, seed=7).run()
    print(report.text())
    assert report.problems() == []
    assert sum(count for name, count in report.done.items() if name.endswith(" ok")) > 50
    assert report.faults > 5


@pytest.mark.mount
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_parts_of_another_version_never_become_part_of_a_whole(tmp_path, loop):
    """Neither from the cache on disk nor from the pages that the kernel keeps."""
    archive, data = one_file(2_500_000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop) as face:
        server.faults.add(Rule("change", path="/files/", count=1))
        assert face.read(ONE_FILE, 0, 1000) != data[:1000]
        for _ in range(3):
            try:
                whole = face.read(ONE_FILE)
            except OSError:
                continue
            assert whole == data
        assert face.read(ONE_FILE) == data
