"""What the loop remembers of a directory ends when a refresh ends the directory, not only when its time is up."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext

import pytest

from xnatfs.errors import NotFound
from xnatfs.fuse_kernel import Look
from xnatfs.fuse_ops import XnatOperations
from xnatfs.tree.nodes import Attributes, Kind

pytestmark = pytest.mark.mount  # needs libfuse


class Directory:
    def __init__(self, size):
        self.expires = float("inf")
        self.size = size

    def stat(self, name):
        return Attributes(Kind.FILE, 7, self.size, 0) if name == "f" else None

    def get(self, name):
        return None


class Vfs:
    def __init__(self):
        self.now = Directory(10)
        self.asked = []
        self.call = nullcontext

    def directory(self, path, *, wanted=""):
        self.asked.append((path, wanted))
        return self.now


@pytest.fixture
def made():
    from xnatfs import fuse_abi
    from xnatfs.fuse_fast import Callbacks

    fuse_abi.declare()
    vfs = Vfs()
    callbacks = Callbacks(XnatOperations(vfs, Look(0, 0, 0)), nullcontext(), lambda: 0.0)
    room = (ctypes.c_char * fuse_abi.STAT_ROOM)()
    size = fuse_abi.field(ctypes.addressof(room), "st_size")

    def stat(path):
        status = callbacks.getattr(path, ctypes.addressof(room))
        return size.value if status == 0 else status

    return vfs, stat


def test_sizes_and_absence_are_asked_again_once_the_directory_has_ended(made):
    vfs, stat = made
    assert [stat(b"/d/f"), stat(b"/d/f"), stat(b"/d/g")] == [10, 10, -2]
    assert vfs.asked == [("/d", "f")]
    old, vfs.now = vfs.now, Directory(20)
    assert stat(b"/d/f") == 10
    old.expires = float("-inf")
    assert [stat(b"/d/f"), stat(b"/d/g")] == [20, -2]
    assert len(vfs.asked) == 2


def test_the_name_that_is_wanted_is_told_so_that_a_probe_costs_nothing(made):
    vfs, stat = made

    def refuse(path, *, wanted=""):
        assert wanted == ".hidden"
        raise NotFound(wanted)

    vfs.directory = refuse
    assert stat(b"/d/.hidden") == -2
