"""Routes as the pipeline sees them: a call in, the models that it is tried at out. What is decided by is gathered here,
what is decided is `router`'s."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import xxhash

from bus.config.routes import CascadeConfig, RouteConfig
from bus.config.upstreams import Capability
from bus.prices import PriceBook
from bus.prompt_score import BadCalibration, load
from bus.telemetry import Telemetry
from ingress.api.jobs import Caller
from ingress.api.schema_chat import ChatRequest, UserMessage
from ingress.api.schema_common import Generation
from ingress.api.schema_completion import CompletionRequest
from ingress.api.validate import prompts_of
from ingress.engine import Engine
from ingress.errors import ApiError, invalid_request, model_not_found
from ingress.models import ServedModel
from ingress.router.candidate import Asked, Candidate, Surface
from ingress.router.cascade import Fits
from ingress.router.decide import Decision, Policy, decide, of_one
from ingress.router.fitness import refusal
from ingress.router.pins import Pin, Pins
from ingress.router.score import Score
from ingress.upstreams.asking import LOCAL, needs, unspoken
from ingress.upstreams.upstreams import Elsewhere, Upstreams, size_of
from ingress.upstreams.usage import estimate

TARGET_HEADER: Final = b"x-headrace-target"
ROUTE_HEADER: Final = b"x-headrace-route"
BEGINNING: Final = 16_384  # characters of a conversation's beginning that tell it from others

_TOOLS: Final[frozenset[Capability]] = frozenset({"tools"})
_THOUGHT: Final[frozenset[Capability]] = frozenset({"reasoning"})
_NO_OFFERS: Final[frozenset[Capability]] = frozenset()
_CHATS: Final[frozenset[Surface]] = frozenset({"chat.completions", "responses", "messages"})


class RouteUnusable(ValueError):
    """What a route needs cannot be had. The message names the route and the file."""


class Course(NamedTuple):
    """The way of one call.

    Attributes:
        asked_for: the name in the call.
        named: whether its client is told which model answered: not where it has named one of this host.
    """

    asked_for: str
    named: bool
    asked: Asked
    decision: Decision
    pin_s: float = 0.0

    @property
    def order(self) -> Sequence[str]:
        """Models to try."""
        return self.decision.order

    @property
    def cascade(self) -> CascadeConfig | None:
        """How the first one's answer is checked."""
        return self.decision.cascade


class Shown(NamedTuple):
    """A route, or a model elsewhere, as it is listed. `owner` is the upstream's name, or "route"."""

    owner: str
    created: int
    context_tokens: int
    ready: bool


class _Named(msgspec.Struct):
    model: str = ""


_named: Final = msgspec.json.Decoder(_Named).decode


class Routing:
    """All routes of an ingress.

    Raises:
        RouteUnusable: see there.
    """

    def __init__(
        self,
        engine: Engine,
        upstreams: Upstreams | None,
        routes: Sequence[RouteConfig],
        prices: PriceBook,
        telemetry: Telemetry,
    ) -> None:
        self._engine, self._prices, self._telemetry = engine, prices, telemetry
        self._elsewhere: Mapping[str, Elsewhere] = upstreams.models if upstreams is not None else {}
        self._policies = {route.name: Policy(route, _score(route)) for route in routes}
        self._fits = {route.name: _fits(route) for route in routes}
        self._ones = {name: Policy(of_one(name)) for name in self._elsewhere}
        self._pins = Pins()
        self._begun_s = int(time.time())
        self._offers = {name: self._offered(name) for name in (*self._policies, *self._elsewhere)}

    @property
    def names(self) -> list[str]:
        """Of routes, and of models elsewhere."""
        return [*self._policies, *self._elsewhere]

    def models_of(self, name: str) -> tuple[str, ...]:
        """Those that may answer who asks for a name.

        Raises:
            ApiError: 404.
        """
        if (policy := self._policies.get(name)) is not None:
            return policy.models
        if name not in self._elsewhere and self._engine.served(name) is None:
            raise model_not_found(name, (*self._engine.models, *self._engine.adapters, *self.names))
        return (name,)

    def elsewhere(self, name: str) -> Elsewhere | None:
        """A model of an upstream."""
        return self._elsewhere.get(name)

    def cost(self, model: str, prompt: int, cached: int, output: int) -> int:
        """Of an answer by the price book, in billionths."""
        return self._prices.at(model, int(time.time())).cost(prompt, cached, output)

    def shown(self, name: str) -> Shown:
        """A route, or a model elsewhere. A route is as long as its longest model, and ready with its first."""
        now_ns = time.monotonic_ns()
        if (model := self._elsewhere.get(name)) is not None:
            ready = not model.door.breaker.retry_ns(now_ns)
            return Shown(model.door.config.name, self._begun_s, model.context_tokens, ready)
        parts = [
            self.shown(model) if model in self._elsewhere else self._local(model)
            for model in self._policies[name].models
        ]
        longest = max(part.context_tokens for part in parts)
        return Shown("route", self._begun_s, longest, any(part.ready for part in parts))

    def _local(self, name: str) -> Shown:
        model = self._engine.model(name)
        return Shown("headrace", model.created, model.context_tokens, model.ready)

    def fits(self, route: str) -> Fits | None:
        """Whether a value fits the schema of a route's cascade."""
        return self._fits.get(route)

    def offers(self, body: bytes) -> frozenset[Capability]:
        """What the model that a body names can do beyond those of this host."""
        if not self._offers:
            return _NO_OFFERS
        try:
            return self._offers.get(_named(body).model, _NO_OFFERS)
        except (msgspec.DecodeError, RecursionError):
            return _NO_OFFERS  # the body is decoded again, and refused with a reason

    def course(
        self,
        request: Generation,
        chat: Callable[[], ChatRequest | None],
        surface: Surface,
        caller: Caller,
        may_use: Callable[[str], bool],
    ) -> Course:
        """The way of a call.

        Args:
            chat: the call as one; asked where it matters.

        Raises:
            ApiError: 404, no such model; else none can answer it: 400, 403, 503.
        """
        name = request.model
        policy = self._policies.get(name) or self._ones.get(name)
        if policy is None:
            self.models_of(name)
            return Course(name, False, _PLAIN, Decision((name,), "only"))
        as_chat = chat()
        asked, wanted = _asked(request, as_chat, surface, caller), as_chat if as_chat is not None else request
        candidates = {model: self._candidate(model, wanted, may_use) for model in policy.models}
        if policy.config.mirror:
            mirror = policy.config.mirror
            candidates.setdefault(mirror, self._candidate(mirror, wanted, may_use))
        now_ns = time.monotonic_ns()
        pin_s = policy.config.pin_s
        pin = self._pins.of(name, asked.session, now_ns, pin_s) if pin_s else None
        decision = decide(policy, asked, candidates, pin)
        if not decision.order:
            self._count(name, "", "refused")
            raise refusal(name, decision.unfit)
        return Course(name, True, asked, decision, pin_s)

    def answered(self, course: Course, model: str, number: int, caller: Caller) -> None:
        """A model has taken a call, the one of that number in its order."""
        if not course.named:
            return
        by = course.decision.by if number == 0 else "cascaded" if course.cascade is not None else "fallback"
        if course.pin_s:
            pin = Pin(model, course.asked.prompt_tokens, time.monotonic_ns())
            self._pins.put(course.asked_for, course.asked.session, pin)
        self._count(course.asked_for, model, by)
        if caller.headers is not None:
            caller.headers.append((TARGET_HEADER, model.encode()))
            if course.asked_for in self._policies:
                told = f"{course.asked_for}; by={by}; attempt={number + 1}"
                caller.headers.append((ROUTE_HEADER, told.encode()))

    def failed(self, course: Course, model: str, error: ApiError) -> None:
        """An attempt came to nothing, and the next one is made."""
        self._telemetry.counter(
            "headrace_route_passed_on_total", "Attempts of routes that came to nothing, by why.",
            route=course.asked_for, model=model, code=error.code or "",
        ).add()  # fmt: skip

    # --- what is decided by ----------------------------------------------------------------------------------------

    def _candidate(self, name: str, request: Generation, may_use: Callable[[str], bool]) -> Candidate:
        price = self._prices.at(name, int(time.time()))
        if (elsewhere := self._elsewhere.get(name)) is not None:
            config, door = elsewhere
            wait_ns = door.breaker.retry_ns(time.monotonic_ns())
            if not wait_ns and door.in_flight >= door.config.max_in_flight:
                wait_ns = 10**9
            return Candidate(
                name, True, config.context_tokens, frozenset(config.capabilities),
                unspoken(request, door.config.kind), _CHATS, may_use(name), "shut" if wait_ns else "ready",
                wait_ns / 1e9, price,
            )  # fmt: skip
        model = self._engine.model(name)
        return Candidate(
            name, False, model.context_tokens, _offered(model), surfaces=_surfaces(model), allowed=may_use(name),
            standing="ready" if model.ready else "waiting", price=price,
        )  # fmt: skip

    def _offered(self, name: str) -> frozenset[Capability]:
        models = [self._elsewhere[model] for model in self.models_of(name) if model in self._elsewhere]
        return frozenset(capability for model in models for capability in model.config.capabilities)

    def _count(self, route: str, model: str, by: str) -> None:
        self._telemetry.counter(
            "headrace_route_total", "Calls to routes and to models elsewhere, by who answers and what decided that.",
            route=route, model=model, by=by,
        ).add()  # fmt: skip


def _offered(model: ServedModel) -> frozenset[Capability]:
    found = LOCAL | _THOUGHT if model.reasoning.known else LOCAL
    return found | _TOOLS if model.calls is not None else found


def _surfaces(model: ServedModel) -> frozenset[Surface]:
    if model.kind != "generate":
        return frozenset()
    return _CHATS | {"completions"} if model.template is not None else frozenset({"completions"})


_PLAIN: Final = Asked(0, 0, 0)


def _asked(request: Generation, chat: ChatRequest | None, surface: Surface, caller: Caller) -> Asked:
    wants = needs(chat if chat is not None else request)
    if chat is not None:
        text = next((text for message in reversed(chat.messages) if (text := _said(message))), "")
        beginning = [(type(message).__name__, message.content) for message in chat.messages[: _first_user(chat) + 1]]
        size, limit = size_of(chat).tokens, chat.limit
    else:
        text = _prompt(request)
        beginning, size, limit = [("", text)], estimate(len(text.encode())), getattr(request, "max_tokens", None)
    named = getattr(request, "prompt_cache_key", None)
    told = repr(named if named else beginning)[:BEGINNING]
    session = xxhash.xxh3_64_intdigest(
        f"{caller.tenant}\0{caller.key or caller.owner}\0{told}".encode("utf-8", "replace")
    )
    return Asked(session, secrets.randbits(64), size, limit, wants, text, caller.tenant, surface)


def _prompt(request: Generation) -> str:
    """The text of a completion's prompts.

    Raises:
        ApiError: 400, it has token ids: those are one model's.
    """
    prompts = prompts_of(request) if isinstance(request, CompletionRequest) else []
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise invalid_request("Token ids are one model's own: name that instead of a route.", param="prompt")
    return "\n".join(texts)


def _said(message: Any) -> str:
    """What a user says in a message; empty where it is none of a user."""
    if not isinstance(message, UserMessage):
        return ""
    content = message.content
    return content if isinstance(content, str) else "\n".join(getattr(part, "text", "") for part in content)


def _first_user(chat: ChatRequest) -> int:
    """The conversation's beginning ends with its first message of a user: that stays the same in every turn."""
    return next((at for at, message in enumerate(chat.messages) if isinstance(message, UserMessage)), 0)


def _score(route: RouteConfig) -> Score | None:
    if route.score is None:
        return None
    try:
        return Score(route.score, load(Path(route.score.file).read_bytes()))
    except OSError as error:
        raise RouteUnusable(f"{route.name}: {route.score.file}: {error.strerror or error}") from None
    except BadCalibration as error:
        raise RouteUnusable(f"{route.name}: {route.score.file}: {error}") from None


def _fits(route: RouteConfig) -> Fits | None:
    if route.cascade is None or not route.cascade.schema:
        return None
    try:
        import jsonschema
    except ImportError:
        raise RouteUnusable(f"{route.name}: checks by schema need pip install 'headrace[schema]'") from None
    path = route.cascade.schema
    try:
        schema = msgspec.json.decode(Path(path).read_bytes())
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except (OSError, msgspec.DecodeError, jsonschema.SchemaError) as error:
        raise RouteUnusable(f"{route.name}: {path}: not a JSON schema that can be read: {error}") from None
    validator = kind(schema)
    return lambda value: bool(validator.is_valid(value))
