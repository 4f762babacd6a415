"""What a client is told when a provider is asked again or replaced."""

import trio

from scm_trio.errors import ProviderRateLimited, ProviderUnavailable
from scm_trio.providers.fallback import Chain, Link, Terms
from scm_trio.providers.places import Places
from scm_trio.providers.scripted import Fail, Pause, Scripted, Stall
from scm_trio.testing import open_server

from .serving import ask, check_contiguous, kinds, said

DOWN = ProviderUnavailable("down")


def chain(*scripts_of, retries=0):
    """One provider per list of scripts; each question takes the next script, the last one for ever."""

    def provider(name, scripts):
        waiting = list(scripts)
        return Scripted(lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0], name=name, models=(f"{name}-1",))

    names = ("openai", "azure", "local")
    links = [Link(provider(name, scripts), retries=retries) for name, scripts in zip(names, scripts_of, strict=False)]
    return Chain(links, Terms(jitter=lambda: 1.0))


async def test_the_way_to_an_answer_is_told_between_start_and_data(autojump_clock):
    provider = chain([[Fail(DOWN)]], [["b", "c"]], retries=1)
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    assert kinds(messages)[:4] == ["START", "INFO", "INFO", "DATA"]
    assert kinds(messages)[-1] == "END"
    check_contiguous(messages)
    start, retrying, fallback = messages[:3]
    assert start["data"]["provider"] == "openai"
    message_id = start["data"]["messageId"]
    assert retrying["requestId"] == "r1"
    assert retrying["data"] == {
        "code": "RETRYING",
        "message": "openai 暂时没有回答，正在重试",
        "messageId": message_id,
    }
    assert fallback["data"] == {"code": "FALLBACK", "message": "已切换到 azure", "messageId": message_id}
    assert said(messages) == "bc"
    assert messages[-1]["data"]["finishReason"] == "completed"


async def test_a_retry_is_told_before_it_is_waited_for(autojump_clock):
    provider = chain([[Fail(ProviderRateLimited(retry_after_s=20))], ["a"]], retries=1)
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("INFO")
        assert trio.current_time() < 1
        await peer.until("CHAT_STREAM_END")
        assert trio.current_time() >= 20


async def test_a_provider_that_falls_silent_is_replaced_before_the_answer_s_own_deadlines(autojump_clock):
    links = [
        Link(Scripted(script, name=name, models=("m",)), first_token_s=5.0, idle_s=5.0)
        for name, script in (("openai", [Stall()]), ("azure", ["a", Stall()]), ("local", ["b", "c"]))
    ]
    async with open_server({"openai": Chain(links, Terms(restart=True))}) as server, server.peer() as peer:
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
        assert trio.current_time() < 11
        rows = await server.house.database.read(
            lambda conn: conn.exec_driver_sql("SELECT provider, outcome FROM usage ORDER BY started_at").all()
        )
    assert kinds(messages) == ["START", "INFO", "DATA", "INFO", "START", "DATA", "END"]
    assert messages[4]["data"]["reset"] is True
    assert said(messages[5:]) == "bc"
    assert messages[-1]["data"]["finishReason"] == "completed"
    assert rows == [("openai", "TIMEOUT"), ("azure", "TIMEOUT"), ("local", "completed")]


async def test_who_waits_for_a_place_can_stop_at_once_and_has_spent_nothing(autojump_clock):
    first = Scripted(["a", Stall()], name="openai", models=("m",))
    provider = Chain([Link(first, places=Places("openai", 1))])
    async with open_server({"openai": provider}) as server, server.peer() as peer, server.peer("user002") as other:
        await ask(other)
        await other.until("CHAT_STREAM_DATA")
        await ask(peer)
        await peer.until("CHAT_STREAM_START")
        await trio.sleep(5)
        began_at = trio.current_time()
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
        assert trio.current_time() == began_at
        assert (end["finishReason"], end["upstreamClosed"]) == ("cancelled", True)
        assert (end["usage"]["promptTokens"], end["usage"]["completionTokens"]) == (0, 0)
        rows = await server.house.database.read(
            lambda conn: conn.exec_driver_sql(
                "SELECT outcome, prompt_tokens, completion_tokens FROM usage WHERE user_id = 'user001'"
            ).all()
        )
    assert rows == [("cancelled", 0, 0)]
    assert len(first.prompts) == 1


async def test_an_answer_in_one_piece_names_who_gave_it(autojump_clock):
    provider = chain([[Fail(DOWN)]], [["b"]])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer, streaming=False)
        messages = await peer.until("CHAT_RESPONSE")
    assert kinds(messages) == ["INFO", "CHAT_RESPONSE"]
    response = messages[-1]["data"]
    assert (response["provider"], response["model"], response["content"]) == ("azure", "azure-1", "b")


async def test_a_failure_that_nothing_helped_against_is_told_once(autojump_clock):
    provider = chain([[Fail(DOWN)]], [[Fail(ProviderRateLimited())]])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        messages = await peer.until("CHAT_STREAM_END")
    assert kinds(messages) == ["START", "INFO", "ERROR", "END"]
    error = messages[2]["error"]
    assert (error["code"], error["generationStarted"]) == ("PROVIDER_UNAVAILABLE", False)


async def test_who_comes_later_is_not_told_the_past(autojump_clock):
    provider = chain([[Fail(DOWN)]], [["b", Stall()]])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        message_id = (await peer.until("CHAT_STREAM_DATA"))[-1]["data"]["messageId"]
        async with server.peer() as other:
            await other.send("CHAT_RESUME", {"messageId": message_id})
            messages = await other.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        await peer.until("CHAT_STREAM_END")
    assert kinds(messages) == ["START", "DATA"]
    assert messages[0]["data"]["provider"] == "azure"


async def test_a_cancel_between_two_attempts_ends_at_once(autojump_clock):
    provider = chain([[Fail(ProviderRateLimited(retry_after_s=25))]], retries=1)
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        await peer.until("INFO")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]["data"]
    assert trio.current_time() < 1
    assert (end["finishReason"], end["upstreamClosed"]) == ("cancelled", True)


async def test_every_viewer_is_told_in_its_own_language(autojump_clock):
    provider = chain([[Pause(2), Fail(DOWN)]], [["b"]])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await ask(peer)
        start = (await peer.until("CHAT_STREAM_START"))[-1]
        async with server.peer(query="&lang=en") as other:
            await other.send("CHAT_RESUME", {"messageId": start["data"]["messageId"]})
            english = (await other.until("INFO"))[-1]
            chinese = (await peer.until("INFO"))[-1]
            await peer.until("CHAT_STREAM_END")
    assert english["data"]["message"] == "azure answers instead"
    assert chinese["data"]["message"] == "已切换到 azure"
