"""Whole conversations over connections that break again and again, at places that a seed chooses."""

from random import Random

import pytest
import trio

from scm_trio.client import Backoff
from scm_trio.config import Messages, WebSocket
from scm_trio.providers.scripted import Pause, Reasoning, Scripted
from scm_trio.testing import Split, open_server, quiet_config
from tests.client.network import Network, cut_to_client, cut_to_server, stored

CONFIG = quiet_config(websocket=WebSocket(message=Messages(rate_limit_per_minute=0)))
BREAKS = 12


def script(prompt):
    """As many words as the question says, thought about first when it is an even number, some of them together."""
    words = int(prompt.turns[-1].content)
    steps = [] if words % 2 else [Reasoning("let "), Pause(0.2), Reasoning("me see")]
    for number in range(words):
        steps += [f"词{number} ", Pause(0.3 * (number % 3))]
    return steps


def text(words):
    return "".join(f"词{number} " for number in range(words))


def faults(random):
    """The first connection lives through its CONNECT, the others through anything or nothing."""
    yield cut_to_client(random.randrange(900, 2000))
    for _ in range(BREAKS):
        cut = random.choice([cut_to_client(random.randrange(1, 4000)), cut_to_server(random.randrange(1, 900))])
        size = random.randrange(1, 50)
        yield random.choice([cut, lambda pair, cut=cut, size=size: cut((Split(pair[0], size), pair[1]))])


class Person:
    """Asks in every way there is, and remembers what the store has to hold."""

    def __init__(self, chat, random):
        self.chat, self.random = chat, random
        self.wanted = {}

    async def ask(self, words):
        answer = self.chat.ask(str(words), conversation_id=f"c-{words}")
        assert "".join([delta async for delta in answer]) == answer.text == text(words)
        assert answer.reasoning == ("" if words % 2 else "let me see")
        self.wanted[words] = (answer.text, "completed")

    async def ask_once(self, words):
        response = await self.chat.ask_once(str(words), conversation_id=f"c-{words}")
        assert response.content == text(words)
        self.wanted[words] = (response.content, "completed")

    async def ask_and_stop(self, words):
        async with self.chat.ask(str(words), conversation_id=f"c-{words}") as answer:
            count = self.random.randrange(1, 4)
            async for _ in answer:
                count -= 1
                if not count:
                    break
            end = await answer.cancel()
        assert text(words).startswith(answer.text)
        self.wanted[words] = (answer.text, end.finish_reason)

    async def live(self):
        async with trio.open_nursery() as nursery:
            for words in range(3, 12):
                nursery.start_soon(self.random.choice([self.ask, self.ask, self.ask_once, self.ask_and_stop]), words)
                await trio.sleep(self.random.random())


async def watch(chat, seen):
    async for answer in chat.watching():
        seen.append(answer)


@pytest.mark.parametrize("seed", range(30))
async def test_nothing_is_lost_doubled_or_left_running(autojump_clock, seed):
    random, seen = Random(seed), []
    provider = Scripted(script)
    async with open_server({"scripted": provider}, CONFIG) as server, trio.open_nursery() as nursery:
        network = Network(server, *faults(random))
        backoff = Backoff(chance=random.random)
        # The other device has a quiet connection, and sees the same.
        async with Network(server).chat() as other, network.chat(reconnect=backoff) as chat:
            nursery.start_soon(watch, other, seen)
            person = Person(chat, random)
            await person.live()
            assert network.dials > BREAKS / 4
            assert chat.divergences == other.divergences == 0
            for answer in seen:
                await answer.finish()
        rows, attempts = await stored(server)
        await trio.sleep(1)
        gate = server.house.gate
        assert provider.open_streams == gate.service.live_runs == gate.hub.active == 0
        nursery.cancel_scope.cancel()
    assert sorted(content for role, content, _ in rows if role == "user") == sorted(map(str, person.wanted))
    told = sorted((content, reason) for role, content, reason in rows if role == "assistant")
    assert told == sorted(person.wanted.values())
    assert attempts == len(person.wanted) == 9
    shown = {answer.text for answer in seen}
    assert shown <= {content for content, _ in told}
