"""The HTML export in a real browser: it shows everything, runs nothing and fetches nothing."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, token
from tests.e2e.test_browser import CHROMIUM, FLAGS, PATIENCE_MS
from tests.web.evil import EVIL

SESSION = "evil"
MARK = "the end of all evil"


@pytest.fixture(scope="module")
def saved(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every evil text, asked and said back, as the page that a user saves."""
    with chatting(server, session=SESSION) as client:
        for text in (*(text for text in EVIL if "\x00" not in text), MARK):
            said, _ = client.answer(text, provider="echo", model="echo")
            assert said == text.strip()
    answer = httpx.get(
        f"{server.base_url}/scm/ai/sessions/{SESSION}/export?format=html",
        headers={"Authorization": f"Bearer {token()}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200
    path = tmp_path_factory.mktemp("saved") / "evil.html"
    path.write_bytes(answer.content)
    return path


def test_a_saved_conversation_runs_and_fetches_nothing(saved: Path) -> None:
    requests, dialogs, complaints = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(saved.as_uri())
        for element in page.query_selector_all("summary, article > h2 > a, details"):
            element.click()
        page.mouse.move(200, 200)
        assert page.locator("article").count() == 2 * (sum("\x00" not in text for text in EVIL) + 1)
        assert page.get_by_text(MARK).count() >= 2
        assert page.url.startswith(saved.as_uri())
        # The page's own style counts, so its hash is right.
        assert page.locator("article").first.evaluate("element => getComputedStyle(element).borderRadius") == "12px"
        assert page.evaluate("document.scripts.length + document.images.length + frames.length") == 0
        browser.close()
    assert [url.partition("#")[0] for url in requests] == [saved.as_uri()]
    assert dialogs == []
    # A browser complains of whatever the policy had to stop: nothing got as far as that.
    assert complaints == []
