"""What is kept of directories and of tables of names, and what is let go of."""

from __future__ import annotations

import gc
import weakref

from xnatfs.assembled import OVERHEAD, Assembled, Tables
from xnatfs.tree.directory import Children, Directory, Later
from xnatfs.tree.nodes import Address, DirNode, Level


def directory(ident, level=Level.SUBJECT, names=10, expires=100.0):
    node = DirNode(ident, Address(level, project=ident), 2)
    return Directory(node, Children(dict.fromkeys(map(str, range(names)))), expires)


def held(kept, directories):
    return [one.node.name for one in directories if kept.get(one.node.address) is one]


def test_those_kept_longest_go_first_and_one_always_stays():
    kept = Assembled(lambda: 0.0, limit=3 * (10 + OVERHEAD))
    some = [directory(str(number)) for number in range(5)]
    for one in some:
        kept.keep(one, kept.forgotten)
    assert held(kept, some) == ["2", "3", "4"]
    large = directory("large", names=1000)
    kept.keep(large, kept.forgotten)
    assert held(kept, [*some, large]) == ["large"]


def test_names_of_files_count_for_nothing():
    kept = Assembled(lambda: 0.0, limit=10 * OVERHEAD)
    some = [directory(str(number), Level.RESOURCE, names=1000) for number in range(10)]
    for one in some:
        kept.keep(one, kept.forgotten)
    assert len(held(kept, some)) == 10


def test_what_has_expired_is_not_given():
    now = 0.0
    kept = Assembled(lambda: now)
    one = directory("one", expires=5.0)
    kept.keep(one, kept.forgotten)
    assert kept.get(one.node.address) is one
    now = 5.0
    assert kept.get(one.node.address) is None


def test_what_was_begun_before_a_refresh_is_not_believed_after_it():
    kept = Assembled(lambda: 0.0)
    early, late = directory("early"), directory("late")
    kept.keep(early, kept.forgotten)
    began = kept.forgotten
    kept.forget()
    kept.keep(late, began)
    assert held(kept, [early, late]) == []
    assert early.expires == late.expires == float("-inf")


def test_tables_are_made_when_needed_let_go_of_and_made_again():
    made = []
    tables = Tables(limit=25)

    def table(number):
        def make():
            made.append(number)
            return {f"{number}-{name}": name for name in range(10)}

        return Later(10, make, tables.made)

    three = [table(number) for number in range(3)]
    assert [len(one) for one in three] == [10, 10, 10]
    assert made == []
    for number, one in enumerate(three):
        assert one.get(f"{number}-7") == one[f"{number}-7"] == 7
        assert one.get("other") is None
    assert made == [0, 1, 2]
    assert next(iter(three[2])) == "2-0"
    assert three[0]["0-1"] == 1
    assert made == [0, 1, 2, 0]


def test_a_table_goes_with_its_directory():
    """It holds the listing that it is made from: kept here, each listing of each minute would stay."""

    class Listing:
        """Something that can be referred to weakly."""

    def table(listing):
        return Later(1, lambda: {"name": listing}, tables.made)

    tables = Tables(limit=1000)
    listing = Listing()
    one = table(listing)
    assert one["name"] is listing
    there = weakref.ref(listing)
    del one, listing
    gc.collect()
    assert there() is None


def test_those_that_went_with_their_directories_do_not_count():
    tables = Tables(limit=20)
    kept = Later(10, lambda: dict.fromkeys(range(10)), tables.made)
    made = kept.get("0"), kept._made
    for _ in range(10):
        Later(10, lambda: dict.fromkeys(range(10)), tables.made).get("0")
        gc.collect()
    assert kept._made is made[1] is not None
