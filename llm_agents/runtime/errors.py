"""Mistakes that are the user's to mend. Kept apart from everything heavy, so that the command line starts fast."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the command line shows as one or two lines, without a traceback."""
