"""Tables that are refreshed twice a second: only cells that changed are touched, and the cursor stays on its row.

A table knows how it is looked at (filter, order, faults only, wide) and which rows are marked; its screen makes the
rows that fit that, again after each `Looked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable

from admin_tui import palette
from admin_tui.look import Look


class Column(NamedTuple):
    """One column.

    Attributes:
        width: in cells; 0 takes what the others leave.
        screen: narrowest screen that shows it.
    """

    key: str
    title: str
    width: int
    right: bool = False
    screen: int = 0


class Row(NamedTuple):
    """One row: its key and a cell per column key."""

    key: str
    cells: dict[str, Text]


OPEN_WIDTH: Final = 26  # of the open column in a wide table
MARK: Final = "+ "


class LiveTable(DataTable[Text]):
    """A row-cursor table over `Column`s.

    Attributes:
        sorts: what it can be sorted by.
        look: how it is looked at.
        marked: keys of marked rows.
    """

    # Home and end without DataTable's own move to the last column.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
        Binding("slash", "app.filter", "filter", id="table.filter", key_display="/"),
        Binding("f", "faults", "faults only", id="table.faults"),
        Binding("s", "sort", "sort by the next column", id="table.sort", show=False),
        Binding("r", "reverse", "sort the other way round", id="table.reverse", show=False),
        Binding("w", "wide", "all columns; left and right move", id="table.wide", show=False),
        Binding("space", "mark", "mark", id="table.mark", key_display="space", show=False),
    ]

    class Looked(Message):
        """It is looked at in another way: its rows are to be made again."""

    def __init__(self, columns: Sequence[Column], sorts: Sequence[str], *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", cursor_foreground_priority="renderable", cell_padding=1)
        self._all, self.sorts = tuple(columns), tuple(sorts)
        self._shown: tuple[Column, ...] = ()
        self._fitted_to: tuple[tuple[Column, ...], int] = ((), 0)
        self._rows: list[Row] = []
        self.look = Look(self.sorts[0])
        self.marked: set[str] = set()

    def fill(self, rows: Sequence[Row], screen_width: int) -> None:
        """Show these rows, in this order."""
        wide = self.look.wide
        shown = tuple(column for column in self._all if wide or column.screen <= screen_width)
        fitted = (shown, 0 if wide else screen_width)
        self.marked &= {row.key for row in rows}
        if self.marked:
            rows = [self._with_mark(row) if row.key in self.marked else row for row in rows]
        with self.app.batch_update():
            if fitted != self._fitted_to:
                self._fitted_to, self._shown, self._rows = fitted, shown, []
                self.clear(columns=True)
                for column in self._fitted(shown, fitted[1]):
                    title = Text(column.title, justify="right" if column.right else "left")
                    self.add_column(title, width=column.width, key=column.key)
            if [row.key for row in rows] == [row.key for row in self._rows]:
                self._touch(rows)
            else:
                self._rebuild(rows)
        self._rows = list(rows)

    def current(self) -> str | None:
        """Key of the row under the cursor."""
        return self._rows[self.cursor_row].key if 0 <= self.cursor_row < len(self._rows) else None

    def chosen(self) -> list[str]:
        """Keys of the marked rows in their order; without any, that of the row under the cursor."""
        marked = [row.key for row in self._rows if row.key in self.marked]
        current = self.current()
        return marked or ([current] if current is not None else [])

    def point_at(self, key: str) -> bool:
        """Put the cursor on a row; False where there is none."""
        keys = [row.key for row in self._rows]
        if key in keys:
            self.move_cursor(row=keys.index(key), animate=False)
        return key in keys

    def look_again(self, look: Look) -> None:
        """Look at it so from now on."""
        self.look = look
        self.post_message(self.Looked())

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
        self.styles.overflow_x = "auto" if self.look.wide else "hidden"

    def action_mark(self) -> None:
        """Mark the row under the cursor and go to the next one; or unmark it."""
        if (key := self.current()) is not None:
            self.marked ^= {key}
            self.action_cursor_down()
            self.post_message(self.Looked())

    def _with_mark(self, row: Row) -> Row:
        first = self._all[0].key
        return row._replace(
            cells={**row.cells, first: Text(MARK, f"bold {palette.WARN}").append_text(row.cells[first])}
        )

    def _fitted(self, columns: Sequence[Column], screen_width: int) -> list[Column]:
        """The columns with the open width given out: blanks around each, table padding and scrollbar left free.

        In a wide table (`screen_width` 0) it is as wide as names are; the table is moved.
        """
        if not screen_width:
            return [column if column.width else column._replace(width=OPEN_WIDTH) for column in columns]
        room = screen_width - 3 - sum(column.width + 2 for column in columns)
        return [column if column.width else column._replace(width=max(8, room)) for column in columns]

    def _touch(self, rows: Sequence[Row]) -> None:
        for row, before in zip(rows, self._rows, strict=True):
            for column in self._shown:
                cell = row.cells[column.key]
                if cell != before.cells[column.key] or cell.style != before.cells[column.key].style:
                    self.update_cell(row.key, column.key, _justified(cell, column))

    def _rebuild(self, rows: Sequence[Row]) -> None:
        current, top = self.current(), self.scroll_y
        self.clear()
        for row in rows:
            self.add_row(*(_justified(row.cells[column.key], column) for column in self._shown), key=row.key)
        keys = [row.key for row in rows]
        if current in keys:
            self.move_cursor(row=keys.index(current), scroll=False)
        self.scroll_to(y=top, animate=False)


def _justified(cell: Text, column: Column) -> Text:
    cell = cell.copy()
    cell.no_wrap, cell.overflow = True, "ellipsis"
    if column.right:
        cell.justify = "right"
    return cell
