"""`[[guard]]`: which detectors look at what goes in and comes out, and what follows.

A key that the guard's kind does not know is a mistake, like an unknown one. What a detector does is the ingress's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from bus.config.section import Problem, Section

GuardKind = Literal[
    "pii",
    "secrets",
    "invisible",
    "injection",
    "jailbreak",
    "toxicity",
    "names",
    "length",
    "schema",
    "grounding",
    "model",
]
Action = Literal["block", "mask", "flag", "shadow"]

SPANS: Final[frozenset[GuardKind]] = frozenset({"pii", "secrets", "invisible", "names"})  # they say where: can mask
ENTITIES: Final[dict[GuardKind, tuple[str, ...]]] = {
    "pii": ("EMAIL", "PHONE", "CARD", "IBAN", "SSN", "IP"),
    "secrets": ("API_KEY", "PRIVATE_KEY", "JWT", "ASSIGNMENT"),
    "names": ("PERSON", "LOCATION", "ORGANIZATION"),
}

# Keys that only some kinds have.
_WINDOWED: Final[frozenset[GuardKind]] = frozenset({"injection", "jailbreak", "toxicity", "model"})
_ONLY: Final[dict[str, frozenset[GuardKind]]] = {
    "entities": frozenset(ENTITIES),
    "mask": SPANS,
    "threshold": frozenset({"injection", "toxicity", "grounding"}),
    "phrases": frozenset({"jailbreak", "toxicity"}),
    "window": _WINDOWED,
    "overlap": _WINDOWED,
    "characters": frozenset({"length"}),
    "file": frozenset({"schema"}),
    "model": frozenset({"model"}),
    "prompt": frozenset({"model"}),
    "verdict": frozenset({"model"}),
    "tokens": frozenset({"model"}),
    "concurrency": frozenset({"model"}),
}
_NEEDED: Final[dict[GuardKind, tuple[str, ...]]] = {
    "length": ("characters",),
    "schema": ("file",),
    "model": ("model", "prompt"),
}


class GuardConfig(Section, frozen=True):
    """`[[guard]]`: one detector.

    Attributes:
        name: in metrics, headers and errors.
        kind: what it looks for.
        stage: what it looks at: "input" is the request, "output" the answer.
        action: what follows a finding. "flag" says so to the client, "shadow" only to the metrics.
        fail: what a detector that breaks or comes too late counts as: "open" is nothing found, "closed" is a finding.
        deadline_ms: for one look; 0 is none.
        models: served names that it is for; empty is all.
        roles: whose messages of a chat are looked at; empty is all, but for injection and jailbreak those of users
            and tools.
        entities: which of its kinds of findings count; empty is all.
        mask: what stands in place of a finding; `{kind}` is its entity.
        threshold: from which score on it is a finding; for grounding, the least similarity.
        phrases: more of them.
        window, overlap: characters that are looked at at once, and of these how many again with the next.
        characters: most that a text may have.
        file: a JSON schema.
        model: a served model, the judge.
        prompt: what it is asked; `{text}` is the text.
        verdict: a regular expression; an answer that it is found in means a finding.
        tokens: most of the judge's answer.
        concurrency: how many texts are judged at once, by one ingress.
    """

    name: str
    kind: GuardKind
    stage: Literal["input", "output", "both"] = "both"
    action: Action = "flag"
    fail: Literal["open", "closed"] = "open"
    deadline_ms: Annotated[float, Meta(ge=0)] = 0.0
    models: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    mask: str = "[{kind}]"
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    phrases: tuple[str, ...] = ()
    window: Annotated[int, Meta(ge=64, le=65536)] = 800
    overlap: Annotated[int, Meta(ge=0, le=32768)] = 200
    characters: Annotated[int, Meta(ge=0)] = 0
    file: str = ""
    model: str = ""
    prompt: str = ""
    verdict: str = "unsafe"
    tokens: Annotated[int, Meta(ge=1, le=256)] = 8
    concurrency: Annotated[int, Meta(ge=1, le=1024)] = 4

    @property
    def on_input(self) -> bool:
        """Whether it looks at requests."""
        return self.stage != "output"

    @property
    def on_output(self) -> bool:
        """Whether it looks at answers."""
        return self.stage != "input"

    def serves(self, model: str) -> bool:
        """Whether it is for that model."""
        return not self.models or model in self.models


_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,48}")
_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in msgspec.structs.fields(GuardConfig)}


def problems(guards: tuple[GuardConfig, ...], models: frozenset[str]) -> Iterator[Problem]:
    """What types cannot say. `models` are those that are served."""
    names: set[str] = set()
    for index, guard in enumerate(guards):
        for key, problem in _problems(guard, models):
            yield ("guard", index, key), problem
        if guard.name in names:
            yield ("guard", index, "name"), f"{guard.name!r} is there twice"
        names.add(guard.name)


def _problems(guard: GuardConfig, models: frozenset[str]) -> Iterator[tuple[str, str]]:
    if _NAME.fullmatch(guard.name) is None:
        yield "name", "letters, digits, dot, dash and underscore only, at most 48"
    for key, kinds in _ONLY.items():
        if guard.kind not in kinds and getattr(guard, key) != _DEFAULTS[key]:
            yield key, f"a guard of kind {guard.kind!r} has no such key; it is for {', '.join(sorted(kinds))}"
    for key in _NEEDED.get(guard.kind, ()):
        if not getattr(guard, key):
            yield key, f"needed by a guard of kind {guard.kind!r}"
    if guard.action == "mask" and guard.kind not in SPANS:
        yield "action", f"{guard.kind} does not say where its findings are; mask is for {', '.join(sorted(SPANS))}"
    if guard.kind == "grounding" and guard.stage != "output":
        yield "stage", 'grounding compares an answer with its context; write stage = "output"'
    known = ENTITIES.get(guard.kind, ())
    for entity in guard.entities:
        if known and entity not in known:
            yield "entities", f"{entity!r} is none of {', '.join(known)}"
    for role in guard.roles:
        if role not in _ROLES:
            yield "roles", f"{role!r} is none of {', '.join(_ROLES)}"
    for key, asked in (("models", guard.models), ("model", (guard.model,) if guard.model else ())):
        for name in asked:
            if name not in models:
                yield key, f"no model named {name!r} is configured"
    yield from _shapes(guard)


def _shapes(guard: GuardConfig) -> Iterator[tuple[str, str]]:
    if guard.overlap >= guard.window:
        yield "overlap", f"must be less than window ({guard.window})"
    if "{" in guard.mask.replace("{kind}", "") or "}" in guard.mask.replace("{kind}", "") or len(guard.mask) > 64:
        yield "mask", "at most 64 characters, with no braces but {kind}"
    if any(character in guard.mask for character in '"\\\n\r'):
        yield "mask", "quotes, backslashes and line ends would break the JSON of tool calls"
    if guard.prompt and "{text}" not in guard.prompt:
        yield "prompt", "{text} must be in it, where the text goes"
    try:
        re.compile(guard.verdict)
    except re.error as error:
        yield "verdict", f"not a regular expression: {error}"
    if any(not phrase.strip() or len(phrase) > 200 for phrase in guard.phrases):
        yield "phrases", "each has 1 to 200 characters"
    if guard.file and not Path(guard.file).is_absolute():
        yield "file", f"{guard.file!r} is not an absolute path"
