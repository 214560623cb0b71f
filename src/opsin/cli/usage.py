"""The error of a command that was put together wrongly; apart from the options, so that it costs no import."""

from __future__ import annotations


class UsageError(Exception):
    """The arguments parse but make no sense together; the command prints the message and exits with 2."""
