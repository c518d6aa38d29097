from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from streamwatch.errors import DeviceError, WeightsMissing
from streamwatch.inference.batcher import Batcher, LaneLimits
from streamwatch.inference.worker import FAILING, DeviceWorker, Handler
from streamwatch.observer import NullObserver

FAR = 1e12


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher([LaneLimits("score", 8, 64)], NullObserver())
    yield batcher
    batcher.close()


def invert(payloads: Sequence[Any]) -> list[float]:
    return [1 / payload for payload in payloads]


def test_a_failing_batch_leaves_the_device_at_work(batcher: Batcher) -> None:
    worker = DeviceWorker("cpu", lambda: {"score": invert}, batcher)
    worker.start().result(30)
    with pytest.raises(DeviceError, match="score batch of 1 failed: float division by zero"):
        batcher.submit("score", [0.0], FAR)[0].result(30)
    assert batcher.submit("score", [4.0], FAR)[0].result(30) == 0.25
    batcher.close()
    worker.join()
    assert not worker.alive


def test_a_device_whose_batches_all_fail_is_not_working(batcher: Batcher, caplog: pytest.LogCaptureFixture) -> None:
    worker = DeviceWorker("cpu", lambda: {"score": invert}, batcher)
    worker.start().result(30)

    def working() -> bool:  # by a call, or the type checker takes the first answer for all
        return worker.working

    for _ in range(FAILING):
        assert working()
        with pytest.raises(DeviceError):
            batcher.submit("score", [0.0], FAR)[0].result(30)
    assert worker.alive
    assert not working()
    assert caplog.text.count("batch of 1 failed") == 1  # the log must not fill the disk
    batcher.submit("score", [4.0], FAR)[0].result(30)
    assert working()
    batcher.close()
    worker.join()


def test_what_goes_wrong_while_loading_is_told_by_start(batcher: Batcher) -> None:
    def build() -> Mapping[str, Handler]:
        raise WeightsMissing("no such file")

    worker = DeviceWorker("cpu", build, batcher)
    with pytest.raises(WeightsMissing):
        worker.start().result(30)
    worker.join()
    assert not worker.alive


class Catastrophe(BaseException):
    pass


def test_a_dying_device_closes_the_batcher_and_join_raises_its_error(batcher: Batcher) -> None:
    def die(_: Sequence[Any]) -> list[Any]:
        raise Catastrophe("gone")

    worker = DeviceWorker("cpu", lambda: {"score": die}, batcher)
    worker.start().result(30)
    with pytest.raises(DeviceError, match="gone"):
        batcher.submit("score", [1], FAR)[0].result(30)
    with pytest.raises(Catastrophe):
        worker.join()
    with pytest.raises(DeviceError, match="gone"):
        batcher.submit("score", [1], FAR)


def test_torch_threads_are_set_on_the_device_thread(batcher: Batcher) -> None:
    before = torch.get_num_threads()
    worker = DeviceWorker("cpu", lambda: {"score": lambda items: [torch.get_num_threads()] * len(items)}, batcher, 1)
    worker.start().result(30)
    assert batcher.submit("score", [None], FAR)[0].result(30) == 1
    batcher.close()
    worker.join()
    assert torch.get_num_threads() in (before, 1)
