"""The page of `ffvit serve` in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chromium import chromium, needs_chromium
from serve_process import CLASSES, TOKEN, png

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'ffvit[browser]'")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
        yield browser


@pytest.fixture
def page(browser, server) -> Iterator:
    """The page, whose errors and requests to elsewhere fail the test."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: faults.append(said.text) if said.type == "error" and "responded with" not in said.text else None,
    )
    page.on(
        "request", lambda asked: None if asked.url.startswith((server.address, "blob:")) else faults.append(asked.url)
    )
    page.goto(server.address)
    playwright.expect(page.locator("#models")).to_have_text("first (10 classes) and second (10 classes)")
    choose(page, "before the token.png", png(9))
    page.get_by_label("This server needs a token").fill(TOKEN)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("article h3")).to_have_text("before the token.png")
    page.locator("article").evaluate("card => card.remove()")
    yield page
    context.close()
    assert faults == []


def choose(page, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_an_image_gets_bars_of_two_networks_and_the_patches_that_speak(page, server):
    choose(page, "<b>digit.png", png(3))
    card = page.locator("article")
    playwright.expect(card).to_have_count(1)
    playwright.expect(card.locator("h3")).to_have_text("<b>digit.png")
    with server.client() as client:
        (image,) = client.post("/predict", files={"file": png(3)}, headers={"authorization": f"Bearer {TOKEN}"}).json()[
            "images"
        ]
    tops = [said["classes"][0] for said in image["predictions"]]
    bars = card.locator("section")
    playwright.expect(bars).to_have_count(2)
    for place, top in enumerate(tops):
        playwright.expect(bars.nth(place).locator("li").first).to_contain_text(top["name"])
        playwright.expect(bars.nth(place).locator("li").first).to_contain_text(f"{100 * top['probability']:.1f} %")
    verdict = "They agree" if tops[0]["name"] == tops[1]["name"] else "They disagree"
    playwright.expect(card.locator(".verdict")).to_contain_text(verdict)
    playwright.expect(page.locator("[role=status]")).to_contain_text(f"first says {tops[0]['name']}")
    before = card.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    why = bars.first.get_by_role("button")
    why.focus()
    page.keyboard.press("Enter")
    playwright.expect(why).to_have_attribute("aria-pressed", "true")
    assert card.locator("canvas").evaluate("canvas => canvas.toDataURL()") != before
    playwright.expect(bars.first.locator(".note")).to_contain_text(tops[0]["name"])
    page.keyboard.press("Enter")
    playwright.expect(why).to_have_attribute("aria-pressed", "false")
    assert card.locator("canvas").evaluate("canvas => canvas.toDataURL()") == before
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than a phone"


def test_a_bad_file_is_told_and_names_are_never_markup(page):
    choose(page, "broken.png", b"no image")
    playwright.expect(page.locator("article.failed")).to_have_text("broken.pngis empty, damaged, or no image")
    playwright.expect(page.locator("[role=status]")).to_have_class("error")
    for number in range(6):
        choose(page, f"{number}.png", png(number))
    playwright.expect(page.locator("article")).to_have_count(7)
    assert CLASSES[-1] in page.locator("main").inner_text()
    assert page.locator("main img").count() == 0


def test_an_image_is_pasted_dropped_or_photographed(page):
    give = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], kind + ".png", {type: "image/png"}));
        document.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data})
                                                : new DragEvent("drop", {dataTransfer: data}));
    }"""
    page.evaluate(give, ["paste", list(png())])
    playwright.expect(page.locator("article h3")).to_have_text(["paste.png"])
    page.evaluate(give, ["drop", list(png(1))])
    playwright.expect(page.locator("article h3")).to_have_text(["drop.png", "paste.png"])
    page.get_by_role("button", name="Use the camera").click()
    playwright.expect(page.locator("video")).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Take a photo").click()
    playwright.expect(page.locator("article h3")).to_have_text(["photo.jpg", "drop.png", "paste.png"])


def test_the_page_can_be_used_by_keyboard_and_has_names_for_all(page):
    page.locator("h1").click()  # to the top of the order
    focused = []
    for _ in range(2):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.textContent"))
    assert focused == ["Choose images", "Use the camera"]
    unnamed = page.evaluate("""[...document.querySelectorAll("button, input, section, canvas")].filter(
        (found) => !found.textContent.trim() && !found.getAttribute("aria-label") && !found.labels?.length).length""")
    assert unnamed == 0
