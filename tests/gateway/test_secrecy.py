"""No token, no key and no chat text in a log, whatever happens."""

from structlog.testing import capture_logs
from trio_websocket import ConnectionRejected

from scm_trio.errors import ProviderRejected
from scm_trio.logs import without_values
from scm_trio.providers.scripted import Fail, Scripted
from scm_trio.testing import open_server

QUESTION = "my secret diary"
ANSWER = "an intimate answer"
BAD_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.stolen-signature"


def script(prompt):
    said = prompt.turns[-1].content
    if "bug" in said:
        raise ValueError(said)
    if "refuse" in said:
        return [Fail(ProviderRejected(f"vendor said: {said} is not allowed"))]
    return [ANSWER]


async def test_whatever_happens_the_log_holds_ids_and_codes_only(autojump_clock):
    with capture_logs() as events:
        async with open_server({"openai": Scripted(script)}) as server:
            token = server.token()
            async with server.peer(token=token, query=f"&token={token}") as peer:
                for question in (QUESTION, f"refuse {QUESTION}", f"bug {QUESTION}"):
                    await peer.send("CHAT_REQUEST", {"message": question})
                    await peer.until("CHAT_STREAM_END")
                await peer.send_text(f'{{"type": "CHAT_REQUEST", "data": "{QUESTION}"')
                await peer.until("ERROR")
            try:
                async with server.peer(token=BAD_TOKEN):
                    raise AssertionError("a bad token came in")
            except* ConnectionRejected:
                refused = True
    assert refused
    told = [without_values(None, "", dict(event)) for event in events if event["log_level"] != "debug"]
    assert {event["event"] for event in told} >= {"run ended", "provider broke", "connection refused"}
    for secret in (QUESTION, ANSWER, token, BAD_TOKEN, "stolen-signature", "vendor said"):
        assert secret not in repr(told)
