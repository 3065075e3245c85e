"""From a model's configuration to a model in memory, and what the scheduler must know of it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from bus.blocks import KV_LAYOUT, root_digest
from bus.catalogue import ModelMissing, locate
from bus.encoders import kind_of
from bus.messages.steps import KvShape, Registered
from bus.messages.vitals import WorkerView
from bus.packed import pack_u32
from bus.process import EXIT_BUG, EXIT_CONFIG
from workers.encoding.loading import EncoderContext, LoadedEncoder, load_encoder
from workers.engine import Engine, choose, require_kv, without_kernels
from workers.forms import capability_of, form_of, numerics, told
from workers.hbm.balance import NoRoom
from workers.host import Assignment, Unsuitable
from workers.kernels.pack import PACKING, ROUNDING
from workers.layers.linear import layout, pack
from workers.models.architecture import Architecture, kv_shape
from workers.models.load import contents, load_weights
from workers.models.packed import Misfit
from workers.models.warm import warm_up
from workers.speculative.choice import Speculation
from workers.speculative.heads import Head, UnusableHead, load_head
from workers.speculative.vocabulary import OtherVocabulary, require_same
from workers.step.windows import Folding
from workers.weights.digest import weights_digest
from workers.weights.loader import Form
from workers.weights.prepared import Prepared
from workers.weights.quantised.weight import LAYOUT as QUANTISED_LAYOUT
from workers.weights.sharding import TooManyRanks
from workers.weights.source import WeightsError
from workers.weights.store import Key, is_kept, open_or_make

log = logging.getLogger(__name__)


class ContextTooLong(ValueError):
    """The configuration asks for more context than the model has."""


@dataclass(frozen=True)
class Loaded:
    """A rank's weights, and the description of its model.

    Attributes:
        engine: what computes.
        weights_digest: of the weights, and of what their KV depends on beside them.
        root: unsalted root of the digest chain of its KV.
        file: name of the file or directory that they were read from.
        load_s: how long that took.
        shared: whether they are mapped from a file, as others of this host do.
        drafter: weights of the model that drafts, or the head, where there is one and this is rank 0.
    """

    weights: Prepared
    engine: Engine
    kv: KvShape
    weights_digest: bytes
    root: bytes
    context_tokens: int
    file: str = ""
    load_s: float = 0.0
    shared: bool = False
    drafter: Prepared | Head | None = None

    def registered(
        self, assignment: Assignment, group: int, device_pages: int = 0, folding: Folding | None = None
    ) -> Registered:
        """What a worker says when it is ready for plans.

        Args:
            group: incarnation of the rank group.
            device_pages: see `Registered`.
            folding: where pages behind windows can be done without.
        """
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
            dtype=self.engine.name,
            threads=assignment.threads if assignment.device.type == "cpu" else 1,
            drafts=0 if self.speculation(assignment) == "off" else assignment.model.drafts,
            device_pages=device_pages,
            window=folding.window if folding is not None else 0,
            fold=folding.blocks if folding is not None else 0,
        )

    def speculation(self, assignment: Assignment) -> Speculation:
        """Where drafts come from."""
        wanted = assignment.model.speculation
        if wanted != "auto":
            return wanted
        return "off" if self.weights.kernels is None or assignment.in_device_memory else "lookup"

    def warm_up(self, assignment: Assignment) -> None:
        """First steps, so that nobody waits for what is done only once."""
        warm_up(self.weights, assignment, self.engine.kv)

    def view(self, name: str, assignment: Assignment) -> WorkerView:
        """For telemetry."""
        model, instance, architecture = assignment.model, assignment.instance, self.weights.architecture
        bits = " and ".join(map(str, self.weights.bits))
        quantised = f"{bits} bits" if bits else ", ".join(self.weights.quantised)
        prefills = assignment.prefills
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
            quantisation=quantised or str(self.weights.dtype).removeprefix("torch."),
            engine=self.engine.name,
            device=assignment.device.type,
            threads=assignment.threads,
            weight_bytes=self.weights.bytes,
            shared=self.shared,
            digest=self.weights_digest,
            kv_dtype=self.kv.dtype,
            kv_token_bytes=self.kv.page_bytes // self.kv.page_tokens,
            page_tokens=self.kv.page_tokens,
            context_tokens=self.context_tokens,
            vocabulary=architecture.vocabulary,
            slots=model.slots,
            step_tokens=model.step_tokens,
            load_s=self.load_s,
            pool="" if prefills is None else "prefill" if prefills else "decode",
        )


Model = Loaded | LoadedEncoder


def load(assignment: Assignment, progress: Callable[[float], None]) -> Model:
    """Load this rank's share of a model, or map it. `progress` is told the fraction that is loaded.

    Raises:
        bus.catalogue.ModelMissing: its files are not on this machine.
        ContextTooLong, EncoderContext, Unsuitable: the configuration does not fit the model.
        workers.weights.sharding.TooManyRanks: neither does it.
        workers.weights.source.WeightsError, OSError: the files cannot be used; the message says which and why.
    """
    began = time.monotonic()
    torch.set_num_threads(assignment.threads)  # OpenMP keeps the number per thread, and this may be another one
    config = assignment.model
    path = locate(config.source)
    if kind_of(path) != "generate":
        return load_encoder(assignment, path, progress)
    rank, ranks = assignment.instance.rank, assignment.ranks
    digest = weights_digest(path)
    engine = choose(config, assignment.device, assignment.threads, path)
    form, capability = form_of(config, engine.device, path), capability_of(engine.device)

    def weights_for(engine: Engine) -> Prepared:
        key = store_key(digest, engine, rank, ranks, form)
        return load_weights(
            path,
            dtype=engine.dtype,
            rank=rank,
            ranks=ranks,
            progress=progress,
            keep=lambda make: open_or_make(key, make),
            kernels=engine.kernels,
            context=config.context_tokens,
            lay_out=pack if engine.device.type == "cpu" else lambda weight: weight,
            form=form,
        )

    try:
        weights = weights_for(engine)
    except Misfit as problem:
        engine = without_kernels(config, assignment.device, f"the CPU kernels do not take {problem}")
        weights = weights_for(engine)
    architecture = weights.architecture
    require_kv(config, engine, architecture)
    if config.context_tokens > architecture.context:
        raise ContextTooLong(
            f"model {config.name!r}: context_tokens = {config.context_tokens}, but {path.name} was trained for "
            f"{architecture.context}"
        )
    kv = kv_shape(architecture, assignment.page_tokens, engine.kv)
    computes = engine.numerics + numerics(form, capability)
    identity = identity_of(digest, computes, architecture.rope.variant, ranks, weights.rounded)
    if otherwise := told(weights, capability):
        log.warning("%s: %s", path.name, otherwise)
    load_s = time.monotonic() - began
    log.info("loaded %s in %.2f s", path.name, load_s, extra={"computed in": engine.name})
    return Loaded(
        weights=weights if engine.device.type == "cpu" else _moved(weights, engine.device, path),
        engine=engine,
        kv=kv,
        weights_digest=identity,
        root=root_digest(identity, kv.dtype, KV_LAYOUT, kv.page_tokens),
        context_tokens=config.context_tokens or architecture.context,
        file=path.name,
        load_s=load_s,
        shared=is_kept(store_key(digest, engine, rank, ranks, form)),
        drafter=_load_drafter(assignment, path, architecture),
    )


def identity_of(digest: bytes, computes: bytes, rope: str, ranks: int, rounded: str = "") -> bytes:
    """What KV is known by. Whatever makes other numbers of the same weights makes another identity, so that their KV is
    not found under the same digests: what computes, the rope's factors, and ranks, which add up each sum in parts.

    Args:
        digest: of the weights.
        computes: tells apart what computes: `Engine.numerics`, and the form of weights on a GPU.
        rope: variant of the factors; see `workers.models.rope`.
        ranks: that share a replica.
        rounded: see `workers.weights.prepared`.
    """
    beside = computes + rope.encode() + rounded.encode() + (f"ranks {ranks}".encode() if ranks > 1 else b"")
    return hashlib.sha256(digest + beside).digest() if beside else digest


def _load_drafter(assignment: Assignment, path: Path, architecture: Architecture) -> Prepared | Head | None:
    config = assignment.model
    if config.speculation == "head":
        return load_head(locate(config.draft_model), architecture)
    return load_draft(assignment, path) if config.speculation == "draft" and assignment.instance.rank == 0 else None


def load_draft(assignment: Assignment, model: Path) -> Prepared:
    """The weights of the model that drafts for `model`, all of them: it runs on one rank.

    Raises:
        OtherVocabulary: its drafts would mean nothing.
        bus.catalogue.ModelMissing, Unsuitable, workers.weights.source.WeightsError, OSError: see `load`.
    """
    path = locate(assignment.model.draft_model)
    if kind_of(path) != "generate":
        raise OtherVocabulary(f"{path.name} is an encoder and drafts nothing: draft_model is a model that generates")
    require_same(model, path)
    config = msgspec.structs.replace(assignment.model, source=assignment.model.draft_model)
    digest, engine = weights_digest(path), choose(config, assignment.device, assignment.threads, path)

    def weights_for(engine: Engine) -> Prepared:
        key = store_key(digest, engine, 0, 1)
        return load_weights(path, dtype=engine.dtype, keep=lambda make: open_or_make(key, make), kernels=engine.kernels)

    try:
        return weights_for(engine)
    except Misfit as problem:
        return weights_for(
            without_kernels(config, assignment.device, f"the CPU kernels do not take {problem}")
        )  # fmt: skip


def _moved(weights: Prepared, device: torch.device, path: Path) -> Prepared:
    try:
        return weights.on(device)
    except torch.OutOfMemoryError as error:
        free, total = (size / (1 << 30) for size in torch.cuda.mem_get_info(device))
        raise Unsuitable(
            f"{path.name} takes {weights.bytes / (1 << 30):.1f} GiB, and {device} has {free:.1f} of {total:.1f} left: "
            "take a smaller model, or a GPU that nobody else is on"
        ) from error


def store_key(digest: bytes, engine: Engine, rank: int, ranks: int, form: Form | None = None) -> Key:
    """Of a rank's share in the store."""
    if engine.kernels is None:
        laid_out = layout() if engine.device.type == "cpu" else "plain"
        variant = str(engine.dtype).removeprefix("torch.")
        if form is not None:
            variant, laid_out = f"{variant}-{form}", f"quantised {QUANTISED_LAYOUT}"
        return Key(digest, variant, rank, ranks, f"{laid_out}, {contents()}")
    scheme = engine.kernels.scheme
    rounding = f"rounding {ROUNDING}, " if scheme == "int4" else ""
    return Key(digest, f"packed-{scheme}", rank, ranks, f"packed {PACKING}, {rounding}{contents()}")


def why_not(model: str, error: Exception) -> tuple[str, int]:
    """What to say, and the exit code, where `load` or `bring_up` failed."""
    wrong = (
        ModelMissing, WeightsError, ContextTooLong, EncoderContext, OtherVocabulary, TooManyRanks, UnusableHead,
        Unsuitable, NoRoom, OSError,
    )  # fmt: skip
    if isinstance(error, wrong):
        return f"model {model!r}: {error}", EXIT_CONFIG
    log.error("could not start", exc_info=error)
    return f"model {model!r}: {type(error).__name__}: {error}", EXIT_BUG
