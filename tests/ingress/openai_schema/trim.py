"""Make `schemas.json` of OpenAI's published document: only what this server can answer with, and requests' parameters.

    git clone https://github.com/openai/openai-openapi && python trim.py openai-openapi/openapi.json

Words for people are left out, unions keep what is answered here, and OpenAPI 3.0's `nullable` becomes null.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REVISION = "f85dbe223d40e1a31cba812ab2d755c7e98a92a3"  # of github.com/openai/openai-openapi, 2026-08-21
ANSWERS = [
    "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "CreateCompletionResponse", "ErrorResponse",
    "ListModelsResponse", "Response", "ResponseItemList", "ResponseStreamEvent",
]  # fmt: skip
REQUESTS = ["CreateChatCompletionRequest", "CreateCompletionRequest", "CreateResponse"]
MEMBERS = {
    "ResponseStreamEvent": [
        "ResponseCompletedEvent", "ResponseContentPartAddedEvent", "ResponseContentPartDoneEvent",
        "ResponseCreatedEvent", "ResponseErrorEvent", "ResponseIncompleteEvent", "ResponseInProgressEvent",
        "ResponseOutputItemAddedEvent", "ResponseOutputItemDoneEvent", "ResponseReasoningTextDeltaEvent",
        "ResponseReasoningTextDoneEvent", "ResponseRefusalDeltaEvent", "ResponseRefusalDoneEvent",
        "ResponseTextDeltaEvent", "ResponseTextDoneEvent",
    ],
    "OutputItem": ["OutputMessage", "ReasoningItem"],
    "ItemResource": ["InputMessageResource", "OutputMessage", "ReasoningItem", "FunctionToolCallResource"],
    "ToolChoiceParam": ["ToolChoiceOptions"],
    "TextResponseFormatConfiguration": ["ResponseFormatText"],
    "InputContent": ["InputTextContent"],
    "Annotation": [],
}  # fmt: skip
ANYTHING = {"InputItem", "Prompt", "ToolsArray", "Moderation", "ChatCompletionModeration", "ModelIdsResponses",
            "ResponseConversation", "PromptCacheOptions", "ToolCallCaller", "PromptCacheBreakpointConfig"}  # fmt: skip
WORDS = {"description", "example", "examples", "title", "deprecated"}


def main(source: Path) -> None:
    schemas: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))["components"]["schemas"]
    kept: dict[str, Any] = {}
    waiting = list(ANSWERS)
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = {} if name in ANYTHING else trimmed(members(name, schemas[name]))
            waiting += references(kept[name])
    parameters = {name: sorted(properties(schemas[name], schemas)) for name in REQUESTS}
    document = {"revision": REVISION, "parameters": parameters, "schemas": dict(sorted(kept.items()))}
    target = Path(__file__).parent / "schemas.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def members(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    if name not in MEMBERS:
        return schema
    return {"anyOf": [{"$ref": f"#/components/schemas/{member}"} for member in MEMBERS[name]]} if MEMBERS[name] else {}


def trimmed(value: Any, named: bool = False) -> Any:
    """`named`: the keys are properties' names."""
    if isinstance(value, list):
        return [trimmed(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {
        key: trimmed(item, named=key == "properties" and not named)
        for key, item in value.items()
        if named or not (key in WORDS or key.startswith("x-") or key in ("nullable", "discriminator", "default"))
    }
    if "$ref" in plain:
        plain = {"$ref": plain["$ref"].replace("#/components/schemas/", "#/schemas/")}
    return {"anyOf": [plain, {"type": "null"}]} if not named and value.get("nullable") is True else plain


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"].rpartition("/")[2]] if isinstance(value.get("$ref"), str) else []
    return own + [name for item in value.values() for name in references(item)]


def properties(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return properties(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    own = set(schema.get("properties", {}))
    return own.union(*(properties(part, schemas) for part in schema.get("allOf", ())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
