"""`[[model]]`: what is served, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from bus.config.reasoning import ReasoningConfig
from bus.config.reasoning import problems as reasoning_problems
from bus.config.sampling import SamplingConfig
from bus.config.section import Positive, Problem, Seconds, Section, parse_size, unless
from bus.names import MODEL_NAME


class PoolsConfig(Section, frozen=True):
    """`[model.pools]`: some replicas only prefill, and the others decode what those have prefilled.

    Attributes:
        prefill, decode: how many. The decoding ones have the lower numbers.
    """

    prefill: Annotated[int, Meta(ge=1, le=32)] = 1
    decode: Annotated[int, Meta(ge=1, le=32)] = 1


class LoraConfig(Section, frozen=True):
    """`[model.lora]`: adapters beside the model.

    Attributes:
        resident: how many a replica has in memory at once; the others are read when they are asked for.
        max_rank, max_size: larger ones are refused.
        directory: adapters may be loaded from here while the model is served; empty is from nowhere.
    """

    resident: Annotated[int, Meta(ge=1, le=1024)] = 8
    max_rank: Annotated[int, Meta(ge=1, le=256)] = 256
    max_size: str = "1GiB"
    directory: str = ""


class AdapterConfig(Section, frozen=True):
    """`[[model.adapter]]`: one that is there from the beginning.

    Attributes:
        name: under which clients ask for it.
        source: `path:/DIR` or `hf:ORG/REPO`, as PEFT saves one.
    """

    name: str
    source: str


class ModelConfig(Section, frozen=True):
    """`[[model]]`: one served model.

    Attributes:
        name: under which clients ask for it.
        source: `catalog:NAME`, `hf:ORG/REPO`, `path:/DIR` (safetensors) or a `.gguf` file.
        device, dtype: "auto" picks what the host is good at.
        kv_dtype: what keys and values are kept as; "auto" follows `dtype`, "int8" has a scale for each token and head.
        quantize: "auto" computes with a quantised file's own bits; "int8" and "int4" round floats to so many at load,
            "fp8" on a GPU to that; "none" makes floats of everything.
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
        speculation: where draft tokens come from: "lookup" goes on as the same tokens went on before in prompt and
            answer, "suffix" as they went on most often; "draft" has a smaller model draft, "head" a head on the model's
            hidden states (EAGLE, MTP). "off" drafts nothing.
            Answers are the same, token by token; how many drafts there are, down to none, follows what they bring.
            "auto" is "lookup" where the CPU kernels compute, whose bits do not depend on how a sequence is cut into
            steps, and "off" elsewhere.
        draft_model: for "draft": a model with the same vocabulary, as `source` names one; for "head" the head.
        draft_tokens: the most drafts of a request in one step.
        tool_parser: how the model writes tool calls; "auto" finds that in its chat template, "none" has it call none.
        device_kv: of a GPU's memory for KV, "40GiB"; "0" is what weights, activations and graphs leave.
        hang_s: a step longer than this means that the worker hangs. Once step times are known, a third of it and ten
            times the prediction; a tenth of it where the worker uses no CPU.
        reasoning: how it thinks, beside what its chat template tells.
        sampling: how tokens are drawn for requests that say nothing of it.
        lora, adapter: adapters that are served beside it.
    """

    name: str
    source: str
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    quantize: Literal["auto", "none", "fp8", "int8", "int4"] = "auto"
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
    speculation: Literal["auto", "off", "lookup", "suffix", "draft", "head"] = "auto"
    draft_model: str = ""
    draft_tokens: Annotated[int, Meta(ge=1, le=32)] = 12
    tool_parser: Literal[
        "auto", "none", "hermes", "llama3", "mistral", "mistral_args", "deepseek", "deepseek_v31", "pythonic"
    ] = "auto"
    hang_s: Seconds = 30.0
    device_kv: str = "0"
    pools: PoolsConfig | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    sampling: SamplingConfig = SamplingConfig()
    lora: LoraConfig = LoraConfig()
    adapter: tuple[AdapterConfig, ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """All that it is read from, by key."""
        return {"source": self.source} | ({"draft_model": self.draft_model} if self.draft_model else {})

    @property
    def drafts(self) -> int:
        """The most draft tokens of a request in one step, where its worker drafts; 0 where nothing may."""
        return 0 if self.speculation == "off" else self.draft_tokens

    @property
    def all_replicas(self) -> int:
        """Replicas of all kinds."""
        return self.replicas if self.pools is None else self.pools.decode + self.pools.prefill

    @property
    def first_prefill(self) -> int:
        """The number of the first replica that only prefills; `all_replicas` where none does."""
        return self.all_replicas if self.pools is None else self.pools.decode


_SOURCE: Final = re.compile(r"(catalog:|hf:|path:).+|.+\.gguf$")

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
        yield from reasoning_problems(model.reasoning, ("model", index, "reasoning"))
        if model.device == "cuda" and model.speculation not in ("auto", "off"):
            yield ("model", index, "speculation"), "nothing is drafted on a GPU yet: leave it out"
        if model.device != "cuda" and model.quantize == "fp8":
            yield ("model", index, "quantize"), 'FP8 is multiplied on GPUs: with device = "cuda", or take "int8"'
        if model.device == "cuda" and model.kv_dtype != "auto":
            yield ("model", index, "kv_dtype"), "a GPU keeps KV in the dtype that it computes in: leave it out"
        yield from unless(parse_size, model.device_kv, ("model", index, "device_kv"))
        if not _SOURCE.match(model.source):
            yield ("model", index, "source"), "expected catalog:NAME, hf:ORG/REPO, path:/DIR or a .gguf file"
        drafter = model.speculation in ("draft", "head")
        if drafter and not _SOURCE.match(model.draft_model):
            yield (
                ("model", index, "draft_model"),
                f'speculation = "{model.speculation}" needs what drafts: catalog:NAME, hf:ORG/REPO, path:/DIR or a '
                ".gguf file",
            )
        if model.speculation == "head" and model.tensor_parallel > 1:
            yield ("model", index, "speculation"), "a head drafts on one rank only: leave tensor_parallel out"
        if model.draft_model and not drafter:
            yield ("model", index, "draft_model"), f'nothing uses it with speculation = "{model.speculation}"'
        yield from unless(parse_size, model.lora.max_size, ("model", index, "lora", "max_size"))
        if model.lora.directory and not model.lora.directory.startswith("/"):
            yield ("model", index, "lora", "directory"), "expected an absolute path"
    for index, model in enumerate(models):
        for number, adapter in enumerate(model.adapter):
            where = ("model", index, "adapter", number)
            if MODEL_NAME.fullmatch(adapter.name) is None:
                yield (*where, "name"), "letters, digits, dot, dash and underscore only, at most 48"
            if adapter.name in names:
                yield (*where, "name"), f"{adapter.name!r} is there twice"
            names.add(adapter.name)
            if not re.match(r"(hf:|path:).+", adapter.source):
                yield (*where, "source"), "expected path:/DIR or hf:ORG/REPO"
