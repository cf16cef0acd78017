"""Changes to a message that was read, by the paths that read it; every character that is not meant stays where it is.

    draft = Draft(message)
    draft.set("PID-5.1", "Zhang")            the first text that the path reads: what stands beside it in PID-5 is kept
    draft.set("PID-3[5=MR].1", "100")        where no repetition passes the test, one that does is added
    draft.set("PID-3(*).1", "x")             in every repetition; OBX(*)-5 in every segment
    draft.replace("PID-5", "Zhang^Wei")      everything that is addressed, written as ER7
    draft.remove("PID-3[5=NI]")              a repetition; of PID-19 the content; of NTE(*) the segments
    draft.render()

Texts are escaped in the message's own delimiters, which, like its line ends, blank lines and trailing delimiters, stay as they
are. Fields, repetitions and components that are missing before what is set are added empty; segments are not added. For whatever
passes a message on with some of it changed, and may not disturb the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from connectors.hl7v2.addresses import EVERY, FieldAddress, Segments, field_address, segment_address
from connectors.hl7v2.er7 import Message, parse
from connectors.hl7v2.escapes import Delimiters
from connectors.hl7v2.paths import passes
from connectors.hl7v2.segments import HEADERS, Segment, leaf_of

Change = Callable[[str], str]


class EditError(ValueError):
    """The change cannot be made: what it addresses is not there, or the message's delimiters cannot write it."""


class Draft:
    """A message in change. The message itself stays as it was read."""

    def __init__(self, message: Message) -> None:
        self._marks = message.delimiters
        self._segments = message.segments
        stops = [stop for _, stop in message.spans]
        starts = [start for start, _ in message.spans[1:]]
        self._ends = [message.text[a:b] for a, b in zip(stops, [*starts, len(message.text)], strict=True)]

    def set(self, path: str, text: str) -> None:
        """Make `text` what the path reads; "" clears it. Raises EditError, or ValueError for what is no path."""
        raw = self._escaped(text)

        def change(repetition: str, address: FieldAddress) -> str:
            component, subcomponent = address.component or 1, address.subcomponent or 1
            return _with_part(repetition, self._marks, component, subcomponent, raw)

        self._change(field_address(path), change)

    def replace(self, path: str, raw: str) -> None:
        """Put ER7 in the place of all that the path addresses: of PID-5 the field with its repetitions, of PID-5.1 the component.

        Raises EditError, also where `raw` would end what it is put into; ValueError for what is no path.
        """
        address, marks = field_address(path), self._marks
        whole = address.component is None
        self._check(raw, address)
        if whole and address.part is None and address.repetition is None:
            self._change_fields(address, lambda _: raw)
        else:
            self._change(
                address,
                lambda one, at: raw if whole else _with_part(one, marks, at.component or 1, at.subcomponent, raw),
            )

    def remove(self, path: str) -> None:
        """Take out segments (`NTE(*)`), repetitions (`PID-3(2)`), or the content of fields and components. Absent: nothing.

        What follows a repetition moves up; nothing else moves. Raises EditError for a header, ValueError for what is no path.
        """
        try:
            address, marks = field_address(path), self._marks
        except ValueError:
            return self._remove_segments(segment_address(path))
        if address.component is not None or (address.part is None and address.repetition is None):
            if self._present(address):
                self.replace(path, "")
            return None

        def change(field: str) -> str:
            repetitions = _split(field, marks.repetition)
            gone = set(_meant(repetitions, address, marks))
            return marks.repetition.join(one for n, one in enumerate(repetitions) if n not in gone)

        return self._change_fields(address, change, absent_is_error=False)

    def render(self) -> str:
        """The message as it is now."""
        return "".join(segment.raw + end for segment, end in zip(self._segments, self._ends, strict=True))

    def message(self) -> Message:
        """The message as it is now, read."""
        return parse(self.render(), self._marks.codec)

    # --- where ---------------------------------------------------------------------------------------------------

    def _chosen(self, wanted: Segments) -> list[int]:
        places = [place for place, one in enumerate(self._segments) if one.name == wanted.name and passes(one, wanted)]
        index = (wanted.place or 1) - 1
        return places if wanted.place == EVERY else places[index : index + 1]

    def _present(self, address: FieldAddress) -> bool:
        """Whether there is anything to clear at an address."""
        place = _place_of(address)
        for segment in (self._segments[n] for n in self._chosen(address.segments)):
            repetitions = [] if segment.missing(place) else _split(segment.piece(place), self._marks.repetition)
            if _meant(repetitions, address, self._marks):
                return True
        return False

    def _change_fields(self, address: FieldAddress, change: Change, *, absent_is_error: bool = True) -> None:
        if address.root == "<":
            raise EditError("a path from before a group changes nothing: there is no group")
        place = _place_of(address)
        chosen = self._chosen(address.segments)
        if not chosen and absent_is_error and address.segments.place != EVERY:
            raise EditError(f"the message has no such segment {address.segments.name}")
        for number in chosen:
            segment = self._segments[number]
            missing = segment.missing(place)
            field = segment.piece(place)
            changed = change(field)
            if changed == field:
                continue
            text, (start, stop) = segment.raw, segment.span(place)
            before = text[: start - segment.start] + self._marks.field * missing
            line = before + changed + text[stop - segment.start :]
            self._segments[number] = Segment(line, 0, len(line), self._marks)

    def _change(self, address: FieldAddress, change: Callable[[str, FieldAddress], str]) -> None:
        marks = self._marks

        def in_field(field: str) -> str:
            repetitions = _split(field, marks.repetition)
            meant = _meant(repetitions, address, marks)
            if not meant and address.repetition != EVERY:
                meant = [self._add_repetition(repetitions, address)]
            for number in meant:
                repetitions[number] = change(repetitions[number], address)
            return marks.repetition.join(repetitions)

        self._change_fields(address, in_field)

    def _add_repetition(self, repetitions: list[str], address: FieldAddress) -> int:
        """Add what the address misses, and return its place: repetitions up to the number, or one that passes the test."""
        if address.part is None:
            count = address.repetition or 1
            repetitions += [""] * (count - len(repetitions))
        else:
            if (address.repetition or 1) > 1:
                raise EditError("there are not so many repetitions that pass the test")
            if repetitions == [""]:
                repetitions.clear()
            repetitions.append(_with_part("", self._marks, *address.part, self._escaped(address.value)))
        if len(repetitions) > 1 and not self._marks.repetition:
            raise EditError("the message declares no delimiter of repetitions")
        return len(repetitions) - 1

    def _remove_segments(self, wanted: Segments) -> None:
        gone = set(self._chosen(wanted))
        if 0 in gone:
            raise EditError("a message cannot be without its header")
        self._segments = [one for place, one in enumerate(self._segments) if place not in gone]
        self._ends = [end for place, end in enumerate(self._ends) if place not in gone]

    # --- what ----------------------------------------------------------------------------------------------------

    def _escaped(self, text: str) -> str:
        try:
            return self._marks.escaped(text)
        except ValueError as error:
            raise EditError(str(error)) from None

    def _check(self, raw: str, address: FieldAddress) -> None:
        marks = self._marks
        cutting = ["\r", marks.field]
        if any("\n" in end for end in self._ends):  # else a line feed is content
            cutting.append("\n")
        if address.part or address.repetition is not None or address.component:
            cutting.append(marks.repetition)
        if address.component:
            cutting.append(marks.component)
        if address.subcomponent:
            cutting.append(marks.subcomponent)
        if any(mark and mark in raw for mark in cutting):
            raise EditError("the text would end what it is put into")


def _place_of(address: FieldAddress) -> int:
    """The piece that holds a field."""
    header = address.segments.name in HEADERS
    if header and address.field <= 2:
        raise EditError("the delimiters of a message cannot be changed")
    return address.field - header


def _meant(repetitions: list[str], address: FieldAddress, marks: Delimiters) -> list[int]:
    """Which repetitions an address means: of those that pass its test the first, the one that it counts, or all."""
    part = address.part
    passing = [n for n, one in enumerate(repetitions) if part is None or leaf_of(one, marks, *part) == address.value]
    if address.repetition == EVERY:
        return passing
    index = (address.repetition or 1) - 1
    return passing[index : index + 1]


def _with_part(raw: str, marks: Delimiters, component: int, subcomponent: int | None, text: str) -> str:
    """A repetition with another component, or with another subcomponent of one."""
    components = _split(raw, marks.component)
    components += [""] * (component - len(components))
    inner = [text]
    if subcomponent is not None:
        inner = _split(components[component - 1], marks.subcomponent)
        inner += [""] * (subcomponent - len(inner))
        inner[subcomponent - 1] = text
    if (len(components) > 1 and not marks.component) or (len(inner) > 1 and not marks.subcomponent):
        raise EditError("the message declares no delimiter for such a part")
    components[component - 1] = marks.subcomponent.join(inner)
    return marks.component.join(components)


def _split(raw: str, mark: str) -> list[str]:
    return raw.split(mark) if mark else [raw]
