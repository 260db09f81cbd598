"""Tables, pictures and sentences of a voice measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .svg import colour, line, shortened, svg, text_at, titled

Table = tuple[list[str], list[list[str]]]

_SHOWN_HABITS, _DRAWN_HABITS, _SAID_HABITS = 20, 14, 5
_LEFT, _WIDTH, _ROW = 190.0, 720.0, 26.0
_HIGHEST_Z = 6.0

CAPTION = (
    "Distance: Cosine Delta between pools of equal length and the author's held-out chapters, on "
    "the most frequent words without names. Voice: the place on a scale from other authors (0) to "
    "the author's own chapters (1). Imposters: the share of rounds in which the author is nearer "
    "than everyone else. Copied: 8-grams of words found in the author's chapters, and the longest "
    "run; repeated: 8-grams written before. A high voice with much copied is no voice. It measures "
    "words, not whether the text is good."
)
HABITS_CAPTION = (
    "The author's range is the middle 90 % of the author's passages; about one habit in ten lies "
    "outside by chance. z: distance from the author's mean in deviations of the passages."
)
CHECKS_CAPTION = "The voice measured otherwise: a result that holds is much the same in every row."


def voice_tables(found: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """The tables of a measurement, by their titles."""
    yield "Voice", main_table(found)
    yield "Voice: what differs", habit_table(found)
    yield "Voice: checks", check_table(found)


def main_table(found: Mapping[str, Any]) -> Table:
    """Distances, voice, verdicts, copying and loops: a row for the author, the others, each model.

    Args:
        found: ``voice`` of ``evaluation.json``.
    """
    distances, scale = found["distances"], found["voice"]
    known = (found["imposters"] or {}).get("models", {})
    heads = ["texts of", "distance", "95 %", "voice", "95 %", "imposters", "verdict"]
    heads += ["bits/byte", "copied", "longest run", "repeated", "rep-4", "loops"]
    rows = []
    for label, entry in distances.items():
        place = {"author": "1", "others": "0"}.get(label, "–") if scale else "–"
        cells = [_number(entry["value"]), _span(entry["ci95"])]
        if scale and label in scale:
            cells += [_number(scale[label]["value"]), _span(scale[label]["ci95"])]
        else:
            cells += [place, ""]
        asked = known.get(label)
        cells += [f"{asked['score']:.0%}", asked["verdict"] or "–"] if asked else ["", ""]
        bits = found.get("bits_per_byte", {}).get(label)
        cells.append("" if bits is None else f"{bits:.3f}")
        copied = found.get("copied", {}).get(label)
        cells += [
            _share(copied["share_of_8grams"]), f"{copied['longest_run_max']} words",
            _share(copied["repeated_8grams"]),
        ] if copied else ["", "", ""]  # fmt: skip
        repeats = found.get("repetition", {}).get(label)
        cells += [
            "–" if repeats["rep_4"] is None else f"{repeats['rep_4']:.1f} %",
            _share(repeats["loop_rate"]),
        ] if repeats else ["", ""]  # fmt: skip
        name = {"author": f"{found['author']}, other chapters", "others": "other authors"}
        rows.append([name.get(label, label), *cells])
    for name, entry in found["others"].items():
        rows.append([f"· {name}", _number(entry["distance"]), *[""] * (len(heads) - 2)])
    used = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [heads[i] for i in used], [[row[i] for i in used] for row in rows]


def habit_table(found: Mapping[str, Any]) -> Table:
    """The habits in which the last model is furthest from the author."""
    profile = found.get("profile")
    if not profile:
        return [], []
    labels = list(profile["inside"])
    heads = ["habit", "unit", "author, from", "to"]
    for label in labels:
        heads += [label, "z"]
    rows = []
    for row in profile["rows"][:_SHOWN_HABITS]:
        cells = [row["label"], row["unit"], _number(row["low"]), _number(row["high"])]
        for label in labels:
            model = row["models"][label]
            cells += [_number(model["value"]), f"{model['z']:+.1f}"]
        rows.append(cells)
    inside = ["habits within the author's range", "", "", ""]
    for label in labels:
        inside += [f"{profile['inside'][label]:.0%}", ""]
    return heads, [*rows, inside]


def check_table(found: Mapping[str, Any]) -> Table:
    """The voice under other choices of words, with another distance, and without loops."""
    labels = list(found["voice"] or {})
    if not labels:
        return [], []
    rows = [["as above", *(_number(found["voice"][label]["value"]) for label in labels)]]
    rows += [
        [name, *(_number(check["voice"][label]) for label in labels)]
        for name, check in found["checks"].items()
    ]
    looping = found["without_loops"]
    if looping:
        cells = []
        for label in labels:
            voice = looping.get(label, {}).get("voice", found["voice"][label]["value"])
            cells.append("too few words" if voice is None else _number(voice))
        rows.append(["without texts that loop", *cells])
    return ["measured", *labels], rows


def caption(title: str, found: Mapping[str, Any]) -> str:
    """What stands below a table."""
    if title == "Voice: what differs":
        return HABITS_CAPTION
    if title == "Voice: checks":
        return CHECKS_CAPTION
    notes = (f"Note: {warning}." for warning in found["warnings"])
    return " ".join([f"{found['sentence']}.", *notes, definitions(found)])


def definitions(found: Mapping[str, Any]) -> str:
    """Who the others are, how sure the imposters are, and what the figures mean."""
    said = [
        f"Other authors: {found['others_from']}. {found['features']} words; intervals from "
        "half-samples of chapters, prompts and authors."
    ]
    known = found["imposters"]
    if known:
        low, high = known["grey_zone"]
        zone = f"from {low:.0%} to {high:.0%} it is" if low < high else f"at {low:.0%} it is"
        said.append(
            f"Imposters on {sum(known['known'].values())} pools whose author is known: AUC "
            f"{known['auc']:.3f}, c@1 {known['c_at_1']:.3f}; {zone} undecided."
        )
    return " ".join([*said, CAPTION])


def summary(found: Mapping[str, Any]) -> list[str]:
    """Lines for a model card."""
    shares = [
        f"{label}: {entry['share_of_8grams']:.1%}"
        for label, entry in found.get("copied", {}).items()
        if entry["share_of_8grams"] is not None
    ]
    lines = [f"{found['sentence']}."]
    if shares:
        lines.append(f"8-grams of words found in the author's chapters: {', '.join(shares)}.")
    lines += [f"Note: {warning}." for warning in found["warnings"]]
    lines.append(f"Other authors: {found['others_from']}.")
    return lines


def habit_sentences(found: Mapping[str, Any]) -> list[str]:
    """The habits in which the last model is furthest outside the author's range, in words."""
    profile = found.get("profile")
    if not profile:
        return []
    label = list(profile["inside"])[-1]
    said: list[str] = []
    for row in profile["rows"]:
        model = row["models"][label]
        if not model["inside"] and len(said) < _SAID_HABITS:
            way = "more" if model["z"] > 0 else "less"
            unit = row["unit"] if row["unit"] == "%" else f" {row['unit']}"
            said.append(
                f"{row['label']}: {_number(model['value'])}{unit}, {way} than the author's "
                f"{_number(row['low'])} to {_number(row['high'])}"
            )
    return said


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def scale_picture(found: Mapping[str, Any]) -> str:
    """Where each model stands between other authors and the author; distances without a scale."""
    floor, own = found["distances"]["others"]["value"], found["distances"]["author"]["value"]
    scaled = found["voice"] is not None

    def place(distance: float) -> float:
        return (floor - distance) / (floor - own) if scaled else distance

    rows = [(found["author"], "author", found["distances"]["author"])]
    rows += [
        (label, label, (found["voice"] or {}).get(label, entry))
        for label, entry in found["distances"].items()
        if label not in ("author", "others")
    ]
    low, high = (-0.75, 1.75) if scaled else (0.0, 2.0)

    def x(value: float) -> float:
        inner = (min(max(value, low), high) - low) / (high - low)
        return _LEFT + inner * (_WIDTH - _LEFT - 60)

    top, bottom = 34.0, 34.0 + _ROW * (len(rows) + 1) + 8
    marks = {0.0: "other authors", 1.0: "the author's own"} if scaled else {
        0.0: "the same", 1.0: "nothing in common", 2.0: "opposite"
    }  # fmt: skip
    parts = [
        line("grid", x(value), x(value), top - 8, bottom) + text_at(x(value), 16, name, "middle")
        for value, name in marks.items()
    ]
    y = top + 12
    parts.append(text_at(_LEFT - 12, y + 4, "each other author", "end"))
    for name, entry in found["others"].items():
        value = place(entry["distance"])
        dot = f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4" fill="var(--quiet)"/>'
        parts.append(titled(f"{name}: {value:.2f}", dot))
    for number, (name, label, entry) in enumerate(rows):
        y += _ROW
        value, interval = entry["value"], entry["ci95"]
        if label == "author" and scaled:
            value, interval = 1.0, [place(edge) for edge in reversed(entry["ci95"])]
        shown = shortened(name)
        parts.append(text_at(_LEFT - 12, y + 4, shown, "end"))
        first, last = x(interval[0]), x(interval[1])
        filled = "var(--ink)" if label == "author" else colour(number - 1)
        shape = (
            f'<path class="whisker" d="M{first:.1f} {y:.1f}H{last:.1f}M{first:.1f} {y - 4:.1f}v8'
            f'M{last:.1f} {y - 4:.1f}v8"/>'
            f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="6" fill="{filled}"/>'
        )
        parts.append(titled(f"{name}: {value:.2f}", shape))
        parts.append(text_at(last + 8, y + 4, f"{value:.2f}"))
    measured = "Voice" if scaled else "Distance to the author's chapters"
    return svg(_WIDTH, bottom + 6, "".join(parts), measured, "min-width:520px;")


def habit_picture(found: Mapping[str, Any]) -> str:
    """The habits that differ most: the author's range as a band, each model as a point."""
    profile = found.get("profile")
    if not profile:
        return ""
    labels = list(profile["inside"])
    rows = profile["rows"][:_DRAWN_HABITS]
    width, height, middle = 640.0, 46.0, 320.0
    bottom = 30 + height * len(rows)

    def x(z: float) -> float:
        return middle + min(max(z, -_HIGHEST_Z), _HIGHEST_Z) / _HIGHEST_Z * (middle - 14)

    parts = [
        text_at(4, 16, "← less than the author"),
        text_at(width - 4, 16, "more than the author →", "end"),
    ]
    for number, row in enumerate(rows):
        top = 30 + height * number
        y = top + 31
        unit = {"per 1,000 words": "‰"}.get(row["unit"], row["unit"])
        value = _number(row["models"][labels[-1]]["value"])
        said = f"{value}; author {_number(row['low'])} to {_number(row['high'])} {unit}"
        parts += [
            text_at(4, top + 16, row["label"]),
            text_at(width - 4, top + 16, said, "end"),
            line("grid", 4, width - 4, y, y),
        ]
        low, high = ((row[edge] - row["mean"]) / row["spread"] for edge in ("low", "high"))
        band = max(4.0, x(high) - x(low))
        parts.append(
            f'<rect x="{x(low):.1f}" y="{y - 7:.1f}" width="{band:.1f}" height="14" rx="3" '
            'fill="var(--line)"/>'
        )
        places = [x(row["models"][label]["z"]) for label in labels]
        parts.append(line("whisker", places[0], places[-1], y, y))
        for series, label in enumerate(labels):
            shown = _number(row["models"][label]["value"])
            dot = (
                f'<circle cx="{places[series]:.1f}" cy="{y:.1f}" r="5.5" fill="{colour(series)}"/>'
            )
            parts.append(titled(f"{label}: {shown} {row['unit']}", dot))
    return svg(width, bottom + 4, "".join(parts), "What differs", "min-width:480px;")
