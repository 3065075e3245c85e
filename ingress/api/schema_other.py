"""Shapes of the endpoints that generate nothing: models, tokenize, detokenize, health, ready. Structs only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bus.encoders import Kind
from ingress.api.schema_chat import Messages
from ingress.api.schema_common import ModelName, TokenId

AdapterName = Annotated[str, Meta(min_length=1, max_length=48, description="Name that clients ask for it by.")]
AdapterPath = Annotated[str, Meta(min_length=1, max_length=4096, description="Its directory, as PEFT saves it.")]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A served model. `ready` says whether it can answer now, `max_model_len` how long prompt plus output may be,
    `kind` what it is for: it generates, makes embeddings, or reranks; `parent` is the model that an adapter is of."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "headrace"
    max_model_len: int
    ready: bool
    kind: Kind = "generate"
    parent: str | None = None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class LoadAdapterRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/load_lora_adapter`. `lora_path` is a directory in the one that the configuration names;
    `base_model_name` may be left out where one model only takes adapters at run time."""

    lora_name: AdapterName
    lora_path: AdapterPath
    base_model_name: ModelName | None = None


class UnloadAdapterRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/unload_lora_adapter`."""

    lora_name: AdapterName
    lora_int_id: int | None = None


class AdapterUnloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/unload_lora_adapter`."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool = True


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /tokenize`: `prompt` or `messages`, not both."""

    model: ModelName
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: (
        Annotated[bool, Meta(description="Whether text gets the model's own first tokens. Default true.")] | None
    ) = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    allow_special_tokens: bool | None = None
    return_token_strs: Annotated[bool, Meta(description="Adds the text of each token.")] | None = None


class TokenizeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /detokenize`."""

    model: ModelName
    tokens: Annotated[list[TokenId], Meta(max_length=4_000_000)]


class DetokenizeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /detokenize`. Special tokens are written out."""

    prompt: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /health`: this process is alive."""

    status: Literal["alive"] = "alive"


class ModelReadiness(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model, from what its scheduler says; never from a probe request. `reason`: why not all of its
    replicas are ready."""

    id: str
    ready: bool
    replicas_ready: int
    replicas: int
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /ready` where every configured model can answer."""

    status: Literal["ready"] = "ready"
    models: list[ModelReadiness]


class ModelProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One configured model: whether its work gets on. One that has none does. `reason`: what stands still, and since
    when."""

    id: str
    progressing: bool
    stuck_s: float
    reason: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /progress` where no model's work stands still."""

    status: Literal["progressing"] = "progressing"
    models: list[ModelProgress]
