"""scm_trio: a real-time AI chat gateway on Trio."""

__version__ = "0.1.0"
