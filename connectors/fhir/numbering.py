"""Whether notifications were missed: each Subscription counts its events (R5 SubscriptionStatus.eventsSinceSubscriptionStart)."""

from __future__ import annotations

from collections import OrderedDict

from connectors.fhir.notifications import Notification

MOST = 64  # subscriptions that are kept in mind: whoever names others at will makes nothing grow


class Numbering:
    """The newest number of each Subscription that was heard of since our start; before the first of one nothing is known."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, int] = OrderedDict()

    def missed(self, told: Notification) -> bool:
        """Whether there was something before this that we were not told. It is the newest from now on.

        A number behind the one that we know is a Subscription that began anew, or a notification that was overtaken: nobody
        knows what was before.
        """
        known = self._newest.get(told.subscription)
        newest = max([*told.numbers, *(() if told.since_start is None else (told.since_start,))], default=None)
        if newest is None:
            return False
        self._newest[told.subscription] = newest
        self._newest.move_to_end(told.subscription)
        if len(self._newest) > MOST:
            self._newest.popitem(last=False)
        if known is None:
            return False
        if newest < known or newest - known > len(told.numbers):
            return True
        return not set(range(known + 1, newest + 1)) <= set(told.numbers)
