"""Text of callers: what may be stored in one line, and how anything is shown that may hold control characters."""

from __future__ import annotations

import unicodedata

# Control, half a surrogate pair, line and paragraph separator.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))  # the direction of what follows
_SPACES = "".join(map(chr, (*range(9, 14), *range(28, 33), 0x85, 0xA0, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F,
                            0x205F, 0x2060, 0x3000)))  # fmt: skip


def is_plain(text: str) -> bool:
    """Return whether a text is one line without control characters or lone surrogates."""
    return text.isprintable() or not any(unicodedata.category(letter) in _HIDDEN for letter in text)


def spellings(text: str) -> list[str]:
    """Return what a text may have been meant to be: without spaces, quotes or a byte order mark around it, or composed.

    Args:
        text: An id or group, as it was written.

    Returns:
        Other texts that look the same; most have none.

    Example:
        >>> spellings("alice "), spellings('"bob"'), spellings("carol")
        (['alice'], ['bob'], [])
    """
    bare = text.strip("\ufeff" + _SPACES).strip("\"'")
    forms = [text.strip("\ufeff" + _SPACES), bare, *(unicodedata.normalize(form, bare) for form in ("NFC", "NFD"))]
    return [form for form in dict.fromkeys(forms) if form and form != text]


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with everything escaped that would steer a terminal or turn the line, or can't be encoded.

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
        ascii(letter)[1:-1]
        if letter not in keep and (letter in _TURNING or unicodedata.category(letter) in _HIDDEN)
        else letter
        for letter in text
    )
