"""From a model's configuration to an encoder in memory, and what the scheduler must know of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from bus.config import ModelConfig
from bus.messages.steps import KvShape, Registered
from bus.messages.vitals import WorkerView
from workers.encoding.encoder import Encoder
from workers.encoding.weights import LAYOUT, EncoderWeights, load_weights
from workers.host import Assignment, Unsuitable
from workers.layers.linear import layout
from workers.models.architecture import DTYPES
from workers.weights.digest import weights_digest
from workers.weights.store import Key, is_kept, open_or_make

log = logging.getLogger(__name__)

# (rows, tokens of each): shapes for which kernels are generated and threads started.
_WARM: Final = ((1, 16), (1, 64), (8, 16))


class EncoderContext(ValueError):
    """The configuration asks for more context than the model has."""


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder's weights, and its description. Attributes as of `workers.loading.Loaded`."""

    weights: EncoderWeights
    weights_digest: bytes
    context_tokens: int
    file: str
    load_s: float
    shared: bool

    @property
    def dtype(self) -> str:
        """What it is computed in."""
        return str(self.weights.dtype).removeprefix("torch.")

    def encoder(self) -> Encoder:
        """Ready to run."""
        return Encoder(self.weights)

    def warm_up(self, assignment: Assignment) -> None:
        """Run small steps, so that nobody waits for what is done only once."""
        torch.set_num_threads(assignment.threads)
        encoder = self.encoder()
        with torch.inference_mode():
            for rows, tokens in _WARM:
                tokens = min(tokens, self.context_tokens)
                ids = torch.zeros(rows * tokens, dtype=torch.int64)
                encoder(ids, ids, [tokens] * rows)

    def registered(self, assignment: Assignment, group: int) -> Registered:
        """What a worker says when it is ready for plans. A page is as long as the context, and nothing is in it."""
        architecture = self.weights.architecture
        return Registered(
            model=assignment.instance.model,
            replica=assignment.instance.replica,
            rank=assignment.instance.rank,
            ranks=assignment.ranks,
            group=group,
            weights_digest=self.weights_digest,
            kv=KvShape(0, 0, self.context_tokens, 0, self.dtype),
            context_tokens=self.context_tokens,
            vocabulary=architecture.vocabulary,
            stop_ids=b"",
            slots=assignment.model.slots,
            step_tokens=assignment.model.step_tokens,
            device=assignment.device.type,
            dtype=self.dtype,
            threads=assignment.threads,
            kind=architecture.kind,
            dimensions=architecture.dimensions,
        )

    def view(self, name: str, assignment: Assignment) -> WorkerView:
        """For telemetry."""
        model, instance, architecture = assignment.model, assignment.instance, self.weights.architecture
        return WorkerView(
            name=name,
            model=instance.model,
            replica=instance.replica,
            rank=instance.rank,
            ranks=assignment.ranks,
            source=model.source,
            file=self.file,
            architecture=architecture.name,
            parameters=architecture.parameters,
            quantisation=self.dtype,
            engine=self.dtype,
            device=assignment.device.type,
            threads=assignment.threads,
            weight_bytes=self.weights.bytes,
            shared=self.shared,
            digest=self.weights_digest,
            kv_dtype="",
            kv_token_bytes=0,
            page_tokens=0,
            context_tokens=self.context_tokens,
            vocabulary=architecture.vocabulary,
            slots=model.slots,
            step_tokens=model.step_tokens,
            load_s=self.load_s,
            kind=architecture.kind,
            dimensions=architecture.dimensions,
        )


def load_encoder(assignment: Assignment, path: Path, progress: Callable[[float], None]) -> LoadedEncoder:
    """Load an encoder from a directory, or map it.

    Raises:
        Unsuitable, EncoderContext: the configuration does not fit an encoder.
        workers.weights.source.WeightsError: the files cannot be used; the message says which and why.
    """
    began = time.monotonic()
    model = assignment.model
    dtype = dtype_of(model)
    digest = weights_digest(path)
    key = Key(digest, f"encoder-{str(dtype).removeprefix('torch.')}", 0, 1, f"{layout()}, {LAYOUT}")
    weights = load_weights(path, dtype, lambda make: open_or_make(key, make), progress)
    context = weights.architecture.context
    if model.context_tokens > context:
        raise EncoderContext(
            f"model {model.name!r}: context_tokens = {model.context_tokens}, but {path.name} takes {context}"
        )
    load_s = time.monotonic() - began
    log.info("loaded %s in %.2f s", path.name, load_s, extra={"computed in": str(dtype)})
    return LoadedEncoder(weights, digest, model.context_tokens or context, path.name, load_s, is_kept(key))


def dtype_of(model: ModelConfig) -> torch.dtype:
    """What an encoder computes in. "auto" is float32, in which it gives the numbers of its own library.

    Raises:
        Unsuitable: the configuration asks for what encoders do not have.
    """
    for name, given in (
        ("tensor_parallel", model.tensor_parallel > 1),
        ("kv_dtype", model.kv_dtype != "auto"),
        ("quantize", model.quantize in ("int8", "int4")),
        ("deterministic", model.deterministic),
        ("pools", model.pools is not None),
        ('device = "cuda"', model.device == "cuda"),
    ):
        if given:
            raise Unsuitable(f"model {model.name!r} is an encoder: {name} is not for encoders; leave it out")
    if model.dtype == "float16":
        raise Unsuitable(f"model {model.name!r} is an encoder: dtype is float32 or bfloat16 for encoders, not float16")
    return torch.float32 if model.dtype == "auto" else DTYPES[model.dtype]
