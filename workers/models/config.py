"""From files to an `Architecture`. No weights.

GGUF metadata and Hugging Face's config.json say the same things under different names: `config_gguf` and `config_hf`
read what is the same in all families, and each family of `families` adds what is its own. Whatever would make the
model compute something else than it was trained for is refused here by name, never ignored.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workers.models.architecture import Architecture
from workers.models.config_gguf import Metadata, gguf_architecture
from workers.models.config_hf import hf_architecture, read_hf_config, read_model_type
from workers.models.families import Family, family_of_gguf, family_of_hf, supported
from workers.weights.source import WeightsError

if TYPE_CHECKING:
    from workers.weights.gguf_file import GgufFile


def read_architecture(path: Path) -> Architecture:
    """Of a GGUF file or a Hugging Face directory.

    Raises:
        WeightsError: the files are missing or broken, or the model is of a kind that is not supported.
    """
    if path.is_dir():
        return _of_directory(path)
    from workers.weights.gguf_file import GgufFile  # slow to import, and not needed where weights are mapped

    return _of_gguf(GgufFile(path))


def _of_gguf(file: GgufFile) -> Architecture:
    metadata = Metadata(file)
    family = family_of_gguf(metadata.kind)
    if family is None:
        raise _unsupported(file.path, metadata.kind)
    return _checked(file.path, family, family.gguf(metadata, gguf_architecture(metadata, family.name)))


def _of_directory(path: Path) -> Architecture:
    kind = read_model_type(path)
    family = family_of_hf(kind)
    if family is None:
        raise _unsupported(path, kind)
    config = read_hf_config(path)
    activation = config.hidden_activation or config.hidden_act
    if activation not in family.activations:
        raise WeightsError(
            path, f"activation {activation!r} is not supported in {family.name} ({family.activations[0]} is)"
        )
    return _checked(path, family, family.hf(config, hf_architecture(path, config, family.name), path))


def _unsupported(path: Path, name: str) -> WeightsError:
    return WeightsError(path, f"architecture {name!r} is not supported ({', '.join(supported())} are)")


def _checked(path: Path, family: Family, architecture: Architecture) -> Architecture:
    a = _without_idle_windows(architecture)
    sizes = [a.layers, a.hidden, a.intermediate, a.heads, a.kv_heads, a.head_dim, a.vocabulary, a.context]
    if a.experts is not None:
        sizes += [a.experts.count, a.experts.chosen, a.experts.intermediate]
    if min(sizes) < 1:
        raise WeightsError(path, f"a size that is not positive: {a}")
    if a.heads % a.kv_heads or a.head_dim % 2 or a.rope.rotated % 2:
        raise WeightsError(path, f"{a.heads} heads of {a.head_dim} over {a.kv_heads} KV heads do not fit each other")
    if a.experts is not None and a.experts.chosen > a.experts.count:
        raise WeightsError(path, f"{a.experts.chosen} experts of {a.experts.count} cannot be chosen")
    if a.rope.rotated and not family.partial_rope:
        raise WeightsError(
            path,
            f"rope over {a.rope.rotated} of {a.head_dim} dimensions of a head (partial_rotary_factor) is not "
            f"supported in {a.name}",
        )
    if a.rope.kind == "longrope":
        factors = (a.rope.rotated or a.head_dim) // 2
        if (len(a.rope.short), len(a.rope.long)) != (factors, factors):
            raise WeightsError(
                path, f"longrope has {len(a.rope.short)} short and {len(a.rope.long)} long factors, expected {factors}"
            )
    return a


def _without_idle_windows(architecture: Architecture) -> Architecture:
    """Windows that are as long as the context hide nothing. Where they go with a rope of their own they stay."""
    if architecture.local_rope is not None:
        return architecture
    windows = tuple(0 if window >= architecture.context else window for window in architecture.windows)
    return replace(architecture, windows=windows if any(windows) else ())
