"""transformers' model of a GGUF file, float32, with the two things put right that its GGUF support does not do.

It wants `accelerate` for `from_pretrained(gguf_file=...)`, so its reader is called directly; and it may tie the output
head of a file that has a head of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def reference_model(path: Path, reader: GGUFReader | None = None) -> Any:
    """The model of a GGUF file, in float32, in evaluation mode."""
    raw = load_gguf_checkpoint(str(path))["config"]
    config = AutoConfig.for_model(**raw)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert {*missing, *unexpected} <= {"lm_head.weight"}, (missing, unexpected)
    head = next((tensor for tensor in (reader or GGUFReader(path)).tensors if tensor.name == "output.weight"), None)
    if head is None:
        model.lm_head.weight = model.model.embed_tokens.weight
    else:
        model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(dequantize(head.data, head.tensor_type)))
    return model.eval()
