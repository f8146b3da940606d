"""The short form of ``scripts/soak``."""

from __future__ import annotations

import errno
import os

import pytest
from support.faces import mounted
from support.soak import Soak
from support.studies import ONE_FILE, one_file

from xnatfs.demo import DemoServer, Rule


def _outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as problem:
        return problem.errno


SECONDS = float(os.environ.get("XNATFS_SOAK", "12"))


@pytest.mark.mount
@pytest.mark.timeout(SECONDS + 200)
def test_random_readers_under_random_faults(tmp_path):
    report = Soak(tmp_path, SECONDS, seed=7).run()
    print(report.text())
    assert report.problems() == []
    assert sum(count for name, count in report.findings.done.items() if name.endswith(" ok")) > 50
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


@pytest.mark.mount
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_who_opened_before_the_damage_was_found_reads_no_mixture_afterwards(tmp_path, loop):
    """Of a file that somebody else has read a part of the kernel has pages already, and the daemon new bytes."""
    archive, data = one_file(2_500_000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop) as face:
        server.faults.add(Rule("change", path="/files/", count=1))
        reader = os.open(face.path(ONE_FILE), os.O_RDONLY)
        assert os.pread(reader, 4096, 1_500_000) != data[1_500_000:1_504_096]
        waiting = os.open(face.path(ONE_FILE), os.O_RDONLY)
        # who reads it whole finds the damage, perhaps meets it once more where pages came late, and then it is mended
        outcomes = [_outcome(face.read, ONE_FILE) for _ in range(4)]
        assert outcomes[0] == errno.ESTALE
        assert all(found in (errno.ESTALE, data) for found in outcomes)
        assert outcomes[-1] == data
        for descriptor in (reader, waiting):
            found = [_outcome(os.pread, descriptor, 100_000, offset) for offset in range(0, 2_500_000, 100_000)]
            assert errno.ESTALE in found
            os.close(descriptor)
        assert face.read(ONE_FILE) == data
