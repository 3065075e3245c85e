"""Pictures out of characters: sparklines of any height, bars. Pure; colours are given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from admin_tui import palette
from admin_tui.glyphs import Glyphs


class Box(NamedTuple):
    """What a drawing must fit into, and the characters it is made of."""

    width: int
    height: int
    glyphs: Glyphs


def spark(values: Sequence[float], width: int, height: int, glyphs: Glyphs, *, ceiling: float = 0.0) -> list[str]:
    """`height` lines of `width` characters; the latest value is at the right.

    Args:
        ceiling: value of the full height; the largest value where it is not given.
    """
    shown = list(values)[-width:]
    top = max(ceiling, max(shown, default=0.0)) or 1.0
    steps = len(glyphs.spark)
    # Any value above nothing is seen: it fills at least one step.
    filled = [0 if v <= 0 else max(1, min(height * steps, round(v / top * height * steps))) for v in shown]
    lines = []
    for row in range(height - 1, -1, -1):
        cells = (level - row * steps for level in filled)
        drawn = "".join(" " if cell <= 0 else glyphs.spark[min(cell, steps) - 1] for cell in cells)
        lines.append(drawn.rjust(width))
    return lines


def bar(ratio: float, width: int, glyphs: Glyphs, colour: str) -> Text:
    """A thin horizontal bar, filled to `ratio` of `width`. Anything above nothing is seen."""
    filled = round(min(1.0, max(0.0, ratio)) * width)
    filled = max(1, filled) if ratio > 0 else 0
    text = Text(glyphs.rule * filled, colour)
    text.append(glyphs.rule * (width - filled), palette.LINE)
    return text


def segments(parts: Sequence[tuple[float, str]], width: int, glyphs: Glyphs, drawn_with: str = "") -> Text:
    """One bar of parts side by side, each (amount, colour), as long as `width`. A part above nothing is seen.

    Args:
        drawn_with: a character a part, so that they are told apart without colour; full ones where it is not given.
    """
    total = sum(amount for amount, _ in parts) or 1.0
    lengths = [0 if amount <= 0 else max(1, round(amount / total * width)) for amount, _ in parts]
    surplus = sum(lengths) - width
    if lengths and any(lengths):
        longest = lengths.index(max(lengths))
        lengths[longest] = max(1, lengths[longest] - surplus)
    text = Text()
    characters = drawn_with or glyphs.full * len(parts)
    for length, (_, colour), character in zip(lengths, parts, characters, strict=True):
        text.append(character * length, colour)
    return text


def spread(left: Text, right: Text, width: int) -> Text:
    """Left and right text on one line of `width`; the left one is cut where both do not fit."""
    line = left.copy()
    line.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis")
    line.append(" " * max(0, width - line.cell_len - right.cell_len))
    line.append_text(right)
    line.truncate(width, overflow="ellipsis")
    return line


def pairs(*facts: tuple[str, str] | tuple[str, str, str], gap: int = 3) -> Text:
    """`name value   name value`: names soft, values in their own colour where they have one."""
    text = Text()
    for number, (name, value, *colour) in enumerate(facts):
        text.append(" " * gap * (number > 0) + f"{name} ", palette.SOFT)
        text.append(value, colour[0] if colour else palette.TEXT)
    return text


class Field(NamedTuple):
    """A column of a small table inside a box; width 0 takes what the others leave."""

    title: str
    width: int
    right: bool = False


def grid(fields: Sequence[Field], rows: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """A head and a line a row, columns two blanks apart."""
    room = width - sum(field.width for field in fields) - 2 * (len(fields) - 1)
    fitted = [field if field.width else field._replace(width=max(6, room)) for field in fields]
    head = [Text(field.title, f"bold {palette.SOFT}") for field in fitted]
    lines = []
    for row in (head, *rows):
        line = Text()
        for number, (field, cell) in enumerate(zip(fitted, row, strict=True)):
            cell = cell.copy()
            cell.truncate(field.width, overflow="ellipsis")
            blanks = " " * (field.width - cell.cell_len)
            line.append("  " * (number > 0) + (blanks if field.right else ""))
            line.append_text(cell)
            line.append("" if field.right else blanks)
        lines.append(line)
    return lines


def cut(lines: list[Text], height: int) -> list[Text]:
    """As many lines as fit; the last one says how many do not."""
    if len(lines) <= height or height <= 0:
        return lines
    return [*lines[: height - 1], Text(f"{len(lines) - height + 1} more", palette.FAINT)]


def columns_spark(
    values: Sequence[float], colours: Sequence[str], width: int, height: int, glyphs: Glyphs, *, ceiling: float = 0.0
) -> list[Text]:
    """A sparkline with a colour a column."""
    lines = []
    shades = list(colours)[-width:]
    for drawn in spark(values, width, height, glyphs, ceiling=ceiling):
        line = Text(drawn[: width - len(shades)])
        at = width - len(shades)
        for colour, run in groupby(shades):
            end = at + len(list(run))
            line.append(drawn[at:end], colour)
            at = end
        lines.append(line)
    return lines
