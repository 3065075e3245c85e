"""The Clone pattern: whatever is lost on the way, what is applied is a snapshot and then every update after it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from admin_tui.sync import Sync
from admin_tui.world import NO_PAGES
from bus.messages.observe import Snapshot, Update


def update(seq: int) -> Update:
    return Update(seq, seq, None, None, None, None, 0, None)


def snapshot(seq: int) -> Snapshot:
    return Snapshot(1, seq, seq, (), (), NO_PAGES, (), 0, ())


happenings = st.lists(
    st.one_of(
        st.just("publish"), st.just("lose"), st.just("answer"), st.just("publisher restarts"), st.just("link returns")
    ),
    max_size=80,
)


@given(happenings)
def test_applied_updates_have_no_gap_and_follow_a_snapshot_of_the_same_publisher(script: list[str]) -> None:
    sync, epoch, seq = Sync(), 1, 0
    applied_epoch, applied_seq = -1, -1
    for happening in script:
        applied = []
        match happening:
            case "publish":
                seq += 1
                applied = sync.on_update(update(seq), epoch)
            case "lose":
                seq += 1
            case "answer" if sync.asking:
                applied = sync.on_snapshot(snapshot(seq), epoch)
            case "publisher restarts":
                epoch, seq = epoch + 1, 0
            case "link returns":
                sync.restart()
        for known in applied:
            if isinstance(known, Snapshot):
                applied_epoch = epoch
            else:
                assert applied_epoch == epoch
                assert known.seq == applied_seq + 1
            applied_seq = known.seq
    if not sync.asking and applied_epoch == epoch:
        assert applied_seq <= seq


def test_updates_that_crossed_the_snapshot_are_applied_after_it_and_older_ones_dropped() -> None:
    sync = Sync()
    for seq in (4, 5, 6):
        assert sync.on_update(update(seq), 1) == []
    assert [known.seq for known in sync.on_snapshot(snapshot(5), 1)] == [5, 6]
    assert [known.seq for known in sync.on_update(update(7), 1)] == [7]


def test_a_gap_asks_for_a_snapshot_and_goes_on_after_it() -> None:
    sync = Sync()
    sync.on_snapshot(snapshot(1), 1)
    assert sync.on_update(update(3), 1) == []
    assert sync.asking
    assert [known.seq for known in sync.on_snapshot(snapshot(2), 1)] == [2, 3]
    assert not sync.asking


def test_a_snapshot_that_is_too_old_for_the_kept_updates_is_asked_for_again() -> None:
    sync = Sync()
    sync.on_update(update(9), 1)
    assert [known.seq for known in sync.on_snapshot(snapshot(5), 1)] == [5]
    assert sync.asking


def test_another_publisher_means_another_snapshot() -> None:
    sync = Sync()
    sync.on_snapshot(snapshot(8), 1)
    assert sync.on_update(update(9), 2) == []
    assert sync.asking
