"""A byte-level vocabulary small enough to read: 256 bytes, four merges, control tokens."""

from __future__ import annotations

from typing import Any

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def alphabet() -> list[str]:
    """GPT-2's character for each byte, made the way GPT-2's own code makes it."""
    kept = (
        list(range(ord("!"), ord("~") + 1)) + list(range(ord("¡"), ord("¬") + 1)) + list(range(ord("®"), ord("ÿ") + 1))
    )
    characters, extra = {byte: chr(byte) for byte in kept}, 0
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + extra)
            extra += 1
    return [characters[byte] for byte in range(256)]


MERGED = ["he", "ll", "hell", "hello", "Ġw"]
START, END, TOOL, PAD = 256 + len(MERGED), 257 + len(MERGED), 258 + len(MERGED), 259 + len(MERGED)
VOCABULARY = PAD + 1


def tiny_metadata(**changes: Any) -> dict[str, Any]:
    """GGUF metadata; a byte's token id is the byte itself. `changes` are keys without `tokenizer.ggml.`."""
    tokens = [*alphabet(), *MERGED, "<|im_start|>", "<|im_end|>", "<tool_call>", "[PAD0]"]
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tokens,
        "token_type": [NORMAL] * (256 + len(MERGED)) + [CONTROL, CONTROL, USER_DEFINED, UNUSED],
        "merges": ["h e", "l l", "he ll", "hell o", "Ġ w"],
        "eos_token_id": END,
        "bos_token_id": START,
        "add_bos_token": False,
        **changes,
    }
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}
    return {
        "general.architecture": "llama", "llama.context_length": 128, "tokenizer.chat_template": TEMPLATE, **prefixed,
    }  # fmt: skip
