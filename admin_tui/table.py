"""Tables that are refreshed twice a second. Only the rows in sight are made and drawn, and the cursor stays on its row.

A table knows how it is looked at (filter, order, faults only, wide) and which rows are marked; its screen makes the
rows that fit that, again after each `Looked`. Textual's own table renders each cell through a console, and all of them
again when one changes: with 64 rows at 2 Hz that is 15 % of a core, a multiple of what everything here takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from admin_tui import palette
from admin_tui.look import Look

OPEN_WIDTH: Final = 26  # of the open column in a wide table
MARK: Final = "+ "


class Column(NamedTuple):
    """One column.

    Attributes:
        width: in cells; 0 takes what the others leave.
        screen: narrowest table that shows it.
    """

    key: str
    title: str
    width: int
    right: bool = False
    screen: int = 0


Cells = dict[str, Text]


class Row(NamedTuple):
    """One row: its key, and a cell per column key, or what makes them once the row is in sight."""

    key: str
    made: Cells | Callable[[], Cells]

    @property
    def cells(self) -> Cells:
        """Its cells."""
        return self.made if isinstance(self.made, dict) else self.made()


class LiveTable(ScrollView, can_focus=True):
    """A table over `Column`s, with a cursor on a row.

    Attributes:
        sorts: what it can be sorted by.
        look: how it is looked at.
        marked: keys of marked rows.
        rows: in their order.
        columns: those that are shown.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
        Binding("enter", "choose", show=False),
        Binding("slash", "app.filter", "filter", id="table.filter", key_display="/"),
        Binding("f", "faults", "faults only", id="table.faults"),
        Binding("s", "sort", "sort by the next column", id="table.sort", show=False),
        Binding("r", "reverse", "sort the other way round", id="table.reverse", show=False),
        Binding("w", "wide", "all columns; left and right move", id="table.wide", show=False),
        Binding("space", "mark", "mark", id="table.mark", key_display="space", show=False),
    ]

    class Looked(Message):
        """It is looked at in another way: its rows are to be made again."""

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, table: LiveTable) -> None:
            super().__init__()
            self.table = table

    class Chosen(Message):
        """Enter, or a click on the row under the cursor."""

        def __init__(self, table: LiveTable) -> None:
            super().__init__()
            self.table = table

    def __init__(self, columns: Sequence[Column], sorts: Sequence[str], *, id: str) -> None:
        super().__init__(id=id)
        self._all, self.sorts = tuple(columns), tuple(sorts)
        self._cursor = 0
        self._plain: Style | None = None  # style of a row; to find it anew for each costs more than to draw one
        self._pointed = ""  # key of the row under the cursor
        self.columns: tuple[Column, ...] = ()
        self.rows: list[Row] = []
        self.look = Look(self.sorts[0])
        self.marked: set[str] = set()

    # --- rows ------------------------------------------------------------------------------------------------------

    def fill(self, rows: Sequence[Row], width: int) -> None:
        """Show these rows, in this order, in a table so wide."""
        wide = self.look.wide
        self.columns = _fitted([column for column in self._all if wide or column.screen <= width], 0 if wide else width)
        self.rows = list(rows)
        keys = [row.key for row in self.rows]
        self.marked.intersection_update(keys)
        across = sum(column.width + 2 for column in self.columns)
        self.virtual_size = Size(across if wide else 0, len(keys) + 1)
        if self._pointed in keys:
            self._cursor = keys.index(self._pointed)
        self._put_cursor(self._cursor, follow=False)
        self.refresh()

    def current(self) -> str | None:
        """Key of the row under the cursor."""
        return self._pointed or None

    def chosen(self) -> list[str]:
        """Keys of the marked rows in their order; without any, that of the row under the cursor."""
        marked = [row.key for row in self.rows if row.key in self.marked]
        return marked or ([self._pointed] if self._pointed else [])

    def point_at(self, key: str) -> bool:
        """Put the cursor on a row; False where there is none."""
        keys = [row.key for row in self.rows]
        if key in keys:
            self._put_cursor(keys.index(key))
        return key in keys

    def look_again(self, look: Look) -> None:
        """Look at it so from now on."""
        self.look = look
        self.post_message(self.Looked())

    # --- keys and mouse --------------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """The cursor, down or up."""
        self._put_cursor(self._cursor + by)

    def action_page(self, by: int) -> None:
        """The same by what is in sight."""
        self._put_cursor(self._cursor + by * max(1, self._in_sight() - 1))

    def action_choose(self) -> None:
        """Enter."""
        if self._pointed:
            self.post_message(self.Chosen(self))

    def action_sort(self) -> None:
        """By the next column."""
        self.look_again(self.look.sorted_by_next(self.sorts))

    def action_reverse(self) -> None:
        """The other way round."""
        self.look_again(self.look._replace(reverse=not self.look.reverse))

    def action_faults(self) -> None:
        """Only what is faulty, or everything."""
        self.look_again(self.look._replace(faults_only=not self.look.faults_only))

    def action_wide(self) -> None:
        """Every column, whatever fits; or what fits."""
        self.look_again(self.look._replace(wide=not self.look.wide))

    def action_mark(self) -> None:
        """Mark the row under the cursor and go to the next one; or unmark it."""
        if self._pointed:
            self.marked ^= {self._pointed}
            self.action_move(1)
            self.refresh()

    def on_click(self, click: events.Click) -> None:
        """To the row that was clicked; again, and it is chosen."""
        row = click.y - 1 + self.scroll_offset.y
        if click.y < 1 or not 0 <= row < len(self.rows):
            return
        if row == self._cursor:
            self.action_choose()
        self._put_cursor(row)

    def _in_sight(self) -> int:
        return max(1, self.scrollable_content_region.height - 1)

    def _put_cursor(self, row: int, *, follow: bool = True) -> None:
        before, self._cursor = self._pointed, max(0, min(row, len(self.rows) - 1))
        self._pointed = self.rows[self._cursor].key if self.rows else ""
        top, sight = self.scroll_offset.y, self._in_sight()
        if follow and not top <= self._cursor < top + sight:
            self.scroll_to(
                y=self._cursor if self._cursor < top else self._cursor - sight + 1, animate=False, immediate=True
            )
        if self._pointed != before:
            self.refresh()
            self.post_message(self.Moved(self))

    # --- drawing ---------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """The head, or a row."""
        width, (left, top) = self.scrollable_content_region.width, self.scroll_offset
        row = top + y - 1
        if y == 0:
            base = self.get_component_rich_style("table--header")
            titles = {column.key: Text(column.title) for column in self.columns}
            return self._line(titles, base, left, width)
        if row >= len(self.rows):
            return Strip.blank(width, self._style())
        base = self.get_component_rich_style("table--cursor") if row == self._cursor else self._style()
        cells = self.rows[row].cells
        if self.rows[row].key in self.marked:
            first = self._all[0].key
            cells = {**cells, first: Text(MARK, f"bold {palette.WARN}").append_text(cells[first])}
        return self._line(cells, base, left, width)

    def notify_style_update(self) -> None:
        """Other colours from now on."""
        super().notify_style_update()
        self._plain = None

    def _style(self) -> Style:
        if self._plain is None:
            self._plain = self.rich_style
        return self._plain

    def _line(self, cells: Cells, base: Style, left: int, width: int) -> Strip:
        segments = []
        for column in self.columns:
            cell = cells[column.key]
            if cell.cell_len > column.width:
                cell = cell.copy()
                cell.truncate(column.width, overflow="ellipsis")
            blanks = column.width - cell.cell_len
            before = " " * (1 + blanks * column.right)
            after = " " * (1 + blanks * (not column.right))
            if cell.spans:
                segments.append(Segment(before, base))
                segments.extend(Segment(text, base + style) for text, style in _pieces(cell))
                segments.append(Segment(after, base))
            else:  # one segment: a third of the work for all that come after
                segments.append(Segment(before + cell.plain + after, base + _parsed(cell.style)))
        line = Strip(segments)
        return line.crop_extend(left, left + width, base)


def _fitted(columns: Sequence[Column], width: int) -> tuple[Column, ...]:
    """The columns with the open width given out: blanks around each, table padding and scrollbar left free.

    In a wide table (`width` 0) it is as wide as names are; the table is moved.
    """
    room = width - 3 - sum(column.width + 2 for column in columns) if width else OPEN_WIDTH
    return tuple(column if column.width else column._replace(width=max(8, room)) for column in columns)


@lru_cache(maxsize=512)
def _parsed(style: str | Style) -> Style:
    return style if isinstance(style, Style) else Style.parse(style) if style else Style()


def _pieces(cell: Text) -> list[tuple[str, Style]]:
    """The text of a cell in pieces of one style."""
    edges = sorted({0, len(cell.plain), *(edge for span in cell.spans for edge in (span.start, span.end))})
    pieces = []
    for start, end in itertools.pairwise(edges):
        style = _parsed(cell.style)
        for span in cell.spans:
            if span.start <= start and end <= span.end:
                style += _parsed(span.style)
        pieces.append((cell.plain[start:end], style))
    return pieces
