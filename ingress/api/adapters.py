"""Loading and unloading adapters at run time, for those who may."""

from __future__ import annotations

from collections.abc import Mapping

from bus.config import ModelConfig
from ingress.api import validate
from ingress.api.admission import Admission
from ingress.api.answer import encode, model_card
from ingress.api.jobs import Caller
from ingress.api.schema_other import AdapterUnloaded
from ingress.engine import Engine
from ingress.errors import invalid_request, model_not_found
from ingress.gate import refusals


class AdapterCalls:
    """The two operations.

    Args:
        models: as configured.
    """

    def __init__(self, engine: Engine, admission: Admission, models: Mapping[str, ModelConfig]) -> None:
        self._engine, self._admission, self._models = engine, admission, models

    async def load(self, body: bytes, caller: Caller) -> bytes:
        """Load one. Answered with its card when a worker has read it; again, where it is there already.

        Raises:
            ApiError: 400, it cannot be served, and why; 403, the key may not; 404, no such base; 503.
        """
        request = validate.load_adapter_request(body)
        self._check(caller)
        base = self._base(request.base_model_name)
        self._admission.check_model(caller, base)
        await self._engine.loads.load(base, request.lora_name, request.lora_path)
        model = self._engine.model(request.lora_name)
        return encode(model_card(model))

    async def unload(self, body: bytes, caller: Caller) -> bytes:
        """Take no more requests for one.

        Raises:
            ApiError: 400, it is configured; 403; 404, there is none of that name; 503.
        """
        request = validate.unload_adapter_request(body)
        self._check(caller)
        model = self._engine.adapters.get(request.lora_name)
        if model is None:
            raise model_not_found(request.lora_name, tuple(self._engine.adapters))
        self._admission.check_model(caller, model.base)
        await self._engine.loads.unload(model.base, model.name)
        return encode(AdapterUnloaded(id=model.name))

    def _check(self, caller: Caller) -> None:
        """Where no keys are asked for, everybody may: only what is in the configured directory can be loaded."""
        if caller.grantee is not None and caller.grantee.key.role != "manager":
            raise refusals.forbidden(
                "This API key may not load adapters: its role is not manager.", code="role_not_allowed"
            )

    def _base(self, named: str | None) -> str:
        if named is not None:
            if named not in self._engine.models:
                raise model_not_found(named, tuple(self._engine.models))
            return named
        possible = [name for name, model in self._models.items() if model.lora.directory]
        if len(possible) != 1:
            raise invalid_request(
                "No model takes adapters at run time: [model.lora] directory is not set."
                if not possible
                else f"Name the base_model_name: {', '.join(possible)} take adapters.",
                param="base_model_name",
            )
        return possible[0]
