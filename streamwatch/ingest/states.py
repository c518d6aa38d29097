"""The life of a stream as one table. Pure."""

from __future__ import annotations

from enum import StrEnum

from streamwatch.domain import StreamState as S


class Event(StrEnum):
    OPENED = "opened"
    """the first picture was decoded, or something arrives again"""
    STALLED = "stalled"
    """nothing arrives for a while"""
    LOST = "lost"
    """the attempt, or the run, failed; another will follow"""
    RETRY = "retry"
    """the delay is over"""
    FINISHED = "finished"
    """a recording came to its end"""
    REFUSED = "refused"
    """no attempt can succeed"""
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


E = Event

# State -> event -> next state; what is not in the table does not happen and is ignored. RECONNECTING is both the wait
# and the attempt after it: an operator sees CONNECTING only until the first attempt has failed.
TRANSITIONS: dict[S, dict[Event, S]] = {
    S.CONNECTING: {
        E.OPENED: S.LIVE,
        E.LOST: S.RECONNECTING,
        E.FINISHED: S.ENDED,
        E.REFUSED: S.FAILED,
        E.PAUSE: S.PAUSED,
        E.STOP: S.STOPPED,
    },
    S.LIVE: {
        E.STALLED: S.STALLED,
        E.LOST: S.RECONNECTING,
        E.FINISHED: S.ENDED,
        E.REFUSED: S.FAILED,
        E.PAUSE: S.PAUSED,
        E.STOP: S.STOPPED,
    },
    S.STALLED: {
        E.OPENED: S.LIVE,
        E.LOST: S.RECONNECTING,
        E.FINISHED: S.ENDED,
        E.PAUSE: S.PAUSED,
        E.STOP: S.STOPPED,
    },
    S.RECONNECTING: {
        E.RETRY: S.RECONNECTING,
        E.OPENED: S.LIVE,
        E.LOST: S.RECONNECTING,
        E.FINISHED: S.ENDED,
        E.REFUSED: S.FAILED,
        E.PAUSE: S.PAUSED,
        E.STOP: S.STOPPED,
    },
    S.PAUSED: {E.RESUME: S.CONNECTING, E.STOP: S.STOPPED},
    S.ENDED: {E.RESUME: S.CONNECTING, E.STOP: S.STOPPED},
    S.FAILED: {E.RESUME: S.CONNECTING, E.STOP: S.STOPPED},
    S.STOPPED: {},
}


def after(state: S, event: Event) -> S | None:
    """The next state; None where the event means nothing."""
    return TRANSITIONS[state].get(event)
