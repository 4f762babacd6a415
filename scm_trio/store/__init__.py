"""The store: SQLAlchemy Core on SQLite or PostgreSQL, one schema, group commit. Start reading at ``database.py``."""
