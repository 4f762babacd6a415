"""Files attached to questions: what the model sees, what is stored, and what is refused."""

from contextlib import asynccontextmanager

import pytest
import trio
from attrs import evolve
from sqlalchemy import delete

from scm_trio.config import Files
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Image
from scm_trio.providers.fallback import Chain, Link
from scm_trio.providers.scripted import Fail, Scripted
from scm_trio.store import files, messages, schema
from scm_trio.testing import open_server, quiet_config

from .serving import answer, said

pytestmark = pytest.mark.usefixtures("both_databases")

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01" + bytes(43)
PDF = b"%PDF-1.7 nothing else".ljust(64)


class Hall:
    """A server with one provider, and files in a folder of the test's own."""

    def __init__(self, server, provider) -> None:
        self.server = server
        self.provider = provider

    async def upload(self, data: bytes, name: str, user: str = "user001") -> str:
        async with self.server.house.files.upload(user, name) as upload:
            await upload.write(data)
            return (await upload.complete()).file_id

    @property
    def turn(self):
        """The newest question, as the model was told it."""
        return self.provider.prompts[-1].turns[-1]

    async def stored(self, message_id: str):
        def read(conn):
            return files.with_attachments(conn, [messages.find_message(conn, message_id)])[0]

        return await self.server.house.database.read(read)


@pytest.fixture
def opened(tmp_path):
    @asynccontextmanager
    async def open_hall(*, takes_images: bool = True, provider=None, **more):
        provider = provider or evolve(Scripted(["ok"], takes_images=takes_images), **more)
        config = quiet_config(files=Files(path=str(tmp_path / "files"), orphan_age_s=600.0))
        async with open_server({"eyes": provider}, config) as server:
            yield Hall(server, provider)

    return open_hall


async def test_an_image_is_shown_to_a_model_that_takes_images(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(PNG, "图.png")
        told = await answer(peer, "What is this?", attachments=[file_id])
        assert said(told) == "ok"
        assert [each["type"] for each in told if each["type"] == "INFO"] == []
        assert hall.turn.images == (Image("image/png", PNG),)
        assert hall.turn.content == '[Attached image: "图.png"]\n\nWhat is this?'


async def test_a_model_that_takes_none_is_told_of_it_and_so_is_the_asker(opened, autojump_clock):
    async with opened(takes_images=False) as hall, hall.server.peer(query="&lang=en") as peer:
        file_id = await hall.upload(PNG, "a.png")
        told = await answer(peer, "What is this?", attachments=[file_id])
        assert [each["type"] for each in told[:2]] == ["CHAT_STREAM_START", "INFO"]
        info = told[1]["data"]
        assert (info["code"], info["messageId"]) == ("IMAGES_UNSEEN", told[0]["data"]["messageId"])
        assert info["message"] == "scripted cannot see pictures; it was told their names only"
        assert hall.turn.images == ()
        assert hall.turn.content == '[Attached image: "a.png". You cannot see it.]\n\nWhat is this?'

        again = await answer(peer, "And now?", "r2")
        assert "INFO" not in [each["type"] for each in again]


async def test_a_provider_that_answers_instead_and_takes_none_is_told_and_so_is_the_asker(opened, autojump_clock):
    moods = [[Fail(ProviderUnavailable())], ["b"], ["c"]]
    blind = Scripted(lambda _: moods.pop(0), name="blind", models=("m",))
    first = Scripted([Fail(ProviderUnavailable())], name="scripted", models=("scripted-1",), takes_images=True)
    provider = Chain([Link(first, retries=0), Link(blind)])
    async with opened(provider=provider) as hall, hall.server.peer() as peer:
        file_id = await hall.upload(PNG, "a.png")
        told = await answer(peer, "What is this?", attachments=[file_id])
        infos = [each["data"]["code"] for each in told if each["type"] == "INFO"]
        assert infos == ["FALLBACK", "IMAGES_UNSEEN", "RETRYING"]
        (turn,) = blind.prompts[-1].turns
        assert turn.images == ()
        assert turn.content == ('[You cannot see the attached images.]\n\n[Attached image: "a.png"]\n\nWhat is this?')
        assert first.prompts[-1].turns[0].images == (Image("image/png", PNG),)

        again = await answer(peer, "And now?", "r2")
        assert "IMAGES_UNSEEN" not in [each["data"]["code"] for each in again if each["type"] == "INFO"]


async def test_a_text_is_quoted_and_a_pdf_is_named(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        text, pdf = await hall.upload(b"a,b\n1,2\n", "t.csv"), await hall.upload(PDF, "p.pdf")
        await answer(peer, "Sum?", attachments=[pdf, text])
        assert hall.turn.content == (
            'Attached file "t.csv" (text/csv):\n```\na,b\n1,2\n\n```\n\n'
            '[Attached PDF: "p.pdf". You cannot read what is in it.]\n\nSum?'
        )


async def test_a_document_is_cut_to_the_models_context(opened, autojump_clock):
    async with opened(context_tokens=1024) as hall, hall.server.peer() as peer:
        file_id = await hall.upload(b"x" * 900_000, "long.txt")
        assert said(await answer(peer, "Sum?", attachments=[file_id])) == "ok"
        assert 2000 < hall.turn.content.count("x") < 3072


async def test_attachments_are_stored_in_order_and_stay_what_was_said(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        first, second = await hall.upload(b"one", "1.txt"), await hall.upload(b"two", "2.txt")
        told = await answer(peer, "Compare", attachments=[second, first])
        question = await hall.stored(told[0]["data"]["userMessageId"])
        assert question.content == "Compare"
        assert [each.file_id for each in question.attachments] == [second, first]
        assert (question.attachments[0].name, question.attachments[0].size_bytes) == ("2.txt", 3)


async def test_the_users_other_connections_are_told_what_is_attached(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer, hall.server.peer() as other:
        file_id = await hall.upload(b"one", "1.txt")
        await answer(peer, "Look", attachments=[file_id])
        pushed = (await other.until("CHAT_MESSAGE"))[-1]["data"]
        assert pushed["attachments"] == [{"fileId": file_id, "name": "1.txt", "mediaType": "text/plain", "size": 3}]


async def test_attachments_go_along_when_the_conversation_goes_on(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        image, text = await hall.upload(PNG, "a.png"), await hall.upload(b"one", "1.txt")
        await answer(peer, "Look", attachments=[image, text])
        await answer(peer, "And?", "r2")
        first, _, last = hall.provider.prompts[-1].turns
        assert first.images == (Image("image/png", PNG),)
        assert "```\none\n```" in first.content
        assert (last.content, last.images) == ("And?", ())


async def test_a_file_can_be_attached_again(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(b"one", "1.txt")
        for request_id in ("r1", "r2"):
            assert said(await answer(peer, "Look", request_id, attachments=[file_id])) == "ok"


async def test_an_answer_given_again_sees_the_same_attachments(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(PNG, "a.png")
        first = await answer(peer, "Look", attachments=[file_id])
        await answer(peer, "Look", "r2", regenerateOf=first[0]["data"]["messageId"])
        assert hall.turn.images == (Image("image/png", PNG),)


async def test_an_edited_question_has_the_attachments_that_it_names(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(PNG, "a.png")
        first = await answer(peer, "Look", attachments=[file_id])
        asked_id = first[0]["data"]["userMessageId"]
        await answer(peer, "Look closer", "r2", editOf=asked_id)
        assert hall.turn.images == ()
        await answer(peer, "Look closer", "r3", editOf=asked_id, attachments=[file_id])
        assert hall.turn.images == (Image("image/png", PNG),)


async def test_the_same_request_again_is_answered_from_the_store(opened, autojump_clock):
    async with opened() as hall:
        file_id = await hall.upload(PNG, "a.png")
        async with hall.server.peer() as peer:
            first = await answer(peer, "Look", attachments=[file_id])
        await trio.sleep(3600)
        async with hall.server.peer() as peer:
            again = await answer(peer, "Look", attachments=[file_id])
        assert again[0]["data"]["messageId"] == first[0]["data"]["messageId"]
        assert len(hall.provider.prompts) == 1


@pytest.mark.parametrize("whose", ["nobody", "another", "swept"])
async def test_a_file_that_is_not_ones_own_is_not_found_and_nothing_is_asked(opened, autojump_clock, whose):
    async with opened() as hall:
        if whose == "nobody":
            other = "f-none"
        else:
            other = await hall.upload(b"secret", "s.txt", "user002" if whose == "another" else "user001")
        if whose == "swept":
            await hall.server.house.database.write(
                lambda conn: (
                    conn.execute(schema.files.update().where(schema.files.c.file_id == other), {"created_at": 1.0})
                    and None
                )
            )
            await trio.sleep(65)
        mine = await hall.upload(b"mine", "m.txt")
        async with hall.server.peer() as peer:
            (error,) = await answer(peer, "Look", attachments=[mine, other])
        assert (error["type"], error["error"]["code"]) == ("ERROR", "NOT_FOUND")
        assert error["error"]["field"] == "data.attachments[1]"
        assert hall.provider.prompts == []
        sessions = await hall.server.house.database.read(lambda conn: conn.execute(schema.sessions.select()).all())
        assert sessions == []


async def test_a_file_stays_as_long_as_a_message_has_it(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(b"one", "1.txt")
        await answer(peer, "Look", attachments=[file_id])
        await trio.sleep(1000)
        assert (await hall.server.house.files.find("user001", file_id)).name == "1.txt"
        await hall.server.house.database.write(lambda conn: conn.execute(delete(schema.sessions)) and None)
        await trio.sleep(65)
        assert await hall.server.house.database.read(lambda conn: conn.execute(schema.files.select()).all()) == []
        assert not list((hall.server.house.files.blobs._path).rglob("f-*"))


async def test_a_file_whose_bytes_are_gone_costs_no_answer(opened, autojump_clock):
    async with opened() as hall, hall.server.peer() as peer:
        file_id = await hall.upload(b"one", "1.txt")
        await hall.server.house.files.blobs.delete(file_id)
        assert said(await answer(peer, "Look", attachments=[file_id])) == "ok"
        assert hall.turn.content == '[Attached file: "1.txt". It is left out here.]\n\nLook'
