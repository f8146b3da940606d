"""When all of a resource is wanted: one archive or single requests."""

from __future__ import annotations

import pytest

from xnatfs.transfer.policy import FAILURES, LARGEST, MIB, Walk, whole_pays


def walk(files=200, size=100_000, missing=None, largest=None, failures=0):
    missing = files if missing is None else missing
    return Walk(files, files * size, largest or size, missing, files - missing, failures=failures)


@pytest.mark.parametrize(
    ("given", "pays"),
    [
        (walk(), True),
        (walk(files=4), True),
        (walk(files=3), False),
        (walk(missing=100), True),
        (walk(missing=99), False),  # an archive would bring again what is there
        (walk(missing=0), False),
        (walk(files=10, size=8 * MIB), True),
        (walk(files=10, size=9 * MIB), False),
        (walk(largest=LARGEST + 1), False),
        (walk(failures=FAILURES), False),
    ],
)
def test_an_archive_pays_for_many_missing_files_that_are_not_large(given, pays):
    assert whole_pays(given) is pays
