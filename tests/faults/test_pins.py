"""Pins: what is pinned survives every limit, in every process; nothing else changes."""

from __future__ import annotations

import json
import random
import stat
import threading

import pytest
from support.cachedir import NAMESPACE, fill, identity_of, keep, open_store

from xnatfs.cache.blocks import BLOCK
from xnatfs.cache.identity import key_of
from xnatfs.cache.pins import Pin, Pins, occupied
from xnatfs.cache.store import Limits

FOUR = 4 * BLOCK
ROOM = Limits(max_bytes=3 * occupied(FOUR))


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(FOUR)


def key(seed: int) -> str:
    return key_of(NAMESPACE, identity_of(content(seed)))


def pin(root, *seeds: int, path: str = "/P", namespace: str = NAMESPACE) -> None:
    Pins(root, namespace).add(Pin(path, {key(seed): occupied(FOUR) for seed in seeds}, ("x",), len(seeds), 1, 1e9))


def there(store) -> set[int]:
    return {seed for seed in range(9) if store._disk.path(key(seed)).exists()}


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "cache", ROOM)
    yield made
    made.close()


def test_pinned_entries_are_not_evicted_for_others(store):
    keep(store, content(0))
    pin(store.root, 0)  # by another process, as far as the store can tell
    for seed in range(1, 6):
        keep(store, content(seed))
    assert 0 in there(store)
    assert len(there(store)) == 3
    assert store.usage().bytes <= ROOM.max_bytes


def test_what_was_pinned_is_known_by_the_next_process_as_it_was(store):
    made = [Pin("/P/b", {key(1): occupied(FOUR), key(2): 8192}, ("x", "y"), 2, FOUR + 1, 1e9), Pin("/P/a", {})]
    for one in made:
        Pins(store.root, NAMESPACE).add(one)
    found = Pins(store.root, NAMESPACE)
    assert found.all() == made[::-1]
    assert found.listings() == {"x", "y"}
    assert Pins(store.root, "ff").all() == []
    found.forget_all()
    assert Pins(store.root, NAMESPACE).all() == []


@pytest.mark.parametrize("size", [1, 4096, BLOCK, FOUR + 1])
def test_an_entry_occupies_whole_pages(store, size):
    data = bytes(size)
    keep(store, data)
    on_disk = store._disk.path(key_of(NAMESPACE, identity_of(data))).stat().st_blocks * 512
    assert occupied(size) % 4096 == 0
    assert size < on_disk <= occupied(size)


def test_neither_age_nor_a_smaller_limit_nor_clearing_takes_them(tmp_path):
    now = [1e9]
    store = open_store(tmp_path / "cache", Limits(1 << 30, max_age_seconds=10), clock=lambda: now[0])
    for seed in range(3):
        keep(store, content(seed))
    pin(store.root, 1)
    now[0] += 100
    store.sweep()
    assert there(store) == {1}
    keep(store, content(2))
    store.set_limits(Limits(occupied(FOUR)))
    assert there(store) == {1}
    assert store.clear() == 0
    assert there(store) == {1}
    assert store.clear(pinned=True) > 0
    assert there(store) == set()
    store.close()


def test_what_is_unpinned_goes_like_everything_else(store):
    keep(store, content(0))
    pin(store.root, 0)
    assert Pins(store.root, NAMESPACE).remove("/P")
    assert not Pins(store.root, NAMESPACE).remove("/P")
    for seed in range(1, 4):
        keep(store, content(seed))
    assert 0 not in there(store)


def test_pins_of_other_servers_and_users_hold_as_well(store):
    keep(store, content(0))
    (store.root / "v1" / "0ther").mkdir()
    pin(store.root, 0, namespace="0ther")
    for seed in range(1, 6):
        keep(store, content(seed))
    assert 0 in there(store)
    assert Pins(store.root, NAMESPACE).all() == []


def test_a_cache_full_of_pins_keeps_nothing_else_and_reads_everything(store):
    for seed in range(3):
        keep(store, content(seed))
    pin(store.root, 0, 1, 2)
    entry = store.open(identity_of(content(7)))
    fill(entry, content(7))
    assert entry.complete
    assert entry.private
    entry.release()
    assert there(store) == {0, 1, 2}


def test_a_pinned_entry_that_is_damaged_is_removed_by_verify(store):
    keep(store, content(0))
    pin(store.root, 0)
    path = store._disk.path(key(0))
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    store.close()  # what is idle is closed
    path.write_bytes(data)
    assert store.verify().damaged == 1
    assert there(store) == set()


def test_what_is_needed_counts_an_entry_once_and_a_pin_that_is_replaced_not_at_all(store):
    pins = store.pins
    pin(store.root, 0, 1, path="/P")
    pin(store.root, 1, 2, path="/Q")
    three = {key(3): 10}
    assert pins.needed(three, "/new") == 3 * occupied(FOUR) + 10
    assert pins.needed(three, "/P") == 2 * occupied(FOUR) + 10
    assert [one.path for one in pins.all()] == ["/P", "/Q"]
    assert sum(pins.keys().values()) == 3 * occupied(FOUR)


def test_records_are_for_the_user_alone_and_nonsense_is_no_pin(store):
    pin(store.root, 0)
    folder = store.root / "v1" / NAMESPACE / "pins"
    (record,) = folder.iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    good = json.loads(record.read_text())
    for bad in (b"", b"{", b"[]", b'{"format": 1}', json.dumps({**good, "format": 99}).encode()):
        record.write_bytes(bad)
        assert Pins(store.root, NAMESPACE).all() == []
        assert Pins(store.root, NAMESPACE).keys() == {}


def test_processes_that_pin_at_once_lose_nothing(store):
    threads = [threading.Thread(target=pin, args=(store.root, 0), kwargs={"path": f"/P{n}"}) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.pins.all()) == 20
    assert store.pins.count() == 20
