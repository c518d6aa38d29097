"""The dashboard on the real service: a real camera, real detection, the bundled weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from streamwatch.app import Service
from streamwatch.camera import Camera
from tests import require
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


PAINTED = """() => {
  const canvas = document.querySelector("canvas.picture");
  const { data } = canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 9, 9);
  return data.some((value, i) => i % 4 < 3 && value > 40);
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """What the weights are worth is not the question here: the threshold is one that most faces pass."""
    require.browser()
    async with Camera([people()]) as camera, Camera([people(bit_rate=800_000)]) as hard:
        streams = {
            "call": {"url": camera.url, "name": "A call of two", "threshold": 0.1},
            "hard": {"url": hard.url, "name": "Few bits", "threshold": 0.99},
        }
        async with Service(quick_config(tmp_path_factory.mktemp("service"), streams)) as running:
            yield running


async def test_a_call_is_boxed_scored_and_alarmed(tab: Open, service: Service, shots: Path) -> None:
    page = await tab(service.url)
    tile = page.locator('.tile[data-stream="call"]')
    await expect(tile).to_have_attribute("data-live", "true", timeout=60_000)
    await until(page, BRACKETS, within=60)
    await expect(tile.locator(".verdict")).to_contain_text("Fake", timeout=60_000)
    await expect(tile.locator(".alerts")).to_have_text("1 alert", timeout=30_000)
    await page.screenshot(path=shots / "real-wall.png")
    await tile.locator(".name").click()
    await expect(page.locator(".bars li")).to_have_count(4)
    await expect(page.locator(".verdict-card .value")).not_to_have_text("–")
    await until(page, BRACKETS)
    await page.screenshot(path=shots / "real-stream.png")
    await page.get_by_role("link", name="System").click()
    await expect(page.get_by_label("Weights").get_by_role("row")).to_have_count(5)
    await page.screenshot(path=shots / "real-system.png")
    await page.get_by_role("link", name="Alerts").click()
    await page.locator(".alert-row").first.click()
    await expect(page.locator(".evidence video")).to_have_count(1, timeout=60_000)
    await expect(page.locator(".stills img").first).to_be_visible()
    await page.screenshot(path=shots / "real-alerts.png")


async def test_a_low_score_of_a_hard_compressed_stream_comes_with_a_caution(
    tab: Open, service: Service, shots: Path
) -> None:
    page = await tab(f"{service.url}#/streams/hard")
    caution, stream = page.get_by_text("a low score says little"), page.get_by_label("Stream", exact=True)
    await expect(page.locator(".verdict-card .verdict")).to_contain_text("Real", timeout=60_000)
    await expect(stream).to_contain_text(", hard")
    await expect(caution).to_be_visible()
    await page.screenshot(path=shots / "real-hard.png")
    await page.goto(f"{service.url}#/streams/call")
    await expect(stream).to_contain_text("quantiser")
    await expect(stream).not_to_contain_text(", hard")
    await expect(caution).to_be_hidden()


async def test_a_new_stream_from_this_browsers_camera(tab: Open, service: Service, shots: Path) -> None:
    page = await tab(service.url, permissions=["camera"])
    await page.get_by_role("button", name="Add stream").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name", exact=True).fill("My camera")
    await dialog.get_by_label("Publish this browser’s camera").check()
    await dialog.get_by_role("button", name="Add stream").click()
    # No further click: it connects, and the service analyses what the browser sends.
    await expect(page.get_by_text("This camera is being published")).to_be_visible(timeout=30_000)
    await expect(page.locator(".badge")).to_have_text("Live", timeout=30_000)
    await expect(page.get_by_label("Stream", exact=True)).to_contain_text("whip:")
    await until(page, PAINTED)
    await page.screenshot(path=shots / "publishing.png")
    await page.get_by_role("button", name="Stop publishing").click()
    await expect(page.locator(".badge")).not_to_have_text("Live", timeout=30_000)
