"""Which messages a command is about: the options, once for all commands, and what the message store is asked for."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from booking.conversion import SettingsError

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from scheduler_sync.messages.search import Wanted

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]


@dataclass(frozen=True)
class Filters:
    """What the options ask for. A field's annotation is its option."""

    direction: Annotated[str | None, typer.Option(help="in (the HIS began) or out.")] = None
    connector: Annotated[str | None, typer.Option(help="The connector's name in the settings.")] = None
    state: Annotated[
        str | None, typer.Option(help="received, applied, quarantined, done, failed, unknown, refused or duplicate.")
    ] = None
    message_type: Annotated[str | None, typer.Option("--type", help="As ADT^A08, or ADT for all of them.")] = None
    control_id: Annotated[str | None, typer.Option(help="MSH-10, or what else the protocol calls it.")] = None
    booking: Annotated[str | None, typer.Option(help="A booking's id or order number, or the HIS's own id of it.")] = (
        None
    )
    patient: Annotated[str | None, typer.Option(help="The patient's number at the hospital (MRN).")] = None
    since: Annotated[
        str | None, typer.Option(help="2026-11-30, 2026-11-30T07:00 (the hospital's time), or 90m, 12h, 7d.")
    ] = None
    until: Annotated[str | None, typer.Option(help="The same; what began at this very time is left out.")] = None
    text: Annotated[str | None, typer.Option("--text", help="Words of the reason.")] = None

    def check(self, at: Hospital) -> None:
        """Raises SettingsError where an option has a word that it cannot have."""
        from scheduler_sync.messages.search import EXCHANGE_STATES, MESSAGE_STATES

        if self.direction not in (None, "in", "out"):
            raise SettingsError("--direction is in or out")
        if self.state not in (None, *MESSAGE_STATES, *EXCHANGE_STATES):
            raise SettingsError(f"--state is one of {', '.join((*MESSAGE_STATES, *EXCHANGE_STATES))}")
        if self.connector is not None and self.connector not in at.connector:
            raise SettingsError(f"{at.id} has no connector {self.connector}: {', '.join(at.connector)}")

    async def resolve(self, settings: Settings, at: Hospital) -> Wanted:
        """As the message store is asked: the booking store says under which numbers a booking and a patient go."""
        from scheduler_sync.messages.search import Wanted

        return Wanted(
            direction=self.direction,
            connector=self.connector,
            state=self.state,
            message_type=self.message_type,
            linked=await self._linked(settings, at),
            since_ms=time_ms(self.since, at, "--since"),
            until_ms=time_ms(self.until, at, "--until"),
            text=self.text,
        )

    async def _linked(self, settings: Settings, at: Hospital) -> tuple[tuple[str, ...], ...]:
        import service
        from scheduler_sync.messages.references import control_ref
        from scheduler_sync.messages.subjects import refs_of_booking, refs_of_patient

        linked: list[tuple[str, ...]] = [] if self.control_id is None else [(control_ref(self.control_id),)]
        if self.booking is not None or self.patient is not None:
            async with service.open_store(settings) as store, store.read(at.id) as tx:
                if self.booking is not None:
                    linked.append(await refs_of_booking(tx, self.booking))
                if self.patient is not None:
                    linked.append(await refs_of_patient(tx, self.patient))
        return tuple(linked)


def with_filters(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose keyword `filters` is given the options of `Filters`, apart from those that it has of its own."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = _parameters(command)
        place = [one.name for one in own].index("filters")
        options = [one for one in _parameters(Filters) if one.name not in without]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(filters=Filters(**{one.name: given.pop(one.name) for one in options}), **given)

        shown = [*own[:place], *options, *own[place + 1 :]]
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in shown}
        return run

    return decorate


def _parameters(of: Any) -> list[inspect.Parameter]:
    """By keyword, with their annotations as objects."""
    hints = typing.get_type_hints(of, include_extras=True)
    return [
        one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(of).parameters.values()
    ]


def time_ms(text: str | None, at: Hospital, option: str) -> int | None:
    """An instant of the hospital's zone, or so long ago. Raises SettingsError."""
    if text is None:
        return None
    seconds = {"m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    try:
        if seconds is not None and text[:-1].isdecimal():
            moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(text[:-1]) * seconds)
        else:
            moment = dt.datetime.fromisoformat(text)
            moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=at.zone)
        return max(0, round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise SettingsError(f"{option}: expected 2026-11-30, 2026-11-30T07:00, or as 90m, 12h, 7d") from None
