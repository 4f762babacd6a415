"""Members with their markers, the index of the search, and the order of messages on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BY_CONVERSATION = "ix_messages_session_id_conversation_id_sequence"
BY_SESSION = "ix_messages_session"
ROOTS = "ix_messages_roots"


def upgrade() -> None:
    _create_members()
    _create_indexes()
    _enter_owners()
    if op.get_bind().dialect.name == "sqlite":
        _create_search_on_sqlite()
    else:
        _create_search_on_postgres()


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER messages_leave_the_search")
        op.execute("DROP TABLE message_search")
    else:
        op.execute("DROP TRIGGER messages_are_numbered ON messages")
        op.execute("DROP FUNCTION number_message")
        op.execute("DROP TABLE search_queue")
        op.execute("DROP TABLE message_search")
    # What waits to be removed belongs to nobody; the older version would not know that.
    op.execute("DELETE FROM sessions WHERE owner_id = ''")
    op.create_index(BY_CONVERSATION, "messages", ["session_id", "conversation_id", "sequence"])
    for index in (ROOTS, "ix_messages_created_at", BY_SESSION):
        op.drop_index(index, "messages")
    op.drop_table("members")


def _create_indexes() -> None:
    # In place of the one by conversation: as many indexes to write as before, but for the one by time.
    op.create_index(BY_SESSION, "messages", ["session_id", "sequence", "conversation_id", "role", "user_id"])
    op.drop_index(BY_CONVERSATION, "messages")
    op.create_index("ix_messages_created_at", "messages", ["created_at"])
    root = sa.text("parent_id IS NULL")
    op.create_index(ROOTS, "messages", ["session_id", "conversation_id"], sqlite_where=root, postgresql_where=root)


def _create_members() -> None:
    sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "members",
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("joined_at", sa.Double, nullable=False),
        sa.Column("delivered_to", sequence, nullable=False),
        sa.Column("read_to", sequence, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "user_id", name="pk_members"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.global_id"], name="fk_members_session_id", ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_members_user_id", "members", ["user_id"])


def _enter_owners() -> None:
    """Everybody is the owner of his sessions, and what was said in them so far is no news to him."""
    op.execute(
        "INSERT INTO members (session_id, user_id, role, joined_at, delivered_to, read_to) "
        "SELECT global_id, owner_id, 'owner', created_at, newest, newest FROM (SELECT global_id, owner_id, created_at, "
        "coalesce((SELECT max(sequence) FROM messages WHERE messages.session_id = sessions.global_id), 0) AS newest "
        "FROM sessions) AS known"
    )


def _create_search_on_sqlite() -> None:
    # The words come normalised (store/words.py): a tokenizer that splits at spaces alone leaves them as they are.
    op.execute("CREATE VIRTUAL TABLE message_search USING fts5(words, tokenize = 'ascii')")
    # Cascades run it too. Whoever rebuilds ``messages`` in a later revision has to make it again.
    op.execute(
        "CREATE TRIGGER messages_leave_the_search AFTER DELETE ON messages "
        "BEGIN DELETE FROM message_search WHERE rowid = old.sequence; END"
    )


def _create_search_on_postgres() -> None:
    op.create_table(
        "message_search",
        sa.Column("rowid", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("rowid", name="pk_message_search"),
        sa.ForeignKeyConstraint(["rowid"], ["messages.sequence"], name="fk_message_search_rowid", ondelete="CASCADE"),
    )
    if _trigrams_are_there():
        op.execute("CREATE INDEX ix_message_search_words ON message_search USING gin (words gin_trgm_ops)")
    op.create_table("search_queue", sa.Column("sequence", sa.BigInteger, nullable=False))
    op.execute("INSERT INTO search_queue SELECT sequence FROM messages ORDER BY sequence")
    # A sequence's numbers are handed out before the commit. With the session's row locked first, the messages of one
    # session appear in the order of their numbers, so that a marker never passes one that comes later.
    op.execute(
        """
        CREATE FUNCTION number_message() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM 1 FROM sessions WHERE global_id = NEW.session_id FOR NO KEY UPDATE;
            NEW.sequence := nextval('messages_sequence_seq');
            INSERT INTO search_queue VALUES (NEW.sequence);
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER messages_are_numbered BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION number_message()"
    )


def _trigrams_are_there() -> bool:
    """Without the extension the search only takes longer; not every account may create it, not every server has it."""
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except DBAPIError:
        return False
    return True
