"""`[[model]]`: what is served, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from bus.config.section import Positive, Problem, Seconds, Section
from bus.names import MODEL_NAME


class PoolsConfig(Section, frozen=True):
    """`[model.pools]`: some replicas only prefill, and the others decode what those have prefilled.

    Attributes:
        prefill, decode: how many. The decoding ones have the lower numbers.
    """

    prefill: Annotated[int, Meta(ge=1, le=32)] = 1
    decode: Annotated[int, Meta(ge=1, le=32)] = 1


class ModelConfig(Section, frozen=True):
    """`[[model]]`: one served model.

    Attributes:
        name: under which clients ask for it.
        source: `catalog:NAME`, `hf:ORG/REPO`, `path:/DIR` (safetensors) or a `.gguf` file.
        device, dtype: "auto" picks what the host is good at.
        kv_dtype: what keys and values are kept as; "auto" follows `dtype`, "int8" has a scale for each token and head.
        quantize: "auto" computes with a quantised file's own bits; "int8" and "int4" round floats to so many at load;
            "none" makes floats of everything.
        deterministic: an answer is the same, bit by bit, whatever else is in the batch.
        replicas, tensor_parallel: how many copies, and over how many ranks each.
        pools: replicas for prefill apart from those that decode, in place of `replicas`.
        standby: processes per rank that have everything loaded and take over when the worker dies.
        context_tokens: 0 takes the model's own limit.
        slots: requests that run at once on a replica.
        step_tokens: most tokens of one step: the budget that decodes and prefill chunks share.
        page_tokens: 0 picks 16 on a CPU, 64 on a GPU.
        queue_requests, queue_tokens: bounds of the waiting queue; beyond them 429.
        inter_token_target_ms: prefill chunks are cut so that a step with decodes in it stays under this; 0 is off.
        threads: CPU threads per rank; 0 shares the cores among the ranks.
        prefix_cache: find and keep prompts' KV.
        tool_parser: how the model writes tool calls; "auto" finds that in its chat template, "none" has it call none.
        hang_s: a step longer than this means that the worker hangs. Once step times are known, a third of it and ten
            times the prediction; a tenth of it where the worker uses no CPU.
    """

    name: str
    source: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    quantize: Literal["auto", "none", "int8", "int4"] = "auto"
    deterministic: bool = False
    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    tensor_parallel: Annotated[int, Meta(ge=1, le=8)] = 1
    standby: Annotated[int, Meta(ge=0, le=1)] = 0
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    slots: Annotated[int, Meta(ge=1, le=4096)] = 64
    step_tokens: Annotated[int, Meta(ge=16, le=65536)] = 512
    page_tokens: Annotated[int, Meta(ge=0, le=256)] = 0
    queue_requests: Positive = 256
    queue_tokens: Positive = 262_144
    inter_token_target_ms: Annotated[float, Meta(ge=0)] = 250.0
    threads: Annotated[int, Meta(ge=0)] = 0
    prefix_cache: bool = True
    tool_parser: Literal[
        "auto", "none", "hermes", "llama3", "mistral", "mistral_args", "deepseek", "deepseek_v31", "pythonic"
    ] = "auto"
    hang_s: Seconds = 30.0
    pools: PoolsConfig | None = None

    @property
    def all_replicas(self) -> int:
        """Replicas of all kinds."""
        return self.replicas if self.pools is None else self.pools.decode + self.pools.prefill

    @property
    def first_prefill(self) -> int:
        """The number of the first replica that only prefills; `all_replicas` where none does."""
        return self.all_replicas if self.pools is None else self.pools.decode


DEMO_MODEL: Final = ModelConfig(name="smollm2", source="catalog:smollm2-135m-instruct")


def problems(models: tuple[ModelConfig, ...]) -> Iterator[Problem]:
    """What types cannot say."""
    if not models:
        yield ("model",), "at least one [[model]] is needed"
    names: set[str] = set()
    for index, model in enumerate(models):
        if MODEL_NAME.fullmatch(model.name) is None:
            yield ("model", index, "name"), "letters, digits, dot, dash and underscore only, at most 48"
        if model.name in names:
            yield ("model", index, "name"), f"{model.name!r} is there twice"
        names.add(model.name)
        if model.pools is not None and model.replicas != 1:
            yield ("model", index, "replicas"), "[model.pools] says how many there are: leave this out"
        if model.pools is not None and model.device == "cuda":
            yield ("model", index, "pools"), "workers share the arena's pages on a CPU only: leave pools out"
        if not re.match(r"(catalog:|hf:|path:).+|.+\.gguf$", model.source):
            yield ("model", index, "source"), "expected catalog:NAME, hf:ORG/REPO, path:/DIR or a .gguf file"
