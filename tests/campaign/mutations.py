"""Strategies for hostile input: valid files damaged, and values that no reader expects."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    b"\x00", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"../../", b"/etc/passwd", b"9" * 400, b"1e999", b"-1", b"NaN", b"Infinity", b"null", b"{}",
    b"[]", b"\"", b"'", b"\\ud800", b"\\u0000", b"[" * 3000, b"{\"a\":" * 3000, b"<a>" * 3000,
    b"{" * 3000, b"(" * 3000, b"\r", b"\n\n", b"\t", b",", b";", b"\x1a", b"%s%n",
    "\u202e\u200b".encode(), "\U0001f600".encode(), b"&lol;", b"&#0;", b"&#xD800;", b"]]>",
    b"<![CDATA[", b"<!--", b"#" * 200, b"*" * 2000, b"> " * 500, b"- " * 800, b"`" * 999,
)  # fmt: skip
"""Bytes that have made readers fail."""

NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@st.composite
def mutated(draw: st.DrawFn, bases: Sequence[bytes]) -> bytes:
    """One of some valid files with a few of its bytes flipped, cut, moved, repeated, replaced."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 7))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == 3:
            data[at:at] = draw(st.sampled_from(TOKENS))
        elif kind == 4:
            piece = data[at : at + draw(st.integers(1, 60))]
            data[at:at] = piece * draw(st.sampled_from((1, 2, 50, 2000)))
        elif kind == 5:
            other = draw(st.sampled_from(bases))
            start = draw(st.integers(0, len(other)))
            data[at:] = other[start:]
        elif kind == 6:
            size = draw(st.sampled_from(["<B", "<H", "<I", "<Q", ">H", ">I", ">Q"]))
            number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * struct.calcsize(size))
            packed = struct.pack(size, number)
            data[at : at + len(packed)] = packed
        else:
            data[at:at] = draw(st.binary(max_size=20))
        del data[2_000_000:]
    return bytes(data)


JUNK_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\ud800", "\x00", "../../x", "/etc/passwd", "C:\\x", "\n", "a" * 5000, "NaN", "-0",
         "\u202ex", "🦊", "x" * 300, "1e999", "~", "$HOME", "%00", "<b>", "{{user}}", "9" * 5000]
    ),
)  # fmt: skip
JUNK_NUMBER = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 0.5, -0.0, 1e-320]),
    st.floats(),
)
JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), JUNK_NUMBER, JUNK_TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JUNK_TEXT, inner, max_size=4),
    max_leaves=6,
)
"""Values of JSON of every kind, small."""


def nested(depth: int, kind: int) -> Any:
    """Lists or objects in each other."""
    value: Any = "x"
    for _ in range(depth):
        value = [value] if kind else {"a": value}
    return value


JUNK_DEEP = st.one_of(JUNK, JUNK, JUNK, st.builds(nested, st.sampled_from([40, 300]),
                                                  st.booleans()))  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within a value of JSON."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:30]):
            found += _places(inner, (*path, place))
    return found


@st.composite
def mutated_json(draw: st.DrawFn, bases: Sequence[Any], others: Any = JUNK_DEEP) -> Any:
    """One of some values of JSON with a few parts replaced, removed, repeated, exchanged."""
    value = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 4))):
        places = _places(value)
        if not places:
            return draw(others)
        path = draw(st.sampled_from(places))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del parent[path[-1]]
        elif kind == 1 and isinstance(parent, list):
            parent[path[-1] : path[-1]] = [parent[path[-1]]] * draw(st.sampled_from((1, 3, 400)))
        elif kind == 2:
            other = draw(st.sampled_from(places))
            taken: Any = value
            for key in other:
                taken = taken[key]
            parent[path[-1]] = copy.deepcopy(taken)
        elif kind == 3 and isinstance(parent, dict):
            parent[draw(JUNK_TEXT)] = draw(others)
        else:
            parent[path[-1]] = draw(others)
    return value


def to_json(value: Any) -> bytes:
    """JSON as programs write it that check nothing: NaN, lone surrogates, numbers of any size."""
    return json.dumps(value).encode()


@st.composite
def json_files(draw: st.DrawFn, bases: Sequence[Any]) -> bytes:
    """JSON with hostile values, or with damaged bytes."""
    if draw(st.integers(0, 3)):
        return to_json(draw(mutated_json(bases)))
    return draw(mutated([to_json(base) for base in bases]))


def zipped(members: Mapping[str, bytes], **options: Any) -> bytes:
    """A zip file of these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", options.get("method", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


ENTITIES = (
    b'<!DOCTYPE x [<!ENTITY a "lollollol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    b'<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">'
    b'<!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;"><!ENTITY f "&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;">'
    b'<!ENTITY g "&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;"><!ENTITY h "&g;&g;&g;&g;&g;&g;&g;&g;&g;&g;">]>'
)
OUTSIDE = (
    b'<!DOCTYPE x [<!ENTITY h SYSTEM "file:///etc/passwd">'
    b'<!ENTITY % p SYSTEM "http://192.0.2.1/x.dtd"> %p;]>'
)
NAMES = ("../../outside.txt", "/tmp/outside.txt", "..\\..\\outside.txt", "C:\\outside.txt",
         "x" * 300,
         "\u202e.xml", "a/./b", "con", "", "//", "🦊.xhtml", "META-INF/../x", "\x00")  # fmt: skip


@st.composite
def mutated_zip(draw: st.DrawFn, bases: Sequence[bytes]) -> bytes:
    """A zip file with hostile members: damaged, bombs, entities, other names, very many."""
    kind = draw(st.integers(0, 9))
    base = draw(st.sampled_from(bases))
    if kind == 0:
        return draw(mutated(bases))
    with zipfile.ZipFile(io.BytesIO(base)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    content = members[name]
    if kind <= 3:
        members[name] = draw(mutated([content, *members.values()]))
    elif kind == 4:  # entities, in text and in attributes
        head, close, rest = content.partition(b"?>")
        bomb = draw(st.sampled_from((ENTITIES, OUTSIDE)))
        body = (rest if close else content).replace(b"</", b"&h;</", 3)
        members[name] = (head + close if close else b"") + bomb + body
    elif kind == 5:  # a bomb below and above the highest ratio
        piece = draw(st.sampled_from((b" ", b"<p>", b"<a/>", b"x</p><p>", b"&amp;")))
        place = draw(st.integers(0, len(content)))
        times = draw(st.sampled_from((100_000, 1_000_000, 6_000_000)))
        members[name] = content[:place] + piece * times + content[place:]
    elif kind == 6:
        members[draw(st.sampled_from(NAMES)) or "-"] = content
        if draw(st.booleans()):
            del members[name]
    elif kind == 7:  # links and names to outside in what says where the parts are
        old = draw(st.sampled_from((b'Target="', b'href="', b'src="', b'full-path="')))
        new = draw(st.sampled_from((b"../../../../../etc/passwd", b"file:///etc/passwd", b"#", b"",
                                    b"http://192.0.2.1/x", b"%2e%2e/%2e%2e/x")))  # fmt: skip
        members[name] = content.replace(old, old + new, draw(st.integers(1, 9)))
    elif kind == 8:  # very many members
        times = draw(st.sampled_from((500, 3000)))
        members |= {f"{name}-{number}": b"" for number in range(times)}
    else:
        deep = draw(st.sampled_from((300, 5000)))
        tag = draw(st.sampled_from((b"w:p", b"div", b"w:tbl", b"text:p", b"navPoint", b"span")))
        place = draw(st.integers(0, len(content)))
        middle = (b"<%s>" % tag) * deep + b"x" + (b"</%s>" % tag) * deep
        members[name] = content[:place] + middle + content[place:]
    method = draw(st.sampled_from((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2)))
    return zipped(members, method=zipfile.ZIP_DEFLATED if kind == 5 else method)


LONG_RUN = 300_000
"""Bytes of a run of one sign that takes minutes where the time is in its square."""
LONGEST = 2_000_000
"""Bytes of a file, so that one that is read in a time in proportion stays within a case's."""


def grown(pieces: Sequence[bytes], joiner: bytes = b"") -> st.SearchStrategy[bytes]:
    """Files put together from the pieces of a grammar, in any order and number."""
    piece = st.one_of(st.sampled_from(pieces), st.sampled_from(TOKENS), st.binary(max_size=8))
    repeated: Callable[[bytes, int], bytes] = lambda part, times: part * times  # noqa: E731
    parts = st.lists(
        st.one_of(piece, piece, st.builds(repeated, piece, st.sampled_from((2, 60, 4000)))),
        max_size=12,
    )
    short = [part for part in (b" ", b"\n", b"\t", *pieces) if len(part) <= 2]
    run = st.builds(repeated, st.sampled_from(short), st.sampled_from((0, 0, 0, LONG_RUN // 2)))
    return st.builds(lambda *of: joiner.join((*of[0], of[1], *of[2]))[:LONGEST], parts, run, parts)
