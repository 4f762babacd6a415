import pytest
from sqlalchemy import text

from scm_trio.chat.usage import Cost
from scm_trio.config import Ai, Price
from scm_trio.config import Provider as ProviderSettings
from scm_trio.model import Finish, FinishReason, Usage
from scm_trio.providers.scripted import Batch, Scripted
from scm_trio.testing import open_server, quiet_config


def test_an_answer_costs_its_tokens_by_the_million():
    cost = Cost({"m": Price(prompt=2.0, completion=10.0)})
    assert cost.of("m", Usage(prompt_tokens=500_000, completion_tokens=100_000)) == pytest.approx(2.0)
    assert cost.of("m", Usage()) == 0.0


def test_a_model_without_a_price_has_no_cost():
    assert Cost({}).of("m", Usage(1, 1)) is None


@pytest.mark.parametrize(("prices", "cost"), [({"scripted-1": Price(1.0, 3.0)}, 0.007), ({}, None)])
async def test_each_answer_is_settled_with_its_cost(autojump_clock, prices, cost):
    usage = Batch([Usage(prompt_tokens=1000, completion_tokens=2000), Finish(FinishReason.COMPLETED)])
    config = quiet_config(ai=Ai(providers={"scripted": ProviderSettings(kind="scripted", prices=prices)}))
    async with open_server({"scripted": Scripted(["a", usage])}, config) as server, server.peer() as peer:
        await peer.send("CHAT_REQUEST", {"message": "Hi"})
        await peer.until("CHAT_STREAM_END")
        (row,) = await server.house.database.read(
            lambda conn: conn.execute(text("SELECT outcome, prompt_tokens, completion_tokens, cost FROM usage")).all()
        )
    assert row[:3] == ("completed", 1000, 2000)
    assert row[3] == (cost if cost is None else pytest.approx(cost))
