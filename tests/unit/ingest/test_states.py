from __future__ import annotations

import pytest

from streamwatch.domain import StreamState as S
from streamwatch.ingest.states import TRANSITIONS, after
from streamwatch.ingest.states import Event as E

# Rows: the event. Columns: the state in which it comes. "." is: nothing happens.
STATES = [S.CONNECTING, S.LIVE, S.STALLED, S.RECONNECTING, S.PAUSED, S.ENDED, S.FAILED, S.STOPPED]
CELLS = {
    E.OPENED: "live . live live . . . .",
    E.STALLED: ". stalled . . . . . .",
    E.LOST: "reconnecting reconnecting reconnecting reconnecting . . . .",
    E.RETRY: ". . . reconnecting . . . .",
    E.FINISHED: "ended ended ended ended . . . .",
    E.REFUSED: "failed failed . failed . . . .",
    E.PAUSE: "paused paused paused paused . . . .",
    E.RESUME: ". . . . connecting connecting connecting .",
    E.STOP: "stopped stopped stopped stopped stopped stopped stopped .",
}


@pytest.mark.parametrize("event", E)
@pytest.mark.parametrize("state", S)
def test_each_cell(state: S, event: E) -> None:
    expected = CELLS[event].split()[STATES.index(state)]
    assert after(state, event) == (None if expected == "." else S(expected))


def test_every_state_has_a_row_and_can_be_stopped() -> None:
    assert set(TRANSITIONS) == set(S)
    assert all(after(state, E.STOP) is S.STOPPED for state in S if state is not S.STOPPED)
