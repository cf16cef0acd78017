"""What is kept, bounded in bytes: the least used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from monitoring.metrics import snapshot_bytes


class Sized(Protocol):
    """Something that knows about how many bytes it takes."""

    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class Shelf(Generic[K, V]):
    """A dictionary that forgets. `kind` is its label in the metric."""

    def __init__(self, kind: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._nbytes = 0
        snapshot_bytes.labels(kind).set_function(lambda: float(self._nbytes))

    @property
    def nbytes(self) -> int:
        """What is kept now."""
        return self._nbytes

    def get(self, key: K) -> V | None:
        """What is kept under the key; it is then the last to go."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def peek(self, key: K) -> V | None:
        """The same, but it goes no later for it."""
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep it. What is larger than the whole shelf is not kept."""
        self.drop(key)
        if value.nbytes > self._max_bytes:
            return
        self._kept[key] = value
        self._nbytes += value.nbytes
        self._make_room()

    def drop(self, key: K) -> None:
        """Forget it."""
        value = self._kept.pop(key, None)
        if value is not None:
            self._nbytes -= value.nbytes

    def _make_room(self) -> None:
        while self._nbytes > self._max_bytes:
            _, value = self._kept.popitem(last=False)
            self._nbytes -= value.nbytes
