"""What holds for all tests: no mount survives the test that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from support import cachedir

# How long an example takes says something of the machine, not of the code.
settings.register_profile("xnatfs", deadline=None)
settings.load_profile("xnatfs")

# Clients under test must not find this machine's proxies, logins or configuration.
FOREIGN = ("XNAT_HOST", "XNAT_USER", "XNAT_PASS", "NETRC", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


@pytest.fixture(autouse=True)
def _stores_end():
    """A store keeps what was released open for a while, and hundreds of them would use up the descriptors."""
    yield
    while cachedir.OPENED:
        cachedir.OPENED.pop().close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)


def _mounts_below(top: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{top}/")]


@pytest.fixture(autouse=True)
def _no_mount_left(request):
    """A test that leaves a mount fails, and the mount goes: a later test, or the removal of its folder, would hang."""
    top = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    left = _mounts_below(top) if top else []
    for point in left:
        subprocess.run(["umount", "-l", point], check=False)
    assert not left, f"left mounted: {left}"
