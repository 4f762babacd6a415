"""Which files a prompt needs, and what becomes of them in it."""

import pytest
import trio

from scm_trio.chat import attachments
from scm_trio.chat.attachments import IMAGE_MESSAGES, NeedsFiles, attach, check_ids, load, tell
from scm_trio.chat.prompt import Document, Said
from scm_trio.errors import Conflict, InvalidMessage, NotFound
from scm_trio.model import File, Image, Message
from scm_trio.store import messages
from scm_trio.store.database import inline, open_database

MIB = 1_048_576


def file(name, size=10):
    kinds = {"png": "image/png", "pdf": "application/pdf", "md": "text/markdown", "json": "application/json"}
    return File(f"f-{name}", "ann", name, kinds[name.rpartition(".")[2]], size)


def asked(text, *files):
    return Message("m", "g", "c", None, "user", "ann", text, attachments=files)


def needed(*messages, takes_images=True):
    with pytest.raises(NeedsFiles) as caught:
        tell(messages, {}, takes_images=takes_images)
    return [each.name for each in caught.value.needed]


def test_messages_without_attachments_need_nothing():
    said = tell([asked("Hi"), Message("a", "g", "c", "m", "assistant", "ann", "Hello")], {}, takes_images=True)
    assert said == [Said("user", "Hi"), Said("assistant", "Hello")]


def test_texts_and_images_are_read_and_nothing_else():
    assert needed(asked("Hi", file("a.png"), file("b.pdf"), file("c.md"), file("d.json"))) == [
        "a.png",
        "c.md",
        "d.json",
    ]


def test_images_are_not_read_for_a_model_that_does_not_see_them():
    assert needed(asked("Hi", file("a.png"), file("c.md")), takes_images=False) == ["c.md"]
    assert tell([asked("Hi", file("a.png"))], {}, takes_images=False) == [
        Said("user", "Hi", notes=('[Attached image: "a.png". You cannot see it.]',))
    ]


def test_only_the_newest_messages_with_images_show_them():
    messages = [asked("Hi", file(f"{n}.png"), file(f"{n}b.png")) for n in range(IMAGE_MESSAGES + 2)]
    messages.insert(-1, asked("no image in between", file("x.md")))
    expected = [f"{n}{more}.png" for n in range(IMAGE_MESSAGES + 1, 1, -1) for more in ("", "b")]
    assert [name for name in needed(*messages) if name != "x.md"] == expected


def test_images_have_a_size_limit_together_and_newer_ones_go_first():
    messages = [asked("old", file("old.png", 8 * MIB)), asked("new", file("a.png", 8 * MIB), file("b.png", 8 * MIB))]
    assert needed(*messages) == ["a.png", "b.png"]


def test_texts_have_a_size_limit_together_of_what_is_read_of_them():
    messages = [asked(f"{n}", file(f"{n}.md", 10 * MIB)) for n in range(6)]
    assert needed(*messages) == ["5.md", "4.md", "3.md", "2.md"]


def test_what_has_been_read_is_not_asked_for_again():
    messages = [asked("Hi", file("a.md"), file("b.md"))]
    with pytest.raises(NeedsFiles) as caught:
        tell(messages, {"f-a.md": b"x"}, takes_images=True)
    assert [each.name for each in caught.value.needed] == ["b.md"]


def test_every_kind_of_attachment_has_its_place():
    message = asked("Hi", file("a.png"), file("b.pdf"), file("c.md", 8), file("d.json", 1000), file("e.md"))
    contents = {
        "f-a.png": b"png",
        "f-c.md": "\ufeff你好\n".encode()[:8],
        "f-d.json": "{链".encode()[:-1],
        "f-e.md": b"",
    }
    (said,) = tell([message], contents, takes_images=True)
    assert said == Said(
        "user",
        "Hi",
        documents=(
            Document("c.md", "text/markdown", "你", is_whole=True),
            Document("d.json", "application/json", "{", is_whole=False),
        ),
        notes=(
            '[Attached image: "a.png"]',
            '[Attached PDF: "b.pdf". You cannot read what is in it.]',
            '[Attached file: "e.md". It is left out here.]',
        ),
        images=(Image("image/png", b"png"),),
    )


def test_an_image_whose_bytes_are_gone_cannot_be_seen():
    (said,) = tell([asked("Hi", file("a.png"))], {"f-a.png": b""}, takes_images=True)
    assert said.notes == ('[Attached image: "a.png". You cannot see it.]',)
    assert said.images == ()


async def test_of_a_text_only_the_beginning_is_read(autojump_clock):
    asked_for = {}

    class Desk:
        async def read(self, found, start, limit):
            asked_for[found.name] = (start, limit)
            if found.name == "gone.md":
                raise NotFound
            return b"x" * min(limit, 10)

    wanted = [file("a.png", 5 * MIB), file("b.md", 5 * MIB), file("gone.md")]
    assert await load(Desk(), wanted) == {"f-a.png": b"x" * 10, "f-b.md": b"x" * 10, "f-gone.md": b""}
    assert asked_for["a.png"] == (0, 5 * MIB)
    assert asked_for["b.md"] == (0, attachments.MAX_DOCUMENT_BYTES)


def test_ids_are_few_and_different():
    check_ids((), 0)
    check_ids(("a", "b"), 2)
    for ids, limit, field in ((("a",), 0, "data.attachments"), (("a", "b", "b"), 8, "data.attachments[2]")):
        with pytest.raises(InvalidMessage) as caught:
            check_ids(ids, limit)
        assert caught.value.field == field


async def test_a_file_that_is_swept_at_this_moment_is_a_conflict(autojump_clock):
    def answer(conn):
        messages.ensure_session(conn, "ann", "s", "g", 1.0)
        message = Message("m", "g", "c", None, "user", "ann", "Hi", created_at=1.0, attachments=(file("a.md"),))
        messages.add_message(conn, message)
        attach(conn, message, 1.0)

    async with open_database("sqlite://", offload=inline) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run_writer)
        with pytest.raises(Conflict):
            await database.write(answer)
        nursery.cancel_scope.cancel()
