"""The texts of a request, each with its place and whose it is; and the same request with other texts. Pure.

What is text here is what a template may show a model: contents of messages, arguments of earlier calls, names, prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

Path = tuple[str | int, ...]


class Text(NamedTuple):
    """One of them. `role` is empty where it is of no message; one without a path was given as token ids."""

    path: Path
    role: str
    text: str

    @property
    def where(self) -> str:
        """As errors name it: `messages[0].content`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")


EARLIER: Final = "previous_response_id"  # under which errors know what is kept here, and not in the body
# Where a body holds text, on any surface; below them every text counts, but what only names or refers to something.
_TEXTS: Final = ("system", "instructions", "messages", "input", "prompt", "suffix")
_NOT: Final = frozenset({
    "role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "name", "image_url", "input_audio", "file",
    "source", "cache_control", "signature", "encrypted_content", "status",
})  # fmt: skip


def parse(body: bytes) -> Any:
    """A body that was found good, as dictionaries and lists."""
    return msgspec.json.decode(body)


def texts(tree: Any) -> Iterator[Text]:
    """All of a body, in order. What was given as token ids is not among them."""
    for key in _TEXTS:
        if (value := tree.get(key)) is not None:
            yield from _below((key,), "system" if key in ("system", "instructions") else "", value)


def earlier_texts(items: Any) -> Iterator[Text]:
    """All of the stored conversation that a call goes on with."""
    yield from _below((EARLIER,), "", items)


def _below(path: Path, role: str, value: Any) -> Iterator[Text]:
    if isinstance(value, str):
        yield Text(path, role, value)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _below((*path, index), role, part)
    elif isinstance(value, dict):
        role = str(value.get("role") or role)
        for key, part in value.items():
            if key not in _NOT:
                yield from _below((*path, key), role, part)


def replaced(tree: Any, others: Mapping[Path, str]) -> bytes:
    """The body with other texts in these places; the tree is changed."""
    for path, text in others.items():
        at = tree
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = text
    return msgspec.json.encode(tree)
