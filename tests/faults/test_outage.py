"""The short form of ``scripts/outage``."""

from __future__ import annotations

import pytest
from support.outage import Outage


@pytest.mark.mount
@pytest.mark.parametrize(("kind", "loop"), [("away", "fast"), ("silent", "plain")])
def test_an_outage_in_the_middle_of_a_copy(tmp_path, kind, loop):
    """The copy ends, with an error or whole; no call takes longer than it may; soon after the outage all is well."""
    report = Outage(tmp_path, 1.5, kind=kind, loop=loop, metadata=1.5, read=1.5).run()
    print(report.text())
    assert report.problems() == []
    assert set(report.calls["reading an open file"].outcomes) == {"ok"}
    assert set(report.calls["statfs"].outcomes) == {"ok"}
    assert set(report.calls["status.json"].outcomes) == {"ok"}
    gone = {"EHOSTUNREACH"} if kind == "away" else {"ETIMEDOUT", "EHOSTUNREACH"}
    assert set(report.calls["ls of what is unknown"].outcomes) <= gone
    if kind == "away":
        assert report.copy_status != 0
