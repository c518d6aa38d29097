"""A browser publishes its camera: the page, WHIP and the WebRTC gateway are real; the stream needs no scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from streamwatch.domain import StreamState
from streamwatch.ingest.decode import Limits
from streamwatch.ingest.sampling import Sampler
from streamwatch.ingest.webrtc import WebRtcGateway
from tests.e2e.roles import Role
from tests.e2e.scripted import Service
from tests.fakes.ingest import Collector

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
Open = Callable[..., Awaitable[Page]]


async def test_one_click_publishes_and_one_ends_it(tab: Open, tmp_path: Path) -> None:
    service = Service([Role("mine", "My camera", url="whip:", state=StreamState.CONNECTING)], tmp_path)
    gateway = WebRtcGateway()
    gateway.expect("mine")
    service.gateway = gateway
    async with service:
        page = await tab(service.url + "#/streams/mine", permissions=["camera"])
        await page.get_by_role("button", name="Publish this camera").click()
        await expect(page.get_by_text("This camera is being published")).to_be_visible()
        pictures = Collector()
        async with asyncio.timeout(20):
            reader = await gateway.reader("mine")
            reading = asyncio.create_task(reader.read(pictures, Sampler(5.0), Limits()))
            while pictures.offered < 3:
                await asyncio.sleep(0.05)
        await page.get_by_role("link", name="Wall", exact=True).click()  # it goes on while other pages are shown
        seen = pictures.offered
        async with asyncio.timeout(20):
            while pictures.offered < seen + 3:
                await asyncio.sleep(0.05)
        await page.get_by_role("link", name="Your camera is on").click()
        await page.get_by_role("button", name="Stop publishing").click()
        await expect(page.get_by_role("button", name="Publish this camera")).to_be_visible()
        await expect(page.get_by_role("link", name="Your camera is on")).to_be_hidden()
        await asyncio.wait([reading], timeout=10)
        assert reading.done()
        reading.exception()
    await gateway.close_all()


async def test_a_refused_camera_is_said_in_words(tab: Open, tmp_path: Path) -> None:
    service = Service([Role("mine", "My camera", url="whip:", state=StreamState.CONNECTING)], tmp_path)
    async with service:
        denied = (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };"
        )
        page = await tab(service.url + "#/streams/mine", before=denied)
        await page.get_by_role("button", name="Publish this camera").click()
        await expect(page.get_by_text("The camera was not allowed.")).to_be_visible()
