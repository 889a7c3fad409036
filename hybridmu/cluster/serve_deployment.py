"""The aggregated model over HTTP on Ray Serve: one deployment shell around `serving.Replica`.

The model version is never part of a Serve configuration: replicas follow the registry's pointer.
"""

import asyncio  # no `from __future__ import annotations` here: FastAPI needs real types when Serve rebuilds the class
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import grpc
import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect

from hybridmu.cluster.group_deployments import SubModelGroupDeployment, ask
from hybridmu.cluster.ray_metrics import ReplicaMetrics
from hybridmu.config import Settings
from hybridmu.errors import DataError, HybridMUError, StateError
from hybridmu.serving import grpc_calls, request_body
from hybridmu.serving.answer_schemas import PredictRequest, PredictResponse, Refusal, VersionResponse, problem
from hybridmu.serving.auth import TokenDirectory
from hybridmu.serving.ensemble import Ensemble
from hybridmu.serving.replica import Replica
from hybridmu.serving.submodel_group import BehindError, spread
from hybridmu.store.ledger.database import Database

api = FastAPI(
    title="HybridMU",
    description="Predictions of an ensemble that forgets.",
    version="1",
    docs_url=None,  # its page would load scripts from elsewhere
    redoc_url=None,
)
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
_log = logging.getLogger("ray.serve")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal, "description": text}
    for code, text in {
        401: "no token that counts",
        403: "the token has not the scope",
        408: "the body does not end",
        413: "the body is too long",
        422: "the rows can't be answered",
        503: "this replica may be behind, or sub-models are out of reach",
    }.items()
}
# FastAPI would read a body that it knows of before it looks at the token.
_BODY = {
    "requestBody": {"content": {"application/json": {"schema": PredictRequest.model_json_schema()}}, "required": True}
}

# How often an answer is begun again because a version was replaced meanwhile.
_ASKS = 5


# Before the class: Serve rebuilds that with what it knows by then.
def _refuse(context: Any, code: str, says: str) -> Any:
    context.set_code(grpc.StatusCode[code])
    context.set_details(says)
    return grpc_calls.struct({})


@serve.deployment(name="Ensemble", num_replicas=1, ray_actor_options={"num_cpus": 0}, health_check_period_s=2)
@serve.ingress(api)
class EnsembleDeployment:
    """One replica of the aggregated model.

    Args:
        settings: The configuration as plain data.
        *groups: Where the sub-models are with voters: every group of them.
    """

    def __init__(self, settings: dict[str, Any], *groups: DeploymentHandle) -> None:
        parsed = Settings.model_validate(settings)
        torch.set_num_threads(1)
        name = serve.get_replica_context().replica_id.unique_id
        load = partial(spread, ask=partial(ask, groups)) if groups else Ensemble.load
        # Asking voters waits for them, which Serve's own thread must not.
        with ThreadPoolExecutor(1) as thread:
            self._replica = thread.submit(Replica, parsed, name, ReplicaMetrics().swapped, load).result()
        self._limits, guarded = parsed.serving, parsed.serving.authenticate
        self._tokens = (
            TokenDirectory(Database.open(parsed.database).tokens.all, parsed.api.token_seconds) if guarded else None
        )
        self._stop = threading.Event()
        threading.Thread(target=self._replica.follow, args=(self._stop,), daemon=True, name="follow").start()
        self._batch.set_max_batch_size(parsed.serving.max_batch_size)
        self._batch.set_batch_wait_timeout_s(parsed.serving.batch_wait_ms / 1000)
        _log.info("answering with version %d, forward %s", self._replica.ensemble.version, self._replica.ensemble.way)

    @api.post("/v1/predict", response_model=PredictResponse, responses=_REFUSALS, openapi_extra=_BODY)
    async def predict(self, request: Request, bearer: _Bearer = None) -> dict[str, Any]:
        """Classify rows; all of an answer comes from one version, which it names."""  # noqa: DOC201, DOC501 - the API's page shows it
        await self._admit(bearer)  # before a byte of the body is read
        try:
            length = request.headers.get("content-length")
            sent = await request_body.read(request.stream(), length, self._limits.body_bytes)
            return await self._answer(await request_body.rows_of(sent, self._limits.request_rows))
        except request_body.TooLongError as error:
            raise HTTPException(413, problem(error), {"Connection": "close"}) from None
        except DataError as error:
            raise HTTPException(422, problem(error)) from None
        except HybridMUError as error:
            raise HTTPException(503, problem(error)) from None
        except TimeoutError:
            raise HTTPException(408, "the body does not end", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body broke off") from None

    async def Predict(self, request: bytes, grpc_context: Any) -> Any:
        """Return the same answer over gRPC (`serving/grpc_calls.py`); refusals are codes of gRPC."""  # noqa: DOC501 - each is caught below
        refuse = partial(_refuse, grpc_context)
        try:
            if self._tokens is None:
                return refuse("UNAUTHENTICATED", "gRPC listens on every interface: set serving.authenticate: true")
            if refusal := await self._refusal(grpc_calls.bearer(grpc_context.invocation_metadata()) or ""):
                return refuse("UNAUTHENTICATED" if refusal[0] == 401 else "PERMISSION_DENIED", refusal[1])
            if len(request) > self._limits.body_bytes:
                raise request_body.TooLongError(self._limits.body_bytes)
            sent = await asyncio.to_thread(grpc_calls.parsed, request)
            return grpc_calls.struct(await self._answer(request_body.checked(sent, self._limits.request_rows)))
        except request_body.TooLongError as error:
            return refuse("RESOURCE_EXHAUSTED", str(problem(error)))
        except DataError as error:
            return refuse("INVALID_ARGUMENT", str(problem(error)))
        except HybridMUError as error:
            return refuse("UNAVAILABLE", str(problem(error)))

    async def _answer(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        for _ in range(_ASKS):
            try:
                with self._replica.answering():
                    answer: dict[str, Any] | DataError = await self._batch(rows)
            except BehindError:  # outside of `answering`, which a swap waits for
                await asyncio.to_thread(self._replica.refresh)
                continue
            if isinstance(answer, DataError):
                raise answer
            return answer
        raise StateError("versions are replaced faster than answers are made", remedy="try again")

    @api.get("/v1/version", response_model=VersionResponse)
    async def version(self, bearer: _Bearer = None) -> dict[str, Any]:
        """Return which version answers, and how."""
        await self._admit(bearer)
        ensemble = self._replica.ensemble
        return {
            "version": ensemble.version,
            "voters": ensemble.voters,
            "withheld": len(ensemble.withheld),
            "aggregation": ensemble.how,
            "forward": ensemble.way,
            "forward_seconds": ensemble.seconds,
        }

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Answer 200 while this replica may answer predictions, 503 otherwise."""  # noqa: DOC201, DOC501
        if not self._replica.healthy:
            raise HTTPException(503, "the lease is over")
        return {"status": "ok"}

    async def _admit(self, bearer: HTTPAuthorizationCredentials | None) -> None:
        try:
            refusal = await self._refusal(bearer.credentials if bearer else "")
        except StateError as error:
            raise HTTPException(503, problem(error)) from None
        if refusal:
            raise HTTPException(*refusal, {"WWW-Authenticate": "Bearer"} if refusal[0] == 401 else None)

    async def _refusal(self, text: str) -> tuple[int, str] | None:
        """Return why a token opens nothing here, as HTTP's code and a sentence; None: it does, or none is asked for."""
        token = await asyncio.to_thread(self._tokens.authenticate, text) if self._tokens and text else None
        if self._tokens is None or (token and token.allows("predict")):
            return None
        return (403, "this token is not for predict") if token else (401, "no token that counts")

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=64, batch_wait_timeout_s=0.002
    )
    async def _batch(self, requests: list[list[dict[str, Any]]]) -> list[dict[str, Any] | DataError]:
        ensemble = self._replica.ensemble  # captured once: one batch, one version
        rows = sum(map(len, requests))
        if ensemble.quick(rows):  # a thread would cost more than it frees (docs/serving.md)
            return ensemble.answers(requests)
        return await asyncio.to_thread(ensemble.answers, requests)

    async def refresh(self, version: int) -> int:
        """Follow the pointer now instead of at the next poll; the coordinator broadcasts this.

        Args:
            version: What was just published; the pointer decides, so a late call does no harm.

        Returns:
            The version that answers now.
        """
        return await asyncio.to_thread(self._replica.refresh)

    def check_health(self) -> None:
        """Fail past the lease, so that Serve replaces this replica.

        Raises:
            HybridMUError: The lease is over.
        """
        if not self._replica.healthy:
            raise HybridMUError("the lease is over", remedy="check that the ledger can be reached")

    def __del__(self) -> None:
        """Unregister; when that fails the lease runs out by itself."""
        if hasattr(self, "_replica"):
            self._stop.set()
            self._replica.close()


def make_application(settings: Settings, replicas: int = 1, most: int | None = None) -> serve.Application:
    """Return the application to run or deploy.

    Args:
        settings: The configuration.
        replicas: How many processes answer, at least.
        most: Serve starts up to so many under load; None: always `replicas`.
    """
    # Serve's own bound is 5, which no batch would ever be full with.
    ongoing = 2 * settings.serving.max_batch_size
    logs = {"encoding": settings.logs.format.upper(), "log_level": settings.logs.level.upper()}
    count: dict[str, Any] = {"num_replicas": replicas}
    if most is not None:  # a replica is busy with half a batch
        target = max(1, settings.serving.max_batch_size // 2)
        scaling = {"min_replicas": replicas, "max_replicas": most, "target_ongoing_requests": target}
        count = {"num_replicas": None, "autoscaling_config": scaling}
    where: dict[str, Any] = {"num_cpus": 0}
    if settings.serving.labels:
        where["label_selector"] = dict(settings.serving.labels)
    given: dict[str, Any] = {
        "max_ongoing_requests": ongoing,
        "logging_config": logs,
        "ray_actor_options": where,
        **count,
    }
    if settings.serving.per_node is not None:
        given["max_replicas_per_node"] = settings.serving.per_node
    # What is left out stays so: replicas take it from the ledger, which may know nothing yet.
    plain = settings.model_dump(mode="json", exclude_unset=True)
    groups = settings.serving.groups if settings.serving.groups > 1 else 0
    voters = [
        SubModelGroupDeployment.options(name=f"Votes-{group}", **given).bind(plain, group)  # type: ignore[attr-defined]
        for group in range(groups)
    ]
    return EnsembleDeployment.options(**given).bind(plain, *voters)  # type: ignore[attr-defined]
