"""Alembic's folder: ``env.py`` and one file per revision. Run by ``scm_trio.store.migrate``."""
