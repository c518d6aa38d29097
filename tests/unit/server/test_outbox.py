"""The outbox: latest wins, alerts stay, order holds, nobody starves, nothing grows."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from streamwatch.server.outbox import Outbox


def text(seq: int) -> str:
    return json.dumps({"seq": seq})


def test_the_newest_of_a_key_takes_the_place_of_the_older_and_counts_it() -> None:
    box = Outbox()
    for seq in (1, 2, 3):
        box.put("lobby", "score", text(seq))
    (only,) = box.take()
    assert json.loads(only) == {"seq": 3, "skipped": 2}
    box.put("lobby", "score", text(4))
    assert json.loads(box.take()[0]) == {"seq": 4}


def test_alerts_are_never_replaced_and_refused_when_there_are_too_many() -> None:
    box = Outbox(limit=2)
    assert box.put("lobby", None, text(1))
    assert box.put("lobby", None, text(2))
    assert not box.put("lobby", None, text(3))
    assert [json.loads(t)["seq"] for t in box.take()] == [1, 2]
    assert box.put("lobby", None, text(4))
    box.forget({"lobby"})
    assert box.take() == []
    assert box.put("lobby", None, text(5))
    assert box.put("lobby", None, text(6))


def test_streams_take_turns_however_fast_one_of_them_is() -> None:
    box = Outbox()
    box.put("slow", "score", text(1))
    for seq in range(100):
        box.put("fast", "score", text(seq))
    box.put("slow", "score", text(2))
    assert json.loads(box.take()[0])["seq"] == 2
    assert json.loads(box.take()[0])["seq"] == 99
    assert not box.take()


def test_pictures_pass_unchanged() -> None:
    box = Outbox()
    box.put("lobby", "thumbnail", b"old")
    box.put("lobby", "thumbnail", b"new")
    assert box.take() == [b"new"]


@dataclass
class Model:
    """What any client may rely on, whatever it takes and whenever."""

    last: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    received: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    skipped: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def take(self, box: Outbox) -> bool:
        batch = box.take()
        for item in batch:
            message = json.loads(item)
            stream, key = message["stream"], message["key"]
            assert message["seq"] > self.last[stream], "seq must rise strictly within a stream"
            self.last[stream] = message["seq"]
            self.received[stream, key] += 1
            self.skipped[stream, key] += message.get("skipped", 0)
        return bool(batch)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["score", "stream", "alert", "take"]))))
def test_order_and_counts_hold_for_every_sequence(steps: list[tuple[str, str]]) -> None:
    box, model = Outbox(limit=1000), Model()
    seq: dict[str, int] = defaultdict(int)
    sent: dict[tuple[str, str], int] = defaultdict(int)
    for stream, key in steps:
        if key == "take":
            model.take(box)
            continue
        seq[stream] += 1
        sent[stream, key] += 1
        body = json.dumps({"stream": stream, "key": key, "seq": seq[stream]})
        assert box.put(stream, None if key == "alert" else key, body)
        assert len(box) <= 6 + sum(count for (_, kind), count in sent.items() if kind == "alert")
    while model.take(box):
        pass
    for pair, count in sent.items():
        assert model.received[pair] + model.skipped[pair] == count, "each message arrives or is counted"
        if pair[1] == "alert":
            assert model.received[pair] == count
