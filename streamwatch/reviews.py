"""Tells the observer what operators say of the last month's alerts: what a false-alarm rate is made of."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from streamwatch.errors import StorageError
from streamwatch.observer import Observer, ReviewCounts

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two countings."""
SPAN = 30 * 86_400.0
"""Seconds: alerts that were opened longer ago do not count."""


class Store(Protocol):
    async def review_counts(self, since: float) -> ReviewCounts:
        """Raises StorageError."""


async def count_reviews(store: Store, observer: Observer) -> None:
    """Until cancelled. Counted anew each time rather than added up: a review may be corrected, and alerts grow old."""
    while True:
        try:
            observer.reviews(await store.review_counts(time.time() - SPAN))
        except StorageError as error:
            log.debug("reviews cannot be counted: %s", error)  # the history tells operators that it is down
        await asyncio.sleep(EVERY)
