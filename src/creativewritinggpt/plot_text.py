"""Words as labels of a picture: what matplotlib would misread or can't draw is made readable.

A dollar sign would start a formula, a line break would break the label, and the font that comes
with matplotlib has no emoji. What it lacks is named (``⟨dragon⟩``) or numbered (``⟨U+4E2D⟩``), so
that a picture is the same on every machine; the price is that it shows no emoji even where a font
of the machine could.
"""

from __future__ import annotations

import functools
import re
import unicodedata

_FONT = "DejaVuSans.ttf"
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "", "\u2028": "⏎", "\u2029": "¶"}
# Joiners, direction marks, variation selectors and skin tones change how a neighbour looks.
_INVISIBLE = re.compile(
    "[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\U0001f3fb-\U0001f3ff]"
)
_SPACES = re.compile(r"[^\S\n\t\u2028\u2029]+")
_LONGEST_NAME = 24


@functools.cache
def _drawable() -> frozenset[int]:
    """Code points for which matplotlib's own font has a glyph."""
    from pathlib import Path

    import matplotlib
    from matplotlib.ft2font import FT2Font

    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FONT))
    return frozenset(font.get_charmap())


def _fallback(character: str) -> str:
    name = unicodedata.name(character, "").lower()
    if name and len(name) <= _LONGEST_NAME and not re.search(r"-[0-9a-f]{4,}$", name):
        return f"⟨{name}⟩"
    return f"⟨U+{ord(character):04X}⟩"


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) != "Cc" and ord(character) in _drawable():
        return character
    return _fallback(character)


def shown(text: str, most: int | None = None) -> str:
    r"""A text as a label that matplotlib draws as it reads.

    Args:
        text: A word, a token, a sentence.
        most: Characters to keep; what is longer ends in ``…``.

    Returns:
        The label: ``\n`` as ``⏎``, missing glyphs named, ``$`` escaped. Not to be escaped again.
    """
    plain = _SPACES.sub(" ", _INVISIBLE.sub("", unicodedata.normalize("NFC", text)))
    label = "".join(map(_sign, plain))
    if most is not None and len(label) > most:
        label = label[: max(most - 1, 1)].rstrip() + "…"
    return label.replace("$", r"\$")


def word_label(text: str, most: int | None = None) -> str:
    """The label of a word: that of the start token, whose text is empty, is ``start``."""
    return shown(text, most) if text else "⟨start⟩"
