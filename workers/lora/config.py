"""`adapter_config.json` as PEFT writes it. What would change the model in a way that is not served is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_RANK: Final = 256

# Each of them changes what is computed, where it is set to anything.
_REFUSED: Final = (
    "modules_to_save", "fan_in_fan_out", "lora_bias", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "megatron_config", "loftq_config",
    "corda_config", "lora_ga_config",
)  # fmt: skip
# These begin from changed weights of the base, which an adapter alone does not have.
_CHANGED_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
# A pattern is tried on every module. Without repetition and alternatives none takes long.
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.^$\\-]+")


class BadConfig(ValueError):
    """The configuration is none of a LoRA adapter that can be served."""


class PeftConfig(msgspec.Struct, frozen=True):
    """What is needed of the file.

    Attributes:
        r, lora_alpha: rank, and what the scale is made of.
        rank_pattern, alpha_pattern: others, by patterns of module names, as `peft.utils.get_pattern_key` reads them.
        use_rslora: the scale is `alpha / sqrt(rank)` (arXiv:2312.03732), else `alpha / rank`.
    """

    peft_type: str
    r: int = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    rank_pattern: dict[str, int] = msgspec.field(default_factory=dict)
    alpha_pattern: dict[str, float] = msgspec.field(default_factory=dict)

    def rank(self, module: str) -> int:
        """Of a module, by its name in the model."""
        return self.rank_pattern.get(_key(self.rank_pattern, module), self.r)

    def scale(self, module: str) -> float:
        """Multiplies what a module's two matrices give."""
        alpha = self.alpha_pattern.get(_key(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def parse_config(data: bytes | bytearray, max_rank: int = MAX_RANK) -> PeftConfig:
    """Read and check.

    Raises:
        BadConfig: it cannot be served; the message names the field.
    """
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
        config = msgspec.convert(raw, PeftConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadConfig(f"not the configuration of an adapter: {error}") from None
    if config.peft_type != "LORA":
        raise BadConfig(f"peft_type {config.peft_type!r}: only LORA is served")
    if raw.get("bias", "none") != "none":
        raise BadConfig(f"bias {raw['bias']!r}: only adapters without trained biases are served")
    variants = (name for name in raw if name.startswith("use_") and name != "use_rslora")
    for name in (*_REFUSED, *variants):
        if raw.get(name):
            raise BadConfig(f"{name} is set, which is not served")
    begun = raw.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGED_BASE):
        raise BadConfig(f"init_lora_weights {begun!r} changed the base's weights: convert it to a plain LoRA in PEFT")
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        if not _PATTERN.fullmatch(pattern) or not _compiles(pattern):
            raise BadConfig(f"pattern {pattern!r}: only names, with dots, ^, $ and escapes are read")
    for rank in (config.r, *config.rank_pattern.values()):
        if not 1 <= rank <= max_rank:
            raise BadConfig(f"rank {rank}: 1 to {max_rank} are served")
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if not math.isfinite(alpha) or abs(alpha) > 1e6:
            raise BadConfig(f"lora_alpha {alpha} is no number that a scale is made of")
    return config


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _key(patterns: Mapping[str, object], module: str) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)
