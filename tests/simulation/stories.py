"""Whole user stories. Each takes a device and its world; the rules are checked by everybody around.

A story asserts only what it alone knows; it does so by adding a finding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from scm_trio.chat.foretold import FORETOLD_S
from scm_trio.chat.run import CLOSE_LIMIT_S, STORE_LIMIT_S

from .answers import Ask
from .device import Device
from .network import Fate
from .presence import Visit
from .providers import AT_LENGTH
from .rules import Rule
from .world import World

Story = Callable[[World, Device, Random], Awaitable[None]]

RUBBISH: tuple[tuple[bytes, str], ...] = (
    (b"{", "BAD_JSON"),
    (b"[]", "BAD_JSON"),
    (b'{"type":"CHAT_REQUEST","requestId":"%b","data":{}}', "INVALID_MESSAGE"),
    (b'{"type":"CHAT_REQUEST","requestId":"%b","data":{"message":"  "}}', "INVALID_MESSAGE"),
    (b'{"type":"CHAT_REQUEST","requestId":"%b","data":{"message":"hi","model":"none"}}', "MODEL_UNKNOWN"),
    (b'{"type":"CHAT_REQUEST","requestId":"%b","data":{"message":"hi","provider":"none"}}', "PROVIDER_UNKNOWN"),
    (b'{"type":"CHAT_REQUEST","requestId":"%b","data":{"message":"hi","parentMessageId":"none"}}', "NOT_FOUND"),
    (b'{"type":"CHAT_CANCEL","requestId":"%b","data":{"requestId":"none"}}', "NOT_FOUND"),
    (b'{"type":"CHAT_RESUME","requestId":"%b","data":{"messageId":"none"}}', "NOT_FOUND"),
    (b'{"type":"NOISE","requestId":"%b"}', "UNKNOWN_TYPE"),
    (b'{"type":"HEARTBEAT","requestId":"%b","userId":"somebody"}', "INVALID_MESSAGE"),
)
REFUSALS = ("RATE_LIMITED", "TOO_MANY_STREAMS", "QUOTA_EXCEEDED", "SHUTTING_DOWN")
"""With these any request may be refused."""
DEADLY: tuple[tuple[int, bytes, int], ...] = ((2, b"binary", 1003), (1, b"\xff\xfe", 1007), (1, b"x" * 70_000, 1009))


def _orphan(rng: Random) -> dict[str, object]:
    return rng.choice(({}, {}, {"onOrphan": "continue"}, {"onOrphan": "cancel"}, {"onOrphan": {"graceMs": 2000}}))


def _options(rng: Random) -> dict[str, object]:
    options = _orphan(rng)
    if rng.random() < 0.2:
        options["provider"] = "beta"
    if rng.random() < 0.1:
        options["timeoutMs"] = rng.choice((300, 5000))
    return options


async def ask_and_read(world: World, device: Device, rng: Random) -> None:
    ask = world.new_ask(device, named=rng.random() < 0.8, streaming=rng.random() < 0.8, **_options(rng))
    audience = [other for other in world.devices if _watches(other, ask)]
    visits, life = [other.visit for other in audience], world.life
    await device.ask(ask)
    outcome = await device.settled(ask)
    # An answer in one piece that failed before its first word is nothing to show.
    is_shown = outcome.end is not None and (ask.streaming or outcome.reason != "error")
    if is_shown and ask.times_sent == 1 and life is world.life:
        for other, visit in zip(audience, visits, strict=True):
            await other.saw(ask, visit)


def _watches(device: Device, ask: Ask) -> bool:
    """Whether a device has the session of a question open, and will be shown its answer without delay."""
    same = (device.user, device.session_id) == (ask.user, ask.session_id)
    return same and device.is_steady and device.is_online


async def answer_again(world: World, device: Device, rng: Random) -> None:
    """Have an earlier question answered once more, asked differently, or go on from an earlier answer."""
    earlier = [ask for ask in world.asks if (ask.user, ask.session_id) == (device.user, device.session_id)]
    ended = [ask for ask in earlier if ask.message_id in world.ends and ask.user_message_id is not None]
    if not ended:
        await ask_and_read(world, device, rng)
        return
    chosen = rng.choice(ended)
    place = rng.choice(("regenerateOf", "editOf", "parentMessageId"))
    named = chosen.user_message_id if place == "editOf" else chosen.message_id
    ask = world.new_ask(device, streaming=rng.random() < 0.8, **{place: named}, **_options(rng))
    if ask.answers_again:
        ask.question = chosen.question
    await device.ask(ask)
    outcome = await device.settled(ask)
    text = world.texts.get(chosen.message_id or "", "")
    if outcome.refusal == "NOT_FOUND" and (place == "editOf" or text):
        world.findings.add(Rule.KEPT, f"{place} does not find {named}")


async def stop(world: World, device: Device, rng: Random) -> None:
    """Before the first word, in the middle, near the end, once or twice, by either name."""
    ask = world.new_ask(device, streaming=rng.random() < 0.8, **_options(rng))
    await device.ask(ask)
    where = rng.choice(("at once", "after a while", "started", "reached"))
    if where == "after a while":
        await trio.sleep(rng.uniform(0, 3))
    elif where == "started":
        await device.started(ask)
    elif where == "reached":
        await device.reached(ask, rng.randint(1, 20))
    visit = device.visit if device.is_online else None
    for _ in range(rng.choice((1, 1, 2, 3))):
        await device.cancel(ask, by_message=rng.random() < 0.5)
        if rng.random() < 0.3:
            await trio.sleep(rng.uniform(0, 1))
    await _stopped_in_time(world, device, ask, visit)


async def _stopped_in_time(world: World, device: Device, ask: Ask, visit: Visit | None) -> None:
    """A stop that was said on a good connection to a living server is done when its limits say so."""
    began = trio.current_time()
    limit_s = CLOSE_LIMIT_S + 6 * max(world.disk.delays_s) + (STORE_LIMIT_S if world.disk.fails else 0.5)
    outcome = await device.settled(ask)
    took_s = trio.current_time() - began
    if visit is not None and device.is_steady and visit is device.visit and outcome.end and took_s > limit_s:
        world.findings.add(Rule.PROMPT_STOP, f"{ask.request_id} took {took_s:.1f} s to stop")


async def stop_before_asking(world: World, device: Device, rng: Random) -> None:
    """The stop overtakes its request, on another connection of the user or on this one."""
    ask = world.new_ask(device, **_options(rng))
    others = [other for other in world.devices if other.user == device.user and other.is_online]
    stopper = rng.choice([device, *others])
    await stopper.online()
    life, at = world.life, trio.current_time()
    error = await stopper.error_of(await stopper.cancel(ask))
    await trio.sleep(rng.choice((0.0, 0.0, 0.5)))
    await device.ask(ask)
    outcome = await device.settled(ask)
    is_plain = error is not None and life is world.life and trio.current_time() < at + FORETOLD_S
    if is_plain and outcome.end and outcome.reason not in ("cancelled", "interrupted"):
        world.findings.add(Rule.PROMPT_STOP, f"{ask.request_id} was stopped before, and ended with {outcome.reason}")


async def stop_from_elsewhere(world: World, device: Device, rng: Random) -> None:
    running = [ask for ask in world.asks if ask.user == device.user and ask.message_id is not None]
    if running:
        await device.cancel(rng.choice(running[-4:]), by_message=True)
        await trio.sleep(rng.uniform(0, 1))


async def lose_and_resume(world: World, device: Device, rng: Random) -> None:
    ask = world.new_ask(device, streaming=rng.random() < 0.9, **_options(rng))
    await device.ask(ask)
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.5:
            await device.reached(ask, rng.randint(0, 30))
        else:
            await trio.sleep(rng.uniform(0, 4))
        fate = rng.choice((None, Fate.RESET, Fate.VANISH))
        if rng.random() < 0.5:
            device.lose(fate)
        else:
            device.leave(fate)
            await trio.sleep(rng.choice((0.1, 2.0, 30.0, 200.0)))
            device.come_back()
    await device.settled(ask)


async def reload(world: World, device: Device, rng: Random) -> None:
    """Say goodbye properly, come back, and pick up what CONNECT says is running."""
    ask = world.new_ask(device, **_options(rng))
    await device.ask(ask)
    await device.reached(ask, rng.randint(0, 10))
    await device.say_goodbye()
    await trio.sleep(rng.choice((0.0, 5.0)))
    device.come_back()
    await device.online()
    if device.visit is not None and device.visit.greeting is not None:
        for active in device.visit.greeting["activeRuns"]:
            known = [each for each in world.asks if each.message_id == active["messageId"]]
            for each in known:
                await device.watch(each)
    await device.settled(ask)


async def same_request_elsewhere(world: World, device: Device, rng: Random) -> None:
    """Another device of the user sends the very same request; both see the same answer."""
    ask = world.new_ask(device, streaming=rng.random() < 0.8, **_options(rng))
    others = [other for other in world.devices if other.user == device.user and other is not device]
    await device.ask(ask)
    for other in others:
        await trio.sleep(rng.choice((0.0, 0.0, 0.5, 5.0)))
        await other.ask(ask)
    outcomes = [await each.settled(ask) for each in (device, *others)]
    if len({outcome.reason for outcome in outcomes if outcome.end}) > 1:
        world.findings.add(Rule.ONE_ANSWER, f"{ask.request_id} ended in several ways")


async def same_request_later(world: World, device: Device, rng: Random) -> None:
    """The request comes again after its answer has ended, maybe long after."""
    ask = world.new_ask(device, streaming=rng.random() < 0.8, **_options(rng))
    await device.ask(ask)
    first = await device.settled(ask)
    await trio.sleep(rng.choice((0.0, 5.0, 400.0)))
    await device.ask(ask)
    again = await device.settled(ask)
    if first.end and again.end and first.reason != again.reason:
        world.findings.add(Rule.ONE_ANSWER, f"{ask.request_id} ended with {first.reason}, and later {again.reason}")


async def look_on(world: World, device: Device, rng: Random) -> None:
    """Follow an answer that another device of the user has asked for."""
    running = [ask for ask in world.asks if ask.user == device.user and ask.message_id is not None]
    for ask in running[-2:]:
        await device.watch(ask)
    for ask in running[-2:]:
        await device.settled(ask)


async def jump_about(world: World, device: Device, rng: Random) -> None:
    """Resume from earlier places while the answer runs, and with positions that cannot be."""
    ask = world.new_ask(device, **_options(rng))
    await device.ask(ask)
    for _ in range(rng.randint(1, 4)):
        await device.reached(ask, rng.randint(1, 10))
        copy = device.desk.copy_of(ask)
        if copy is not None:
            places = [(index, copy.rev) for index in copy.positions] + [(10_000, copy.rev), (0, copy.rev + 7)]
            await device.moved(ask, *rng.choice(places))
        await trio.sleep(rng.choice((0.0, 0.0, 0.3)))
    await device.settled(ask)


async def orphan(world: World, device: Device, rng: Random) -> None:
    """Leave, let the grace pass, and see that nothing is said any more."""
    grace_ms = rng.choice((0, 1000, 4000))
    ask = world.new_ask(device, onOrphan={"graceMs": grace_ms})
    ask.question += AT_LENGTH
    life = world.life
    await device.ask(ask)
    await device.reached(ask, rng.randint(1, 5))
    device.leave(Fate.RESET)
    due_at = trio.current_time() + grace_ms / 1000 + 6 * max(world.disk.delays_s) + 0.1
    is_watched = False
    while trio.current_time() < due_at:
        # Other devices count, and connections that vanished, as long as the server has not found out.
        await trio.sleep(0.05)
        is_watched = is_watched or life.is_watched_by(device.user)
    await trio.sleep(20)
    if not is_watched and not life.is_gone:
        for number, call in world.calls(ask.question):
            if number == life.number and (call.closed_at or trio.current_time()) > due_at + call.close_s:
                world.findings.add(Rule.PROMPT_STOP, f"{ask.request_id} is given to nobody")
    device.come_back()
    await device.settled(ask)


async def rubbish(world: World, device: Device, rng: Random) -> None:
    """Bad messages get their ERROR, and the connection lives."""
    ask = world.new_ask(device)
    await device.ask(ask)
    for text, code in rng.sample(RUBBISH, rng.randint(2, 7)):
        await device.online()
        request_id = world.new_request_id("rubbish")
        if b"%b" not in text:
            await device.say_raw(text)
            continue
        await device.say_raw(text % request_id.encode())
        error = await device.error_of(request_id)
        allowed = (code, *REFUSALS, *world.disk.excuses)
        if error is not None and error["code"] not in allowed:
            world.findings.add(Rule.CONTRACT, f"{code} was due, {error['code']} came")
    await device.settled(ask)


async def deadly_rubbish(world: World, device: Device, rng: Random) -> None:
    """What no connection survives; the answer does."""
    ask = world.new_ask(device, **_options(rng))
    await device.ask(ask)
    await device.started(ask)
    opcode, payload, code = rng.choice(DEADLY)
    visit = device.visit
    if visit is not None and device.is_online:
        await device.say_raw(payload, opcode)
        await device.until(lambda: visit.code is not None, "the end of the connection")
        if visit.code not in (code, 1001, 1006, 4408, 4410):
            world.findings.add(Rule.CONTRACT, f"closed with {visit.code} instead of {code}")
    await device.settled(ask)


async def many_at_once(world: World, device: Device, rng: Random) -> None:
    """Several questions at a time, in several sessions; those above the limits are refused."""
    asks = [
        world.new_ask(device, session_id=f"side-{number % 3}", streaming=rng.random() < 0.8, **_options(rng))
        for number in range(rng.randint(2, 5))
    ]
    for ask in asks:
        await device.ask(ask)
    for ask in asks:
        outcome = await device.settled(ask)
        if outcome.refusal in ("TOO_MANY_STREAMS", "RATE_LIMITED") and rng.random() < 0.5:
            await trio.sleep(outcome.retry_after_s + 1)
            await device.ask(ask)
            await device.settled(ask)


async def flood(world: World, device: Device, rng: Random) -> None:
    """Far too many requests: first they are refused, then the connection is closed; the answer goes on."""
    limit = world.config.websocket.message.rate_limit_per_minute
    ask = world.new_ask(device)
    await device.ask(ask)
    for _ in range(4 * limit):
        await device.say("CHAT_REQUEST", {"message": "hi", "provider": "none"})
    await device.settled(ask)


async def strangers(world: World, device: Device, rng: Random) -> None:
    """Another user's answer is nobody's business."""
    foreign = [ask for ask in world.asks if ask.user != device.user and ask.message_id is not None]
    for ask in foreign[-2:]:
        await device.online()
        kind = rng.choice(("CHAT_RESUME", "CHAT_CANCEL"))
        request_id = await device.say(kind, {"messageId": ask.message_id})
        error = await device.error_of(request_id)
        if error is not None and error["code"] not in ("NOT_FOUND", *world.disk.excuses):
            world.findings.add(Rule.CONTRACT, f"a foreign answer is {error['code']}")


async def rest(world: World, device: Device, rng: Random) -> None:
    await trio.sleep(rng.choice((0.5, 10.0, 100.0)))


STORIES: tuple[Story, ...] = (
    ask_and_read,
    ask_and_read,
    answer_again,
    answer_again,
    stop,
    stop,
    stop_before_asking,
    stop_from_elsewhere,
    lose_and_resume,
    lose_and_resume,
    reload,
    same_request_elsewhere,
    same_request_later,
    look_on,
    jump_about,
    orphan,
    rubbish,
    deadly_rubbish,
    many_at_once,
    flood,
    strangers,
    rest,
)
