import pytest

from scm_trio.errors import NotFound
from scm_trio.model import Message
from scm_trio.store.deliveries import mark_given
from scm_trio.store.markers import mark_read, status_of
from scm_trio.store.members import Markers, markers_of

from .talking import member, open_session, say, sequence_of, viewer, waiting

# ---- reading


async def test_a_readers_marker_moves_forward_only_and_what_is_read_was_delivered(db):
    await db.write(open_session, others=[member("bob")])
    for number in range(3):
        await db.write(say, f"q{number}")
    mark = await db.write(mark_read, "bob", "g1", "q1")
    assert (mark.moved, mark.access.global_id, mark.access.user_id) == (True, "g1", "bob")
    assert await db.read(markers_of, "g1") == {"ann": Markers(0, 0), "bob": Markers(mark.sequence, mark.sequence)}
    for message in ("q0", "q1"):
        assert (await db.write(mark_read, "bob", "g1", message)).moved is False
    assert (await db.read(markers_of, "g1"))["bob"].read_to == mark.sequence
    assert await db.read(waiting, "bob") == ["q2"]


async def test_reading_does_not_take_back_what_was_delivered(db):
    await db.write(open_session, others=[viewer("bob")])
    await db.write(say, "q0")
    await db.write(say, "q1")
    await db.write(mark_given, {("bob", "g1"): [await db.read(sequence_of, each) for each in ("q0", "q1")]})
    await db.write(mark_read, "bob", "g1", "q0")
    marks = (await db.read(markers_of, "g1"))["bob"]
    assert marks.delivered_to > marks.read_to > 0


async def test_only_what_stands_in_ones_own_session_can_be_read(db):
    await db.write(open_session)
    await db.write(open_session, "g2", by="bob")
    await db.write(say, "q1", in_="g2", by="bob")
    for user, session, message in (("ann", "g1", "q1"), ("ann", "g2", "q1"), ("ann", "g1", "q9"), ("ann", "g9", "q1")):
        with pytest.raises(NotFound):
            await db.write(mark_read, user, session, message)


# ---- status


@pytest.mark.parametrize(
    ("bob", "eve", "status"),
    [
        ((0, 0), (0, 0), "sent"),
        ((9, 9), (0, 0), "sent"),
        ((9, 0), (9, 0), "delivered"),
        ((9, 9), (9, 8), "delivered"),
        ((9, 9), (9, 9), "read"),
    ],
)
def test_ones_own_question_is_as_far_as_the_last_of_the_others(bob, eve, status):
    markers = {"ann": Markers(0, 0), "bob": Markers(*bob), "eve": Markers(*eve)}
    question = Message("q1", "g1", "c1", None, "user", "ann", "why?")
    assert status_of(question, 9, "ann", markers) == status


def test_alone_with_the_assistant_a_question_is_read():
    assert status_of(Message("q1", "g1", "c1", None, "user", "ann", "?"), 9, "ann", {"ann": Markers(0, 0)}) == "read"


@pytest.mark.parametrize(("mine", "status"), [((8, 8), "sent"), ((9, 8), "delivered"), ((9, 9), "read")])
@pytest.mark.parametrize(("role", "author"), [("assistant", "ann"), ("user", "bob")])
def test_everything_else_is_as_far_as_oneself(role, author, mine, status):
    markers = {"ann": Markers(*mine), "bob": Markers(99, 99)}
    assert status_of(Message("m1", "g1", "c1", None, role, author, "?"), 9, "ann", markers) == status
