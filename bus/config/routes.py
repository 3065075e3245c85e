"""`[[route]]`, as typed structs: names that clients ask for and that stand for several models. How one is chosen is the
ingress's; here is only what may be written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from bus.config.section import Problem, Section, Where
from bus.config.upstreams import NAME, Capability

Check = Literal["empty", "refusal", "truncated", "json", "schema", "tool_arguments", "margin"]

_Share = Annotated[float, Meta(ge=0, le=1)]


class TargetConfig(Section, frozen=True, kw_only=True):
    """`[[route.target]]`: a model among which conversations are divided.

    Attributes:
        model: its name: of `[[model]]` or `[[upstream.model]]`.
        weight: its part is this over the sum of all; 0 gets what rules name it for.
    """

    model: str
    weight: Annotated[float, Meta(ge=0, le=1000)] = 1.0


class RuleConfig(Section, frozen=True, kw_only=True):
    """`[[route.rule]]`: calls that all of its conditions are true of go to its models. The first rule that fits holds.

    Attributes:
        name: in headers and metrics.
        models: where to, the first that can.
        prompt_tokens_above, prompt_tokens_below: of the prompt.
        needs: capabilities of which the call uses one.
        contains: a regular expression that is found in the newest message of a user.
        projects: `organisation/project`s whose calls they are.
        surfaces: endpoints that they came in by.
    """

    name: str
    models: tuple[str, ...]
    prompt_tokens_above: Annotated[int, Meta(ge=0)] | None = None
    prompt_tokens_below: Annotated[int, Meta(ge=0)] | None = None
    needs: tuple[Capability, ...] = ()
    contains: str = ""
    projects: tuple[str, ...] = ()
    surfaces: tuple[Literal["chat.completions", "completions", "responses", "messages"], ...] = ()


class CascadeConfig(Section, frozen=True, kw_only=True):
    """`[route.cascade]`: ask a cheap model first, and another where the answer does not pass.

    Attributes:
        first, then: the two.
        checks: what the first one's answer must pass. All but `margin` hold it back until its end.
        margin: least mean difference of the log probabilities of the best and the second best token ...
        tokens: ... over so many first ones, which are held back.
        schema: file of the JSON schema that an answer must fit, for `schema`. Needs `headrace[schema]`.
    """

    first: str
    then: str
    checks: tuple[Check, ...] = ("empty", "refusal")
    margin: Annotated[float, Meta(ge=0, le=20)] = 1.0
    tokens: Annotated[int, Meta(ge=1, le=256)] = 32
    schema: str = ""


class ScoreConfig(Section, frozen=True, kw_only=True):
    """`[route.score]`: divide by how probable it is that the small model answers as well, by a file of `headrace router
    calibrate`.

    Attributes:
        file: of the calibration.
        small, large: the two models.
        threshold: from this probability on the small one is asked; 0 takes the file's.
        band: so close to the threshold the score abstains, and the weights decide.
    """

    file: str
    small: str
    large: str
    threshold: _Share = 0.0
    band: _Share = 0.05


class RouteConfig(Section, frozen=True, kw_only=True):
    """`[[route]]`: one name.

    Attributes:
        name: under which clients ask for it.
        target: models that conversations are divided among.
        fallbacks: models that are asked in order where none of the others can, before the first token.
        rule: see `[[route.rule]]`.
        canary: a model on trial; `canary_share` of the conversations go to it.
        mirror: a model that is asked too; `mirror_share` of the calls. Its answers are thrown away and compared.
        attempts: models that a call is tried at, at most.
        pin_s: how long a conversation stays with its model, where leaving costs more than it saves; 0 is not at all.
        switch_margin: a conversation leaves for a cheaper model only if that saves this times what its warm prefix is
            worth.
        cascade, score: see there.
    """

    name: str
    target: tuple[TargetConfig, ...] = ()
    fallbacks: tuple[str, ...] = ()
    rule: tuple[RuleConfig, ...] = ()
    canary: str = ""
    canary_share: _Share = 0.0
    mirror: str = ""
    mirror_share: _Share = 0.0
    attempts: Annotated[int, Meta(ge=1, le=8)] = 3
    pin_s: Annotated[float, Meta(ge=0, le=86_400)] = 600.0
    switch_margin: Annotated[float, Meta(ge=0, le=100)] = 2.0
    cascade: CascadeConfig | None = None
    score: ScoreConfig | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """All that an answer may come from, each once, the first named first; not the mirror."""
        named = [target.model for target in self.target]
        if self.canary:
            named.append(self.canary)
        for rule in self.rule:
            named += rule.models
        if self.cascade is not None:
            named += [self.cascade.first, self.cascade.then]
        if self.score is not None:
            named += [self.score.small, self.score.large]
        return tuple(dict.fromkeys([*named, *self.fallbacks]))


_NAMES: Final = "letters, digits, dot, dash and underscore only, at most 48"


def problems(routes: tuple[RouteConfig, ...], models: frozenset[str]) -> Iterator[Problem]:
    """What types cannot say. `models` are all that may be targets."""
    taken = set(models)
    for index, route in enumerate(routes):
        where: Where = ("route", index)
        if NAME.fullmatch(route.name) is None:
            yield (*where, "name"), _NAMES
        if route.name in taken:
            yield (*where, "name"), f"{route.name!r} is there twice: one name is one model or one route"
        taken.add(route.name)
        for key, problem in (*_problems(route), *_targets(route, models)):
            yield (*where, *key), problem


def _problems(route: RouteConfig) -> Iterator[Problem]:
    if not any(target.weight for target in route.target) and route.cascade is None:
        yield ("target",), "at least one [[route.target]] with a weight is needed, or a [route.cascade]"
    for share, model in (("canary_share", route.canary), ("mirror_share", route.mirror)):
        if getattr(route, share) and not model:
            yield (share,), f"a share of nothing: name a model in {share.removesuffix('_share')}"
    rules: set[str] = set()
    for index, rule in enumerate(route.rule):
        here: Where = ("rule", index)
        if NAME.fullmatch(rule.name) is None:
            yield (*here, "name"), _NAMES
        if rule.name in rules:
            yield (*here, "name"), f"{rule.name!r} is there twice"
        rules.add(rule.name)
        if not rule.models:
            yield (*here, "models"), "at least one is needed"
        try:
            re.compile(rule.contains)
        except re.error as error:
            yield (*here, "contains"), f"not a regular expression: {error}"
    cascade = route.cascade
    if cascade is not None:
        if not cascade.checks:
            yield ("cascade", "checks"), "nothing is checked: name at least one"
        if ("schema" in cascade.checks) != bool(cascade.schema):
            yield ("cascade", "schema"), 'a file and "schema" in checks go together'
        if cascade.first == cascade.then:
            yield ("cascade", "then"), "the same model again"
        if cascade.schema and not Path(cascade.schema).is_absolute():
            yield ("cascade", "schema"), f"{cascade.schema!r} is not an absolute path"
    if route.score is not None and not Path(route.score.file).is_absolute():
        yield ("score", "file"), f"{route.score.file!r} is not an absolute path"


def _targets(route: RouteConfig, models: frozenset[str]) -> Iterator[Problem]:
    """Every name that is no model."""
    named: list[tuple[Where, str]] = [(("target", at, "model"), one.model) for at, one in enumerate(route.target)]
    named += [(("fallbacks",), name) for name in route.fallbacks]
    named += [(("rule", at, "models"), name) for at, rule in enumerate(route.rule) for name in rule.models]
    named += [((key,), name) for key, name in (("canary", route.canary), ("mirror", route.mirror)) if name]
    if route.cascade is not None:
        named += [(("cascade", "first"), route.cascade.first), (("cascade", "then"), route.cascade.then)]
    if route.score is not None:
        named += [(("score", "small"), route.score.small), (("score", "large"), route.score.large)]
    seen: set[str] = set()
    for where, name in named:
        if name not in models:
            yield where, f"no model named {name!r} is configured; a route does not lead to routes"
        if where[0] == "target":
            if name in seen:
                yield where, f"{name!r} is there twice"
            seen.add(name)
