"""Where a sync process answers the live reads that API processes ask of the hospitals that it works."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from booking.ports import LiveFailed
from booking.store.crypto import Vault
from monitoring.logs import get_logger
from monitoring.traces import working_for
from scheduler_sync.ask import (
    MAX_QUESTION_BYTES,
    MOVED,
    PATH,
    Answer,
    Question,
    QuestionRefused,
    Questions,
    StoreClock,
    encode_result,
)
from scheduler_sync.live import LiveReads

log = get_logger("desk")

_BINARY = "application/octet-stream"


class Desk:
    """The internal listener's application. `live` knows the links of the hospitals that are worked here now."""

    def __init__(self, vault: Vault, clock: StoreClock, node_id: str, live: LiveReads) -> None:
        self._live = live
        self._questions = Questions(vault, clock, node_id)

    def application(self) -> web.Application:
        """Its one route. Who has not the data key learns from it only that it is there."""
        app = web.Application(client_max_size=MAX_QUESTION_BYTES)
        app.router.add_post(PATH, self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            question, arguments = self._questions.open(await request.read())
        except QuestionRefused as e:
            log.warning("question_refused", reason=str(e))
            return web.Response(status=403)
        with working_for(question.trace):
            answer = await self._answer(question, arguments)
        return web.Response(body=self._questions.seal(question, answer), content_type=_BINARY)

    async def _answer(self, question: Question, arguments: tuple[Any, ...]) -> Answer:
        if not self._live.has(question.hospital_id):
            return Answer(failed=MOVED)
        try:
            read = getattr(self._live, question.name)
            result = await read(question.hospital_id, *arguments, within_s=question.within_s)
        except LiveFailed as e:
            return Answer(failed=e.code, detail=e.detail)
        return Answer(result=encode_result(result))
