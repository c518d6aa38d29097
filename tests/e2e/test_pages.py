"""The other pages in a real browser: a stream, alerts and evidence, the system, forms, access, accessibility."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from streamwatch.domain import AlertKind, StreamState
from streamwatch.server.ports import DeliveryView
from streamwatch.server.tokens import Scope
from tests.e2e.roles import Role
from tests.e2e.scripted import Service
from tests.e2e.waiting import until
from tests.fakes.patterns import clip

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
Open = Callable[..., Awaitable[Page]]


def cast() -> list[Role]:
    return [
        Role("lobby", "Lobby", base=0.85, spread=0.05),
        Role("press", "Press room", base=0.5, spread=0.25, faces=2),
        Role("desk", "Front desk"),
    ]


async def test_a_stream_in_full(tab: Open, tmp_path: Path, shots: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        page = await tab(service.url + "#/streams/press")
        await expect(page.get_by_role("heading", name="Press room")).to_be_visible()
        await expect(page.locator(".bars li")).to_have_count(4)
        await expect(page.get_by_label("Members").locator(".warn")).to_contain_text("They disagree: ViTST says")
        await expect(page.get_by_label("Faces", exact=True).locator("tbody tr")).to_have_count(2)
        await expect(page.get_by_label("Stream", exact=True)).to_contain_text("12 replaced")
        timeline = page.locator("canvas.timeline")
        await expect(timeline).to_have_attribute("aria-label", re.compile("over 5 min until now: from"))
        await page.screenshot(path=shots / "stream.png")
        await timeline.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.get_by_role("button", name="Live", exact=True)).to_have_attribute("aria-pressed", "false")
        await page.keyboard.press("+")
        await expect(timeline).to_have_attribute("aria-label", re.compile("over 3 min 20 s until"))
        await page.keyboard.press("End")
        await expect(page.get_by_role("button", name="Live", exact=True)).to_have_attribute("aria-pressed", "true")
        await page.get_by_role("button", name="2", exact=True).click()
        await expect(page.get_by_label("Members")).to_contain_text("of face 2")


async def test_pause_resume_and_remove(tab: Open, tmp_path: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        page = await tab(service.url + "#/streams/desk")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator(".badge")).to_have_text("Paused")
        await expect(page.locator(".verdict-card .value")).to_have_text("–")
        assert service.script.statuses["desk"].state is StreamState.PAUSED
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator(".badge")).to_have_text("Live")
        await page.get_by_role("button", name="Remove").click()
        await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        await expect(page.locator(".tile")).to_have_count(2)
        assert "desk" not in service.script.settings


async def test_add_a_stream_and_hear_why_not(tab: Open, tmp_path: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        page = await tab(service.url)
        await page.get_by_role("button", name="Add stream").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name", exact=True).fill("Gate Süd")
        await expect(dialog.get_by_label("Id")).to_have_value("gate-sud")
        await dialog.get_by_label("Address").fill("file:/etc/passwd")
        await dialog.get_by_role("button", name="Add stream").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("not allowed")
        await dialog.get_by_label("Address").fill("rtsp://admin:hunter2@10.0.0.9/live")
        await dialog.get_by_role("button", name="Add stream").click()
        await expect(dialog).to_have_count(0)
        await expect(page.locator('.tile[data-stream="gate-sud"]')).to_have_attribute("data-live", "true")
        await page.locator('.tile[data-stream="gate-sud"] .name').click()
        await expect(page.get_by_label("Stream", exact=True)).to_contain_text("rtsp://10.0.0.9/live")
        assert "hunter2" not in await page.content()


def bundle(directory: Path) -> Path:
    """An evidence bundle as people get it: a clip and its record."""
    directory.mkdir()
    shutil.copy(clip(), directory / "clip.mp4")
    (directory / "alert.json").write_text(json.dumps({"alert": "A0001"}))
    return directory


async def test_a_face_that_joins_is_shown_and_the_clip_plays_on(tab: Open, tmp_path: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        script = service.script
        alert = script.open_alert("lobby", evidence=bundle(tmp_path / "evidence"), labels={"tracks": "1"})
        page = await tab(f"{service.url}#/alerts/{alert.id}")
        await until(page, "() => document.querySelector('.evidence video')?.videoWidth > 0")
        await page.evaluate(
            "() => (window.clip = document.querySelector('video'), clip.muted = clip.loop = true, clip.play())"
        )
        await expect(page.locator(".joined")).to_have_count(0)
        script.join(alert.id, 9, bundle(tmp_path / "joined"))
        await expect(page.locator(".joined h3")).to_have_text("Face 9, which joined")
        await expect(page.locator(".joined video")).to_have_count(1)
        assert await page.evaluate("() => clip.isConnected && !clip.paused")
        script.resolve(alert.id)
        await expect(page.locator(".facts-list")).not_to_contain_text("still active")
        await expect(page.locator(".joined")).to_have_count(1)


async def test_accumulated_evidence_is_told_in_its_own_units(tab: Open, tmp_path: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        fast = service.script.open_alert("lobby", rule="deepfake-fast", value=52.0, peak=61.53, threshold=45.0)
        page = await tab(f"{service.url}#/alerts/{fast.id}")
        await expect(page.locator(".facts-list")).to_contain_text("61.5 against a threshold of 45.0")
        window = service.script.open_alert("press")
        await page.goto(f"{service.url}#/alerts/{window.id}")
        await expect(page.locator(".facts-list")).to_contain_text("0.94 against a threshold of 0.7")


async def test_review_an_alert_with_its_evidence(tab: Open, tmp_path: Path, shots: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        script = service.script
        alert = script.open_alert("lobby", evidence=bundle(tmp_path / "evidence"))
        script.bundles[f"{alert.id}+7"] = bundle(tmp_path / f"{alert.id}+7")
        script.told[alert.id] = [DeliveryView("pager", 1, "dead", 4, time.time() - 60, time.time(), "410 Gone")]
        page = await tab(service.url + "#/alerts")
        down = script.open_alert("desk", AlertKind.STREAM_DOWN)
        await expect(page.locator(".alert-row")).to_have_count(2)  # the second came live
        await expect(page.locator("#alert-count")).to_have_text("2")
        await page.locator(".alert-row", has_text="Lobby").click()
        await until(page, "() => document.querySelector('.evidence video')?.videoWidth > 0")
        await page.evaluate("() => { const v = document.querySelector('video'); v.muted = true; return v.play(); }")
        await until(page, "() => document.querySelector('.evidence video').currentTime > 0.1")
        await expect(page.locator(".joined h3")).to_have_text("Face 7, which joined")
        await expect(page.locator(".joined video")).to_have_count(1)
        await expect(page.get_by_label("Deliveries")).to_have_text("pager given up after 4 attempts: 410 Gone")
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Download all").first.click()
        assert (await (await download.value).path()).read_bytes()[:2] == b"PK"
        await page.get_by_label("Note on this alert").fill("a film on the lobby’s screen")
        await page.get_by_role("button", name="False alarm", exact=True).click()
        await expect(page.get_by_role("button", name="False alarm", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )
        assert script.held[alert.id].review.value == "false_alarm"
        assert script.held[alert.id].review_note == "a film on the lobby’s screen"
        await page.screenshot(path=shots / "alerts.png")
        await page.get_by_role("button", name="Unreviewed", exact=True).click()
        await expect(page.locator(".alert-row")).to_have_count(1)
        await page.locator(".alert-row").click()
        await page.get_by_role("button", name="Acknowledge", exact=True).click()
        await expect(page.locator(".alert-row")).to_have_count(0)
        script.resolve(down.id)
        await expect(page.locator("#alert-count")).to_have_text("1")


async def test_the_system_page(tab: Open, tmp_path: Path, shots: Path) -> None:
    async with Service(cast(), tmp_path) as service:
        page = await tab(service.url + "#/system")
        await expect(page.get_by_label("Weights").get_by_role("row")).to_have_count(5)
        await expect(page.get_by_label("Capture to score")).to_contain_text("410 ms")
        await expect(page.get_by_label("Queues and batches")).to_contain_text("2.1 on average")
        await page.screenshot(path=shots / "system.png")


async def test_login_with_a_token(tab: Open, tmp_path: Path) -> None:
    async with Service(cast(), tmp_path, auth={"anonymous_loopback": False}) as service:
        token = service.access.tokens.create("desk", (Scope.READ,))
        page = await tab(service.url)
        await page.get_by_label("Token").fill("sw_wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert").filter(has_text="not known")).to_be_visible()
        useless = service.access.tokens.create("scraper", (Scope.METRICS,))
        await page.get_by_label("Token").fill(useless)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert").filter(has_text="may not read")).to_be_visible()
        await page.get_by_label("Token").fill(token)
        await page.keyboard.press("Enter")
        await expect(page.locator('.tile[data-live="true"]')).to_have_count(3)
        # A token that may only read is offered nothing else.
        await expect(page.get_by_role("button", name="Add stream")).to_be_hidden()
        await page.goto(service.url + "#/streams/lobby")
        await expect(page.locator(".verdict-card .value")).not_to_have_text("–")
        await expect(page.get_by_role("button", name="Remove")).to_be_hidden()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accessibility(tab: Open, tmp_path: Path, axe: str, scheme: str) -> None:
    roles = cast()
    roles[2].state = StreamState.RECONNECTING
    async with Service(roles, tmp_path) as service:
        service.script.open_alert("lobby")
        page = await tab(service.url, color_scheme=scheme)
        await expect(page.locator('.tile[data-live="true"]')).to_have_count(2)
        await page.evaluate(axe)
        for place, shown in [("", ".tile"), ("streams/press", ".bars li"), ("alerts", ".alert-row"), ("system", "td")]:
            await page.evaluate("place => { location.hash = `#/${place}`; }", place)
            await expect(page.locator(shown).first).to_be_visible()
            assert await faults(page) == [], place
        await page.get_by_role("button", name="Add stream").click()
        assert await faults(page) == []


async def faults(page: Page) -> list[Any]:
    """What axe-core finds against WCAG 2.2 A and AA, and its best practices."""
    found: list[Any] = await page.evaluate("""async () => (await axe.run(document)).violations.map(v =>
        ({ rule: v.id, where: v.nodes.slice(0, 3).map(n => n.target.join(" ") + ": " + n.failureSummary) }))""")
    return found
