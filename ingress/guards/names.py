"""Names of people, places and organisations, by a statistical tagger: spaCy with an English model, `headrace[names]`.

A shape does not tell a name, so text is looked at as a whole: an answer is held until its end where its names are
masked or blocked. Some 50 ms for a thousand characters, in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ingress.guards.scan import Span

_ENTITY: Final = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION", "ORG": "ORGANIZATION"}


class NoTagger(ImportError):
    """It is not installed; the message says how it would be."""


def tagger(wanted: frozenset[str]) -> Callable[[str], list[Span]]:
    """A function that finds those of a text.

    Raises:
        NoTagger: spaCy or its model is missing.
    """
    try:
        import spacy
    except ImportError:
        raise NoTagger("spaCy is not installed: pip install 'headrace[names]'") from None
    models = sorted(name for name in spacy.util.get_installed_models() if name.startswith("en_core_web"))
    if not models:
        raise NoTagger("no English model of spaCy's is installed: python -m spacy download en_core_web_sm")
    pipeline: Any = spacy.load(models[0], disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])

    def find(text: str) -> list[Span]:
        found = []
        for entity in pipeline(text).ents:
            kind = _ENTITY.get(entity.label_, "")
            if kind in wanted:
                found.append(Span(entity.start_char, entity.end_char, kind))
        return found

    return find
