"""What is stored, as the wire shows it: one shape for history, export, pushes and uploads."""

from attrs import evolve

from scm_trio.model import File, Message, Session, Usage
from scm_trio.protocol import messages, records
from scm_trio.protocol.codec import plain

SESSION = Session("g1", "s1", "ann", "采购", "gpt-4", "openai", "Be brief", True, 1_767_323_045.678, 1_767_323_046.0)
FILE = File("f1", "ann", "图.png", "image/png", 10, 1_767_323_045.678)
QUESTION = Message("m1", "g1", "c1", None, "user", "ann", "Hi", created_at=1_767_323_045.678, attachments=(FILE,))
ANSWER = Message(
    "m2",
    "g1",
    "c1",
    "m1",
    "assistant",
    "ann",
    "Hello",
    reasoning="hm",
    model="gpt-4",
    provider="openai",
    finish_reason="completed",
    usage=Usage(1, 2, 3, 4, "estimated"),
    created_at=1_767_323_046.0,
)


def test_a_question_has_its_attachments_and_nothing_of_an_answer():
    assert plain(records.message(QUESTION, "s1")) == {
        "messageId": "m1",
        "sessionId": "s1",
        "conversationId": "c1",
        "parentMessageId": None,
        "role": "user",
        "userId": "ann",
        "content": "Hi",
        "status": "sent",
        "createdAt": "2026-01-02T03:04:05.678Z",
        "attachments": [{"fileId": "f1", "name": "图.png", "mediaType": "image/png", "size": 10}],
    }


def test_an_answer_tells_who_gave_it_and_what_it_took():
    told = plain(records.message(ANSWER, "theirs", "read", offline=True))
    assert (told["sessionId"], told["parentMessageId"], told["status"], told["offline"]) == (
        "theirs",
        "m1",
        "read",
        True,
    )
    assert (told["reasoning"], told["model"], told["provider"]) == ("hm", "gpt-4", "openai")
    assert told["finishReason"] == "completed"
    assert told["usage"] == {"promptTokens": 1, "completionTokens": 2, "reasoningTokens": 3, "source": "estimated"}
    assert told["attachments"] == []


def test_an_answer_without_thoughts_has_no_field_for_them():
    assert "reasoning" not in plain(records.message(evolve(ANSWER, reasoning=""), "s1"))


def test_a_session_is_told_as_its_member_sees_it():
    told = plain(records.session(SESSION, role="viewer", members=[messages.Member("bob", "viewer")], unread=3))
    assert told == {
        "sessionId": "s1",
        "globalId": "g1",
        "title": "采购",
        "archived": True,
        "model": "gpt-4",
        "provider": "openai",
        "systemPrompt": "Be brief",
        "role": "viewer",
        "members": [{"userId": "bob", "role": "viewer"}],
        "unread": 3,
        "createdAt": "2026-01-02T03:04:05.678Z",
        "updatedAt": "2026-01-02T03:04:06.000Z",
    }


def test_a_session_without_other_members_is_its_owners():
    told = records.session(SESSION)
    assert (told.role, told.unread) == ("owner", 0)
    assert told.members == (messages.Member("ann", "owner"),)


def test_a_file_is_told_without_its_owner():
    assert plain(records.file(FILE)) == {
        "fileId": "f1",
        "name": "图.png",
        "mediaType": "image/png",
        "size": 10,
        "createdAt": "2026-01-02T03:04:05.678Z",
    }
