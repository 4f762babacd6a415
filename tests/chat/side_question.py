"""A side question."""

from scm_trio.chat.aside import Aside
from scm_trio.model import Turn

ASIDE = Aside(
    kind="title",
    user_id="ann",
    session_id="s-1",
    answer_id="msg-1",
    provider=None,
    model=None,
    turns=(Turn("user", "A title?"),),
    max_tokens=50,
    is_enough=lambda text: "\n" in text,
)
