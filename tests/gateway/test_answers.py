from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.testing import open_server


async def test_an_answer_streams_from_start_to_end(autojump_clock):
    provider = Scripted(["Supply ", "chains"])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        messages = await peer.until("CHAT_STREAM_END")
    assert next(message["type"] for message in messages) == "CHAT_STREAM_START"
    assert "".join(m["data"]["content"] for m in messages if m["type"] == "CHAT_STREAM_DATA") == "Supply chains"
    assert messages[-1]["data"]["finishReason"] == "completed"


async def test_a_cancel_is_a_join(autojump_clock):
    provider = Scripted(["Hello", Stall()])
    async with open_server({"openai": provider}) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"}, request_id="r1")
        await peer.until("CHAT_STREAM_DATA")
        await peer.send("CHAT_CANCEL", {"requestId": "r1"})
        end = (await peer.until("CHAT_STREAM_END"))[-1]
        assert end["data"]["finishReason"] == "cancelled"
        assert end["data"]["upstreamClosed"] is True
        assert provider.open_streams == 0


async def test_the_client_library_talks_to_the_server(autojump_clock):
    provider = Scripted(["Supply ", "chains"])
    async with open_server({"openai": provider}) as server, server.chat() as chat:
        assert "".join([delta async for delta in chat.ask("Hi")]) == "Supply chains"
