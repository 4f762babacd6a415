"""Who types is told to the other members who have the session open, and to nobody else."""

import pytest
import trio

from scm_trio.errors import StoreError
from scm_trio.store.database import Database
from scm_trio.store.messages import find_session

from .serving import answer, ask, serving
from .sharing import GLOBAL_ID, delete, heard, set_members, share, told

pytestmark = pytest.mark.usefixtures("both_databases")

START, STOP = ("TYPING_START", "user001"), ("TYPING_STOP", "user001")


def typing(messages):
    return [each for each in told(messages) if each[0].startswith("TYPING")]


async def errors(peer):
    return [each["error"]["code"] for each in await heard(peer) if each["type"] == "ERROR"]


async def test_the_other_members_who_have_the_session_open_are_told_and_nobody_else(autojump_clock):
    async with serving() as server:
        await share(server, "user002", "user003", viewer="user004")
        async with (
            server.peer("user001", GLOBAL_ID) as typist,
            server.peer("user001", GLOBAL_ID) as own_device,
            server.peer("user002", GLOBAL_ID) as member,
            server.peer("user004", GLOBAL_ID) as viewer,
            server.peer("user003", "elsewhere") as elsewhere,
            server.peer("user009", GLOBAL_ID) as stranger,
        ):
            await typist.send("TYPING_START")
            everybody = (member, viewer, own_device, elsewhere, stranger, typist)
            assert [typing(await heard(each)) for each in everybody] == [[START], [START], [], [], [], []]
            await typist.send("TYPING_STOP", {"sessionId": GLOBAL_ID})
            assert [typing(await heard(each)) for each in everybody] == [[STOP], [STOP], [], [], [], []]


async def test_everybody_is_told_by_his_own_name_of_the_session(autojump_clock):
    async with serving("a") as server, server.peer("user001", "plans") as owner:
        await answer(owner)
        global_id = (await server.house.database.read(find_session, "user001", "plans")).global_id
        await set_members(server, global_id=global_id, user001="owner", user002="member", user003="member")
        async with (
            server.peer("user002", global_id) as second,
            server.peer("user003", global_id) as third,
            # A session of that name is another one where it is not the owner who calls it so.
            server.peer("user003", "plans") as own_plans,
        ):
            await second.send("TYPING_START")
            push = next(each for each in await heard(owner) if each["type"] == "TYPING_START")
            assert (push["sessionId"], push["userId"]) == ("plans", "user002")
            assert push["data"] == {"sessionId": "plans", "userId": "user002"}
            assert "requestId" not in push
            push = next(each for each in await heard(third) if each["type"] == "TYPING_START")
            assert (push["sessionId"], push["data"]["sessionId"]) == (global_id, global_id)
            await owner.send("TYPING_START")
            assert typing(await heard(second)) == [START]
            assert typing(await heard(own_plans)) == []


async def test_a_start_expires_after_ten_seconds_and_that_is_told(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as typist, server.peer("user002", GLOBAL_ID) as other:
            await typist.send("TYPING_START")
            began = trio.current_time()
            assert typing(await other.until("TYPING_START"))
            await other.until("TYPING_STOP")
            assert trio.current_time() - began == pytest.approx(10)


async def test_a_repeated_start_lasts_longer_and_is_not_told_again(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as typist, server.peer("user002", GLOBAL_ID) as other:
            began = trio.current_time()
            for _ in range(5):
                await typist.send("TYPING_START")
                await trio.sleep(4)
            assert typing(await other.until("TYPING_STOP")) == [START, STOP]
            assert trio.current_time() - began == pytest.approx(4 * 4 + 10)


async def test_who_opens_the_session_meanwhile_is_told_by_the_next_start(autojump_clock):
    async with serving() as server:
        await share(server, "user002", "user003")
        async with server.peer("user001", GLOBAL_ID) as typist, server.peer("user002", GLOBAL_ID) as first:
            await typist.send("TYPING_START")
            await trio.sleep(1)
            async with server.peer("user003", GLOBAL_ID) as late:
                assert typing(await heard(late)) == []
                await typist.send("TYPING_START")
                assert typing(await heard(late)) == [START]
                assert typing(await heard(first)) == [START]
                await typist.send("TYPING_STOP")
                assert (typing(await heard(late)), typing(await heard(first))) == ([STOP], [STOP])


async def test_a_question_ends_it(autojump_clock):
    async with serving("a") as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as typist, server.peer("user002", GLOBAL_ID) as other:
            await typist.send("TYPING_START")
            await other.until("TYPING_START")
            await ask(typist)
            seen = await heard(other, 3)
            assert typing(seen) == [STOP]
            await trio.sleep(20)
            assert typing(await heard(other)) == []


async def test_it_ends_with_the_connection_and_with_no_other(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user002", GLOBAL_ID) as other, server.peer("user001", GLOBAL_ID) as desk:
            async with server.peer("user001", GLOBAL_ID) as phone:
                async with server.peer("user001", GLOBAL_ID) as idle:
                    await phone.send("TYPING_START")
                    await desk.send("TYPING_START")
                    await idle.send("TYPING_STOP")
                assert typing(await heard(other)) == [START]
            assert typing(await heard(other)) == []  # the desk still types
            await desk.send("TYPING_STOP")
            assert typing(await heard(other)) == [STOP]


async def test_a_stop_without_a_start_says_nothing(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as typist, server.peer("user002", GLOBAL_ID) as other:
            await typist.send("TYPING_STOP")
            assert typing(await heard(other)) == []
            assert await errors(typist) == []


async def test_who_loses_his_membership_types_no_longer_and_hears_nothing_more(autojump_clock):
    async with serving() as server:
        await share(server, "user002", "user003")
        async with (
            server.peer("user001", GLOBAL_ID) as owner,
            server.peer("user002", GLOBAL_ID) as leaver,
            server.peer("user003", GLOBAL_ID) as third,
        ):
            await leaver.send("TYPING_START")
            await third.send("TYPING_START")
            assert set(typing(await heard(owner))) == {("TYPING_START", "user002"), ("TYPING_START", "user003")}
            await heard(leaver)
            await set_members(server, user001="owner", user003="member")
            assert typing(await heard(owner)) == [("TYPING_STOP", "user002")]
            await third.send("TYPING_STOP")
            await owner.send("TYPING_START")
            assert typing(await heard(leaver)) == []
            await leaver.send("TYPING_START", {"sessionId": GLOBAL_ID})
            assert await errors(leaver) == ["NOT_FOUND"]


async def test_the_end_of_the_session_is_the_end_of_it(autojump_clock):
    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as owner, server.peer("user002", GLOBAL_ID) as other:
            await other.send("TYPING_START")
            await heard(owner)
            await delete(server)
            assert typing(await heard(owner, 20)) == []
            await other.send("TYPING_START", {"sessionId": GLOBAL_ID})
            assert await errors(other) == ["NOT_FOUND"]


async def test_viewers_may_not_type(autojump_clock):
    async with serving() as server:
        await share(server, viewer="user002")
        async with server.peer("user002", GLOBAL_ID) as viewer, server.peer("user001", GLOBAL_ID) as owner:
            for kind in ("TYPING_START", "TYPING_STOP"):
                await viewer.send(kind, request_id="r1")
                error = (await viewer.until("ERROR"))[-1]
                assert (error["error"]["code"], error["requestId"]) == ("FORBIDDEN", "r1")
            assert typing(await heard(owner)) == []


@pytest.mark.parametrize("kind", ["TYPING_START", "TYPING_STOP"])
@pytest.mark.parametrize("reference", [GLOBAL_ID, "session001", f"s-{2:024x}"])
async def test_another_s_session_is_not_found_and_neither_is_one_that_is_not_there(autojump_clock, kind, reference):
    async with serving("a") as server, server.peer("user001") as owner:
        await answer(owner)
        await share(server)
        async with server.peer("user009", reference) as stranger:
            await stranger.send(kind, {"sessionId": reference})
            assert await errors(stranger) == ["NOT_FOUND"]
            await stranger.send(kind, sessionId=reference)
            assert await errors(stranger) == ["NOT_FOUND"]


async def test_before_its_first_question_the_own_session_of_a_page_is_no_error(autojump_clock):
    async with serving() as server:
        await share(server)
        async with server.peer("user009", "fresh") as fresh, server.peer("user009", GLOBAL_ID) as stranger:
            await fresh.send("TYPING_START")
            assert await errors(fresh) == []
            await stranger.send("TYPING_START")
            assert await errors(stranger) == ["NOT_FOUND"]


async def test_a_broken_store_is_told_and_the_connection_lives(autojump_clock, monkeypatch):
    async def broken(*_args, **_more):
        raise StoreError("down")

    async with serving() as server, server.peer("user001", GLOBAL_ID) as peer:
        monkeypatch.setattr(Database, "read", broken)
        await peer.send("TYPING_START")
        assert await errors(peer) == ["INTERNAL"]


async def test_members_are_looked_up_once_and_not_for_every_key(autojump_clock, monkeypatch):
    reads = []
    real = Database.read

    async def counted(self, fn, *args, **more):
        reads.append(fn.__name__)
        return await real(self, fn, *args, **more)

    async with serving() as server:
        await share(server, "user002")
        async with server.peer("user001", GLOBAL_ID) as typist:
            await trio.sleep(1)
            monkeypatch.setattr(Database, "read", counted)
            for _ in range(20):
                await typist.send("TYPING_START")
                await trio.sleep(1)
            assert reads == ["_find"]
