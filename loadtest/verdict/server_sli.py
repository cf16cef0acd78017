"""The service's own SLI beside the client's: they must tell the same, or production would be watched by a number that lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import msgspec

from loadtest.verdict.availability import Availability
from loadtest.verdict.facts import Run, ServerSli
from loadtest.verdict.samples import LIVE, JudgedSamples, Verdict

AGREED = Fraction("0.0005")  # 0.05 points
COUNTED = Fraction("0.01")
STAGE_ASKS = 50
"""So far may the two counts be apart, as a share or in requests: the service also counts what the stage asks before and after the
crowd, which is some twenty requests.
"""
WHOLE = "judged classes"
SERVER_VALID = ("good", "slow", "failed", "shed")
AS_SERVER = {"status": "read", "join": "hold"}
"""Classes that the client tells apart and the service does not: what is in memory from what only the store knows."""


class Comparison(msgspec.Struct, frozen=True):
    """One class by both. The client's side is what was answered: that a hold broke later is no answer, and is judged apart.

    `required`: a difference beyond 0.05 points fails the run. It is not where counts were lost, where there is nothing to compare
    with, and where one of the two has too few.
    """

    name: str
    client: dict[Verdict, int]
    server: dict[str, int]
    client_share: Fraction | None
    server_share: Fraction | None
    required: bool
    words: tuple[str, ...]

    @property
    def difference(self) -> Fraction | None:
        """Client less server."""
        if self.client_share is None or self.server_share is None:
            return None
        return self.client_share - self.server_share

    @property
    def answered(self) -> int:
        """By the client: the service knows nothing of connections that failed."""
        return sum(count for verdict, count in self.client.items() if verdict != Verdict.UNANSWERED)

    @property
    def counted_apart(self) -> Fraction:
        """By how much the two counts differ, as a share of the client's."""
        return Fraction(abs(sum(self.server.values()) - self.answered), max(1, self.answered))

    @property
    def counts_differ(self) -> bool:
        """Whether one of the two has seen what the other has not."""
        apart = abs(sum(self.server.values()) - self.answered)
        return apart > STAGE_ASKS and self.counted_apart > COUNTED

    @property
    def agrees(self) -> bool | None:
        """None where there is nothing to compare."""
        return None if self.difference is None else abs(self.difference) <= AGREED


def compare(run: Run, judged: JudgedSamples, *, floor: int) -> tuple[Comparison, ...]:
    """Each class that either side knows, then the judged ones together."""
    classes = tuple(dict.fromkeys(AS_SERVER.get(c, c) for c in run.facts.judged.classes if c != LIVE))
    seen = [*(AS_SERVER.get(c, c) for c in judged.class_names), *(s.request_class for s in run.server_sli.sli)]
    rows = [_compare(run, judged, (name,), name, name in classes, floor) for name in dict.fromkeys(seen)]
    rows = [row for row in rows if any(row.client.values()) or any(row.server.values())]
    return (*rows, _compare(run, judged, classes, WHOLE, True, floor))


def _compare(
    run: Run, judged: JudgedSamples, classes: tuple[str, ...], name: str, judged_by: bool, floor: int
) -> Comparison:
    client = judged.counts(judged.of_class(*(n for n in judged.class_names if AS_SERVER.get(n, n) in classes)))
    answered = {**client, Verdict.GOOD: client[Verdict.GOOD] + client[Verdict.BROKEN], Verdict.BROKEN: 0}
    server = _count(run.server_sli, classes)
    client_share = Availability(answered, floor).share
    valid = sum(server.get(verdict, 0) for verdict in SERVER_VALID)
    server_share = Fraction(server.get("good", 0), valid) if valid >= max(1, floor) else None
    comparison = Comparison(
        name,
        client,
        server,
        client_share,
        server_share,
        required=judged_by and not run.server_sli.lost_counts and client_share is not None and server_share is not None,
        words=tuple(_reasons(client, server)),
    )
    return msgspec.structs.replace(comparison, words=()) if comparison.agrees is not False else comparison


def _count(sli: ServerSli, classes: tuple[str, ...]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for entry in sli.sli:
        if entry.request_class in classes:
            counted[entry.verdict] += round(entry.count)
    return dict(counted)


def _reasons(client: dict[Verdict, int], server: dict[str, int]) -> Iterator[str]:
    """Where the two counts part, in the order of how often it is the reason."""
    late, slow = client[Verdict.SLOW], server.get("slow", 0)
    if late > slow:
        yield (
            f"{late - slow:,} more were late for the client than for the service: it counts from the intended start, with "
            "the network, the queue before the socket and the generator's own lag in it"
        )
    elif slow > late:
        yield f"{slow - late:,} more were late for the service than for the client"
    if unanswered := client[Verdict.UNANSWERED]:
        yield (
            f"{unanswered:,} got no answer: the service counts those whose caller hung up as gone ({server.get('gone', 0)}), "
            "and knows nothing of connections that failed"
        )
    if refused := client[Verdict.REFUSED]:
        yield f"{refused:,} were answered 429 to a client within the policy: the service counts them as limited"
    if wrong := client[Verdict.WRONG]:
        yield f"{wrong:,} were told that a released slot is not released: the service takes that for good"
    for verdict, name in ((Verdict.FAILED, "failed"), (Verdict.SHED, "shed")):
        if (theirs := server.get(name, 0)) != client[verdict]:
            yield f"{client[verdict]:,} {name} by the client, {theirs:,} by the service"
    sent, counted = sum(client.values()), sum(server.values())
    if sent != counted:
        yield f"the client sent {sent:,}, the service counted {counted:,}"
