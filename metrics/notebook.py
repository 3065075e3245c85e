"""Operators' notes on findings, in a file in the state directory: they outlive the metrics process. No decisions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from bus.messages.control import FindingNote
from bus.names import state_directory

FILE: Final = "notes.json"


def load(directory: Path | None = None) -> tuple[FindingNote, ...]:
    """What is in the file; nothing where there is none, or it cannot be read."""
    try:
        path = (directory or state_directory()) / FILE
        return msgspec.json.decode(path.read_bytes(), type=tuple[FindingNote, ...])
    except (OSError, msgspec.DecodeError):
        return ()


def save(notes: tuple[FindingNote, ...], directory: Path | None = None) -> str:
    """Returns why they are not kept; empty where they are."""
    try:
        path = (directory or state_directory()) / FILE
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(notes))
        os.replace(fresh, path)
    except OSError as error:
        return f"lost when this process restarts: {error.strerror}"
    return ""
