"""A real browser: its WebSocket, the original document's samples, and the chat page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.e2e.client import chatting
from tests.e2e.process import ServerProcess, token, until
from tests.e2e.seed_samples import PLAIN, vue_script
from tests.e2e.upstream import ANSWER, FIRST, SLOW, FakeUpstream

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 30_000
SEED_ORIGIN = "http://localhost:8088"

RAW_WEBSOCKET = """async ([url, token]) => {
  const websocket = new WebSocket(url, ["Bearer", token]);
  const messages = [];
  const code = await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`not closed; ${JSON.stringify(messages)}`)), 30000);
    websocket.onclose = (event) => resolve(event.code);
    websocket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      messages.push(message);
      if (message.type === "SYSTEM_MESSAGE") {
        websocket.send(JSON.stringify({type: "CHAT_REQUEST", requestId: "raw", data: {message: "from the browser"}}));
      }
      if (message.type === "CHAT_STREAM_END") websocket.send(JSON.stringify({type: "DISCONNECT"}));
    };
  });
  return {code, protocol: websocket.protocol, messages};
}"""

VUE_PAGE = """async (token) => {
  const component = (await import("/chat.js")).default;
  const errors = globalThis.errors = [];
  const page = globalThis.page = {
    ...component.data(),
    $store: {getters: {token}},
    $set: (object, key, value) => { object[key] = value; },
    $message: {error: (text) => errors.push(text)},
    $nextTick: (action) => queueMicrotask(action),
    $refs: {messages: document.getElementById("chat-content")},
  };
  for (const [name, method] of Object.entries(component.methods)) page[name] = method.bind(page);
  component.mounted.call(page);
}"""


@pytest.fixture(scope="module")
def browser(server: ServerProcess) -> Iterator[Browser]:
    """The address of the samples leads to the server under test."""
    rules = f"--host-resolver-rules=MAP localhost:8088 127.0.0.1:{server.port}"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(locale="zh-CN", permissions=["local-network-access"])
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def troubles(page: Page) -> list[str]:
    """Errors that a page throws or that the browser writes to its console."""
    found: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            found.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


@pytest.fixture
def seed_page(page: Page) -> Page:
    """The page that the samples leave to their reader."""
    html = '<!doctype html><meta charset="utf-8"><div id="chat-content"></div>'
    page.route(f"{SEED_ORIGIN}/page.html", lambda route: route.fulfill(body=html, content_type="text/html"))
    script = vue_script()
    page.route(f"{SEED_ORIGIN}/chat.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    page.goto(f"{SEED_ORIGIN}/page.html")
    return page


def test_the_websocket_of_a_browser_is_content_with_the_handshake(server: ServerProcess, page: Page) -> None:
    page.goto(server.base_url)
    result = page.evaluate(RAW_WEBSOCKET, [server.chat_url("browser"), token("browser")])
    assert result["protocol"] == "Bearer"
    assert result["code"] == 1000
    assert "".join(each["data"]["content"] for each in result["messages"] if each["type"] == "CHAT_STREAM_DATA") == (
        ANSWER
    )


def test_the_plain_samples_of_the_original_document_run_unchanged(seed_page: Page, troubles: list[str]) -> None:
    said: list[str] = []
    seed_page.on("console", lambda message: said.append(message.text))
    seed_page.evaluate(
        "token => { window.jwtToken = token; window.handleSystemMessage = (message) => { window.welcome = message; } }",
        token(),
    )
    for sample in PLAIN:
        seed_page.add_script_tag(content=sample)
    seed_page.wait_for_function("() => window.welcome && websocket.readyState === WebSocket.OPEN")
    assert seed_page.evaluate("websocket.protocol") == "Bearer"
    seed_page.evaluate(
        "window.came = {}; websocket.addEventListener('message', (event) => {"
        " const message = JSON.parse(event.data); window.came[message.type] = message; })"
    )
    seed_page.evaluate("sendStreamingChatRequest()")
    expect(seed_page.locator("#chat-content")).to_have_text(ANSWER, timeout=PATIENCE_MS)
    seed_page.wait_for_function("() => window.came.CHAT_STREAM_END")
    assert "心跳响应" in said
    seed_page.evaluate("sendNormalChatRequest()")
    seed_page.wait_for_function("() => window.came.CHAT_RESPONSE")
    assert seed_page.evaluate("window.came.CHAT_RESPONSE.data.content") == ANSWER
    assert troubles == []


def test_the_vue_sample_of_the_original_document_runs_unchanged(seed_page: Page, troubles: list[str]) -> None:
    seed_page.evaluate(VUE_PAGE, token())
    seed_page.wait_for_function("() => page.websocket.readyState === WebSocket.OPEN")
    seed_page.evaluate("() => { page.currentMessage = '什么是库存？'; page.sendMessage(); }")
    seed_page.wait_for_function("() => page.messages[0].answer && !page.isStreaming")
    assert seed_page.evaluate("page.messages[0].answer") == ANSWER
    seed_page.evaluate("() => { page.currentMessage = 'fail in the browser'; page.sendMessage(); }")
    seed_page.wait_for_function("() => errors.length > 0")
    (error,) = seed_page.evaluate("errors")
    assert error.startswith("错误: ")
    assert "[object Object]" not in error
    assert troubles == []


def test_the_chat_page_streams_and_stops(
    server: ServerProcess, upstream: FakeUpstream, page: Page, troubles: list[str], tmp_path: Path
) -> None:
    page.goto(f"{server.base_url}/#token={token('page-user')}")
    expect(page.locator("#state")).to_have_attribute("data-state", "open", timeout=PATIENCE_MS)
    assert "token" not in page.url, "it does not stay in the address bar"
    page.locator("#question").fill("你好")
    expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)  # what was said before has been looked up
    page.locator("#question").press("Enter")
    answers = page.locator(".answer .text")
    expect(answers).to_have_text(ANSWER, timeout=PATIENCE_MS)
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)

    page.locator("#question").fill("hold page")
    page.locator("#send").click()
    expect(answers.last).to_have_text("".join(FIRST), timeout=PATIENCE_MS)
    exchange = upstream.asked("hold page")
    assert not exchange.left.is_set()
    page.locator("#send").click()
    assert exchange.left.wait(20)
    expect(page.locator(".answer").last).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
    expect(answers.last).to_have_text("".join(FIRST))
    picture = tmp_path / "page.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 0
    assert troubles == []


def test_the_chat_page_tells_that_the_provider_is_asked_again_until_it_answers(
    server: ServerProcess, upstream: FakeUpstream, page: Page
) -> None:
    page.goto(f"{server.base_url}/#token={token('patient-user')}")
    page.locator("#question").fill("busy page")
    expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)
    page.locator("#send").click()
    note = page.locator(".answer .note")
    expect(note).to_have_text("openai 暂时没有回答，正在重试", timeout=PATIENCE_MS)
    expect(note).to_be_visible()
    upstream.asked("busy page")
    until(lambda: len([each for each in upstream.exchanges if each.question == "busy page"]) == 2, "the second try")
    exchange = upstream.asked("busy page")
    exchange.step(1)
    expect(page.locator(".answer .text")).not_to_be_empty(timeout=PATIENCE_MS)
    expect(note).to_be_hidden()
    exchange.step(len(SLOW) + 1)
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)


def test_the_chat_page_goes_on_after_a_reload(server: ServerProcess, upstream: FakeUpstream, page: Page) -> None:
    page.goto(f"{server.base_url}/#token={token('reload-user')}")
    page.locator("#question").fill("hold reload")
    expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)
    page.locator("#send").click()
    expect(page.locator(".answer .text")).to_have_text("".join(FIRST), timeout=PATIENCE_MS)
    page.reload()
    expect(page.locator(".answer .text")).to_have_text("".join(FIRST), timeout=PATIENCE_MS)
    exchange = upstream.asked("hold reload")
    exchange.release()
    expect(page.locator(".answer .text")).to_have_text(ANSWER, timeout=PATIENCE_MS)
    assert not exchange.left.is_set()


def test_the_chat_page_shows_after_a_reload_what_was_said_before(
    server: ServerProcess, page: Page, troubles: list[str]
) -> None:
    page.goto(f"{server.base_url}/#token={token('history-user')}")
    before: list[str] = []
    for number in (1, 2):
        page.locator("#question").fill(f"question {number}")
        expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)
        page.locator("#send").click()
        expect(page.locator(".answer[aria-busy=false]")).to_have_count(number, timeout=PATIENCE_MS)
        before += [f"question {number}", ANSWER]
        page.reload()
        expect(page.locator("article .text")).to_have_text(before, timeout=PATIENCE_MS)
        expect(page.locator(".answer .meta").last).to_be_visible()
    assert troubles == []


def test_what_the_chat_page_shows_is_read_once_somebody_looks_at_it(server: ServerProcess, page: Page) -> None:
    page.goto(f"{server.base_url}/#token={token('reading-user')}")
    page.locator("#question").fill("read me")
    expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)
    look_away(page, True)
    page.locator("#send").click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1, timeout=PATIENCE_MS)
    session = page.evaluate("sessionStorage.getItem('scm.session')")
    with chatting(server, "reading-user", "another") as client:
        assert [each["sessionId"] for each in client.connect["data"]["unread"]] == [session]
        look_away(page, False)
        read = client.until("MESSAGE_READ")[-1]
    assert read["data"]["sessionId"] == session
    with chatting(server, "reading-user", "another") as client:
        assert client.connect["data"]["unread"] == []


def look_away(page: Page, away: bool) -> None:
    page.evaluate(
        "away => { Object.defineProperty(document, 'visibilityState', "
        "{ value: away ? 'hidden' : 'visible', configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        away,
    )


def test_the_chat_page_shows_earlier_messages_of_the_newest_branch(server: ServerProcess, page: Page) -> None:
    page.goto(f"{server.base_url}/#token={token('long-user')}")
    page.locator("#question").fill("0")
    expect(page.locator("#send")).to_be_enabled(timeout=PATIENCE_MS)
    page.locator("#send").click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1, timeout=PATIENCE_MS)
    with chatting(server, "long-user", page.evaluate("sessionStorage.getItem('scm.session')")) as client:
        for number in range(1, 31):
            client.ask(str(number))
            messages = client.until("CHAT_STREAM_END")
        (start,) = (each["data"] for each in messages if each["type"] == "CHAT_STREAM_START")
        client.answer("30 again", editOf=start["userMessageId"])
    page.reload()
    questions = page.locator(".question .text")
    expect(questions).to_have_text([*map(str, range(7, 30)), "30 again"], timeout=PATIENCE_MS)
    expect(questions.last).to_be_in_viewport()
    page.locator("#earlier").click()
    expect(questions).to_have_text([*map(str, range(30)), "30 again"], timeout=PATIENCE_MS)
    expect(page.locator("#earlier")).to_be_hidden()


def test_the_chat_page_asks_for_another_token_when_its_own_is_refused(server: ServerProcess, page: Page) -> None:
    page.goto(f"{server.base_url}/#token={token(secret='signed by somebody else entirely')}")
    expect(page.locator("#sign-in")).to_be_visible(timeout=PATIENCE_MS)
    page.locator("#token").fill(token())
    page.locator("#sign-in button").click()
    expect(page.locator("#state")).to_have_attribute("data-state", "open", timeout=PATIENCE_MS)
