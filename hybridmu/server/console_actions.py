"""The console's pages that act: plan, submit, approve and cancel deletions, find a person, pause, hold and lift.

Every form goes to a route of its own, which asks for the scope that the same call of the HTTP interface or the command
line needs. A form that another site sent is refused (`cookies.py`), and keys travel in bodies alone, so that no log of
addresses has them.
"""

# ruff: noqa: DOC201, DOC501 - each answers with a page, or with the way to one
from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from hybridmu.core.token_scopes import Scope, Token
from hybridmu.errors import HybridMUError
from hybridmu.kinds import choices
from hybridmu.server import schemas
from hybridmu.server.call_lanes import CallLanes
from hybridmu.server.console_pages import PAGE_HEADERS, render_page
from hybridmu.server.console_sign_in import ConsoleSignIn, SignedIn
from hybridmu.server.cookies import refuse_foreign
from hybridmu.server.deletions import agree, submit, take_back
from hybridmu.server.error_responses import code_of, not_as_said, told
from hybridmu.server.request_lists import RequestId
from hybridmu.server.schemas import Forget, Problem, problem
from hybridmu.system.person_lookup import requests_about
from hybridmu.system.system import System
from hybridmu.types import KeyKind

_DAY = 86_400.0
_MOST_FIELDS = 20
_HoldNumber = Annotated[int, Path(ge=1, lt=2**63)]


@dataclass(frozen=True)
class DeletionForm:
    """What the form of a deletion holds.

    Attributes:
        ids: One per line.
        groups: The same.
        strategy: One of `kinds.choices`.
        days: Until it must be exact and purged, as it was written; empty: the policy's.
        key: Idempotency key: the same form, sent twice, is one request.
    """

    ids: str = ""
    groups: str = ""
    strategy: str = "auto"
    days: str = ""
    key: str = ""

    @property
    def body(self) -> bytes:
        """Return the body of the same call over HTTP.

        Raises:
            HTTPException: The days are no number.
        """
        found: dict[str, Any] = {
            "ids": _lines(self.ids), "groups": _lines(self.groups), "strategy": self.strategy, "key": self.key,
        }  # fmt: skip
        if self.days.strip():
            try:
                found["deadline_seconds"] = float(self.days) * _DAY
            except ValueError:
                raise HTTPException(422, "the deadline is no number of days") from None
        return json.dumps(found).encode()


class ConsoleActions:
    """Forms under `/console`.

    Args:
        sign_in: Which browsers may send them.
        lanes: Where the work is done.
        most_keys: Ids and groups in one form.
    """

    def __init__(self, sign_in: ConsoleSignIn, lanes: CallLanes, most_keys: int) -> None:
        self._sign_in, self._lanes, self._most_keys = sign_in, lanes, most_keys

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(include_in_schema=False, dependencies=[Depends(self._sign_in.admit)])
        router.get("/console/forget")(self.empty_deletion)
        router.post("/console/forget")(self.deletion)
        router.get("/console/person")(self.empty_search)
        router.post("/console/person")(self.search)
        router.post("/console/requests/{request_id}/cancel")(self.cancel)
        router.post("/console/requests/{request_id}/approve")(self.approve)
        router.post("/console/requests/{request_id}/hold")(self.hold_request)
        router.post("/console/hold")(self.hold_all)
        router.post("/console/holds/{number}/lift")(self.lift)
        router.post("/console/pause")(self.pause)
        router.post("/console/resume")(self.resume)
        return router

    # ------------------------------------------------------------------ deletions

    async def empty_deletion(self, token: SignedIn) -> Response:
        """Return the form of a deletion."""
        _need(token, "forget")
        return _deletion_page(token, DeletionForm(key=f"console-{secrets.token_hex(8)}"))

    async def deletion(self, request: Request, token: SignedIn) -> Response:
        """Return the form with its plan, or submit it and go to the request's page."""
        fields = await _form(request)
        _need(token, "forget")
        form = DeletionForm(
            ids=fields.get("ids", ""),
            groups=fields.get("groups", ""),
            strategy=fields.get("strategy", ""),
            days=fields.get("days", ""),
            key=fields.get("key", ""),
        )
        if fields.get("do") == "forget":
            work, lane = self._submit(token, form), self._lanes.for_deletion(form.body)
        else:
            work, lane = self._plan(token, form), self._lanes.for_plan(form.body)

        def shown(system: System) -> Response:
            try:
                return work(system)
            except RequestValidationError as error:
                return _deletion_page(token, form, 422, problem=not_as_said(error.errors()))
            except HybridMUError as error:
                if not told(error):
                    raise
                return _deletion_page(token, form, code_of(error), problem=problem(error))

        return await lane.run_call(token.caller, shown)

    def _plan(self, token: Token, form: DeletionForm) -> Callable[[System], Response]:
        def work(system: System) -> Response:
            body = schemas.read(Forget, form.body, self._most_keys)
            plan = system.plan(ids=body.ids, groups=body.groups, strategy=body.strategy)
            return _deletion_page(token, form, plan=plan.explain())

        return work

    def _submit(self, token: Token, form: DeletionForm) -> Callable[[System], Response]:
        def work(system: System) -> Response:
            body = schemas.read(Forget, form.body, self._most_keys)
            return _to(f"/console/requests/{submit(system, body, token)['request_id']}")

        return work

    async def cancel(self, request_id: RequestId, request: Request, token: SignedIn) -> Response:
        """Take a request back that nobody began to fulfil."""
        return await self._act(
            request,
            token,
            "forget",
            lambda system: take_back(system, request_id, token),
            f"/console/requests/{request_id}",
        )

    async def approve(self, request_id: RequestId, request: Request, token: SignedIn) -> Response:
        """Approve a request that another caller proposed."""
        return await self._act(
            request,
            token,
            "forget",
            lambda system: agree(system, request_id, token),
            f"/console/requests/{request_id}",
        )

    # ------------------------------------------------------------------ people

    async def empty_search(self, token: SignedIn) -> Response:
        """Return the form that finds what is on record about a person or a row."""
        _need(token, "forget")  # it answers guesses, which are no auditor's to make
        return render_page("person", token=token, kind="group", value="", found=None)

    async def search(self, request: Request, token: SignedIn) -> Response:
        """Return what is on record about a person or a row."""
        fields = await _form(request)
        _need(token, "forget")
        kind, value = fields.get("kind", ""), fields.get("value", "")
        if kind not in {"id", "group"} or not value:
            raise HTTPException(422, "name an id or a group")

        def work(system: System) -> Response:
            found = [system.report(name) for name in requests_about(system.session, cast(KeyKind, kind), value)]
            return render_page("person", token=token, kind=kind, value=value, found=found)

        return await self._lanes.reads.run_call(token.caller, work)

    # ------------------------------------------------------------------ the operator's controls

    async def pause(self, request: Request, token: SignedIn) -> Response:
        """Accept requests, and begin none."""
        reason = (await _form(request)).get("reason", "")
        return await self._act(request, token, "admin", lambda system: system.pause(reason, token.caller), "/console")

    async def resume(self, request: Request, token: SignedIn) -> Response:
        """Begin requests again."""
        return await self._act(request, token, "admin", lambda system: system.resume(), "/console")

    async def hold_request(self, request_id: RequestId, request: Request, token: SignedIn) -> Response:
        """Place a legal hold on one request."""
        reason, place = (await _form(request)).get("reason", ""), f"/console/requests/{request_id}"
        return await self._act(
            request, token, "admin", lambda system: system.hold(reason, request_id, token.caller), place
        )

    async def hold_all(self, request: Request, token: SignedIn) -> Response:
        """Place a legal hold on every request."""
        reason = (await _form(request)).get("reason", "")
        return await self._act(
            request, token, "admin", lambda system: system.hold(reason, None, token.caller), "/console"
        )

    async def lift(self, number: _HoldNumber, request: Request, token: SignedIn) -> Response:
        """End a legal hold."""
        return await self._act(request, token, "admin", lambda system: system.lift(number), "/console")

    async def _act(
        self, request: Request, token: Token, scope: Scope, act: Callable[[System], object], place: str
    ) -> Response:
        """Return the way to a page after something was done, or a page that says why it was not."""
        refuse_foreign(request)
        _need(token, scope)

        def work(system: System) -> Response:
            try:
                act(system)
            except HybridMUError as error:
                if not told(error):
                    raise
                return render_page("refused", code_of(error), token=token, problem=problem(error), back=place)
            return _to(place)

        return await self._lanes.deletions.run_call(token.caller, work)


def _need(token: Token, scope: Scope) -> None:
    """Refuse a token that lacks a scope.

    Raises:
        HTTPException: It does.
    """
    if not token.allows(scope):
        raise HTTPException(403, f"the token lacks the scope {scope}")


async def _form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form of this site; of a field given twice, the first."""
    refuse_foreign(request)
    body = (await request.body()).decode("utf-8", "replace")
    try:
        given = parse_qs(body, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise HTTPException(422, "the form has too many fields") from None
    return {name: values[0].replace("\r\n", "\n") for name, values in given.items()}  # as browsers send lines


def _lines(text: str) -> list[str]:
    """Return what stands in the lines of a text, as it stands there; empty lines are nothing."""
    return [line for line in text.split("\n") if line]


def _deletion_page(
    token: Token, form: DeletionForm, code: int = 200, *, plan: str = "", problem: Problem | None = None
) -> Response:
    return render_page("forget", code, token=token, form=form, strategies=choices(), plan=plan, problem=problem)


def _to(place: str) -> Response:
    return RedirectResponse(place, 303, PAGE_HEADERS)
