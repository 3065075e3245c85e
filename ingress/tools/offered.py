"""The tools of a request and what it says about calling them, whichever surface it came by. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from ingress.errors import ApiError, invalid_request, unsupported_parameter
from ingress.grammar.schema import check

MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_NOTHING: Final = {"type": "object", "properties": {}, "additionalProperties": False}
_KEYS: Final = frozenset({"name", "description", "parameters", "strict"})

Mode = Literal["none", "auto", "required"]


class Tool(NamedTuple):
    """One function.

    Attributes:
        parameters: the JSON Schema of its arguments, an object.
        strict: its schema must be followed whole; otherwise, where it cannot be, the arguments are any object.
        param: where the request has that schema.
    """

    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool
    param: str

    @property
    def followed(self) -> dict[str, Any]:
        """The schema that its arguments follow."""
        try:
            check(self.parameters, self.param)
        except ApiError:
            if self.strict:
                raise
            return {"type": "object"}
        return self.parameters


class Offered(NamedTuple):
    """What an answer may call.

    Attributes:
        mode: "required" has it call something, "none" nothing.
        named: with "required", the one that it has to call.
        parallel: it may call several.
    """

    tools: tuple[Tool, ...]
    mode: Mode
    named: str = ""
    parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """Those that may be called."""
        return tuple(tool for tool in self.tools if not self.named or tool.name == self.named)

    def for_template(self) -> list[dict[str, Any]]:
        """As templates know them: OpenAI's form."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    "parameters": tool.parameters,
                },
            }
            for tool in self.tools
        ]


def offered(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any, *, parallel: bool | None, param: str = "tools"
) -> Offered | None:
    """What a chat offers, checked; None where nothing may be called.

    Args:
        tools: in OpenAI's form.
        choice: none, auto, required, or the one that is to be called.

    Raises:
        ApiError: 400, by name.
    """
    mode, named = _choice(choice)
    if not tools:
        if mode == "required":
            raise invalid_request("tool_choice: there are no tools to choose from.", param="tool_choice")
        return None
    if mode == "none":
        return None
    if len(tools) > MAX_TOOLS:
        raise invalid_request(f"{param}: {len(tools)} are more than {MAX_TOOLS}.", param=param)
    found = tuple(_tool(tool, f"{param}[{index}]") for index, tool in enumerate(tools))
    names = [tool.name for tool in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise invalid_request(f"{param}[{index}]: there is another tool {name!r}.", param=f"{param}[{index}]")
    if named and named not in names:
        raise invalid_request(f"tool_choice: there is no tool {named!r}.", param="tool_choice")
    return Offered(found, mode, named, parallel is not False and not named)


def _choice(choice: Any) -> tuple[Mode, str]:
    match choice:
        case None | "auto":
            return "auto", ""
        case "none" | "required":
            return choice, ""
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", name
        case _:
            raise unsupported_parameter(
                "tool_choice",
                'tool_choice: "none", "auto", "required", or {"type": "function", "function": {"name": …}}.',
            )


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    if tool.get("type") != "function":
        raise unsupported_parameter(f"{where}.type", f"{where}.type: only functions are called.")
    where = f"{where}.function"
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid_request(f"{where}: a function has a name.", param=where)
    for key in function.keys() - _KEYS:
        raise invalid_request(f"Unknown parameter: '{where}.{key}'.", param=f"{where}.{key}", code="unknown_parameter")
    name, description, strict = function.get("name"), function.get("description"), function.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid_request(
            f"{where}.name: 1 to 64 letters, digits, underscores, dots and dashes.", param=f"{where}.name"
        )
    if not isinstance(description, str | None) or not isinstance(strict, bool | None):
        wrong = "description" if not isinstance(description, str | None) else "strict"
        raise invalid_request(f"{where}.{wrong}: of another type.", param=f"{where}.{wrong}")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None) or (parameters and parameters.get("type", "object") != "object"):
        raise invalid_request(
            f"{where}.parameters: the JSON Schema of an object.", param=f"{where}.parameters", code="invalid_schema"
        )
    schema = {"type": "object", **parameters} if parameters else _NOTHING
    found = Tool(name, description, schema, bool(strict), f"{where}.parameters")
    if strict:
        check(schema, found.param)
    return found
