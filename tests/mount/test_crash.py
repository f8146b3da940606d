"""What is left when a mount dies, is busy, or ends while it works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from support.faces import environment, in_mounts, mounted, start_mount, stop_mount, until
from support.studies import ONE_FILE, one_file

from xnatfs.demo import DemoServer, Rule

pytestmark = pytest.mark.mount


def xnatfs(*arguments, home, **secrets):
    command = [sys.executable, "-m", "xnatfs", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(home, **secrets), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


def _read_in_vain(face):
    with pytest.raises(OSError, match=r"not connected|aborted|Input/output"):
        face.read(ONE_FILE)


@pytest.mark.parametrize("stopped_at", [1, 70_000, 1_000_000, 3_999_999])
def test_killed_in_the_middle_of_a_download_the_next_mount_serves_the_truth(tmp_path, stopped_at):
    archive, data = one_file(4 * 2**20)
    with DemoServer(archive) as server:
        rule = server.faults.add(Rule("stall", path="/files/", at=stopped_at))
        first = start_mount(server.url, tmp_path / "mnt", tmp_path)
        reader = threading.Thread(target=_read_in_vain, args=(first,))
        reader.start()
        until(lambda: server.faults.hits(rule))
        first.kill()
        reader.join(30)
        assert not reader.is_alive()
        server.faults.clear()
        assert in_mounts(tmp_path / "mnt")
        with mounted(server.url, tmp_path / "mnt", tmp_path) as again:
            assert again.read(ONE_FILE) == data
        stop_mount(first)


def test_a_dead_mount_is_cleared_by_umount(tmp_path):
    archive, _ = one_file(1000)
    with DemoServer(archive) as server:
        dead = start_mount(server.url, tmp_path / "mnt", tmp_path)
        dead.kill()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(tmp_path / "mnt")
        done = xnatfs("umount", tmp_path / "mnt", home=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert not in_mounts(tmp_path / "mnt")
        assert os.listdir(tmp_path / "mnt") == []
        stop_mount(dead)


def test_unmounting_while_busy_says_so_and_breaks_nothing(tmp_path):
    archive, data = one_file(1000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        with open(face.path(ONE_FILE), "rb") as held:
            done = xnatfs("umount", tmp_path / "mnt", home=tmp_path)
            assert done.returncode == 6
            assert "busy" in done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert held.read() == data
        done = xnatfs("umount", tmp_path / "mnt", home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert face.process.wait(30) == 0


def test_a_second_mount_on_the_same_place_is_refused(tmp_path):
    archive, _ = one_file(1000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path):
        done = xnatfs(
            "mount",
            server.url,
            tmp_path / "mnt",
            "--cache-dir",
            tmp_path / "cache",
            home=tmp_path,
            XNAT_USER="admin",
            XNAT_PASS="admin",
        )
        assert done.returncode == 6
        assert "already" in done.stderr


def test_the_cache_is_kept_across_mounts(tmp_path):
    archive, data = one_file(3 * 2**20)
    with DemoServer(archive) as server:
        for expected in (True, False):
            with mounted(server.url, tmp_path / "mnt", tmp_path) as face:
                server.reset_log()
                assert face.read(ONE_FILE) == data
                assert any("/files/" in r.path for r in server.requests) == expected


def test_two_mounts_share_one_cache_directory(tmp_path):
    archive, data = one_file(3 * 2**20)
    with (
        DemoServer(archive) as server,
        mounted(server.url, tmp_path / "one", tmp_path, cache_dir=tmp_path / "cache") as one,
        mounted(server.url, tmp_path / "two", tmp_path, cache_dir=tmp_path / "cache") as two,
    ):
        results = []
        threads = [
            threading.Thread(target=lambda face=face: results.append(face.read(ONE_FILE))) for face in (one, two) * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [data] * 6


def test_a_reader_that_leaves_early_stops_the_download(tmp_path):
    archive, data = one_file(64 * 2**20)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        assert face.read(ONE_FILE, 0, 1000) == data[:1000]
    sent = sum(r.bytes_sent for r in server.requests if "/files/" in r.path)
    assert sent < 8 * 2**20


@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_a_server_without_range_serves_the_same_bytes_in_one_download(tmp_path, loop):
    from xnatfs.demo import ServerOptions

    archive, data = one_file(6 * 2**20)
    with DemoServer(archive, options=ServerOptions(ranges=False)) as server:
        with mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop) as face:
            assert face.read(ONE_FILE, 5 * 2**20, 1000) == data[5 * 2**20 : 5 * 2**20 + 1000]
            assert face.read(ONE_FILE) == data
        assert sum("/files/" in r.path for r in server.requests) <= 2


def test_the_first_bytes_are_served_while_the_rest_is_still_coming(tmp_path):
    archive, data = one_file(4 * 2**20)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path) as face:
        server.faults.add(Rule("stall", path="/files/", at=2 * 2**20, count=None))
        assert face.read(ONE_FILE, 0, 100_000) == data[:100_000]
        server.faults.clear()
        server.faults.release()
        assert face.read(ONE_FILE) == data


@pytest.mark.parametrize("damage", ["truncate", "zero", "flip", "delete"])
@pytest.mark.parametrize("loop", ["fast", "plain"])
def test_a_cache_damaged_under_a_live_mount_never_yields_a_wrong_byte(tmp_path, loop, damage):
    archive, data = one_file(1_000_000)
    with DemoServer(archive) as server, mounted(server.url, tmp_path / "mnt", tmp_path, loop=loop) as face:
        assert face.read(ONE_FILE) == data
        (kept,) = [
            path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > len(data)
        ]
        if damage == "truncate":
            os.truncate(kept, 300_000)
        elif damage == "delete":
            kept.unlink()
        else:
            with kept.open("r+b") as opened:
                opened.seek(500_000)
                opened.write(bytes(70_000) if damage == "zero" else b"X")
        drop_pages(face.path(ONE_FILE))
        assert face.read(ONE_FILE) == data


def drop_pages(path):
    """Make the kernel ask the mount again."""
    with open(path, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
