"""The database of batches alone: whoever writes a result, and how often, it is there once and counts once."""

from __future__ import annotations

from pathlib import Path

from batch.core.lines import Line
from batch.core.state import Batch
from batch.database import Database, Result
from batch.runner import _counted


def result(number: int, status: int = 200, text: bytes = b"{}") -> Result:
    return Result(number, status, f"resp_{number}", text)


def test_a_result_that_is_recorded_again_is_neither_counted_nor_changed(tmp_path: Path) -> None:
    """As after a write whose success was not heard of: the runner keeps what is not known to be written."""
    database = Database(tmp_path)
    batch = Batch(
        id="batch_1", project="p", key="k", endpoint="/v1/chat/completions", input_file="f", created_s=1, window_s=3600,
        completion_window="1h",
    )  # fmt: skip
    database.add_batch(batch)
    database.add_lines("batch_1", [Line(number, 0, 1, f"c{number}") for number in range(1, 5)])
    once = database.record(batch, [result(1, text=b'{"usage": {"total_tokens": 7}}'), result(2, 400)], _counted)
    assert (once.counts.completed, once.counts.failed) == (1, 1)
    again = database.record(once, [result(2), result(1, 500), result(3), result(3, 500)], _counted)
    assert (again.counts.completed, again.counts.failed) == (2, 1)
    assert again.usage == database.batch("batch_1").usage  # type: ignore[union-attr]
    assert [(row.number, row.status) for row in database.written("batch_1")] == [(1, 200), (2, 400), (3, 200), (4, 0)]
    assert [line.number for line in database.pending("batch_1", 0, 9)] == [4]
    database.close()
