from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamwatch.ingest.ring import Kept, PacketRing, decode_times, distinct


def filled(ring: PacketRing, seconds: int, *, size: int = 100, origin: object = "o", start: float = 0.0) -> None:
    """Ten pictures a second, a key picture each second."""
    for index in range(seconds * 10):
        t = start + index / 10
        ring.add(Kept(bytes(size), t, index % 10 == 0, t), origin)


def test_bounded_by_time_in_whole_groups() -> None:
    ring = PacketRing(5.0, 1 << 20)
    filled(ring, 20)
    assert 50 <= len(ring) <= 70
    assert ring.evicted == 200 - len(ring)
    segment = ring.select(0.0, 100.0)
    assert segment is not None
    assert segment.pictures[0].key


@given(st.integers(1, 400), st.integers(500, 20_000))
def test_bounded_by_size(size: int, limit: int) -> None:
    ring = PacketRing(60.0, limit)
    filled(ring, 10, size=size)
    assert ring.size <= limit
    assert ring.size == len(ring) * size


def test_a_group_larger_than_the_ring_is_not_kept() -> None:
    ring = PacketRing(60.0, 1000)
    filled(ring, 3, size=900)
    assert len(ring) <= 1


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 20.0]), st.booleans(), st.integers(0, 400)), max_size=80),
    st.integers(1, 3000),
)
def test_gives_way_by_whole_groups(steps: list[tuple[float, bool, int]], limit: int) -> None:
    ring, t = PacketRing(2.0, limit), 0.0
    for step, key, size in steps:
        t += step
        ring.add(Kept(bytes(size), t, key, t), "o")
        for segment in ring._segments:
            assert not segment.pictures or segment.pictures[0].key
            assert list(segment.keys) == [picture.wall for picture in segment.pictures if picture.key]
        assert ring.size == sum(len(p.data) for segment in ring._segments for p in segment.pictures) <= limit


def test_selects_from_the_key_picture_before_the_start() -> None:
    ring = PacketRing(60.0, 1 << 20)
    filled(ring, 10)
    segment = ring.select(3.55, 5.0)
    assert segment is not None
    assert segment.pictures[0].wall == 3.0
    assert segment.pictures[-1].wall == 5.0
    assert ring.select(50.0, 60.0) is None


def test_a_new_connection_begins_a_new_segment() -> None:
    ring = PacketRing(60.0, 1 << 20)
    filled(ring, 3, origin="first")
    filled(ring, 6, origin="second", start=3.0)
    segment = ring.select(2.0, 9.0)
    assert segment is not None
    assert segment.origin == "second", "the one that covers more"
    early = ring.select(0.0, 2.5)
    assert early is not None
    assert early.origin == "first"


def test_what_comes_before_a_key_picture_is_not_kept() -> None:
    ring = PacketRing(60.0, 1 << 20)
    ring.add(Kept(b"p", 0.0, False, 0.0), "o")
    assert len(ring) == 0
    assert ring.evicted == 1


@given(st.permutations(range(8)).flatmap(lambda order: st.just([t * 3600 for t in order])))
def test_decoding_times_rise_and_are_never_late(pts: list[int]) -> None:
    dts = decode_times(pts)
    assert all(a < b for a, b in pairwise(dts))
    assert all(d <= p for d, p in zip(dts, pts, strict=True))


def test_repeated_times_are_left_out() -> None:
    kept = [Kept(b"", t, True, t) for t in (5.0, 5.5, 5.5, 6.0)]
    assert [ticks for _, ticks in distinct(kept, 10)] == [0, 5, 10]
