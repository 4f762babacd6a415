"""Wherever a client is cancelled: it lets go soon, with a plain cancellation, and no model goes on."""

import trio

from scm_trio.providers.scripted import Scripted, Stall
from scm_trio.testing import cancel_at_every_step, open_server


def test_no_model_goes_on_for_a_client_that_was_cancelled_at_any_step():
    async def scenario(scope):
        provider = Scripted(["a", Stall()])
        async with open_server({"scripted": provider}) as server:
            with scope:
                async with server.chat() as chat:
                    with trio.move_on_after(1):
                        async for _ in chat.ask("?"):
                            pass
            let_go_at = trio.current_time()
            assert let_go_at <= 1 + 1 + 2
            # Well below the minute that an orphan is given.
            await trio.sleep(1)
            assert provider.open_streams == 0

    assert cancel_at_every_step(scenario) > 50
