"""From a model's configuration to a model in memory, and what the scheduler must know of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from bus.blocks import KV_LAYOUT, root_digest
from bus.catalogue import locate
from bus.messages.steps import KvShape, Registered
from bus.packed import pack_u32
from workers.group import Group
from workers.host import Assignment
from workers.layers.linear import layout
from workers.models.config import kv_shape, read_architecture
from workers.models.interface import Model
from workers.models.load import load_model
from workers.weights.digest import weights_digest
from workers.weights.store import Key, open_or_make

log = logging.getLogger(__name__)


class ContextTooLong(ValueError):
    """The configuration asks for more context than the model has."""


@dataclass(frozen=True)
class Loaded:
    """A rank's model, and its description.

    Attributes:
        root: unsalted root of the digest chain of its KV.
    """

    model: Model
    kv: KvShape
    weights_digest: bytes
    root: bytes
    context_tokens: int
    vocabulary: int
    stop_ids: tuple[int, ...]

    def registered(self, assignment: Assignment, group: int) -> Registered:
        """What a worker says when it is ready for plans. group: incarnation of the rank group."""
        return Registered(
            model=assignment.instance.model,
            replica=assignment.instance.replica,
            rank=assignment.instance.rank,
            ranks=assignment.ranks,
            group=group,
            weights_digest=self.weights_digest,
            kv=self.kv,
            context_tokens=self.context_tokens,
            vocabulary=self.vocabulary,
            stop_ids=pack_u32(self.stop_ids),
            slots=assignment.model.slots,
            step_tokens=assignment.model.step_tokens,
            device=self.model.device.type,
            dtype=str(self.model.dtype).removeprefix("torch."),
        )


def load(assignment: Assignment, group: Group, progress: Callable[[float], None]) -> Loaded:
    """Load this rank's share of a model. `progress` is told the fraction that is loaded.

    Raises:
        bus.catalogue.ModelMissing: its files are not on this machine.
        ContextTooLong, workers.weights.sharding.TooManyRanks: the configuration does not fit the model.
        workers.weights.source.WeightsError, OSError: the files cannot be used; the message says which and why.
    """
    began = time.monotonic()
    config = assignment.model
    path = locate(config.source)
    architecture = read_architecture(path)
    if config.context_tokens > architecture.context:
        raise ContextTooLong(
            f"model {config.name!r}: context_tokens = {config.context_tokens}, but {path.name} was trained for "
            f"{architecture.context}"
        )
    kv = kv_shape(architecture, assignment.page_tokens, assignment.dtype)
    digest = weights_digest(path)
    key = Key(digest, kv.dtype, group.rank, group.ranks, layout())
    model = load_model(
        path,
        dtype=assignment.dtype,
        device=assignment.device,
        rank=group.rank,
        ranks=group.ranks,
        collectives=group,
        progress=progress,
        keep=lambda make: open_or_make(key, make),
    )
    log.info("loaded %s in %.2f s", path.name, time.monotonic() - began, extra={"dtype": kv.dtype})
    return Loaded(
        model=model,
        kv=kv,
        weights_digest=digest,
        root=root_digest(digest, kv.dtype, KV_LAYOUT, kv.page_tokens),
        context_tokens=config.context_tokens or architecture.context,
        vocabulary=architecture.vocabulary,
        stop_ids=architecture.stop_ids,
    )
