"""The models that a call is tried at, in order. Pure.

What can answer at all is found out first (`fitness`); a preference chooses among that, never beyond it. Of preferences
a rule comes first, as the operator wrote it; then the canary's share, the cascade, the score, the weights. A
conversation that has a model stays with it where only the last two would move it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bus.config.routes import CascadeConfig, RouteConfig, TargetConfig
from ingress.router.candidate import Asked, Candidate
from ingress.router.fitness import Unfit, why_not
from ingress.router.pins import Pin, stays
from ingress.router.rules import Rule, first
from ingress.router.score import Score
from ingress.router.weights import ranked, share


class Policy:
    """A `[[route]]`, ready to be decided by.

    Args:
        score: of `[route.score]`, where there is one.
    """

    def __init__(self, config: RouteConfig, score: Score | None = None) -> None:
        self.config, self.score = config, score
        self.name, self.models = config.name, config.models
        self.rules = [Rule(rule) for rule in config.rule]
        self.weights = [(target.model, target.weight) for target in config.target]


def of_one(model: str) -> RouteConfig:
    """The route of a model that is asked for by its own name."""
    return RouteConfig(name=model, target=(TargetConfig(model=model),), attempts=1, pin_s=0.0)


class Decision(NamedTuple):
    """What is to be done.

    Attributes:
        order: models to try; empty where none is fit.
        by: what put the first one there: "only", "weights", "score", "pin", "canary", "cascade", "fallback" or
            "rule:NAME".
        cascade: whether the answer of the first one is checked before it is shown.
        mirror: a model that is asked too; empty is none.
        unfit: models that cannot answer, and why.
    """

    order: tuple[str, ...]
    by: str
    cascade: CascadeConfig | None = None
    mirror: str = ""
    unfit: Mapping[str, Unfit] = {}


class _Wish(NamedTuple):
    """What a policy would like, before it is known who can."""

    models: Sequence[str]
    by: str
    binding: bool = False  # also over a pin


def decide(policy: Policy, asked: Asked, candidates: Mapping[str, Candidate], pin: Pin | None = None) -> Decision:
    """Put the models of a route in order.

    Args:
        candidates: every model that the route names.
        pin: of the conversation.
    """
    config = policy.config
    unfit = {name: reason for name in policy.models if (reason := why_not(candidates[name], asked)) is not None}
    divided = ranked(asked.session, policy.weights)
    wish = _wish(policy, asked, unfit, divided)
    if pin is not None and not wish.binding:
        wish = _held(policy, asked, candidates, unfit, pin, wish)
    rest = () if wish.by.startswith("rule:") else divided
    named = dict.fromkeys([*wish.models, *rest, *config.fallbacks])
    able = [name for name in named if name not in unfit]
    # Who is not ready may be while others are asked; a sort keeps the order of equals.
    order = tuple(sorted(able, key=lambda name: candidates[name].standing != "ready")[: config.attempts])
    cascade = config.cascade
    if wish.by != "cascade" or cascade is None or order[:2] != (cascade.first, cascade.then):
        cascade = None
    by = wish.by
    if (order and order[0] not in wish.models) or (order and by == "cascade" and cascade is None):
        by = "fallback"
    return Decision(order, by, cascade, _mirror(config, asked, candidates, order), unfit)


def _wish(policy: Policy, asked: Asked, unfit: Mapping[str, Unfit], divided: Sequence[str]) -> _Wish:
    config = policy.config
    if (rule := first(policy.rules, asked)) is not None:
        return _Wish(rule.models, f"rule:{rule.name}", binding=True)
    if config.canary and config.canary not in unfit and share(asked.session, "canary") < config.canary_share:
        return _Wish((config.canary,), "canary", binding=True)
    if config.cascade is not None:
        return _Wish((config.cascade.first, config.cascade.then), "cascade", binding=True)
    if config.score is not None and policy.score is not None:
        verdict = policy.score.verdict(asked.text)
        if verdict == "large":
            # A question that is too hard for where the conversation is goes where it can be answered.
            return _Wish((config.score.large,), "score", binding=True)
        if verdict == "small":
            return _Wish((config.score.small,), "score")
    return _Wish(divided[:1], "weights" if len(policy.models) > 1 else "only")


def _held(
    policy: Policy,
    asked: Asked,
    candidates: Mapping[str, Candidate],
    unfit: Mapping[str, Unfit],
    pin: Pin,
    wish: _Wish,
) -> _Wish:
    """The wish, or the model that the conversation is with."""
    here = candidates.get(pin.model)
    if (
        here is None
        or pin.model not in policy.models
        or pin.model in unfit
        or here.standing != "ready"
        or pin.model in wish.models
    ):
        return wish
    there = next((name for name in wish.models if name not in unfit), None)
    if there is not None and not stays(pin, here, candidates[there], asked, policy.config.switch_margin):
        return wish
    return _Wish((pin.model,), "pin")


def _mirror(config: RouteConfig, asked: Asked, candidates: Mapping[str, Candidate], order: Sequence[str]) -> str:
    """Whether this call is asked of the mirror too. It has to be able to, and to be another one."""
    name = config.mirror
    if not name or not order or name == order[0] or share(asked.call, "mirror") >= config.mirror_share:
        return ""
    candidate = candidates[name]._replace(allowed=True)  # it is the operator who asks
    return name if candidate.standing == "ready" and why_not(candidate, asked) is None else ""
