"""From a file to its results: upload, make the batch, look on, download. Begun again, it goes on where it stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bus.messages.batches import BatchObject
from cli.batch import receipt as receipts
from cli.batch.api import Api, ApiFailed
from cli.batch.receipt import Receipt

OVER: Final = frozenset({"completed", "failed", "expired", "cancelled"})
LOOK_S: Final = (0.2, 2.0)  # how often a batch is looked at: soon at first, then less
SHOWN_ERRORS: Final = 10


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        output, errors: where results go; None is beside the file.
        endpoint: of the lines; empty takes that of the first.
        cancel: end the batch that is under way.
    """

    path: Path
    output: Path | None = None
    errors: Path | None = None
    endpoint: str = ""
    window: str = "24h"
    cancel: bool = False


def answer(wanted: Wanted, api: Api, *, as_json: bool) -> int:
    """Do it. Exit code 0 where every line was answered well, 1 where not, 2 where the file is none, 130 on Ctrl-C."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    path = wanted.path
    try:
        endpoint = wanted.endpoint or _endpoint(path)
        receipt = receipts.find(path, api.base, endpoint)
        if wanted.cancel and not receipt.batch:
            console.print(f"no batch of {path} is under way", markup=False)
            return 1
        with _progress(console, shown=not as_json) as progress:
            batch = _batch(wanted, endpoint, receipt, api, progress)
            batch = _followed(batch, api, progress)
            written = _results(wanted, batch, api, progress)
        receipts.drop(path)
    except _NoLines as error:
        console.print(f"{path}: {error}", markup=False)
        return 2
    except OSError as error:
        console.print(f"{error.filename or path}: {error.strerror or error}", markup=False)
        return 2
    except ApiFailed as error:
        if error.status == 404 and error.code in ("batch_not_found", "file_not_found"):
            receipts.drop(path)  # kept no longer: the next run begins anew
        hint = "; is it up? start with: headrace up --detach" if not error.status else ""
        console.print(f"{error}{hint}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print(
            f"\nthe batch goes on: headrace batch {path} follows it again, and with --cancel ends it",
            markup=False,
        )
        return 130
    return _tell(batch, written, console, as_json=as_json)


class _NoLines(Exception):
    """The file cannot be a batch's."""


def _endpoint(path: Path) -> str:
    """What the first line is for."""
    with open(path, "rb") as file:
        for _ in range(1000):
            if not (line := file.readline(16 << 20)):
                break
            if not line.removeprefix(b"\xef\xbb\xbf").strip():
                continue
            try:
                return str(json.loads(line.decode("utf-8-sig"))["url"])
            except (ValueError, LookupError, TypeError, RecursionError):
                raise _NoLines(
                    'the first line is no request; expected {"custom_id", "method", "url", "body"}'
                ) from None
    raise _NoLines("the file has no lines")


def _progress(console: Console, *, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not shown, transient=True,
    )  # fmt: skip


def _batch(wanted: Wanted, endpoint: str, receipt: Receipt, api: Api, progress: Progress) -> BatchObject:
    """The batch of the file, which is made where there is none."""
    path = wanted.path
    if receipt.batch:
        return api.cancel(receipt.batch) if wanted.cancel else api.batch(receipt.batch)
    receipts.save(path, receipt)  # before anything is made with its number
    if not receipt.file:
        task = progress.add_task("uploading", total=path.stat().st_size, detail="bytes")
        file = api.upload(path, receipt.number, lambda count: progress.advance(task, count))
        progress.remove_task(task)
        receipt.file = file.id
        receipts.save(path, receipt)
    batch = api.create(receipt.file, endpoint, wanted.window, receipt.number)
    receipt.batch = batch.id
    receipts.save(path, receipt)
    return batch


def _followed(batch: BatchObject, api: Api, progress: Progress) -> BatchObject:
    """The batch once it is over."""
    task = progress.add_task(batch.status, total=None, detail="")
    pause_s, longest_s = LOOK_S
    while batch.status not in OVER:
        _show(batch, progress, task)
        time.sleep(pause_s)
        pause_s = min(longest_s, pause_s * 1.2)
        batch = api.batch(batch.id)
    progress.remove_task(task)
    return batch


def _show(batch: BatchObject, progress: Progress, task: TaskID) -> None:
    counts = batch.request_counts
    failed = f", {counts.failed} failed" if counts.failed else ""
    progress.update(
        task, description=batch.status.replace("_", " "), total=counts.total or None,
        completed=counts.completed + counts.failed,
        detail=f"lines{failed}, {batch.usage.output_tokens} tokens",
    )  # fmt: skip


def _results(wanted: Wanted, batch: BatchObject, api: Api, progress: Progress) -> dict[str, Path]:
    """Download what there is; where it was put."""
    stem = wanted.path.with_suffix("") if wanted.path.suffix == ".jsonl" else wanted.path
    places = {
        "output": (batch.output_file_id, wanted.output or stem.with_name(stem.name + ".output.jsonl")),
        "errors": (batch.error_file_id, wanted.errors or stem.with_name(stem.name + ".errors.jsonl")),
    }
    written: dict[str, Path] = {}
    for kind, (file, there) in places.items():
        if file is None:
            continue
        task = progress.add_task(f"downloading {kind}", total=None, detail="bytes")
        api.download(file, there, _updating(progress, task))
        progress.remove_task(task)
        written[kind] = there
    return written


def _updating(progress: Progress, task: TaskID) -> Callable[[int, int], None]:
    return lambda count, size: progress.update(task, completed=count, total=size)


def _tell(batch: BatchObject, written: dict[str, Path], console: Console, *, as_json: bool) -> int:
    counts = batch.request_counts
    good = batch.status == "completed" and not counts.failed
    if as_json:
        told: dict[str, Any] = {
            "batch": msgspec.to_builtins(batch),
            **{kind: str(there) for kind, there in written.items()},
        }
        print(json.dumps(told))
        return 0 if good else 1
    for error in (batch.errors.data if batch.errors else [])[:SHOWN_ERRORS]:
        where = f"line {error.line}: " if error.line is not None else ""
        console.print(f"{where}{error.message}", markup=False)
    usage = batch.usage
    console.print(
        f"{batch.id} is {batch.status}: {counts.completed} of {counts.total} lines answered, {counts.failed} failed; "
        f"{usage.input_tokens} tokens in, {usage.output_tokens} out",
        markup=False,
    )
    for kind, there in written.items():
        console.print(f"{kind}: {there}", markup=False)
    if not good and not written:
        print("nothing was answered", file=sys.stderr)
    return 0 if good else 1
