"""Decisions about releases: the way back, what is superfluous, whether to switch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.release.decisions import (
    Refused,
    Release,
    identify,
    may_switch,
    next_sequence,
    superfluous,
    torch_build,
    way_back,
)


def release(sequence: int, failed: str = "") -> Release:
    return Release(f"0.{sequence}.0-abc{sequence}", f"0.{sequence}.0", "cpu", "3.11", sequence, 0.0, failed)


shelves = st.lists(
    st.builds(release, st.integers(1, 99), st.sampled_from(["", "", "died"])),
    max_size=8,
    unique_by=lambda r: r.sequence,
)


@given(shelves, st.data())
def test_the_way_back_is_earlier_whole_and_not_known_to_fail(releases: list[Release], data: st.DataObject) -> None:
    current = data.draw(st.sampled_from([release.id for release in releases] or [None]))
    try:
        back = way_back(releases, current)
    except Refused:
        here = next((release.sequence for release in releases if release.id == current), 0)
        assert not [release for release in releases if release.sequence < here and not release.failed]
        return
    here = next(release.sequence for release in releases if release.id == current)
    assert back.sequence < here
    assert not back.failed
    assert not [r for r in releases if back.sequence < r.sequence < here and not r.failed]


@given(shelves, st.data())
def test_going_back_ends(releases: list[Release], data: st.DataObject) -> None:
    current = data.draw(st.sampled_from([release.id for release in releases] or [None]))
    for _ in releases:
        try:
            current = way_back(releases, current).id
        except Refused:
            return
    with pytest.raises(Refused):
        way_back(releases, current)


@given(shelves, st.data(), st.integers(0, 9))
def test_what_is_removed_is_needed_by_nobody(releases: list[Release], data: st.DataObject, keep: int) -> None:
    ids = [release.id for release in releases]
    current = data.draw(st.sampled_from([*ids, None]))
    in_use = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    removed = superfluous(releases, current, in_use, keep)
    gone = {release.id for release in removed}
    assert not gone & (in_use | {current})
    left = [release for release in releases if release.id not in gone]
    assert len(left) >= min(keep, len(releases))
    try:
        back = way_back(releases, current)
    except Refused:
        back = None
    if back is not None:
        assert way_back(left, current) == back
    # Nothing newer than what is kept for its age alone goes, and never more than asked for stays without a reason.
    if len(left) > keep:
        assert {release.id for release in left} <= in_use | {current, back.id if back else None}
    assert superfluous(left, current, in_use, keep) == []


def test_a_release_asked_for_by_the_beginning_of_its_id() -> None:
    releases = [release(1), release(2), release(12)]
    assert way_back(releases, None, "0.2").sequence == 2
    assert way_back(releases, releases[0].id, releases[2].id).sequence == 12
    with pytest.raises(Refused, match=r"several; there are: 0\.1\.0-abc1"):
        way_back(releases, None, "0.1")
    with pytest.raises(Refused, match="no release"):
        way_back(releases, None, "7")
    with pytest.raises(Refused, match="none before it"):
        way_back(releases, None)


def test_the_same_ingredients_make_the_same_release_and_others_do_not() -> None:
    ids = {identify("0.1.0", wheel, torch, python) for wheel in "ab" for torch in ("cpu", "cuda") for python in "12"}
    assert len(ids) == 8
    assert identify("0.1.0", "a", "cpu", "1") in ids
    assert all(name.startswith("0.1.0-") for name in ids)


@given(shelves)
def test_a_new_release_comes_after_all_others(releases: list[Release]) -> None:
    assert all(next_sequence(releases) > release.sequence for release in releases)


def test_the_build_of_torch_suits_the_host_unless_asked_for() -> None:
    assert torch_build("", False) == "cpu"
    assert torch_build("", True) == "cuda"
    assert torch_build("cpu", True) == "cpu"
    with pytest.raises(Refused, match="cpu and cuda"):
        torch_build("rocm", False)


def test_a_release_that_can_do_less_is_not_switched_to() -> None:
    assert may_switch("", None)
    assert may_switch("", "a fault")
    assert may_switch("the model is not here", None)  # a fresh host
    assert may_switch("unknown key", "unknown key")
    assert not may_switch("unknown key", "")
