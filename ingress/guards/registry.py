"""From `[[guard]]` to guards: which detector each kind is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bus.config.guards import ENTITIES, GuardConfig, GuardKind
from ingress.guards import grounding, injection, invisible, names, phrases, pii, secrets, toxicity
from ingress.guards.judge import Ask
from ingress.guards.look import NOTHING, Guard, Look

Judge = Callable[[GuardConfig], Ask]


class GuardUnusable(Exception):
    """A guard cannot work here; the message names it, and says what is missing."""


def build(configs: Iterable[GuardConfig], judge: Judge) -> list[Guard]:
    """The guards, in order.

    Args:
        judge: makes the `ask` of a guard of kind "model".

    Raises:
        GuardUnusable: one of them cannot be made.
    """
    found = []
    for config in configs:
        try:
            found.append(_model(config, judge) if config.kind == "model" else _MAKERS[config.kind](config))
        except (ImportError, OSError, ValueError) as error:
            raise GuardUnusable(f"guard {config.name!r} ({config.kind}): {error}") from None
    return found


def _spans(config: GuardConfig) -> Guard:
    kinds = {"pii": pii.KINDS, "secrets": secrets.KINDS, "invisible": invisible.KINDS}[config.kind]
    wanted = config.entities or ENTITIES.get(config.kind, ("INVISIBLE",))
    return Guard(config, kinds=[kind for kind in kinds if kind.name in wanted])


def _names(config: GuardConfig) -> Guard:
    wanted = frozenset(config.entities or ENTITIES["names"])
    return Guard(config, find=names.tagger(wanted), whole=True, slow=True)


def _injection(config: GuardConfig) -> Guard:
    injection.load()

    def look(text: str, context: Sequence[str]) -> Look:  # noqa: ARG001
        score = injection.score(text)
        return Look(score >= config.threshold, f"{score:.2f}")

    return Guard(config, look=look)


def _jailbreak(config: GuardConfig) -> Guard:
    known = phrases.Phrases([*phrases.JAILBREAK, *config.phrases])
    if known.longest > config.overlap:
        raise ValueError(
            f"overlap must be at least {known.longest}, the longest phrase, or one between two windows is missed"
        )
    return Guard(config, look=lambda text, _: Look(bool(found := known.search(text)), found and "phrase"))


def _toxicity(config: GuardConfig) -> Guard:
    score = toxicity.scorer(config.phrases)

    def look(text: str, context: Sequence[str]) -> Look:  # noqa: ARG001
        value = score(text)
        return Look(value >= config.threshold, f"{value:.2f}")

    return Guard(config, look=look, slow=find_spec("profanity_check") is not None)


def _length(config: GuardConfig) -> Guard:
    return Guard(config, limit=config.characters)


def _schema(config: GuardConfig) -> Guard:
    try:
        from jsonschema import validators
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise ImportError("jsonschema is not installed: pip install 'headrace[schema]'") from None
    schema = json.loads(Path(config.file).read_text(encoding="utf-8"))
    kind = validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{config.file} is no JSON schema: {error.message}") from None
    validator = kind(schema)

    def look(text: str, context: Sequence[str]) -> Look:  # noqa: ARG001
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return Look(True, "not JSON")
        for error in validator.iter_errors(value):
            return Look(True, f"{error.json_path}: {error.validator}"[:100])
        return NOTHING

    return Guard(config, look=look, whole=True, slow=True)


def _grounding(config: GuardConfig) -> Guard:
    def look(text: str, context: Sequence[str]) -> Look:
        grounds = grounding.compare(text, context)
        return Look(bool(grounds.missing) or grounds.similarity < config.threshold, str(grounds))

    return Guard(config, look=look, whole=True, slow=True)


def _model(config: GuardConfig, judge: Judge) -> Guard:
    return Guard(config, ask=judge(config), slow=True)


_MAKERS: Final[dict[GuardKind, Callable[[GuardConfig], Guard]]] = {
    "pii": _spans, "secrets": _spans, "invisible": _spans, "names": _names, "injection": _injection,
    "jailbreak": _jailbreak, "toxicity": _toxicity, "length": _length, "schema": _schema, "grounding": _grounding,
}  # fmt: skip
