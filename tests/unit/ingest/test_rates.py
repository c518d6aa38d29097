from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamwatch.ingest.pacer import Pacer
from streamwatch.ingest.rates import Capacity, Rates, Share, Wish, share

wishes = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(Wish, st.floats(0.5, 10), st.floats(10, 30), st.booleans()),
    min_size=1,
    max_size=50,
)


@given(wishes, st.floats(10, 500))
def test_the_budget_is_kept_and_bases_come_before_bursts(asked: dict[str, Wish], budget: float) -> None:
    given_out = share(asked, budget)
    floor = 0.1 * len(asked)
    assert sum(part.fps for part in given_out.values()) <= budget + floor + 1e-6
    if sum(wish.base for wish in asked.values()) <= budget:
        assert not any(part.degraded for part in given_out.values())
    else:
        level = max(part.fps for part in given_out.values())
        for name, part in given_out.items():
            assert part.fps == pytest.approx(min(asked[name].base, level)), "shed evenly"


def test_fifty_streams_of_which_five_are_suspicious() -> None:
    asked = {f"s{i}": Wish(2.0, 10.0, i < 5) for i in range(50)}
    given_out = share(asked, 120.0)
    assert {round(given_out[f"s{i}"].fps, 6) for i in range(5, 50)} == {2.0}, "the calm keep their base rate"
    assert {round(given_out[f"s{i}"].fps, 6) for i in range(5)} == {6.0}, "the rest is shared by the suspicious"


def test_without_a_limit_everyone_gets_what_they_ask_for() -> None:
    assert share({"a": Wish(2, 5), "b": Wish(2, 5, True)}, None) == {"a": Share(2, False), "b": Share(5, False)}


def test_overload_is_said() -> None:
    given_out = share({"slow": Wish(0.5, 1), "fast": Wish(10, 10)}, 2.5)
    assert given_out == {"slow": Share(0.5, False), "fast": Share(2.0, True)}


def test_only_changes_are_told() -> None:
    rates = Rates()
    rates.add("a", 2.0, 5.0)
    rates.add("b", 2.0, 5.0)
    assert set(rates.plan()) == {"a", "b"}
    assert rates.plan() == {}
    rates.report("a", suspicious=True)
    rates.report("gone", suspicious=True)
    assert rates.plan() == {"a": Share(5.0, False)}
    rates.remove("a")
    assert rates.plan() == {}


def test_capacity_settles_near_what_the_machine_can_do() -> None:
    """A machine of 20 frames a second that is asked for 100."""
    capacity, wanted, limits = Capacity(), 100.0, []
    for _ in range(200):
        asked = min(wanted, capacity.limit or wanted)
        capacity.update(asked, min(asked, 20.0), max(0.0, asked - 20.0))
        limits.append(capacity.limit or wanted)
    assert min(limits[50:]) > 12.0
    assert max(limits[50:]) < 25.0


def test_capacity_is_unlimited_while_nothing_is_lost() -> None:
    capacity = Capacity()
    assert capacity.update(50.0, 50.0, 0.0) is None


def test_a_choked_machine_comes_back_within_seconds() -> None:
    capacity = Capacity()
    for _ in range(4):
        capacity.update(2.0, 0.0, 2.0)
    assert capacity.limit == pytest.approx(0.1)
    for seconds in range(30):  # noqa: B007  read after the loop
        limit = capacity.limit or 2.0
        capacity.update(limit, limit, 0.0)
        if limit >= 2.0:
            break
    assert seconds < 20


def test_the_pacer_sheds_and_recovers() -> None:
    told: dict[str, Share] = {}
    pacer = Pacer(told.__setitem__)

    def degraded() -> bool:
        return told["a"].degraded

    for name in ("a", "b"):
        pacer.add(name, 10.0, 10.0)
    pacer._step(1.0)
    assert told == {"a": Share(10.0, False), "b": Share(10.0, False)}
    pacer.analysed(8)
    pacer.lost(12)
    pacer._step(1.0)
    assert not degraded(), "one burst sheds nothing"
    for _ in range(3):
        pacer.analysed(8)
        pacer.lost(12)
        pacer._step(1.0)
    assert degraded()
    assert told["a"].fps == told["b"].fps < 10.0
    for _ in range(60):
        pacer.analysed(round(2 * told["a"].fps))
        pacer._step(1.0)
    assert not degraded()
