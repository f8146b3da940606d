from __future__ import annotations

import pytest
from support.faces import direct, mounted

from xnatfs.demo import DemoServer, synthetic_archive


@pytest.fixture(scope="package")
def demo():
    """The synthetic archive on a server, for tests that change nothing."""
    with DemoServer(synthetic_archive()) as server:
        yield server


@pytest.fixture(scope="package", params=["vfs", "fast", "plain"])
def face(request, demo, tmp_path_factory):
    """The file system behind each of its faces."""
    base = tmp_path_factory.mktemp(request.param)
    if request.param == "vfs":
        with direct(demo.url, base / "cache") as found:
            yield found
    else:
        with mounted(demo.url, base / "mnt", base, loop=request.param) as found:
            yield found
            text = found.text()
        assert "Traceback" not in text, text
