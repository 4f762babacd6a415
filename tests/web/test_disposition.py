"""The header that makes a browser save what it gets."""

from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scm_trio.chat.media import label
from scm_trio.web.disposition import attachment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.png", "attachment; filename=\"a.png\"; filename*=UTF-8''a.png"),
        ("图 1.png", "attachment; filename=\"_ 1.png\"; filename*=UTF-8''%E5%9B%BE%201.png"),
        ('a"b\\c%20.txt', "attachment; filename=\"a_b_c_20.txt\"; filename*=UTF-8''a%22b%5Cc%2520.txt"),
        ("a'(b)*;.txt", "attachment; filename=\"a'(b)*;.txt\"; filename*=UTF-8''a%27%28b%29%2A%3B.txt"),
    ],
)
def test_the_name_comes_in_ascii_and_whole(name, value):
    assert attachment(name) == value


@given(st.text(max_size=80).map(label))
@settings(derandomize=True, database=None, deadline=None)
def test_any_label_survives_and_cannot_end_the_header(name):
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()
    message = EmailMessage()
    message["Content-Disposition"] = value
    assert message.get_content_disposition() == "attachment"
    assert message["Content-Disposition"].params["filename"] is not None
