"""Which bytes fit together: labels of an entry."""

from __future__ import annotations

from xnatfs.cache.labels import Labels


def test_only_a_label_under_which_bytes_went_out_is_spoilt_by_a_renewal() -> None:
    labels = Labels(verified=False)
    first = labels.now
    assert labels.vouch(first) == first
    labels.renew()
    second = labels.now
    labels.renew()  # nobody had anything under the second one
    assert labels.vouch(first) is None
    assert labels.vouch(second) == labels.now
    assert len({first, second, labels.now}) == 3


def test_bytes_of_what_was_whole_may_have_gone_out_unseen() -> None:
    labels = Labels(verified=True)
    assert labels.now == ""
    labels.renew()
    assert labels.vouch("") is None
    later = labels.now
    labels.whole()
    labels.renew()
    assert labels.vouch(later) is None
