"""Text of callers: what may be stored in one line, and how anything is shown that may hold control characters."""

from __future__ import annotations

import unicodedata

# Control, half a surrogate pair, line and paragraph separator.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}


def is_plain(text: str) -> bool:
    """Return whether a text is one line without control characters or lone surrogates."""
    return text.isprintable() or not any(unicodedata.category(letter) in _HIDDEN for letter in text)


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with everything escaped that would move a terminal's cursor, colour it, or can't be encoded.

    Args:
        text: From anybody.
        keep: Characters that stay, such as line breaks that are meant.

    Example:
        >>> visible("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(letter)[1:-1] if unicodedata.category(letter) in _HIDDEN and letter not in keep else letter
        for letter in text
    )
