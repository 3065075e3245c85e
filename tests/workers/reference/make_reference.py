"""Write the golden files of `FILES` with Hugging Face transformers, in float32, on the CPU.

    OMP_NUM_THREADS=1 nice python tests/workers/reference/make_reference.py smollm2 qwen05b gemma3

A prompt whose ids are those of the file that is there keeps its answer; delete the file to make all of it anew.

Per prompt: its ids, 64 greedy tokens (end-of-sequence ignored), the log probability of each, and the gap between the
best and the second best logit at each step. Tokenizers are built by hand: transformers does not split digits in the one
that it makes of a `smollm` GGUF. For Gemma only raw texts are prompts: its
file has no template.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parent))
from huggingface import reference_model
from prompts import PROMPTS, TEXTS

from bus.names import models_directory

HERE = Path(__file__).parent
FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen05b": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
         "gemma3": "gemma-3-270m-q4_k_m.gguf"}  # fmt: skip
STEPS = 64
CONTROL_TOKEN = 3
USER_DEFINED_TOKEN = 4
ANSWER = ("tokens", "logprobs", "gaps")

_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen2": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def sentencepiece_of(reader: GGUFReader) -> Tokenizer:
    """SentencePiece's BPE, whose merges are all pairs of tokens that make a token, the best token first."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    scores = reader.fields["tokenizer.ggml.scores"].contents()
    ids = {token: index for index, token in enumerate(tokens)}
    pairs = [
        (-scores[index], token[:cut], token[cut:])
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    merges = [(left, right) for _, left, right in sorted(pairs)]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == USER_DEFINED_TOKEN
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def tokenizer_of(reader: GGUFReader) -> Tokenizer:
    """The tokenizer that a GGUF describes, built by hand."""
    if reader.fields["tokenizer.ggml.model"].contents() == "llama":
        return sentencepiece_of(reader)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[reader.fields["tokenizer.ggml.pre"].contents()]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=False)
            if kind == CONTROL_TOKEN
        ]
    )
    return tokenizer


def render(reader: GGUFReader, messages: list[dict[str, Any]]) -> str:
    """A chat as the model's own template writes it, with the assistant's turn opened."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(reader.fields["tokenizer.chat_template"].contents())
    return template.render(messages=messages, add_generation_prompt=True, tools=None)


@torch.inference_mode()
def greedy(model: Any, ids: list[int]) -> dict[str, list[Any]]:
    """`STEPS` greedy tokens with their log probabilities and top-1/top-2 gaps."""
    tokens: list[int] = []
    logprobs: list[float] = []
    gaps: list[float] = []
    step_ids, past = torch.tensor([ids]), None
    for _ in range(STEPS):
        out = model(step_ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        logits = out.logits[0, -1].double()
        best = torch.topk(logits, 2)
        tokens.append(int(best.indices[0]))
        logprobs.append(round(float(best.values[0] - logits.logsumexp(0)), 6))
        gaps.append(round(float(best.values[0] - best.values[1]), 6))
        step_ids = best.indices[:1][None]
    return {"tokens": tokens, "logprobs": logprobs, "gaps": gaps}


def make(name: str) -> None:
    """Write one golden file."""
    path = models_directory() / FILES[name]
    reader = GGUFReader(path)
    tokenizer = tokenizer_of(reader)
    model = reference_model(path, reader)
    written = HERE / f"{name}.json"
    known = json.loads(written.read_text(encoding="utf-8"))["prompts"] if written.exists() else []
    answers = {tuple(prompt["ids"]): {key: prompt[key] for key in ANSWER} for prompt in known}
    prompts = []
    chats = "tokenizer.chat_template" in reader.fields
    for prompt in PROMPTS if chats else TEXTS:
        text = render(reader, prompt["messages"]) if "messages" in prompt else prompt["text"]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if not chats:
            ids.insert(0, int(reader.fields["tokenizer.ggml.bos_token_id"].contents()))
        answer = answers.get(tuple(ids)) or greedy(model, ids)
        prompts.append({**prompt, "ids": ids, **answer})
        print(f"{name} {prompt['name']}: {len(ids)} ids, least gap {min(answer['gaps']):.4f}", flush=True)
        print("   ", repr(tokenizer.decode(answer["tokens"]))[:160], flush=True)
    lines = ",\n".join(json.dumps(prompt, ensure_ascii=False, separators=(",", ":")) for prompt in prompts)
    written.write_text(f'{{"model":{json.dumps(FILES[name])},"prompts":[\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{name}: {len(prompts)} prompts, {np.sum([len(p['ids']) for p in prompts])} ids", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or list(FILES):
        make(name)
