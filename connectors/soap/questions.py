"""Trades of a HIS that ask us something: read by a record map, and answered by a tree of their own."""

from __future__ import annotations

from collections.abc import Sequence

from lxml import etree

from connectors.port import QuestionHandler, Refused
from connectors.soap.served import Outcome, ServerSpec
from connectors.soap.xpath import XPathLanguage
from mappings.canonical import RefundQuestion, RefundState
from mappings.context import MapContext
from mappings.engine import RecordMap, RequestTree, compile_record_map, compile_request
from mappings.profile import Profile
from monitoring.logs import get_logger

log = get_logger(__name__)


class Questions:
    """The questions of one dialect. Raises ProfileError where the profile is wrong."""

    def __init__(self, profile: Profile, spec: ServerSpec) -> None:
        self.handler: QuestionHandler | None = None
        self._asks: dict[str, RecordMap] = {}
        self.trees: dict[str, RequestTree] = {}
        for trade, question in spec.questions.items():
            place = f"connection.server.questions.{trade}"
            if not spec.guarded:
                profile.fail(place, "questions are answered only to who shows who it is: `sign` or `credentials`")
            if trade in profile.inbound:
                profile.fail(place, "a trade either tells or asks: `inbound` has it too")
            self._asks[trade] = compile_record_map(profile, f"{place}.ask", question.ask, XPathLanguage())
            if self._asks[trade].record is not RefundQuestion:
                profile.fail(f"{place}.ask", "ask: a record map of `record: RefundQuestion`")
            self.trees[trade] = compile_request(profile, f"{place}.tree", question.tree)

    def __contains__(self, trade: str) -> bool:
        return trade in self._asks

    async def answer(self, trade: str, root: etree._Element, ctx: MapContext) -> tuple[Outcome, Sequence[RefundState]]:
        """What there is to say."""
        mapped = self._asks[trade].read(root, ctx)
        if len(mapped.records) != 1 or mapped.problems:
            return Outcome.UNREADABLE, ()
        if self.handler is None:
            return Outcome.RETRY, ()
        try:
            found = await self.handler(mapped.records[0])
        except Exception as error:  # the HIS asks again
            log.error("soap_question_not_answered", error=type(error).__name__, exc_info=error)
            return Outcome.RETRY, ()
        if isinstance(found, Refused):
            return (Outcome.RETRY if found.retryable else Outcome.REFUSED), ()
        return (Outcome.DONE if found else Outcome.NOT_FOUND), found
