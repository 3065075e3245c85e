"""A served model as the ingress knows it: how its text works, and what its scheduler says of it."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

from bus.catalogue import locate, recommended
from bus.config import ModelConfig, ReasoningConfig, SamplingConfig
from bus.encoders import BadEncoder, EncoderFacts, Kind, kind_of, read_facts
from bus.messages.requests import ModelFacts
from ingress.drawing import Drawing, recommended_by, said_by_directory, said_by_gguf
from ingress.errors import context_length_exceeded
from ingress.grammar.trial import Trials
from ingress.text import template, tokenizer
from ingress.text.control import ControlNames
from ingress.text.effort import Reasoning
from ingress.text.gguf_metadata import GgufError, read_metadata
from ingress.text.prompt import Rendered
from ingress.text.template import BadTemplate, ChatTemplate
from ingress.text.tokenizer import Tokenizer, UnsupportedTokenizer
from ingress.tools.styles import STYLES, style_of

# Below this many characters encoding is done at once; above, in a thread (the tokeniser releases the GIL).
_INLINE_CHARACTERS = 8192

# Special tokens by the names that templates use, and by those of GGUF.
_TEMPLATE_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class _Standing:
    """What a model and its adapters have in common, and what changes."""

    __slots__ = ("facts", "up")

    def __init__(self) -> None:
        self.facts: ModelFacts | None = None
        self.up = False


class ServedModel:
    """One model of this ingress.

    Attributes:
        name: under which clients ask for it.
        tokenizer: text to ids and back.
        template: renders messages; `None` for a base model without one.
        control: names of its control tokens, which messages may not write.
        created: when its files were made, Unix seconds.
        eos_ids: ids that end a sequence, from the tokeniser's metadata and the generation configuration.
        prefix_cache: whether prompts' KV may be found and kept.
        encoder: what it is as an encoder; `None` where it generates.
        base: name of the model whose scheduler serves it; another one than its own where it is an adapter.
        adapter: digest of that; empty where it is none, or nobody has read it yet.
        trouble: why the adapter cannot be used.
        trials: of grammars that answers shall follow.
        calls: how it writes tool calls; `None` where it makes none.
        control_tokens: ids of control tokens by name.
        reasoning: how it thinks.
        drawing: how tokens are drawn for requests that say nothing of it.
    """

    trials: Trials

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        eos_ids: tuple[int, ...] = (),
        context_tokens: int = 0,
        created: int = 0,
        prefix_cache: bool = True,
        encoder: EncoderFacts | None = None,
        tool_parser: str = "auto",
        reasoning: ReasoningConfig | None = None,
        drawing: Drawing | None = None,
    ) -> None:
        self.encoder = encoder
        self.name = name
        self.tokenizer = tokenizer
        self.template = template
        source = template.source if template is not None else ""
        written = [name for name in tokenizer.other_names if name.strip() and name in source]
        self.control = ControlNames(tokenizer.control_names, written)
        self.reasoning = Reasoning(reasoning or ReasoningConfig(), source, tokenizer)
        self.calls = style_of(source) if tool_parser == "auto" else STYLES.get(tool_parser)
        self.control_tokens = {
            tokenizer.token_bytes(index).decode("utf-8", "replace"): index for index in tokenizer.control_ids
        }
        self.eos_ids = eos_ids
        self.drawing = drawing or Drawing()
        self.created = created
        self.prefix_cache = prefix_cache
        self.base, self.adapter, self.trouble = name, b"", ""
        self._standing = _Standing()
        self._context_tokens = context_tokens

    def adapted(self, name: str, adapter: bytes, trouble: str = "", created: int = 0) -> ServedModel:
        """The same with an adapter, under a name of its own."""
        other = copy.copy(self)
        other.name, other.adapter, other.trouble, other.created = name, adapter, trouble, created or self.created
        return other

    @property
    def facts(self) -> ModelFacts | None:
        """What the scheduler said last; `None` before it was met."""
        return self._standing.facts

    @facts.setter
    def facts(self, facts: ModelFacts | None) -> None:
        self._standing.facts = facts

    @property
    def up(self) -> bool:
        """Whether the scheduler is connected now."""
        return self._standing.up

    @up.setter
    def up(self, up: bool) -> None:
        self._standing.up = up

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter of `base`."""
        return self.base != self.name

    @property
    def kind(self) -> Kind:
        """What it is for."""
        return self.encoder.kind if self.encoder is not None else "generate"

    @property
    def ready(self) -> bool:
        """Whether a request would be taken to a replica now."""
        there = self.up and self.facts is not None and self.facts.replicas_ready > 0
        return there and not (self.is_adapter and not self.adapter)

    @property
    def context_tokens(self) -> int:
        """Longest prompt plus output: the scheduler's word; before it has one, the model file's."""
        return (self.facts.context_tokens if self.facts is not None else 0) or self._context_tokens

    @property
    def vocabulary(self) -> int:
        """Token ids are below this: the model's logits; before the scheduler knows them, the tokeniser's ids."""
        return (self.facts.vocabulary if self.facts is not None else 0) or self.tokenizer.vocabulary

    async def encode_prompt(self, rendered: Rendered) -> list[int]:
        """Token ids of a rendered conversation; otherwise like `encode`."""
        if not rendered.mark:
            return await self.encode(rendered.text, special=False)
        self._check_length(rendered.text)
        return await asyncio.to_thread(self.tokenizer.encode_apart, *rendered)

    async def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text, without keeping the loop from others.

        Raises:
            ApiError: 400, the text cannot fit the context whatever its tokens are.
        """
        if len(text) <= _INLINE_CHARACTERS:
            return self.tokenizer.encode(text, special=special)
        self._check_length(text)
        return await asyncio.to_thread(self.tokenizer.encode, text, special=special)

    def _check_length(self, text: str) -> None:
        limit = self.context_tokens
        # No token holds more characters than the longest one, so a text beyond this is too long for certain; without
        # the check a body of many megabytes would be encoded only to be refused.
        if limit and len(text) > limit * self.tokenizer.longest_token:
            raise context_length_exceeded(
                f"This model's context is {limit} tokens; the prompt has {len(text)} characters, "
                f"at least {-(-len(text) // self.tokenizer.longest_token)} tokens."
            )


class ModelUnusable(ValueError):
    """A model's files are there and cannot be served from. The message names the file."""


def load(config: ModelConfig) -> ServedModel:
    """Read what the ingress needs of a model's files: tokeniser, template, limits. Never its weights.

    Raises:
        ModelMissing: the files are not on this machine.
        ModelUnusable: they cannot be read, or are of a kind that is not built.
    """
    path = locate(config.source)
    try:
        return _from_directory(config, path) if path.is_dir() else _from_gguf(config, path)
    except (GgufError, UnsupportedTokenizer, BadTemplate, BadEncoder, OSError) as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise ModelUnusable(f"model {config.name}: {where}{error}") from None


def _from_gguf(config: ModelConfig, path: Path) -> ServedModel:
    metadata = read_metadata(path)
    tokens = tokenizer.from_gguf(metadata)
    source = metadata.get("tokenizer.chat_template")
    names = {
        name: tokens.token_bytes(index).decode("utf-8", "replace")
        for name, key in _TEMPLATE_TOKENS.items()
        if isinstance(index := metadata.get(f"tokenizer.ggml.{key}_token_id"), int)
    }
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return _served(config, path, tokens, source, names, context, said_by_gguf(metadata, path))


def _from_directory(config: ModelConfig, path: Path) -> ServedModel:
    if kind_of(path) != "generate":
        return _encoder(config, path)
    context = tokenizer.read_json(path / "config.json").get("max_position_embeddings")
    names = tokenizer.special_tokens(path)
    generation = path / "generation_config.json"
    said = said_by_directory(tokenizer.read_json(generation), generation)
    return _served(config, path, tokenizer.from_directory(path), template.from_directory(path), names, context, said)


def _encoder(config: ModelConfig, path: Path) -> ServedModel:
    facts = read_facts(path)
    return ServedModel(
        config.name,
        tokenizer.from_directory(path),
        None,
        context_tokens=min(config.context_tokens or facts.max_tokens, facts.max_tokens),
        created=int(path.stat().st_mtime),
        prefix_cache=False,
        encoder=facts,
    )


def _served(
    config: ModelConfig,
    path: Path,
    tokens: Tokenizer,
    source: object,
    names: dict[str, str],
    context: object,
    said: SamplingConfig,
) -> ServedModel:
    limits = [limit for limit in (config.context_tokens, context) if isinstance(limit, int) and limit > 0]
    return ServedModel(
        config.name,
        tokens,
        ChatTemplate(source, names) if isinstance(source, str) and source else None,
        eos_ids=tokens.eos_ids,
        context_tokens=min(limits, default=0),
        created=int(path.stat().st_mtime),
        prefix_cache=config.prefix_cache,
        tool_parser=config.tool_parser,
        reasoning=config.reasoning,
        drawing=recommended_by(config.sampling, said, recommended(config.source)),
    )
