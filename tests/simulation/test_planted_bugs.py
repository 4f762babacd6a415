"""The simulation finds what is wrong: known faults are planted, and each is found, by a rule that is about it."""

import attrs
import pytest
import trio

from scm_trio.chat import attempts, log, run
from scm_trio.chat.journal import StoreJournal
from scm_trio.chat.registry import Registry
from scm_trio.chat.run import Run
from scm_trio.chat.service import ChatService
from scm_trio.cluster.hub import Hub
from scm_trio.errors import NotFound
from scm_trio.gateway import dispatch, streaming
from scm_trio.gateway.link import Link
from scm_trio.store import runs

from . import simulate
from .campaign import run_seed
from .rules import Rule

TRIES = 150
LIKELY = {
    "sealed_before_the_provider_is_closed": 40,
    "places_in_read_back_answers_are_trusted": 70,
    "crashes_are_not_recovered_from": 20,
    "nothing_is_checkpointed": 20,
}
"""Where to begin for faults that take many seeds."""


def sealed_before_the_provider_is_closed(patch):
    honest = Run._make_ending

    def claim(self, *args):
        ending = honest(self, *args)
        return attrs.evolve(ending, upstream_closed=True) if ending.upstream_closed is False else ending

    patch.setattr(run, "CLOSE_LIMIT_S", 0.0)
    patch.setattr(Run, "_make_ending", claim)


def a_frame_is_dropped(patch):
    honest, count = Link.frame, []

    def frame(self, kind, *args):
        count.append(kind)
        return b"" if kind == "CHAT_STREAM_DATA" and count.count(kind) % 20 == 0 else honest(self, kind, *args)

    patch.setattr(Link, "frame", frame)


def an_end_is_dropped(patch):
    honest, count = Link.frame, []

    def frame(self, kind, *args):
        count.append(kind)
        return b"" if kind == "CHAT_STREAM_END" and count.count(kind) % 10 == 0 else honest(self, kind, *args)

    patch.setattr(Link, "frame", frame)


def end_is_sent_twice(patch):
    honest = streaming._tell_end

    async def twice(link, viewer):
        await honest(link, viewer)
        await honest(link, viewer)

    patch.setattr(streaming, "_tell_end", twice)


def a_merged_frame_loses_its_last_piece(patch):
    honest = log.AnswerLog.take

    def take(self, *args):
        chunk = honest(self, *args)
        many = chunk is not None and chunk.next_index - chunk.index > 3
        return attrs.evolve(chunk, text=chunk.text[:-1]) if many else chunk

    patch.setattr(log.AnswerLog, "take", take)


def places_in_read_back_answers_are_trusted(patch):
    patch.setattr(
        Run.__mro__[1], "has_position", lambda self, rev, index: rev == self.rev and index <= self.log.next_index
    )


def requests_are_forgotten(patch):
    patch.setattr(Registry, "by_request", lambda *_: None)


def repeated_questions_are_asked_anew(patch):
    honest = runs.open_run
    patch.setattr(runs, "open_run", lambda conn, new: honest(conn, attrs.evolve(new, request_id=None)))
    requests_are_forgotten(patch)


def further_attempts_get_no_row(patch):
    honest = attempts.Attempts.begin

    def begin(self, event, *args):
        if not event.number:
            honest(self, event, *args)

    patch.setattr(attempts.Attempts, "begin", begin)


def crashes_are_not_recovered_from(patch):
    patch.setattr(runs, "seal_interrupted", lambda *_: 0)


def nothing_is_checkpointed(patch):
    async def checkpoint(self, runs):
        await trio.lowlevel.checkpoint()

    patch.setattr(StoreJournal, "checkpoint", checkpoint)


def a_place_in_the_hub_is_kept(patch):
    honest, count = Hub.release, []

    def release(self, user_id):
        count.append(user_id)
        if len(count) % 5:
            honest(self, user_id)

    patch.setattr(Hub, "release", release)


def stops_do_not_stop(patch):
    honest = Run.cancel
    patch.setattr(Run, "cancel", lambda self, *reason: honest(self, *reason) if reason else None)


def orphans_live_on(patch):
    honest = ChatService._plan
    patch.setattr(ChatService, "_plan", lambda self, *args: attrs.evolve(honest(self, *args), orphan_grace_s=None))


def a_task_is_left_behind(patch):
    honest = dispatch.answer_heartbeat

    async def spawn(link, received):
        link.gate.runs.start_soon(trio.sleep_forever)
        await honest(link, received)

    patch.setitem(dispatch.HANDLERS, "HEARTBEAT", spawn)


def an_error_has_a_code_of_its_own(patch):
    patch.setattr(NotFound, "code", "NOBODY_HOME")


def a_handler_breaks(patch):
    async def break_down(link, received):
        raise KeyError("a bug")

    patch.setitem(dispatch.HANDLERS, "CHAT_CANCEL", break_down)


def a_task_spins(patch):
    async def spin(self):
        while True:
            await trio.lowlevel.checkpoint()

    patch.setattr(ChatService, "keep_checkpoints", spin)
    patch.setattr(simulate, "WATCHDOG_S", 0.5)


PLANTED = [
    (sealed_before_the_provider_is_closed, {Rule.CLOSED_FIRST}),
    (a_frame_is_dropped, {Rule.CONTIGUOUS, Rule.SAME_TEXT}),
    (an_end_is_dropped, {Rule.ALWAYS_AN_END}),
    (end_is_sent_twice, {Rule.ONE_END, Rule.NOTHING_TWICE}),
    (a_merged_frame_loses_its_last_piece, {Rule.SAME_TEXT}),
    (places_in_read_back_answers_are_trusted, {Rule.SAME_TEXT}),
    (requests_are_forgotten, {Rule.KEPT, Rule.PROMPT_STOP, Rule.SAME_TEXT}),
    (repeated_questions_are_asked_anew, {Rule.ONE_ANSWER, Rule.NOTHING_TWICE}),
    (further_attempts_get_no_row, {Rule.LEDGER}),
    (crashes_are_not_recovered_from, {Rule.NO_ZOMBIE, Rule.KEPT}),
    (nothing_is_checkpointed, {Rule.RECENT}),
    (a_place_in_the_hub_is_kept, {Rule.NOTHING_LEFT}),
    (stops_do_not_stop, {Rule.PROMPT_STOP}),
    (orphans_live_on, {Rule.PROMPT_STOP}),
    (a_task_is_left_behind, {Rule.NOTHING_LEFT}),
    (an_error_has_a_code_of_its_own, {Rule.CONTRACT}),
    (a_handler_breaks, {Rule.NO_BUG}),
    (a_task_spins, {Rule.NO_HANG}),
]


@pytest.mark.parametrize(("plant", "rules"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_it_is_found(monkeypatch, plant, rules):
    plant(monkeypatch)
    first = LIKELY.get(plant.__name__, 0)
    found = next((outcome for outcome in map(run_seed, range(first, first + TRIES)) if outcome.broken), None)
    assert found is not None, f"{TRIES} seeds, and nothing found"
    assert rules & {rule for rule, _ in found.broken}, found
