"""Which bytes fit together: labels of an entry."""

from __future__ import annotations

from xnatfs.cache.labels import Labels


def test_only_a_label_under_which_unverified_bytes_went_out_is_spoilt_by_a_renewal() -> None:
    labels = Labels(verified=False)
    first = labels.now
    assert labels.vouch(first, loose=True) == first
    labels.renew()
    second = labels.now
    labels.renew()  # nobody had anything under the second one
    assert labels.vouch(first, loose=True) is None
    assert labels.vouch(second, loose=True) == labels.now
    assert len({first, second, labels.now}) == 3


def test_what_the_digest_has_vouched_for_is_not_spoilt_afterwards() -> None:
    labels = Labels(verified=False)
    first = labels.vouch(labels.now, loose=True)
    assert first is not None
    labels.verified()
    labels.renew()
    assert labels.vouch(first, loose=False) == labels.now
    assert Labels(verified=True).now == ""
