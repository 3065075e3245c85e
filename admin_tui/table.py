"""Tables that are refreshed twice a second: only cells that changed are touched, and the cursor stays on its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable


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


class LiveTable(DataTable[Text]):
    """A row-cursor table over `Column`s."""

    # DataTable's own move to the last column as well.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", show=False),
        Binding("end", "scroll_bottom", show=False),
    ]

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", cursor_foreground_priority="renderable", cell_padding=1)
        self._all = tuple(columns)
        self._shown: tuple[Column, ...] = ()
        self._fitted_to: tuple[tuple[Column, ...], int] = ((), 0)
        self._rows: list[Row] = []

    def fill(self, rows: Sequence[Row], screen_width: int) -> None:
        """Show these rows, in this order."""
        shown = tuple(column for column in self._all if column.screen <= screen_width)
        fitted = (shown, screen_width)
        with self.app.batch_update():
            if fitted != self._fitted_to:
                self._fitted_to, self._shown, self._rows = fitted, shown, []
                self.clear(columns=True)
                for column in self._fitted(shown, screen_width):
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

    def _fitted(self, columns: Sequence[Column], screen_width: int) -> list[Column]:
        """The columns with the open width given out: blanks around each, table padding and scrollbar left free."""
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
