"""The short form of ``scripts/copies``."""

from __future__ import annotations

import os

import pytest
from support.copies import Copies

COPIES = int(os.environ.get("XNATFS_COPIES", "100"))


@pytest.mark.mount
@pytest.mark.timeout(100 + COPIES)
def test_no_copy_that_cp_calls_good_differs(tmp_path):
    report = Copies(tmp_path, COPIES, seed=3).run()
    print(report.text())
    assert report.wrong == []
    assert report.copies >= COPIES
    assert report.right > COPIES / 4
    assert sum(report.faults.values()) > COPIES / 25
