"""Other keys: whatever is remapped, lower case looks and upper case acts, and no key does two things."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.binding import Binding

from admin_tui.app import HeadraceTop, bindings_of
from admin_tui.keymap import BadKeymap, acts, checked, read_keymap
from admin_tui.views import VIEWS

SCOPES = [[b for b in (*HeadraceTop.BINDINGS, *bindings_of(view.make)) if isinstance(b, Binding)] for view in VIEWS]
ALL = {binding.id: binding for scope in SCOPES for binding in scope if binding.id}


@given(st.dictionaries(
    st.sampled_from(sorted(map(str, ALL))),
    st.sampled_from([*"abcDWXYZ0", "f5", "shift+f2", "ctrl+d", "alt+x", "slash", "D,U", "", "é"]), max_size=4,
))  # fmt: skip
def test_no_key_map_makes_a_lower_case_key_act(keymap: dict[str, str]) -> None:
    good: dict[str, str] = {}
    with contextlib.suppress(BadKeymap):
        good = checked(keymap, SCOPES)
    for scope in SCOPES:
        pressed: dict[str, str] = {}
        for binding in scope:
            for key in good.get(binding.id or "", binding.key).split(","):
                if acts(binding):
                    assert key.isupper() or key.startswith(("f", "shift+f")), (binding.id, key)
                else:
                    assert not (len(key) == 1 and key.isupper()), (binding.id, key)
                if binding.id in good:
                    assert key not in pressed, (binding.id, pressed[key])
                pressed.setdefault(key, binding.id or binding.action)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[keymap]\n"fleet.drain" = "d"', "what acts is an upper case letter or a function key"),
        ('[keymap]\n"fleet.drain" = "ctrl+d"', "what acts is an upper case letter"),
        ('[keymap]\n"fleet.logs" = "W"', "an upper case letter acts, and this only looks"),
        ('[keymap]\n"fleet.drian" = "W"', "fleet.drian: no such binding; there are accounts.process"),
        ('[keymap]\n"fleet.drain" = "U"', "is the key of fleet.drain|is the key of fleet.undrain"),
        ('[keymap]\n"view.fleet" = 2', "is no key"),
        ("[keys]\n", "keys: unknown key"),
        ("[keymap", "top.toml: "),
    ],
)
def test_a_bad_key_map_is_told_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "top.toml"
    path.write_text(text)
    with pytest.raises(BadKeymap, match=says) as told:
        read_keymap(path, SCOPES)
    assert str(told.value).startswith(str(path))


def test_without_a_file_keys_are_ours(tmp_path: Path) -> None:
    assert read_keymap(None, SCOPES) == {}
    path = tmp_path / "top.toml"
    path.write_text('[keymap]\n"fleet.drain" = "W"\n"view.fleet" = "f2"\n')
    assert read_keymap(path, SCOPES) == {"fleet.drain": "W", "view.fleet": "f2"}
