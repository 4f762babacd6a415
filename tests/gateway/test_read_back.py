"""Answers that have left the memory: their text is known, their pieces are not."""

import pytest
import trio

from scm_trio.config import Store, Streams
from scm_trio.providers.scripted import Pause, Reasoning, Scripted
from scm_trio.testing import open_server, quiet_config

from .serving import answer, check_contiguous, said, serving, websocket

WORDS = ["so ", "much ", "for ", "that"]
WHOLE = "".join(WORDS)


def starts(messages):
    return [each["data"] for each in messages if each["type"] == "CHAT_STREAM_START"]


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_place_in_an_answer_that_only_the_store_remembers_is_reset(autojump_clock, at):
    config = websocket(stream=Streams(resume_window_s=0.0))
    async with serving(*WORDS, config=config) as server, server.peer() as peer:
        first = await answer(peer)
        await trio.sleep(60)
        place = {"messageId": first[0]["data"]["messageId"], "fromIndex": at}
        await peer.send("CHAT_RESUME", place, request_id="again")
        messages = await peer.until("CHAT_STREAM_END")
    (start,) = starts(messages)
    assert (start["resumed"], start["reset"]) == (False, True)
    assert said(messages) == WHOLE
    check_contiguous(messages)
    assert messages[-1]["data"]["sha256"] == first[-1]["data"]["sha256"]


async def test_the_beginning_is_the_same_place_in_every_copy(autojump_clock):
    config = websocket(stream=Streams(resume_window_s=0.0))
    async with serving(Reasoning("hm"), *WORDS, config=config) as server, server.peer() as peer:
        first = await answer(peer)
        await trio.sleep(60)
        await peer.send("CHAT_RESUME", {"messageId": first[0]["data"]["messageId"], "fromIndex": 0})
        messages = await peer.until("CHAT_STREAM_END")
    (start,) = starts(messages)
    assert (start["resumed"], start["reset"]) == (True, False)
    assert said(messages) == WHOLE


async def test_a_place_from_before_a_restart_is_reset_also_where_the_request_came_again(autojump_clock, tmp_path):
    config = quiet_config(store=Store(f"sqlite:///{tmp_path / 'store.db'}"))
    async with open_server({"openai": Scripted(WORDS)}, config) as server, server.peer() as peer:
        first = await answer(peer)
    async with open_server({"openai": Scripted([Pause(1)])}, config) as server, server.peer() as peer:
        repeated = await answer(peer)
        assert said(repeated) == WHOLE
        await peer.send("CHAT_RESUME", {"messageId": first[0]["data"]["messageId"], "fromIndex": 1})
        messages = await peer.until("CHAT_STREAM_END")
    assert starts(messages)[0]["reset"]
    assert said(messages) == WHOLE
