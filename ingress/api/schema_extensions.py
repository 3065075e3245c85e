"""Parameters that OpenAI's Responses and Anthropic's messages do not have, served there under the names that they have
in chat completions. Structs only."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ingress.api.schema_common import TokenId


class Extensions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to draw and when to end, beyond what the surface has itself."""

    seed: (
        Annotated[
            int, Meta(ge=-(2**63), le=2**63 - 1, description="The same seed draws the same tokens. Default random.")
        ]
        | None
    ) = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, lt=2**31, description="No end before so many tokens.")] | None = None
    ignore_eos: Annotated[bool, Meta(description="The end-of-sequence token does not end the answer.")] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31, description="Lower runs earlier. Default 0.")] | None = None
    cache_salt: (
        Annotated[
            str,
            Meta(min_length=1, max_length=256, description="Prefixes are shared only with requests of the same salt."),
        ]
        | None
    ) = None
    chat_template_kwargs: Annotated[dict[str, Any], Meta(description="More variables of the template.")] | None = None
    allow_special_tokens: (
        Annotated[bool, Meta(description="Names of control tokens in messages become these tokens. Default false.")]
        | None
    ) = None

    @property
    def extensions(self) -> dict[str, Any]:
        """All of them by name, for a chat request."""
        return {name: getattr(self, name) for name in Extensions.__struct_fields__}
