"""What ballbot's programs say in one line instead of a traceback."""

from __future__ import annotations


class BallbotError(Exception):
    """Something outside the program is at fault: a setting, a file, a disk.  The message says what, and what to do."""


class SettingsError(BallbotError, ValueError):
    """A setting cannot be used; the message names it, the value got and the remedy."""
