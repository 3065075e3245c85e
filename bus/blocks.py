"""Block digests: the identity of KV by content. Pure.

A *block* is the run of tokens that fills one page. Its digest covers everything before it:

    root   = BLAKE2b-128(person="headrace", length-prefixed: weights digest, kv dtype, layout, page tokens)
    salted = BLAKE2b-128(key=root, length-prefixed: tenant salt, adapter digest)
    d[i]   = BLAKE2b-128(key=d[i-1], tokens of block i as u32le)          with d[-1] = salted

BLAKE2 in keyed mode (RFC 7693) makes the chain: the parent is the key. A partly filled block has
no digest. Every process that derives digests uses these functions, so the caches meet.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

DIGEST_BYTES: Final = 16
KV_LAYOUT: Final = "page-first"  # [layer][K,V][kv head][token][dim]; part of the root, so layouts never mix


def _length_prefixed(*fields: bytes) -> bytes:
    # Without the lengths, ("ab", "c") and ("a", "bc") would share a namespace.
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)


def root_digest(weights_digest: bytes, kv_dtype: str, layout: str, page_tokens: int) -> bytes:
    """The root of one KV shape of one model: equal for all processes that may share its pages."""
    data = _length_prefixed(weights_digest, kv_dtype.encode(), layout.encode(), page_tokens.to_bytes(4, "little"))
    return blake2b(data, digest_size=DIGEST_BYTES, person=b"headrace").digest()


def salted_root(root: bytes, tenant_salt: bytes = b"", adapter_digest: bytes = b"") -> bytes:
    """The root of one tenant's cache. The salt comes from the authenticated identity, narrowed by `cache_salt`."""
    return blake2b(_length_prefixed(tenant_salt, adapter_digest), digest_size=DIGEST_BYTES, key=root).digest()


def next_digest(parent: bytes, block_tokens: bytes) -> bytes:
    """The digest of one full block. `block_tokens` is packed u32le, `page_tokens` of them."""
    return blake2b(block_tokens, digest_size=DIGEST_BYTES, key=parent).digest()


def chain(salted: bytes, tokens: bytes, page_tokens: int) -> bytes:
    """Digests of all full blocks of `tokens` (packed u32le), concatenated, 16 bytes each."""
    step = 4 * page_tokens
    parent = salted
    digests: list[bytes] = []
    for start in range(0, len(tokens) - step + 1, step):
        parent = next_digest(parent, tokens[start : start + step])
        digests.append(parent)
    return b"".join(digests)
