"""How long to wait before the next attempt. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from streamwatch.config import IngestSettings
from streamwatch.domain import FailureReason

_AUTH_CAP = 10.0


@dataclass(slots=True)
class Backoff:
    """Exponential with "equal jitter": half of each delay is fixed, half random, so that cameras behind one switch do
    not all come back at once. Wrong credentials begin at `backoff_auth`: a camera must not lock the account."""

    settings: IngestSettings
    chance: random.Random = field(default_factory=random.Random)
    attempt: int = 0
    auth_attempt: int = 0

    def next(self, reason: FailureReason) -> float:
        """Seconds until the next attempt after a failure of this kind."""
        first, cap, exponent = self.settings.backoff_initial, self.settings.backoff_cap, self.attempt
        self.attempt += 1
        if reason is FailureReason.AUTH_FAILED:
            first = self.settings.backoff_auth
            cap, exponent = first * _AUTH_CAP, self.auth_attempt
            self.auth_attempt += 1
        delay = min(cap, first * 2.0 ** min(exponent, 60))
        return delay / 2 + self.chance.uniform(0, delay / 2) if reason is not FailureReason.AUTH_FAILED else delay

    def reset(self) -> None:
        """After a run that lasted."""
        self.attempt = self.auth_attempt = 0
