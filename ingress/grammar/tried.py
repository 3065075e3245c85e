"""The process in which grammars are tried: `python -m ingress.grammar.tried`, with frames on its standard streams.

Nothing that a grammar does here reaches anybody: the memory and the processor's time that it may take are the kernel's
to bound, and it ends with the pipe from its ingress. It needs no model: what llguidance bounds it counts, and those
bounds do not depend on tokens, so bytes are tokens enough.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, BinaryIO, Final, cast

import llguidance
import msgspec
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark

from bus.grammars import LIMITS
from ingress.grammar.frames import LENGTH_BYTES, SECONDS, Tried

MEMORY: Final = 1 << 30  # bytes of address space


class _Bytes:
    """Every byte is a token; one more ends."""

    is_tokenizer_wrapper = True
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def tried(text: str, tokenizer: Any, limits: Any) -> Tried:
    """Build it, and see that it leaves a way to begin."""
    text = _converted(text)
    matcher = llguidance.LLMatcher(tokenizer, text, log_level=0, limits=limits)
    if matcher.is_error():
        return Tried(text, _trouble(matcher.get_error()))
    mask = np.zeros(9, np.uint32)
    matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    if matcher.is_error():
        return Tried(text, _trouble(matcher.get_error()))
    return Tried(text, "" if mask.any() else "nothing can be said in it")


def new_tokenizer() -> Any:
    """For `tried`."""
    return llguidance.LLTokenizer(cast(Any, _Bytes()), n_vocab=257, eos_token=256, slices=[])


def _converted(text: str) -> str:
    """With what is written as GBNF in Lark's form."""
    if not text.startswith("{"):
        return text
    parts = json.loads(text)
    for part in parts["grammars"]:
        if "::=" in part["lark_grammar"]:
            part["lark_grammar"] = gbnf_to_lark(part["lark_grammar"])
    return json.dumps(parts)


def _trouble(error: str) -> str:
    """What the library says, without where in our own text that was."""
    lines = [line.strip() for line in error.splitlines() if line.strip() and not line.lstrip()[:1].isdigit()]
    kept = [line for line in lines if not set(line) <= {"^", "-", "|", " "} and not line.startswith("while processing")]
    first = error.splitlines()[0] if error else "unknown"
    said = first.partition(": ")[2] if first.startswith("at ") else " ".join(kept) or first
    return said.removeprefix("failed to compile JSON schema: ").strip()[:300]


def main() -> None:
    """Answer until the pipe is closed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer, limits = new_tokenizer(), llguidance.LLParserLimits(**LIMITS)
    while (text := _read(sys.stdin.buffer)) is not None:
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 1 + SECONDS, resource.RLIM_INFINITY))
        try:
            answer = tried(text, tokenizer, limits)
        except Exception as error:  # of a converter that is given anything
            answer = Tried(text, f"{type(error).__name__}: {error}"[:300])
        data = msgspec.msgpack.encode(answer)
        sys.stdout.buffer.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
        sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> str | None:
    length = stream.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    return stream.read(int.from_bytes(length, "little")).decode()


if __name__ == "__main__":
    main()
