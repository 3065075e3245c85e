"""Limits that an operator changed at run time: which there are, what they may be, and that they outlive this process.

They are kept in a file in the run directory, so a scheduler that dies in the middle of an incident comes back with
what the operator set, and a reboot starts from the configuration again. A value whose configuration has changed since
is the configuration's.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from bus.config import ModelConfig
from bus.messages.control import LimitValues
from bus.orders import limits_in_words

# (smallest, largest); the largest of slots and step_tokens is what the workers have room for.
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "slots": (1, 4096),
    "step_tokens": (16, 65536),
    "inter_token_target_ms": (0, 60_000),
    "queue_requests": (1, 1_000_000),
    "queue_tokens": (1, 1 << 40),
}


class Unfit(ValueError):
    """A limit that cannot be; the message says what can."""


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    configured: dict[str, float]
    now: dict[str, float]


def configured(model: ModelConfig) -> LimitValues:
    """What the configuration says."""
    return LimitValues(
        model.slots, model.step_tokens, model.inter_token_target_ms, model.queue_requests, model.queue_tokens
    )


def merged(base: LimitValues, over: LimitValues) -> LimitValues:
    """`base`, with what `over` means."""
    return msgspec.structs.replace(base, **_meant(over))


def checked(wanted: LimitValues, most: LimitValues) -> LimitValues:
    """The same.

    Raises:
        Unfit: one is out of bounds.
    """
    for name, value in _meant(wanted).items():
        low, high = BOUNDS[name]
        room = getattr(most, name)
        high = min(high, room) if room is not None else high
        if not low <= value <= high:
            why = "; the workers have no room for more: change [[model]] and restart" if high == room else ""
            raise Unfit(f"{name} = {value:g}: {low:g} to {high:g} can be{why}")
    return wanted


def difference(now: LimitValues, base: LimitValues) -> str:
    """What differs from the configuration, in words; empty where nothing does."""
    meant = {name: value for name, value in _meant(now).items() if getattr(base, name) != value}
    words = limits_in_words(LimitValues(**meant))  # type: ignore[arg-type]
    return ", ".join(f"{word} (configured {getattr(base, word.partition('=')[0]):g})" for word in words)


def differing(before: LimitValues, now: LimitValues) -> tuple[LimitValues, LimitValues]:
    """Of both, what is not the same."""
    names = [name for name in BOUNDS if getattr(before, name) != getattr(now, name)]
    old, new = (LimitValues(**{name: getattr(limits, name) for name in names}) for limits in (before, now))
    return old, new


class Keeper:
    """The file."""

    def __init__(self, run: Path, process: str) -> None:
        self._path = run / f"{process}.limits.json"

    def load(self, base: LimitValues) -> LimitValues:
        """What holds: the configuration, and over it what was set while it was the same. A file that cannot be read
        is nobody's limits."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return base
        values = _meant(base)
        for name, value in kept.now.items():
            low, high = BOUNDS.get(name, (1.0, 0.0))
            if low <= value <= high and kept.configured.get(name) == values[name]:
                values[name] = value if name == "inter_token_target_ms" else int(value)
        return LimitValues(**values)  # type: ignore[arg-type]

    def save(self, now: LimitValues, base: LimitValues) -> str:
        """Returns why it is not kept; empty where it is."""
        if now == base:
            self._path.unlink(missing_ok=True)
            return ""
        before, meant = _meant(base), _meant(now)
        changed = {name: value for name, value in meant.items() if before[name] != value}
        kept = _Kept({name: before[name] for name in changed}, changed)
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(kept))
            os.replace(fresh, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            return f"lost when this scheduler restarts: {error.strerror}"
        return ""


def _meant(limits: LimitValues) -> dict[str, float]:
    return {name: value for name in BOUNDS if (value := getattr(limits, name)) is not None}
