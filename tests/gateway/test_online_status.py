"""Who is online, away or offline: pushed to those who share a session with him, and told to those who ask."""

import pytest
import trio

from scm_trio.config import Messages
from scm_trio.errors import StoreError
from scm_trio.store.database import Database

from .serving import serving, websocket
from .sharing import delete, heard, set_members, share, statuses

pytestmark = pytest.mark.usefixtures("both_databases")

ONE = "user001"
ONLINE, AWAY, OFFLINE = ((ONE, status) for status in ("online", "away", "offline"))


async def ask_for(peer, *users):
    await peer.send("ONLINE_STATUS", {"userIds": users}, request_id="who")
    answer = (await peer.until("ONLINE_STATUS", "ERROR"))[-1]
    while answer.get("requestId") != "who":
        answer = (await peer.until("ONLINE_STATUS", "ERROR"))[-1]
    return [(user["userId"], user["status"]) for user in answer["data"]["users"]]


async def say(peer, status):
    await peer.send("ONLINE_STATUS", {"status": status}, request_id="mine")
    answer = (await peer.until("ONLINE_STATUS"))[-1]
    assert answer["requestId"] == "mine"
    return statuses([answer])


async def test_people_who_share_a_session_hear_who_comes_and_who_goes(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002", "elsewhere") as friend, server.peer("user009") as stranger:
            async with server.peer(ONE):
                push = (await friend.until("ONLINE_STATUS"))[-1]
                assert push["data"] == {"users": [{"userId": ONE, "status": "online"}]}
                assert push["userId"] == ONE
                assert {"requestId", "sessionId"}.isdisjoint(push)
            left_at = trio.current_time()
            assert statuses([(await friend.until("ONLINE_STATUS"))[-1]]) == [OFFLINE]
            assert trio.current_time() - left_at == pytest.approx(5)
            assert await heard(stranger) == []


async def test_a_reload_is_no_news(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            for _ in range(3):
                async with server.peer(ONE):
                    await trio.sleep(7)
                await trio.sleep(4)
            async with server.peer(ONE):
                await trio.sleep(7)
            assert statuses(await heard(friend, 4)) == [ONLINE]
            assert statuses(await heard(friend, 2)) == [OFFLINE]


async def test_a_second_device_is_no_news_and_neither_is_its_end(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend, server.peer(ONE):
            async with server.peer(ONE, "two"):
                await trio.sleep(1)
            assert statuses(await heard(friend, 20)) == [ONLINE]


async def test_a_user_is_away_when_all_of_his_connections_are(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend, server.peer(ONE) as phone:
            async with server.peer(ONE) as desk:
                assert statuses(await heard(friend)) == [ONLINE]
                assert await say(phone, "away") == [ONLINE]
                assert statuses(await heard(friend)) == []
                assert await say(desk, "away") == [AWAY]
                assert statuses(await heard(friend)) == [AWAY]
                assert await say(desk, "away") == [AWAY]
                assert await say(desk, "online") == [ONLINE]
                assert statuses(await heard(friend)) == [ONLINE]
            # The phone is left, which is still away.
            assert statuses(await heard(friend, 4)) == []
            assert statuses(await heard(friend, 2)) == [AWAY]


async def test_who_says_that_he_is_offline_is_so_on_all_of_his_devices(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend, server.peer(ONE) as phone:
            await heard(friend)
            assert await say(phone, "offline") == [OFFLINE]
            assert statuses(await heard(friend)) == [OFFLINE]
            async with server.peer(ONE) as desk:
                assert statuses(await heard(friend, 20)) == []
                assert await ask_for(friend, ONE) == [OFFLINE]
                assert await ask_for(desk, ONE) == [OFFLINE]
                assert await say(desk, "away") == [ONLINE]  # the phone is online
                assert statuses(await heard(friend)) == [ONLINE]


async def test_being_hidden_survives_a_reload_and_ends_with_the_last_connection(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            async with server.peer(ONE) as phone:
                await say(phone, "offline")
            async with server.peer(ONE):
                assert (await ask_for(friend, ONE))[0] == OFFLINE
            await trio.sleep(6)
            await heard(friend)
            async with server.peer(ONE):
                assert statuses(await heard(friend)) == [ONLINE]


async def test_a_connection_that_flashes_is_not_told(autojump_clock, monkeypatch):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            people = server.house.gate.people
            connection = server.house.gate.hub.of_user("user002")[0]

            class Flash:
                connection_id, user_id = "flash", ONE

            people.joined(Flash)
            people.left(Flash)
            people.left(Flash)
            assert connection.user_id == "user002"
            assert statuses(await heard(friend, 20)) == []


async def test_one_may_ask_for_those_with_whom_one_shares_a_session_and_others_are_offline(autojump_clock):
    async with serving() as server:
        await share(server, "user002", "user003")
        async with server.peer(ONE) as one, server.peer("user002") as two, server.peer("user009"):
            await say(two, "away")
            await trio.sleep(1)
            asked = ["user002", "user003", "user009", "nobody", ONE, "user002"]
            assert await ask_for(one, *asked) == [
                ("user002", "away"),
                ("user003", "offline"),
                ("user009", "offline"),
                ("nobody", "offline"),
                ONLINE,
            ]
            assert await ask_for(one) == []


async def test_an_answer_does_not_contradict_what_was_pushed(autojump_clock):
    """Within the grace a user who has left is online: if he comes back, nobody is told anything."""
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            async with server.peer(ONE):
                await heard(friend)
            await trio.sleep(1)
            assert await ask_for(friend, ONE) == [ONLINE]
            await trio.sleep(5)
            assert await ask_for(friend, ONE) == [OFFLINE]


async def test_setting_and_asking_go_together(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer(ONE) as one, server.peer("user002"):
            await trio.sleep(1)
            await one.send("ONLINE_STATUS", {"status": "away", "userIds": ["user002", ONE]}, request_id="r")
            answer = (await one.until("ONLINE_STATUS"))[-1]
            while "requestId" not in answer:
                answer = (await one.until("ONLINE_STATUS"))[-1]
            assert statuses([answer]) == [("user002", "online"), AWAY]


async def test_too_many_at_once_are_refused(autojump_clock):
    async with serving() as server, server.peer(ONE) as one:
        await one.send("ONLINE_STATUS", {"userIds": [f"u{number}" for number in range(101)]})
        error = (await one.until("ERROR"))[-1]["error"]
        assert (error["code"], error["field"]) == ("INVALID_MESSAGE", "data.userIds")
        assert len(await ask_for(one, *(f"u{number}" for number in range(100)))) == 100


async def test_membership_decides_at_once(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend, server.peer(ONE) as one:
            assert await ask_for(friend, ONE) == [ONLINE]
            await set_members(server, user001="owner")
            assert await ask_for(friend, ONE) == [OFFLINE]
            await say(one, "away")
            assert statuses(await heard(friend)) == []
            await set_members(server, user001="owner", user002="viewer")
            assert await ask_for(friend, ONE) == [AWAY]
            await delete(server)
            assert await ask_for(friend, ONE) == [OFFLINE]


async def test_what_another_process_changes_is_seen_after_a_minute(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend, server.peer(ONE):
            assert await ask_for(friend, ONE) == [ONLINE]
            people, unheard = server.house.gate.people, lambda *_: None
            server.house.gate.people.circles.forget, forget = unheard, people.circles.forget
            await set_members(server, user001="owner")
            server.house.gate.people.circles.forget = forget
            assert await ask_for(friend, ONE) == [ONLINE]
            await trio.sleep(61)
            assert await ask_for(friend, ONE) == [OFFLINE]


async def test_a_broken_store_delays_the_news(autojump_clock, monkeypatch):
    real, failures = Database.read, 2

    async def sometimes(self, fn, *args, **more):
        nonlocal failures
        if fn.__name__ == "companions" and failures:
            failures -= 1
            raise StoreError("down")
        return await real(self, fn, *args, **more)

    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            await trio.sleep(1)
            monkeypatch.setattr(Database, "read", sometimes)
            # What is known from his arrival is forgotten, as if a session had changed in that moment.
            monkeypatch.setattr(server.house.gate.people.circles, "learn", lambda *_: None)
            async with server.peer(ONE):
                assert statuses(await heard(friend, 9)) == []
                assert statuses(await heard(friend, 2)) == [ONLINE]
            failures = 1
            server.house.gate.people.circles.forget("s", ["user002"])
            await friend.send("ONLINE_STATUS", {"userIds": [ONE]})
            assert (await friend.until("ERROR"))[-1]["error"]["code"] == "INTERNAL"


async def test_somebody_without_shared_sessions_costs_no_lookup_of_his_own(autojump_clock, monkeypatch):
    reads = []
    real = Database.read

    async def counted(self, fn, *args, **more):
        reads.append(fn.__name__)
        return await real(self, fn, *args, **more)

    config = websocket(message=Messages(rate_limit_per_minute=0))
    monkeypatch.setattr(Database, "read", counted)
    async with serving(config=config) as server:
        async with server.peer(ONE) as peer:
            for status in ("away", "online") * 3:
                await say(peer, status)
                await trio.sleep(1)
        await trio.sleep(10)
    assert "arrive" in reads
    assert "companions" not in reads


async def test_a_bug_in_the_background_costs_a_second_and_not_the_house(autojump_clock, monkeypatch):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002") as friend:
            presence = server.house.gate.people.presence
            monkeypatch.setattr(presence, "own", lambda _: 1 / 0)
            async with server.peer(ONE):
                await trio.sleep(1)
            monkeypatch.undo()
            async with server.peer(ONE):
                assert statuses(await heard(friend, 3)) == [ONLINE]
