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


# --- the same for SentencePiece ------------------------------------------------------------------------------------

UNKNOWN, BYTE = 2, 6
PIECES = [
    *"\u2581abehlowims_nd<>|/", "he", "ll", "hell", "hello", "\u2581hello", "\u2581w", "aa", "ab", "aba", "aaaa", "im",
    "im_", "<|", "|>", "<|im_", "nd", "end", "end|>", "<|im_end", "\t\t", "\u00e9", "\u2581\u2581",
]  # fmt: skip
SP_START, SP_END, SP_TOOL, SP_SPACES, SP_PAD = (259 + len(PIECES) + index for index in range(5))
SP_VOCABULARY = SP_PAD + 1


def sentencepiece_metadata(defined: tuple[str, str] = ("<tool_call>", "   "), **changes: Any) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary; the token id of a byte is the byte and three.

    Its pieces could make the names of control tokens, if these were tokens like others.
    """
    named = ["<|im_start|>", "<|im_end|>", *defined, "[PAD0]"]
    values: dict[str, Any] = {
        "model": "llama",
        "pre": "default",
        "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *named],
        "scores": [0.0] * 259 + [-float(index) for index in range(len(PIECES))] + [-1000.0] * 5,
        "token_type": [
            *(UNKNOWN, CONTROL, CONTROL), *[BYTE] * 256, *[NORMAL] * len(PIECES),
            *(CONTROL, CONTROL, USER_DEFINED, USER_DEFINED, UNUSED),
        ],
        "merges": None,
        "bos_token_id": 1,
        "eos_token_id": SP_END,
        "unknown_token_id": 0,
        "add_bos_token": None,
    }  # fmt: skip
    return tiny_metadata(**values | changes)
