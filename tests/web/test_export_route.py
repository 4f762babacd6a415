"""The export route through the whole server."""

import json
import re
from functools import partial

import pytest
import trio
from attrs import evolve

from scm_trio.chat import conversations
from scm_trio.config import Messages, WebSocket
from scm_trio.errors import StoreError
from scm_trio.providers.scripted import Scripted
from scm_trio.store import messages, paging
from scm_trio.testing import open_server, quiet_config

from .asking import ask, request

pytestmark = pytest.mark.usefixtures("both_databases")

TYPES = {"markdown": "text/markdown; charset=utf-8", "json": "application/json", "html": "text/html; charset=utf-8"}
ENDINGS = {"markdown": "md", "json": "json", "html": "html"}


class Site:
    def __init__(self, server, calling):
        self.server = server
        self._calling = calling

    async def ask(self, message, user="ann", session="s1", **data):
        async with self.server.peer(user, session) as peer:
            await peer.send("CHAT_REQUEST", {"message": message, **data})
            end = await peer.until("CHAT_STREAM_END")
        return next(each["data"] for each in end if each["type"] == "CHAT_STREAM_START")

    async def export(self, query="", user="ann", session="s1", **headers):
        bearer = {"Authorization": f"Bearer {self.server.token(user)}", **headers}
        return await self._calling(self.server).ask("GET", f"/scm/ai/sessions/{session}/export{query}", headers=bearer)

    async def told(self, query="?format=json", **more):
        return [each["content"] for each in (await self.export(query, **more)).json["messages"]]


@pytest.fixture
async def site(calling, autojump_clock):
    answers = Scripted(lambda prompt: [f"re: {prompt.turns[-1].content}"])
    async with open_server({"openai": answers}, quiet_config()) as server:
        yield Site(server, calling)


@pytest.mark.parametrize("form", ["markdown", "json", "html"])
async def test_a_conversation_is_saved_as_a_file(site, autojump_clock, form):
    await site.ask("你好")
    answer = await site.export(f"?format={form}")
    assert answer.status == 200
    assert answer.headers["content-type"] == TYPES[form]
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="s1.{ENDINGS[form]}"')
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.body.decode()
    assert "你好" in text
    assert "re: 你好" in text


async def test_without_a_format_it_is_markdown_in_the_callers_language(site, autojump_clock):
    await site.ask("Hi")
    assert b"\n## 1. \xe7\x94\xa8\xe6\x88\xb7 \xc2\xb7 ann" in (await site.export()).body
    assert b"\n## 1. User \xc2\xb7 ann" in (await site.export("?lang=en")).body
    assert b"\n## 1. User \xc2\xb7 ann" in (await site.export(**{"Accept-Language": "en"})).body


async def test_json_has_the_shapes_of_the_wire(site, autojump_clock):
    start = await site.ask("Hi")
    told = (await site.export("?format=json")).json
    assert told["session"]["sessionId"] == "s1"
    assert told["session"]["members"] == [{"userId": "ann", "role": "owner"}]
    question, reply = told["messages"]
    assert (question["messageId"], reply["messageId"]) == (start["userMessageId"], start["messageId"])
    assert (reply["parentMessageId"], reply["role"], reply["provider"]) == (
        question["messageId"],
        "assistant",
        "scripted",
    )
    assert told["exportedAt"].startswith("2023-11-14T22:13:2")


async def test_the_branch_of_the_newest_message_is_the_default(site, autojump_clock):
    first = await site.ask("one")
    await site.ask("two")
    await site.ask("other", parentMessageId=first["messageId"])
    assert await site.told() == ["one", "re: one", "other", "re: other"]


async def test_any_branch_can_be_chosen_by_its_end(site, autojump_clock):
    first = await site.ask("one")
    second = await site.ask("two")
    await site.ask("other", parentMessageId=first["messageId"])
    assert await site.told(f"?format=json&branch={second['userMessageId']}") == ["one", "re: one", "two"]
    assert await site.told(f"?format=json&branch={first['userMessageId']}") == ["one"]


async def test_the_whole_tree_comes_in_the_order_in_which_it_was_said(site, autojump_clock):
    first = await site.ask("one")
    await site.ask("two")
    await site.ask("other", parentMessageId=first["messageId"])
    await site.ask("elsewhere", conversationId="c2")
    expected = ["one", "two", "other", "elsewhere"]
    tree = await site.told("?format=json&tree=true")
    assert tree == [text for said in expected for text in (said, f"re: {said}")]
    text = (await site.export("?tree=true")).body.decode()
    assert re.findall(r"^## (\d)\. .*接第 (\d) 条$", text, re.MULTILINE) == [("5", "2")]


async def test_a_long_conversation_comes_whole(site, autojump_clock, monkeypatch):
    monkeypatch.setattr(conversations, "PAGE", 3)
    for number in range(5):
        await site.ask(f"q{number}")
    assert await site.told() == [text for n in range(5) for text in (f"q{n}", f"re: q{n}")]
    for form in ("markdown", "html"):
        assert (await site.export(f"?format={form}")).body.decode().count("re: q") == 5


async def test_long_messages_are_read_and_written_a_few_at_a_time(site, autojump_clock, monkeypatch):
    monkeypatch.setattr(paging, "MAX_PAGE_CHARS", 12)
    for number in range(4):
        await site.ask(f"q{number}")
    sizes, page = [], conversations.Conversations.page

    async def counted(self, excerpt, start):
        found, following = await page(self, excerpt, start)
        sizes.append(sum(len(each.content) for each in found))
        return found, following

    monkeypatch.setattr(conversations.Conversations, "page", counted)
    assert await site.told() == [text for n in range(4) for text in (f"q{n}", f"re: q{n}")]
    assert len(sizes) > 1
    assert max(sizes) <= 12


class Slow:
    """Reading a page takes ten seconds. Notes who has it done."""

    def __init__(self, monkeypatch):
        self.running, self.most, self.done = [], {}, []
        page = conversations.Conversations.page

        async def slow(conversation, excerpt, start):
            user = excerpt.user_id
            self.running.append(user)
            self.most[user] = max(self.most.get(user, 0), self.running.count(user))
            try:
                await trio.sleep(10)
            finally:
                self.running.remove(user)
            self.done.append((user, excerpt.session.session_id))
            return await page(conversation, excerpt, start)

        monkeypatch.setattr(conversations.Conversations, "page", slow)


async def test_a_users_exports_take_turns_and_another_users_does_not_wait_for_them(site, autojump_clock, monkeypatch):
    monkeypatch.setattr(conversations, "PAGE", 1)
    await site.ask("Hi")
    await site.ask("Hi", user="bob", session="s2")
    slow, finished = Slow(monkeypatch), []

    async def export(user, session):
        assert (await site.export(user=user, session=session)).status == 200
        finished.append(user)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(export, "ann", "s1")
        await trio.sleep(1)
        nursery.start_soon(export, "bob", "s2")
    assert slow.most == {"ann": 1, "bob": 1}
    assert finished == ["bob", *["ann"] * 5]


async def test_an_export_whose_client_has_left_is_not_made(site, autojump_clock, monkeypatch):
    await site.ask("Hi")
    await site.ask("Hi", session="s2")
    await site.ask("Hi", session="s3")
    slow = Slow(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(site.export, session="s1"))
        await trio.sleep(1)
        gone = site.server.dial()
        await gone.send_all(request(site.server, "/scm/ai/sessions/s2/export", "ann"))
        await trio.sleep(1)
        await gone.aclose()
        nursery.start_soon(partial(site.export, session="s3"))
    assert slow.done == [("ann", "s1"), ("ann", "s3")]


async def test_exports_and_usage_count_for_the_users_rate_and_files_do_not(calling, autojump_clock):
    config = quiet_config(websocket=WebSocket(message=Messages(rate_limit_per_minute=3)))
    async with open_server({"openai": Scripted(["ok"])}, config) as server:
        site = Site(server, calling)
        await site.ask("Hi")
        assert (await site.export()).status == 200
        assert (await ask(server, "/scm/ai/files/f-1", "ann")).status == 404
        assert (await ask(server, "/scm/ai/usage", "ann")).status == 200
        for target in ("/scm/ai/sessions/s1/export?format=html", "/scm/ai/usage"):
            refused = await ask(server, target, "ann")
            assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "RATE_LIMITED", "20")
        assert (await ask(server, "/scm/ai/usage", "bob")).status == 200
        assert (await ask(server, "/scm/ai/files/f-1", "ann")).status == 404


async def test_a_session_is_found_by_its_global_id_too(site, autojump_clock):
    await site.ask("Hi")
    global_id = (await site.export("?format=json")).json["session"]["globalId"]
    assert await site.told(session=global_id) == ["Hi", "re: Hi"]


async def test_somebody_elses_session_is_not_found_by_any_name(site, autojump_clock):
    start = await site.ask("secret")
    await site.ask("mine", user="bob", session="s2")
    global_id = (await site.export("?format=json")).json["session"]["globalId"]
    theirs = f"?branch={start['messageId']}"
    for query, session in (("", "s1"), ("", global_id), ("", "nothing"), (theirs, "s2"), ("?branch=%00", "s2")):
        answer = await site.export(query, user="bob", session=session)
        assert (answer.status, answer.json) == (404, {"code": "NOT_FOUND", "message": "未找到"})


async def test_the_name_of_the_file_is_made_safe(site, autojump_clock):
    name = "%2E%2E%5Ca%22b%20%E5%9B%BE"
    await site.ask("Hi", session=name)
    answer = await site.export(session=name)
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"a_b _.md\"; filename*=UTF-8''a%22b%20%E5%9B%BE.md"
    )


@pytest.mark.parametrize(("query", "field"), [("?format=pdf", "format"), ("?tree=yes", "tree"), ("?format=", "format")])
async def test_what_makes_no_sense_is_refused_by_name(site, autojump_clock, query, field):
    await site.ask("Hi")
    answer = await site.export(query + "&lang=en")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_MESSAGE")
    assert f"Field {field} is invalid" in answer.json["message"]


async def test_a_message_that_is_deleted_meanwhile_is_left_out(site, autojump_clock, monkeypatch):
    await site.ask("one")
    await site.ask("two")
    find = messages.find_message

    def gone(conn, message_id):
        found = find(conn, message_id)
        return None if found is not None and found.content == "two" else found

    monkeypatch.setattr("scm_trio.store.excerpts.find_message", gone)
    assert await site.told() == ["one", "re: one", "re: two"]


async def test_a_database_that_fails_at_the_start_is_a_busy_server(site, autojump_clock, monkeypatch):
    await site.ask("Hi")

    async def fail(*_):
        raise StoreError("gone")

    monkeypatch.setattr(conversations.Conversations, "page", fail)
    assert (await site.export()).status == 503


async def test_a_database_that_fails_in_the_middle_cuts_the_file(site, autojump_clock, monkeypatch):
    monkeypatch.setattr(conversations, "PAGE", 1)
    await site.ask("Hi")
    page = conversations.Conversations.page

    async def fail(self, excerpt, start):
        if start:
            raise StoreError("gone")
        return await page(self, excerpt, start)

    monkeypatch.setattr(conversations.Conversations, "page", fail)
    stream = site.server.dial()
    head = f"GET /scm/ai/sessions/s1/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.server.token('ann')}\r\n\r\n"
    await stream.send_all(head.encode())
    data = b""
    with trio.fail_after(60):
        while more := await stream.receive_some():
            data += more
    assert not data.endswith(b"0\r\n\r\n")


async def test_attachments_are_told(calling, autojump_clock, tmp_path):
    config = quiet_config()
    config = evolve(config, files=evolve(config.files, path=str(tmp_path / "files")))
    async with open_server({"openai": Scripted(["ok"])}, config) as server:
        site = Site(server, calling)
        async with server.house.files.upload("ann", "数据.csv") as upload:
            await upload.write(b"a,b")
            file_id = (await upload.complete()).file_id
        await site.ask("Hi", attachments=[file_id])
        (question, _) = (await site.export("?format=json")).json["messages"]
        assert question["attachments"] == [{"fileId": file_id, "name": "数据.csv", "mediaType": "text/csv", "size": 3}]
        for form in ("markdown", "html"):
            assert "数据.csv (text/csv, 3 B)" in (await site.export(f"?format={form}")).body.decode()
        assert json.dumps(question)
