"""A step's result where the model is an encoder: one vector a row, and with it the row's request ends."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from bus.messages.requests import Encoded, Finished
from bus.messages.steps import StepResult
from bus.packed import pack_f32, unpack_f32
from scheduler.core.apply import BadResult
from scheduler.core.replica import Flight, Replica
from scheduler.core.request import Request
from scheduler.core.state import State

Vectors = npt.NDArray[np.float32]
_NONE: Final[Vectors] = np.zeros((0, 0), np.float32)


def vectors_of(replica: Replica, flight: Flight, result: StepResult) -> Vectors:
    """[rows, dimensions] of a result; none of a decoder's.

    Raises:
        BadResult: they are not those of the plan's rows.
    """
    rows, wanted = len(flight.slots), replica.dimensions
    if not wanted and not result.vectors:
        return _NONE
    if len(result.vectors) != 4 * rows * wanted:
        raise BadResult(
            f"step {result.step} brought {len(result.vectors)} bytes of vectors for {rows} rows of {wanted}"
        )
    vectors = unpack_f32(result.vectors).reshape(rows, wanted)
    if not np.isfinite(vectors).all():
        raise BadResult(f"step {result.step} brought vectors that are not finite")
    return vectors


def tell_encoded(
    state: State, replica: Replica, flight: Flight, ended: list[tuple[Request, Finished]], vectors: Vectors
) -> None:
    """One message for each ingress that has something in this step."""
    row_of = {slot: row for row, slot in enumerate(flight.slots.tolist())}
    by_home: dict[int, list[tuple[int, Finished]]] = {}
    for request, finished in ended:
        by_home.setdefault(int(replica.home[request.slot]), []).append((row_of[request.slot], finished))
    for number, told in by_home.items():
        rows = [row for row, _ in told]
        state.reply(
            state.homes[number],
            Encoded(flight.step, tuple(finished for _, finished in told), pack_f32(vectors[rows])),
        )
