"""How soon those who send what is no request are told so: at once, unless they go on and on."""

from __future__ import annotations

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
