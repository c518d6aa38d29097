"""WHIP through the whole service: tokens, trickle, two streams published at once, the end."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from streamwatch.app import Service
from streamwatch.config import StreamSettings
from streamwatch.domain import StreamState
from streamwatch.server.tokens import Scope, TokenStore
from tests.fakes.people import quick_config, until
from tests.fakes.publisher import Publisher, without_candidates

SDP = {"content-type": "application/sdp"}
FRAGMENT = {"content-type": "application/trickle-ice-sdpfrag"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.slow
async def test_publishers_need_a_token_and_several_streams_are_published_at_once(tmp_path: Path) -> None:
    streams = {"left": {"url": "whip:"}, "right": {"url": "whip:"}}
    auth = {"tokens": str(tmp_path / "tokens.json"), "anonymous_loopback": False}
    config = quick_config(tmp_path, streams, server={"auth": auth})
    store = TokenStore(tmp_path / "tokens.json")
    operator, reader = store.create("desk", (Scope.OPERATE,)), store.create("wall", (Scope.READ,))
    async with (
        Service(config) as service,
        httpx.AsyncClient(base_url=f"{service.url}api/v1/whip/", timeout=30) as http,
        Publisher() as left,
        Publisher() as right,
    ):
        offer, candidates = without_candidates(left.offer)
        for headers, status in (({}, 401), (bearer("nonsense"), 401), (bearer(reader), 403)):
            assert (await http.post("left", content=offer, headers={**SDP, **headers})).status_code == status

        answer = await http.post("left", content=offer, headers={**SDP, **bearer(operator)})
        assert answer.status_code == 201
        assert answer.headers["content-type"].startswith("application/sdp")
        session = answer.headers["location"].rpartition("/whip/")[2]
        await left.answered(without_candidates(answer.text)[0])
        fragment = "\r\n".join(["a=mid:0", *candidates, "a=end-of-candidates"])
        patched = await http.patch(session, content=fragment, headers={**FRAGMENT, **bearer(operator)})
        assert patched.status_code == 204

        other = await http.post("right", content=right.offer, headers={**SDP, **bearer(operator)})
        await right.answered(other.text)
        for name in ("left", "right"):
            monitor = service.fleet[name]
            await until(lambda monitor=monitor: monitor.status.state is StreamState.LIVE)  # type: ignore[misc]
            await until(lambda monitor=monitor: monitor.counters.sampled >= 2)  # type: ignore[misc]

        assert (await http.delete(session, headers=bearer(reader))).status_code == 403
        assert (await http.delete(session, headers=bearer(operator))).status_code == 200
        assert (await http.delete(session, headers=bearer(operator))).status_code == 404
        await until(lambda: service.fleet["left"].status.state is not StreamState.LIVE)
        assert service.fleet["right"].status.state is StreamState.LIVE

        # Paused, it takes no publisher and sends away the one that it has.
        service.fleet["right"].pause()
        await until(lambda: service.fleet["right"].status.state is StreamState.PAUSED)
        refused = await http.post("right", content=right.offer, headers={**SDP, **bearer(operator)})
        assert refused.status_code == 404

        # Neither does one that is read from elsewhere now.
        await service.fleet.change("left", StreamSettings.model_validate({"url": "rtsp://127.0.0.1:9/x"}))
        refused = await http.post("left", content=left.offer, headers={**SDP, **bearer(operator)})
        assert refused.status_code == 404
