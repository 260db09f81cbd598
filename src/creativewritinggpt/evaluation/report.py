"""The report of an evaluation: ``evaluation.json``, ``.jsonl``, ``.md`` and ``.html``.

``evaluation.jsonl`` holds the scores of each document, so that any figure can be computed again:
its domain, group, title, SHA-1, words and bytes, and for each model tokens, nats, nats of the
end-of-text token, and the windows.

``evaluation.html`` is the whole evaluation as one page that opens from disk: bars with intervals,
every document as a point, the documents with the largest and smallest gain, all tables, and the
generated texts side by side. It fetches nothing and runs no script.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json, write_text
from ..html_page import escape, html_page
from . import voice_page
from .run import Evaluation
from .scoring import DocumentScore
from .svg import Bar, Dot, bars, legend, scatter
from .tables import Table, as_markdown, caption, labels, passage_source, section_title, tables

SCORES, TEXTS = "evaluation.jsonl", "evaluation_texts.jsonl"
_SHARED = ("source", "group", "title", "digest", "joint", "words", "bytes")
_OWN = ("tokens", "nll", "eos_nll", "sliding_nll", "legacy_nll", "window", "stride")

_DOCUMENTS = 5
MOST_POINTS = 2000
"""Documents that are drawn as points, evenly chosen."""


_STYLE = """
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 80px; }
h2 { margin-top: 2.6rem; }
figure { margin: 14px 0; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.grid { stroke: var(--line); }
.zero { stroke: var(--quiet); stroke-dasharray: 4 3; }
.whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.legend span { margin-right: 18px; white-space: nowrap; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; }
table { font-size: 0.88rem; margin: 8px 0; }
th, td { padding: 5px 11px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 220px; }
.sample { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 18px; margin: 16px 0; }
.sample .prompt { font-weight: 600; white-space: pre-wrap; margin: 0 0 10px; }
.columns { display: grid; gap: 20px; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); }
.columns h4 { margin: 0 0 4px; color: var(--quiet); font-size: 0.85rem; }
.columns p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
mark { background: color-mix(in srgb, var(--s5) 40%, transparent); color: inherit; }
details summary { cursor: pointer; margin: 10px 0; }
"""


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write all files of an evaluation into a folder; their paths."""
    write_json(folder / "evaluation.json", evaluation.result)
    write_scores(folder / SCORES, evaluation.scores)
    names = ["evaluation.json", SCORES]
    if evaluation.texts:
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in evaluation.texts)
        write_text(folder / TEXTS, "".join(lines))
        names.append(TEXTS)
    write_text(folder / "evaluation.md", as_markdown(evaluation.result))
    write_text(folder / "evaluation.html", page(evaluation))
    return [folder / name for name in (*names, "evaluation.md", "evaluation.html")]


def write_scores(path: Path, scores: Mapping[str, Sequence[DocumentScore]]) -> None:
    """Write the scores of some models, all of the same documents in the same order."""
    lines = []
    for row in zip(*scores.values(), strict=True):
        shared: dict[str, Any] = {name: getattr(row[0], name) for name in _SHARED}
        shared["models"] = {
            model: {name: getattr(score, name) for name in _OWN if getattr(score, name) is not None}
            for model, score in zip(scores, row, strict=True)
        }
        lines.append(json.dumps(shared, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_scores(path: Path) -> dict[str, list[DocumentScore]]:
    """The scores of an earlier evaluation, by model.

    Raises:
        InputError: There is no such file, or it is not one of ours.
    """
    if not path.is_file():
        raise InputError(f"there is no {path}", "give the evaluation.jsonl of an evaluation")
    result: dict[str, list[DocumentScore]] = {}
    try:
        for line in path.read_text("utf-8").rstrip("\n").split("\n"):
            row = json.loads(line)
            shared = {name: row[name] for name in _SHARED if name in row}
            for model, own in row["models"].items():
                result.setdefault(model, []).append(DocumentScore(**shared, **own))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not the record of an evaluation", "give the evaluation.jsonl of one"
        ) from error
    if not result or len({len(scores) for scores in result.values()}) > 1:
        raise InputError(f"{path} holds no scores that belong together")
    return result


def read_earlier(files: Sequence[Path]) -> dict[str, list[DocumentScore]]:
    """The scores of earlier evaluations, by ``folder:model``; the whole path where names clash.

    Raises:
        InputError: A file can't be read, or is named twice.
    """
    found: dict[str, list[DocumentScore]] = {}
    for file in files:
        for label, scores in read_scores(file).items():
            short, whole = f"{file.parent.name or '.'}:{label}", f"{file.parent}:{label}"
            name = whole if short in found else short
            if name in found:
                raise InputError(f"{file} is named twice", "name each evaluation once")
            found[name] = scores
    return found


def page(evaluation: Evaluation) -> str:
    """``evaluation.html``."""
    result = evaluation.result
    first, *others = labels(result)
    named = (f"{escape(m['role'])}: <b>{escape(m['name'])}</b>" for m in result["models"])
    parts = ["<h1>Evaluation</h1>", f'<p class="quiet">{" · ".join(named)}</p>']
    parts += [_verdict(result, first, label) for label in others]
    for key, group in itertools.groupby(tables(result), lambda each: each[0].partition(":")[0]):
        if key == "Voice":
            parts.append(_section("Voice", *_voice(result["voice"], list(group))))
            continue
        content = [_PICTURES[key](result)] if key in _PICTURES else []
        for title, table, _ in group:
            decoding = title.partition(": ")[2]
            content += [f"<h3>{escape(decoding)}</h3>"] if decoding else []
            # Passages are long, and may break.
            content.append(_table(table, words=(7,) if key == "Originality" else ()))
            if key == "Originality":
                content += _passages(result["originality"][decoding])
        parts.append(_section(_HEADINGS.get(key, key), *content, _quiet(caption(key, result))))
        if not key and others:
            parts.append(_section("By document", *_documents(evaluation, first, others[-1])))
        if key == "Written":
            parts.append(_samples(result))
    for what, why in result["without"].items():
        parts.append(_quiet(f"{section_title(what)} was not measured: {why}."))
    return html_page("Evaluation", "<main>" + "\n".join(parts) + "</main>", _STYLE)


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def _figure(picture: str, text: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(text)}</figcaption></figure>"


def _table(table: Table, words: Sequence[int] = ()) -> str:
    """A table; the columns in ``words`` hold text and may break."""

    def row(cells: Sequence[str], tag: str) -> str:
        parts = (
            f"<{tag}{' class=text' if number in words else ''}>{escape(cell)}</{tag}>"
            for number, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    heads, body = table
    return (
        f'<div class="scroll"><table><thead>{row(heads, "th")}</thead>'
        f"<tbody>{''.join(row(cells, 'td') for cells in body)}</tbody></table></div>"
    )


def _verdict(result: Mapping[str, Any], first: str, label: str) -> str:
    """What the main table says of one model, in words."""
    lines = []
    for name, entry in result["domains"].items():
        change = entry["differences"][label]
        interval, share = change["bits_per_byte_ci95"], -change["relative"]
        if interval is None:
            how = "one group of documents: no saying what is chance"
        elif interval[1] < 0 or interval[0] > 0:
            how = "beyond chance"
        else:
            how = "within chance"
        lines.append(
            f"<li>{escape(name)}: loss {abs(share):.1%} {'lower' if share >= 0 else 'higher'} "
            f"than {escape(first)} ({how}); {change['better']:.0%} of the documents are "
            "predicted better.</li>"
        )
    return f"<p><b>{escape(label)}</b></p><ul>{''.join(lines)}</ul>"


def _loss_bars(result: Mapping[str, Any]) -> str:
    names = labels(result)
    marks = [
        Bar(domain, number, entry[label]["bits_per_byte"], entry[label]["bits_per_byte_ci95"],
                f"{label}: {entry[label]['bits_per_byte']:.3f} bits per byte, perplexity "
                f"{entry[label]['perplexity']:.2f}")
        for domain, entry in result["domains"].items()
        for number, label in enumerate(names)
    ]  # fmt: skip
    picture = bars(marks, "bits per byte (lower is better)")
    return legend(names) + _figure(picture, "Whiskers: 95 % intervals over documents.")


def _documents(evaluation: Evaluation, first: str, second: str) -> list[str]:
    pairs = list(zip(evaluation.scores[first], evaluation.scores[second], evaluation.begins,
                     strict=True))  # fmt: skip
    pairs = [pair for pair in pairs if pair[0].tokens and pair[1].tokens]
    domains = list(dict.fromkeys(before.source for before, _, _ in pairs))
    dots = [
        Dot(before.bits_per_byte, after.bits_per_byte, domains.index(before.source) + 1,
                f"{before.source}: {before.title or begins} "
                f"{before.bits_per_byte:.3f} → {after.bits_per_byte:.3f}")
        for before, after, begins in pairs[:: -(-len(pairs) // MOST_POINTS) or 1]
    ]  # fmt: skip
    picture = scatter(dots, f"{first}, bits per byte", f"{second}, bits per byte")
    text = f"Each point is a document; below the line {second} predicts it better."
    if len(dots) < len(pairs):
        text += f" {len(dots):,} of {len(pairs):,} documents, evenly over them."
    ordered = sorted(pairs, key=lambda pair: pair[1].bits_per_byte - pair[0].bits_per_byte)
    shown = min(_DOCUMENTS, len(ordered) // 2)
    parts = [legend(domains, 1), _figure(picture, text)]
    worst = ordered[len(ordered) - shown :][::-1]
    for title, chosen in (("Gained most", ordered[:shown]), ("Gained least", worst)):
        if chosen:
            table = [
                [before.source, before.title or begins, f"{before.bits_per_byte:.3f}",
                 f"{after.bits_per_byte:.3f}", f"{after.bits_per_byte - before.bits_per_byte:+.3f}"]
                for before, after, begins in chosen
            ]  # fmt: skip
            heads = ["domain", "document", first, second, "difference"]
            parts.append(f"<h3>{title}</h3>{_table((heads, table), words=(1,))}")
    return parts


def _forgetting_points(result: Mapping[str, Any]) -> str:
    found = result["forgetting"]
    marks = [
        Bar(domain, number + 1, change["relative"] * 100,
                None if change["relative_ci95"] is None
                else [edge * 100 for edge in change["relative_ci95"]],
                f"{label}: {change['relative']:+.2%}")
        for domain, entry in found["domains"].items()
        for number, (label, change) in enumerate(entry["differences"].items())
    ]  # fmt: skip
    if not marks:
        return ""
    picture = bars(marks, "change of the loss, % (right of the line: forgotten)", points=True)
    return _figure(picture, "Domains that were not trained on.")


def _accuracy_bars(result: Mapping[str, Any]) -> str:
    names = labels(result)
    marks = [
        Bar(f"{name.replace('_', ' ')} ({entry['chance']:.0%})",
                names.index(label), entry["accuracy"], entry["ci95"],
                f"{label}: {entry['accuracy']:.1%}, chance {entry['chance']:.0%}")
        for name, found in result["tests"].items()
        for label, entry in found.items()
        if label != "gain"
    ]  # fmt: skip
    return _figure(
        bars(marks, "share of right answers"), "Whiskers: 95 % intervals. In brackets: chance."
    )


def _voice(found: Mapping[str, Any], shown: Sequence[tuple[str, Table, str]]) -> Iterator[str]:
    """The voice: its sentence, the scale, what differs in words and as a picture, the tables."""
    yield f"<p><b>{escape(found['sentence'])}</b></p>"
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in found["warnings"])
    yield f"<ul>{warnings}</ul>" if warnings else ""
    yield _figure(
        voice_page.scale_picture(found),
        "Points: means over random pools. Whiskers: 95 % intervals. Small points: other authors.",
    )
    for title, table, said in shown:
        heading = title.partition(": ")[2]
        if not heading:
            yield _table(table) + _quiet(voice_page.definitions(found))
            continue
        if heading == "what differs":
            yield from _differences(found)
        yield f"<details><summary>Table: {escape(heading)}</summary>{_table(table)}"
        yield f"{_quiet(said)}</details>"


def _differences(found: Mapping[str, Any]) -> Iterator[str]:
    names = list(found["profile"]["inside"])
    yield "<h3>What differs</h3>"
    items = "".join(f"<li>{escape(line)}.</li>" for line in voice_page.habit_sentences(found))
    if items:
        yield f"<p>{escape(names[-1])} is outside the author's range in:</p><ul>{items}</ul>"
    text = (
        "Bands: the middle 90 % of the author's passages. Distances are in deviations of these "
        "passages; ‰: per 1,000 words."
    )
    yield legend(names) + _figure(voice_page.habit_picture(found), text)


def _samples(result: Mapping[str, Any]) -> str:
    """The generated texts side by side; each decoding but the last is folded."""
    by_decoding: dict[str, list[str]] = {}
    for sample in result["generation"]["samples"]:
        columns = "".join(
            f"<div><h4>{escape(label)}</h4><p>{escape(text.strip())}</p></div>"
            for label, text in sorted(sample["texts"].items(), key=lambda item: item[0] == "human")
        )
        by_decoding.setdefault(sample["decoding"], []).append(
            f'<div class="sample"><p class="prompt">{escape(sample["prompt"].strip())}</p>'
            f'<div class="columns">{columns}</div></div>'
        )
    last = list(by_decoding)[-1]
    parts = [
        f"<details{' open' if decoding == last else ''}><summary>{escape(decoding)}</summary>"
        f"{''.join(shown)}</details>"
        for decoding, shown in by_decoding.items()
    ]
    return _section("Side by side", *parts)


def _passages(found: Mapping[str, Any]) -> Iterator[str]:
    """The longest passage of each model in its context."""
    for label, entry in found.items():
        for match in entry["longest"][:1]:
            before, after = (escape(part) for part in match["context"])
            yield (
                f'<p class="quiet">{escape(label)}, {match["longest_run"]} words in '
                f"{escape(passage_source(match))}: … {before} "
                f"<mark>{escape(match['passage'])}</mark> {after} …</p>"
            )


_PICTURES = {"": _loss_bars, "Forgetting": _forgetting_points, "Tests": _accuracy_bars}
_HEADINGS = {"": "Loss by domain", "Written": "What is written"}
