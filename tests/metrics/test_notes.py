"""What operators say of findings: bounded, over when it should be, there after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.messages.control import Acknowledge, FindingNote, Silence
from metrics import notebook
from metrics.core.notes import LONGEST_SILENCE_S, MOST, PATIENCE_S, Notes, NotNow

KEY = ("late", "worker@m.0.0")


def ack(code: str = "late", subject: str = "worker@m.0.0", comment: str = "mine") -> Acknowledge:
    return Acknowledge(1, code, subject, comment, "ada")


def test_an_acknowledgement_lasts_as_long_as_its_finding() -> None:
    notes = Notes((), 0.0)
    notes.acknowledge(ack(), [KEY], 100.0)
    assert not notes.tick([KEY], 500.0)
    assert [(note.kind, note.user, note.comment) for note in notes.all()] == [("acknowledged", "ada", "mine")]
    assert notes.tick([], 501.0)
    assert notes.all() == ()
    with pytest.raises(NotNow, match="is over, or never was"):
        notes.acknowledge(ack(), [], 502.0)


def test_after_a_restart_what_is_wrong_has_time_to_be_noticed_again() -> None:
    first = Notes((), 0.0)
    first.acknowledge(ack(), [KEY], 100.0)
    second = Notes(first.all(), 200.0)
    assert not second.tick([], 200.0 + PATIENCE_S)
    assert second.tick([], 201.0 + PATIENCE_S)


def test_a_silence_lasts_its_time_whatever_the_finding_does() -> None:
    notes = Notes((), 0.0)
    notes.silence(Silence(1, *KEY, 60.0, "batch", "ada"), 100.0)
    assert not notes.tick([], 159.0)
    assert notes.tick([], 160.0)
    notes.silence(Silence(1, *KEY, 60.0, "", "ada"), 200.0)
    assert notes.silence(Silence(1, *KEY, 0.0, "", "ada"), 201.0) is None
    assert notes.all() == ()
    for seconds in (-1.0, LONGEST_SILENCE_S + 1, float("nan")):
        with pytest.raises(NotNow, match="at most 7 days"):
            notes.silence(Silence(1, *KEY, seconds), 0.0)
    with pytest.raises(NotNow, match="is not silenced"):
        notes.silence(Silence(1, *KEY, 0.0), 0.0)


@given(st.lists(st.tuples(st.sampled_from("asx"), st.integers(0, 3), st.floats(0, 100)), max_size=60))
def test_two_notes_of_a_finding_at_most(steps: list[tuple[str, int, float]]) -> None:
    notes, now = Notes((), 0.0), 0.0
    for what, number, seconds in steps:
        now += seconds
        subject = f"w{number}"
        if what == "a":
            notes.acknowledge(ack(subject=subject), [("late", subject)], now)
        elif what == "s":
            notes.silence(Silence(1, "late", subject, seconds + 1), now)
        else:
            notes.tick([("late", subject)], now)
        kinds = [(note.subject, note.kind) for note in notes.all()]
        assert len(kinds) == len(set(kinds)) <= 8
        assert all(note.until_s == 0 or note.until_s > note.at_s for note in notes.all())


def test_there_are_only_so_many() -> None:
    notes = Notes((), 0.0)
    for number in range(MOST):
        notes.silence(Silence(1, "late", f"w{number}", 60.0), 0.0)
    with pytest.raises(NotNow, match="end a silence first"):
        notes.silence(Silence(1, "late", "one more", 60.0), 0.0)
    notes.silence(Silence(1, "late", "w0", 90.0), 1.0)  # a longer one of the same
    assert len(notes.all()) == MOST


def test_they_are_kept_in_a_file_and_a_bad_one_is_none(tmp_path: Path) -> None:
    assert notebook.load(tmp_path) == ()
    kept = (FindingNote("late", "w", "silenced", "ada", "why", 1.0, 2.0),)
    assert notebook.save(kept, tmp_path) == ""
    assert notebook.load(tmp_path) == kept
    (tmp_path / notebook.FILE).write_bytes(b"[[]")
    assert notebook.load(tmp_path) == ()
    assert notebook.save(kept, tmp_path / "gone") == "lost when this process restarts: No such file or directory"
