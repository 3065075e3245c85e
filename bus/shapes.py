"""What a model takes, in numbers: told by `python -m workers.capacity`, which reads its files, to whoever counts."""

from __future__ import annotations

import msgspec

from bus.messages.steps import KvShape


class ModelShape(msgspec.Struct, frozen=True):
    """A configured model on this host.

    Attributes:
        kv: of a page, all ranks together; None of an encoder, which keeps none, and where the model cannot be read, and
            `problem` says why.
        weights_bytes: of all ranks, as they are computed with. `laid_out`: read from the files of the weight store;
            otherwise an estimate from the model's own files.
        slot_bytes: of the tables of all slots of a worker.
        logits_bytes: of the numbers that a step with all slots draws from.
    """

    name: str
    kv: KvShape | None = None
    context_tokens: int = 0
    vocabulary: int = 0
    weights_bytes: int = 0
    laid_out: bool = False
    slot_bytes: int = 0
    logits_bytes: int = 0
    computed_in: str = ""
    problem: str = ""
