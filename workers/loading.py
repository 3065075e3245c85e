"""From a model's configuration to a model in memory, and what the scheduler must know of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bus.blocks import KV_LAYOUT, root_digest
from bus.catalogue import ModelMissing, locate
from bus.messages.steps import KvShape, Registered
from bus.packed import pack_u32
from bus.process import EXIT_BUG, EXIT_CONFIG
from workers.host import Assignment
from workers.layers.linear import layout
from workers.models.config import kv_shape
from workers.models.load import contents, load_weights
from workers.weights.digest import weights_digest
from workers.weights.prepared import Prepared
from workers.weights.sharding import TooManyRanks
from workers.weights.source import WeightsError
from workers.weights.store import Key, open_or_make

log = logging.getLogger(__name__)


class ContextTooLong(ValueError):
    """The configuration asks for more context than the model has."""


@dataclass(frozen=True)
class Loaded:
    """A rank's weights, and the description of its model.

    Attributes:
        root: unsalted root of the digest chain of its KV.
    """

    weights: Prepared
    kv: KvShape
    weights_digest: bytes
    root: bytes
    context_tokens: int

    def registered(self, assignment: Assignment, group: int) -> Registered:
        """What a worker says when it is ready for plans. group: incarnation of the rank group."""
        architecture = self.weights.architecture
        return Registered(
            model=assignment.instance.model,
            replica=assignment.instance.replica,
            rank=assignment.instance.rank,
            ranks=assignment.ranks,
            group=group,
            weights_digest=self.weights_digest,
            kv=self.kv,
            context_tokens=self.context_tokens,
            vocabulary=architecture.vocabulary,
            stop_ids=pack_u32(architecture.stop_ids),
            slots=assignment.model.slots,
            step_tokens=assignment.model.step_tokens,
            device=assignment.device.type,
            dtype=str(assignment.dtype).removeprefix("torch."),
        )


def load(assignment: Assignment, progress: Callable[[float], None]) -> Loaded:
    """Load this rank's share of a model, or map it. `progress` is told the fraction that is loaded.

    Raises:
        bus.catalogue.ModelMissing: its files are not on this machine.
        ContextTooLong, workers.weights.sharding.TooManyRanks: the configuration does not fit the model.
        workers.weights.source.WeightsError, OSError: the files cannot be used; the message says which and why.
    """
    began = time.monotonic()
    torch.set_num_threads(assignment.threads)  # OpenMP keeps the number per thread, and this may be another one
    config = assignment.model
    path = locate(config.source)
    rank, ranks = assignment.instance.rank, assignment.ranks
    digest = weights_digest(path)
    key = Key(digest, str(assignment.dtype).removeprefix("torch."), rank, ranks, f"{layout()}, {contents()}")
    weights = load_weights(
        path,
        dtype=assignment.dtype,
        rank=rank,
        ranks=ranks,
        progress=progress,
        keep=lambda make: open_or_make(key, make),
    )
    architecture = weights.architecture
    if config.context_tokens > architecture.context:
        raise ContextTooLong(
            f"model {config.name!r}: context_tokens = {config.context_tokens}, but {path.name} was trained for "
            f"{architecture.context}"
        )
    kv = kv_shape(architecture, assignment.page_tokens, assignment.dtype)
    log.info("loaded %s in %.2f s", path.name, time.monotonic() - began, extra={"dtype": kv.dtype})
    return Loaded(
        weights=weights,
        kv=kv,
        weights_digest=digest,
        root=root_digest(digest, kv.dtype, KV_LAYOUT, kv.page_tokens),
        context_tokens=config.context_tokens or architecture.context,
    )


def why_not(model: str, error: Exception) -> tuple[str, int]:
    """What to say, and the exit code, where `load` failed."""
    if isinstance(error, (ModelMissing, WeightsError, ContextTooLong, TooManyRanks, OSError)):
        return f"model {model!r}: {error}", EXIT_CONFIG
    log.error("could not start", exc_info=error)
    return f"model {model!r}: {type(error).__name__}: {error}", EXIT_BUG
