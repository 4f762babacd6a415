"""What is attached to messages, on its way into a prompt.

Files are read outside of the transaction that opens a run: it says which ones it needs (``NeedsFiles``), is undone, and
is tried again when they are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection

from scm_trio.chat.files import Files
from scm_trio.chat.prompt import Document, Said
from scm_trio.chat.signatures import PDF
from scm_trio.errors import Conflict, InvalidMessage, NotFound
from scm_trio.model import File, Image, Message
from scm_trio.store import files

MAX_DOCUMENT_BYTES = 400_000
"""Of a longer text the model gets the beginning."""
MAX_DOCUMENTS_BYTES = 1_600_000
"""Of all texts in one prompt; older ones than have room are told by their names."""
MAX_IMAGES_BYTES = 20_971_520
"""Of all images in one prompt, likewise."""
IMAGE_MESSAGES = 4
"""So many of the newest messages with images show them to the model; of older ones it is told the names."""

Contents = Mapping[str, bytes]
"""What was read of files, by their ids; nothing of one that is gone."""


class NeedsFiles(Exception):
    """The prompt cannot be built before these files have been read."""

    def __init__(self, needed: Sequence[File]) -> None:
        super().__init__(f"{len(needed)} files")
        self.needed = needed


def check_ids(file_ids: Sequence[str], limit: int) -> None:
    """Refuse what no message can have attached.

    Raises:
        InvalidMessage: too many, or one of them twice.
    """
    if len(file_ids) > limit:
        raise InvalidMessage(field="data.attachments", expected="too_many")
    for index, file_id in enumerate(file_ids):
        if file_id in file_ids[:index]:
            raise InvalidMessage(field=f"data.attachments[{index}]", expected="repeated")


def own_files(conn: Connection, user_id: str, file_ids: Sequence[str]) -> tuple[File, ...]:
    """Return the files that a user wants to attach, in that order.

    Raises:
        NotFound: one of them is not there, or is not the user's.
    """
    if not file_ids:
        return ()
    found = files.find_own(conn, user_id, file_ids)
    for index, file_id in enumerate(file_ids):
        if file_id not in found:
            raise NotFound("no such file", field=f"data.attachments[{index}]")
    return tuple(found[file_id] for file_id in file_ids)


def attach(conn: Connection, message: Message, now: float) -> None:
    """Store what is attached to a message that was just stored.

    Raises:
        Conflict: one of the files was swept away at this moment.
    """
    if not files.attach(conn, message.message_id, [file.file_id for file in message.attachments], now):
        raise Conflict("a file is being deleted", field="data.attachments")


def tell(messages: Sequence[Message], contents: Contents, *, takes_images: bool) -> list[Said]:
    """What a prompt makes of messages and their attachments.

    Args:
        messages: oldest first, the question at the end.
        contents: what has been read so far.
        takes_images: whether the model is shown images.

    Raises:
        NeedsFiles: more has to be read.
    """
    if not any(message.attachments for message in messages):
        return [Said(message.role, message.content) for message in messages]
    chosen = list(_choose(messages, takes_images=takes_images))
    needed = [file for file in chosen if file.file_id not in contents]
    if needed:
        raise NeedsFiles(needed)
    shown = {file.file_id: contents[file.file_id] for file in chosen}
    return [_said(message, shown) for message in messages]


async def load(desk: Files, needed: Sequence[File]) -> dict[str, bytes]:
    """Read what a prompt needs of files; a text's beginning is enough.

    Raises:
        StoreError: the disk failed.
    """
    loaded = {}
    for file in needed:
        try:
            limit = file.size_bytes if file.is_image else MAX_DOCUMENT_BYTES
            loaded[file.file_id] = await desk.read(file, 0, limit)
        except NotFound:
            loaded[file.file_id] = b""
    return loaded


def _choose(messages: Sequence[Message], *, takes_images: bool) -> Iterator[File]:
    """The files whose contents go into the prompt, newest message first."""
    documents, images = MAX_DOCUMENTS_BYTES, MAX_IMAGES_BYTES
    image_messages = IMAGE_MESSAGES if takes_images else 0
    for message in reversed(messages):
        for file in message.attachments:
            if file.is_image and image_messages and file.size_bytes <= images:
                images -= file.size_bytes
                yield file
            elif file.is_text and min(file.size_bytes, MAX_DOCUMENT_BYTES) <= documents:
                documents -= min(file.size_bytes, MAX_DOCUMENT_BYTES)
                yield file
        if image_messages and any(file.is_image for file in message.attachments):
            image_messages -= 1


def _said(message: Message, shown: Contents) -> Said:
    documents, notes, images = [], [], []
    for file in message.attachments:
        data = shown.get(file.file_id)
        if data and file.is_image:
            notes.append(f'[Attached image: "{file.name}"]')
            images.append(Image(file.media_type, data))
        elif data:
            text = data.decode("utf-8-sig", errors="ignore")  # the last character may be cut
            documents.append(Document(file.name, file.media_type, text, len(data) == file.size_bytes))
        else:
            notes.append(_unseen(file))
    return Said(message.role, message.content, tuple(documents), tuple(notes), tuple(images))


def _unseen(file: File) -> str:
    if file.is_image:
        return f'[Attached image: "{file.name}". You cannot see it.]'
    if file.media_type == PDF:
        return f'[Attached PDF: "{file.name}". You cannot read what is in it.]'
    return f'[Attached file: "{file.name}". It is left out here.]'
