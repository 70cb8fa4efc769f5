"""Clients that go on and on with what is no request, or with wrong keys: they wait, the others do not."""

from __future__ import annotations

from math import ceil

BURST = 16
MOST_S = 2.0
MOST_ADDRESSES = 1024


class Pacing:
    """Spreads refusals of what comes from one address, so that refusing it takes next to no time.

    Each address is refused `BURST` times at once, and then `per_s` times a second; the others wait for their
    turn, `MOST_S` seconds at most. Requests that are served wait for nothing.
    """

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1.0 / per_s
        # When the last refusal of each address was or is due, oldest first.
        self._turns: dict[str, float] = {}

    def delay(self, address: str, now: float) -> float:
        """Seconds until one more refusal of something from `address` is due; `now` may not go back."""
        earliest = now - BURST * self._interval_s
        turn = max(self._turns.pop(address, earliest), earliest) + self._interval_s
        self._turns[address] = min(turn, now + MOST_S)
        if len(self._turns) > MOST_ADDRESSES:
            del self._turns[next(iter(self._turns))]
        return max(0.0, self._turns[address] - now)


class WrongKeys:
    """Counts wrong keys of each address, so that none can be found by trying.

    `burst` come free, and then one in `every_s` seconds. An address that is beyond that has its keys refused
    unseen.
    """

    def __init__(self, burst: int = 20, every_s: float = 4.0) -> None:
        self._allowance_s = burst * every_s
        self._every_s = every_s
        # Time at which the wrong keys of each address are forgotten, oldest first.
        self._until: dict[str, float] = {}

    def wait_s(self, address: str, now: float) -> int:
        """Seconds until a key of this address is looked at again; 0: at once."""
        beyond = self._until.get(address, now) - now - self._allowance_s
        return max(0, ceil(beyond + self._every_s))

    def count(self, address: str, now: float) -> None:
        """One more wrong key of an address."""
        self._until[address] = max(self._until.pop(address, now), now) + self._every_s
        if len(self._until) > MOST_ADDRESSES:
            del self._until[next(iter(self._until))]
