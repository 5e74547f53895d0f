"""When a scan must end, asked wherever it can stop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Clock = Callable[[], float]


class DeadlineError(RuntimeError):
    """The time is up; what was found so far is partial and counts for nothing."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of a monotonic clock, in seconds."""

    at: float
    clock: Clock = time.monotonic

    def check(self) -> None:
        """Raise DeadlineError once the instant has passed."""
        if self.clock() > self.at:
            raise DeadlineError

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items in order, none of which is begun too late."""
        for item in items:
            self.check()
            yield item


UNBOUNDED = Deadline(math.inf)
