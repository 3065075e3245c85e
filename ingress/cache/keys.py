"""Everything that determines an answer, as one digest. Pure.

Two calls have the same key only where the same model, run the same way, is asked to continue the same token ids in the
same manner, in the same namespace, by the same tenant. What the renderer makes of an answer (chunks or whole, chat or
completion, usage or none) is no part of it, so a stream can be answered from what a whole answer left.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
import numpy as np

from ingress.cache.spaces import Space
from ingress.job import Job
from ingress.models import ServedModel

VERSION: Final = 3  # of what is in a key, and in an entry

_encode = msgspec.msgpack.Encoder().encode


def partition(space: Space, tenant: str) -> tuple[str, str]:
    """Namespace and tenant, as they are part of every key. A public namespace has one partition for all."""
    return space.name, "" if space.public else tenant


def exact_key(job: Job, model: ServedModel, space: Space) -> bytes:
    """16 bytes. The model's scheduler must have said what it runs (`facts.root`)."""
    prompt = np.asarray(job.prompt, dtype=np.uint32).tobytes()
    return _digest(b"headrace exact", job, model, space, prompt)


def history_key(job: Job, model: ServedModel, space: Space, history: bytes) -> bytes:
    """16 bytes: the same, but for the last turn of a conversation. `history` is everything else of it."""
    return _digest(b"headrace turns", job, model, space, history)


def elsewhere_key(job: Job, space: Space, words: bytes) -> bytes:
    """16 bytes, of a call to a model elsewhere: the words in which it is asked are all that is known of its answer."""
    parts = (VERSION, *partition(space, job.tenant), job.cache_salt, job.model)
    digest = hashlib.blake2b(_encode(parts), digest_size=16, person=b"headrace far")
    digest.update(words)
    return digest.digest()


def _digest(person: bytes, job: Job, model: ServedModel, space: Space, prompt: bytes) -> bytes:
    facts = model.facts
    assert facts is not None
    assert facts.root
    parts = (
        VERSION,
        *partition(space, job.tenant),
        job.cache_salt,
        model.name,
        model.adapter,
        facts.root,  # weights, how they are run, numerics
        facts.context_tokens,
        model.eos_ids,
        _manner(job),
    )
    digest = hashlib.blake2b(_encode(parts), digest_size=16, person=person)
    digest.update(prompt)
    return digest.digest()


def _manner(job: Job) -> tuple[object, ...]:
    """How it is drawn and cut. Of a greedy answer, what cannot change it is left out; a seed that somebody named
    never comes here with a temperature, and one that nobody named is any."""
    sampling = job.sampling
    greedy = sampling.temperature == 0
    return (
        None if greedy else (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p),
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sorted(sampling.logit_bias),
        sampling.grammar.text if sampling.grammar is not None else None,
        sampling.thought,
        job.max_tokens,
        job.min_tokens,
        job.stop,
        sorted(job.stop_token_ids),
        job.ignore_eos,
        job.include_stop,
        job.skip_special_tokens,
    )
