import os
import signal
import stat
import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.console import command, prompt
from scm_trio.console.terminal import Screen, ctrl_c, harmless, one_line


@given(st.text())
def test_no_control_character_but_newline_and_tab_is_left(text):
    left = harmless(text)
    assert not [char for char in left if (ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0) and char not in "\n\t"]


@given(st.lists(st.text()))
def test_it_does_not_matter_where_a_text_is_cut(pieces):
    assert "".join(map(harmless, pieces)) == harmless("".join(pieces))


def test_ordinary_text_of_any_language_is_untouched():
    text = "供应链 — цепь 🚚 שלום é\n\tx"
    assert harmless(text) == text
    assert one_line(" a\n\x1b[1mb\u2028c ") == "a [1mb c"


def test_colours_can_be_had_and_left_out(monkeypatch):
    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for color, wanted in ((True, "\x1b[31moh\x1b[0m\n"), (False, "oh\n")):
        errors = Terminal()
        Screen(color=color, output=StringIO(), errors=errors).error("oh")
        assert errors.getvalue() == wanted


async def test_ctrl_c_can_be_read():
    with ctrl_c() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        async for number in interrupts:
            assert number == signal.SIGINT
            break


async def test_piped_lines_are_read_to_their_end(monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, "一\n\nno newline ".encode() + b"\xff")
    os.close(writing)
    with os.fdopen(reading) as source:
        monkeypatch.setattr(sys, "stdin", source)
        with prompt.open_lines(True) as read_line:
            lines = [await read_line("not shown") for _ in range(4)]
    assert lines == ["一", "", "no newline \ufffd", None]


@pytest.fixture
def _keyboard(monkeypatch):
    """Standard input is a terminal on which somebody types two lines."""
    parent, child = os.openpty()
    monkeypatch.setattr(sys, "stdin", os.fdopen(child))
    lines = iter(["first", "second"])

    def type_line(_prompt):
        try:
            line = next(lines)
        except StopIteration:
            raise EOFError from None
        prompt.readline.add_history(line)
        return line

    monkeypatch.setattr("builtins.input", type_line)
    yield
    sys.stdin.close()
    os.close(parent)
    prompt.readline.clear_history()


@pytest.mark.usefixtures("_keyboard")
async def test_what_is_typed_is_remembered_in_a_file_of_its_owner(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with prompt.open_lines(True) as read_line:
        assert [await read_line("> ") for _ in range(3)] == ["first", "second", None]
    path = tmp_path / "scm-trio" / "chat-history"
    assert path == prompt.history_path()
    assert path.read_text().splitlines()[-2:] == ["first", "second"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    prompt.readline.clear_history()
    with prompt.open_lines(True):
        assert prompt.readline.get_history_item(1) == "first"


@pytest.mark.usefixtures("_keyboard")
async def test_without_history_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with prompt.open_lines(False) as read_line:
        await read_line("> ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_keyboard")
async def test_a_state_folder_that_cannot_be_used_costs_the_history_only(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with prompt.open_lines(True) as read_line:
        assert await read_line("> ") == "first"


def test_the_history_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prompt.history_path() == tmp_path / ".local" / "state" / "scm-trio" / "chat-history"


@pytest.mark.parametrize(("arguments", "code"), [(["--number", "3"], 3), (["--number", "x"], 2), (["--what"], 2)])
def test_a_command_exits_with_its_programs_code(monkeypatch, capsys, arguments, code):
    async def program(*, number: int = 0) -> int:
        return number

    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main(program, "x")
    assert caught.value.code == code
