"""Named classes of tokens that a rule may speak of: kinds of single tokens, and spans of text that a regex finds.

Each has the words that a label uses for it. Text is what the subject's tokens spell, joined by spaces, so the patterns
allow spaces inside `3 . 75`: a tokenizer that splits punctuation forgets whether they were there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from glossator.types import PAD, Ints, Vocabulary, Windows

_LISTS: dict[str, tuple[str, str]] = {
    "month": ("names of months", "january february march april june july august september october november december jan feb mar apr jun jul aug sep oct nov dec"),
    "weekday": ("days of the week", "monday tuesday wednesday thursday friday saturday sunday"),
    "number-word": ("numbers written as words", "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty hundred thousand million billion dozen"),
    "ordinal": ("ordinal numbers", "first second third fourth fifth sixth seventh eighth ninth tenth last 1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th"),
    "he": ("masculine pronouns", "he him his himself"),
    "she": ("feminine pronouns", "she her hers herself"),
    "they": ("third-person plural pronouns", "they them their theirs themselves"),
    "you": ("second-person pronouns", "you your yours yourself thou thee thy thine"),
    "i": ("first-person pronouns", "i me my mine myself we us our ours ourselves"),
    "article": ("articles and demonstratives", "a an the this that these those"),
    "preposition": ("prepositions", "of in on at by for with from into onto over under through between among against during without within across behind beyond upon about"),
    "modal": ("modal verbs", "can could may might must shall should will would cannot"),
    "be": ("forms of the verb \"be\"", "be am is are was were been being"),
    "have": ("forms of the verb \"have\"", "have has had having"),
    "conjunction": ("conjunctions", "and or but nor yet so because although though while whereas unless if"),
    "wh-word": ("question words", "who whom whose which what when where why how"),
    "negation": ("negations", "no not never none nothing neither nor cannot without"),
    "colour": ("colours", "red green blue yellow white black brown orange purple pink grey gray golden crimson scarlet"),
    "direction": ("compass directions", "north south east west northern southern eastern western northeast northwest southeast southwest"),
    "kin": ("family members", "mother father son daughter sister brother wife husband uncle aunt cousin nephew niece grandmother grandfather parents child children"),
    "opening": ("opening brackets and quotes", "( [ { \u201c \u2018 <"),
    "closing": ("closing brackets and quotes", ") ] } \u201d \u2019 >"),
    "sentence-end": ("sentence-final punctuation", ". ! ?"),
    "operator": ("operators", "+ - * / = < > % & | ^ ~"),
}  # fmt: skip
_SUFFIXES = (
    "ing",
    "ed",
    "ly",
    "tion",
    "er",
    "est",
    "able",
    "ness",
    "ment",
    "ism",
    "ist",
    "al",
    "ic",
    "ous",
    "ive",
    "ity",
    "ize",
    "ful",
    "less",
    "ian",
    "ology",
)
_PREFIXES = ("un", "re", "pre", "non", "sub", "inter", "over", "dis", "mis", "anti")


def _digits(low: int, high: int) -> Callable[[str, bool], bool]:
    return lambda piece, _: piece.isascii() and piece.isdigit() and low <= len(piece) <= high


def _script(name: str, low: int, high: int) -> tuple[str, str, Callable[[str, bool], bool]]:
    return (name.lower(), f"{name} letters", lambda piece, _: any(low <= ord(c) <= high for c in piece))


_KINDS: list[tuple[str, str, Callable[[str, bool], bool]]] = [
    ("digits", "numbers in digits", _digits(1, 99)),
    ("one-digit", "single digits", _digits(1, 1)),
    ("two-digit", "two-digit numbers", _digits(2, 2)),
    ("three-digit", "three-digit numbers", _digits(3, 3)),
    (
        "year",
        "four-digit years",
        lambda p, _: len(p) == 4 and p.isascii() and p.isdigit() and 1000 <= int(p) <= 2100,
    ),
    ("letter", "single letters", lambda p, s: len(p) == 1 and p.isalpha() and s),
    ("continuation", "pieces that continue a word", lambda p, s: not s and p.isalpha()),
    (
        "capitalised",
        "capitalised words",
        lambda p, s: s and len(p) > 1 and p[0].isupper() and p[1:].islower(),
    ),
    ("upper-case", "words in capitals", lambda p, _: len(p) > 1 and p.isalpha() and p.isupper()),
    ("punctuation", "punctuation", lambda p, _: bool(p) and not any(c.isalnum() for c in p)),
    ("accented", "accented letters", lambda p, _: any(0xC0 <= ord(c) <= 0x17F for c in p)),
    _script("Greek", 0x370, 0x3FF),
    _script("Cyrillic", 0x400, 0x52F),
    _script("Arabic", 0x600, 0x6FF),
    _script("Chinese, Japanese or Korean", 0x3040, 0xD7AF),
]


def _suffix(end: str) -> tuple[str, str, Callable[[str, bool], bool]]:
    return (
        f"-{end}",
        f'words that end in "-{end}"',
        lambda p, _: len(p) > len(end) + 2 and p.isalpha() and p.endswith(end),
    )


def _prefix(start: str) -> tuple[str, str, Callable[[str, bool], bool]]:
    def starts(piece: str, begins: bool) -> bool:
        return begins and len(piece) > len(start) + 3 and piece.isalpha() and piece.startswith(start)

    return (f"{start}-", f'words that begin with "{start}-"', starts)


_KINDS += [_suffix(end) for end in _SUFFIXES] + [_prefix(start) for start in _PREFIXES]

_SPANS: dict[str, tuple[str, str]] = {
    "decimal": ("decimal numbers", r"(?<![\d.] )(?<![\w.])\d+ ?\. ?\d+(?!\d| ?\. ?\d)"),
    "version": ("version numbers such as 2.13.0", r"\d+ ?\. ?\d+ ?\. ?\w+"),
    "dashed-numbers": ("dates and numbers joined by dashes or slashes", r"\d+(?: ?[-/] ?\d+)+"),
    "colon-numbers": ("numbers joined by a colon, as in 4:12", r"\d+ ?: ?\d+"),
    "base64": ("base64-like strings", r"(?<!\w)(?=[\w+/=]*\d)(?=[\w+/=]*[g-zG-Z])[\w+/]{14,}={0,2}"),
    "hex": ("hexadecimal strings", r"(?<!\w)(?:0x[0-9a-fA-F]+|# ?[0-9a-fA-F]{6}|(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{6,})(?!\w)"),
    "dna": ("DNA sequences", r"(?<!\w)[acgtACGT]{8,}(?!\w)"),
    "underscored": ("identifiers with underscores", r"\w+(?: ?_ ?\w+)+|_ ?_ ?\w+ ?_ ?_"),
    "call": ("names just before an opening bracket", r"[A-Za-z_]\w*(?= ?\()"),
    "in-brackets": ("text inside round brackets", r"(?<=\()[^()]{1,80}(?=\))"),
    "in-quotes": ("text inside quotation marks", r"(?<=[\"'`])[^\"'`]{2,60}(?=[\"'`])"),
    "in-angle": ("text inside angle brackets", r"(?<=<)[^<>]{1,60}(?=>)"),
    "option": ("command-line options", r"(?<!\w)- ?-? ?[a-z]\w*"),
    "path": ("file paths", r"(?:/ ?[\w.]+ ?){2,}"),
    "sentence-start": ("the first word of a sentence", r"(?<=[.!?] )\w+"),
    "hyphenated": ("hyphenated words", r"[A-Za-z]+ ?- ?[A-Za-z]+"),
}  # fmt: skip


CLASSES: dict[str, str] = (
    {name: words for name, (words, _) in _LISTS.items()}
    | {name: words for name, words, _ in _KINDS}
    | {name: words for name, (words, _) in _SPANS.items()}
)
TOKEN_CLASSES: tuple[str, ...] = (*_LISTS, *(name for name, _, _ in _KINDS))
SPAN_CLASSES: tuple[str, ...] = tuple(_SPANS)
_REGEXES = [re.compile(pattern) for _, pattern in _SPANS.values()]
_CACHED_WINDOWS = 200_000


def token_table(vocabulary: Vocabulary) -> Ints:
    """[classes, V] bool in the order of TOKEN_CLASSES; special tokens are in none."""
    lists = [set(words.split()) for _, words in _LISTS.values()]
    rows = [
        [p.lower() in members and bool(s) for p, s in zip(vocabulary.pieces, vocabulary.starts_word, strict=True)]
        for members in lists
    ]
    rows += [
        [kind(p, bool(s)) for p, s in zip(vocabulary.pieces, vocabulary.starts_word, strict=True)]
        for _, _, kind in _KINDS
    ]
    return np.asarray(rows, bool) & ~vocabulary.special[None, :]


class SpanReader:
    """Which span classes each token of a window lies in. Windows that were read once are remembered."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._seen: dict[int, Ints] = {}

    def bits(self, windows: Windows) -> Ints:
        """[n, width] uint32: bit i says that the token lies in a span of class SPAN_CLASSES[i]."""
        out = np.zeros(windows.ids.shape, np.uint32)
        for row, (window_id, ids) in enumerate(zip(windows.window_id.tolist(), windows.ids, strict=True)):
            found = self._seen.get(window_id) if window_id >= 0 else None
            if found is None or len(found) != len(ids):
                found = self._read(ids)
                if window_id >= 0:
                    if len(self._seen) >= _CACHED_WINDOWS:
                        self._seen.clear()
                    self._seen[window_id] = found
            out[row] = found
        return out

    def _read(self, ids: Ints) -> Ints:
        v = self._vocabulary
        parts: list[str] = []
        owner: list[int] = []
        for at, token in enumerate(ids.tolist()):
            if token == PAD or v.special[token]:
                continue
            piece = v.pieces[token]
            if v.starts_word[token] and parts:
                parts.append(" ")
                owner.append(-1)
            parts.append(piece)
            owner += [at] * len(piece)
        text = "".join(parts)
        bits = np.zeros(len(ids), np.uint32)
        for number, regex in enumerate(_REGEXES):
            for match in regex.finditer(text):
                touched = {i for i in owner[match.start() : match.end()] if i >= 0}
                bits[list(touched)] |= np.uint32(1 << number)
        return bits
