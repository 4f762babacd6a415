"""A conversation as a file: Markdown, JSON, or one HTML page that needs nothing else. Start reading at ``routes.py``."""
