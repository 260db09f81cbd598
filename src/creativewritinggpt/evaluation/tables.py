"""The tables of an evaluation: headings and rows of text, a caption for each, and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import voice_page

Table = tuple[list[str], list[list[str]]]

# The figures of generated texts that are shown; the JSON has all.
_SHOWN = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "self_bleu_4": "self-BLEU-4",
    "zipf": "Zipf",
    "seq_rep_4": "seq-rep-4",
    "rep_4": "rep-4",
    "diversity": "diversity",
    "loop_rate": "ends in a loop",
    "sentence_words": "words per sentence",
    "sentence_words_sd": "standard deviation",
    "flesch_reading_ease": "Flesch ease",
    "coleman_liau": "Coleman-Liau",
    "copied_2gram": "prompt 2-grams copied",
    "prompt_names_used": "prompt names used",
    "end_of_text_rate": "ended",
}
_TITLES = {
    "prompt_ranking": "prompt ranking",
    "story_cloze": "Story Cloze",
    "sentence_order": "sentence order",
}


def tables(evaluation: Mapping[str, Any]) -> list[tuple[str, Table, str]]:
    """Every table that has rows: title, table and caption."""
    made = [
        ("", loss_table(evaluation)),
        *(voice_page.voice_tables(evaluation["voice"]) if evaluation.get("voice") else ()),
        ("Forgetting", forgetting_table(evaluation)),
        ("Tests", choice_table(evaluation)),
        ("Tasks", task_table(evaluation)),
        *((f"Written: {key}", table) for key, table in generation_tables(evaluation)),
        *((f"Originality: {key}", table) for key, table in originality_tables(evaluation)),
    ]
    return [(title, table, caption(title, evaluation)) for title, table in made if table[1]]


def markdown_table(heads: Sequence[str], table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown, numbers right-aligned."""
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|")
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table)
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def as_markdown(evaluation: Mapping[str, Any]) -> str:
    """``evaluation.md``."""
    lines = ["# Evaluation", ""]
    lines += [f"- {model['role']}: `{model['name']}`" for model in evaluation["models"]]
    lines.append("")
    for title, table, said in tables(evaluation):
        lines += [f"## {title}", ""] if title else []
        lines += [*markdown_table(*table), "", said, ""]
    for what, why in evaluation["without"].items():
        lines.append(f"- {section_title(what)} was not measured: {why}.")
    return "\n".join(lines).rstrip() + "\n"


def labels(evaluation: Mapping[str, Any]) -> list[str]:
    """The models, first the one that the others are compared with."""
    return list(evaluation["macro_perplexity"])


def section_title(what: str) -> str:
    """The heading of a section."""
    return what.replace("_", " ").capitalize()


def loss_table(evaluation: Mapping[str, Any]) -> Table:
    """The main table: perplexity, bits per byte and differences by domain."""
    first, *others = labels(evaluation)
    heads, table = _domain_rows(evaluation["domains"], first, others)
    if len(table) > 1:
        row = ["mean of domains", "", ""]
        for label in (first, *others):
            row += [f"{evaluation['macro_perplexity'][label]:.2f}", ""]
            row += ["", ""] if label != first else []
        table.append(row)
    return heads, table


def _domain_rows(domains: Mapping[str, Any], first: str, others: Sequence[str]) -> Table:
    heads = ["domain", "docs", "tokens"]
    for label in (first, *others):
        heads += [f"{label} ppl", f"{label} bits/byte"]
        if label != first:
            heads += ["nats/token", "95 %"]
    table = []
    for name, entry in domains.items():
        row = [name, f"{entry[first]['documents']:,}", f"{entry[first]['tokens']:,}"]
        for label in (first, *others):
            row += [f"{entry[label]['perplexity']:.2f}", f"{entry[label]['bits_per_byte']:.3f}"]
            if label != first:
                row += difference(entry["differences"][label])
        table.append(row)
    return heads, table


def difference(change: Mapping[str, Any]) -> list[str]:
    """A difference and its interval as two cells; in bits per byte between tokenizers."""
    value, interval, unit = change["nats_per_token"], change["ci95"], ""
    if value is None:
        value, interval, unit = change["bits_per_byte"], change["bits_per_byte_ci95"], " b/B"
    return [f"{value:+.3f}{unit}", span(interval, "+.3f")]


def span(interval: Sequence[float] | None, form: str) -> str:
    """An interval as a cell; empty where there is none."""
    return f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else ""


def forgetting_table(evaluation: Mapping[str, Any]) -> Table:
    """The domains that were not trained on, and the mean relative change below."""
    found = evaluation["forgetting"]
    if not found:
        return [], []
    present = [
        label for label in labels(evaluation) if label in next(iter(found["domains"].values()))
    ]
    first, *others = present
    heads, table = _domain_rows(found["domains"], first, others)
    for label in others:
        mean, interval = found["relative"][label]["mean"], found["relative"][label]["ci95"]
        row = [f"loss of {label}, relative"] + [""] * (len(heads) - 1)
        place = heads.index(f"{label} ppl") + 2
        row[place : place + 2] = [f"{mean:+.2%}", span(interval, "+.2%")]
        table.append(row)
    return heads, table


def choice_table(evaluation: Mapping[str, Any]) -> Table:
    """The choice tests: accuracy of each model beside chance."""
    table = []
    for name, found in evaluation["tests"].items():
        for label, entry in found.items():
            if label == "gain":
                continue
            gain = found["gain"].get(label)
            table.append([
                _TITLES[name], label, f"{entry['items']:,}", f"{entry['accuracy']:.1%}",
                span(entry["ci95"], ".1%"), f"{entry['chance']:.0%}",
                f"{entry['mean_reciprocal_rank']:.3f}" if "mean_reciprocal_rank" in entry else "",
                "" if gain is None else f"{gain['accuracy']:+.1%}",
                "" if gain is None else span(gain["ci95"], "+.1%"),
            ])  # fmt: skip
    heads = ["test", "model", "items", "accuracy", "95 %", "chance", "MRR", "gain", "95 %"]
    return heads, table


def task_table(evaluation: Mapping[str, Any]) -> Table:
    """The metrics of lm-evaluation-harness's tasks, a column per model."""
    found = evaluation.get("tasks") or {}
    names = [(task, name) for task, metrics in next(iter(found.values()), {}).items()
             for name in metrics]  # fmt: skip
    table = [[f"{task}: {name}", *(f"{of[task][name]:.4f}" for of in found.values())]
             for task, name in names]  # fmt: skip
    return ["metric", *found], table


def generation_tables(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """For each decoding the figures of the generated texts, a column per model."""
    for key, figures in ((evaluation["generation"] or {}).get("figures") or {}).items():
        columns = ["human", *(label for label in figures if label != "human")]
        table = [
            [title, *(_number(figures[label][name]) for label in columns)]
            for name, title in _SHOWN.items()
        ]
        yield key, (["figure", *columns], table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def originality_tables(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """For each decoding what is in the training text, a row per model."""
    heads = ["texts of", "texts", "longest run, mean", "95 %", "longest run"]
    heads += ["8-grams found", "95 %", "the longest"]
    for key, found in (evaluation["originality"] or {}).items():
        table = []
        for label in ["human", *(label for label in found if label != "human")]:
            entry = found[label]
            longest = entry["longest"][0] if entry["longest"] else None
            share = entry["share_of_8grams"]
            where = f"“{_short(longest['passage'])}” ({passage_source(longest)})" if longest else ""
            table.append([
                label, str(entry["texts"]), f"{entry['longest_run_mean']:.1f} words",
                span(entry["longest_run_ci95"], ".1f"), f"{entry['longest_run_max']} words",
                "–" if share is None else f"{share:.2%}",
                span(entry["share_of_8grams_ci95"], ".2%"),
                where,
            ])  # fmt: skip
        yield key, (heads, table)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def passage_source(match: Mapping[str, Any]) -> str:
    """The document of a passage: source and title, or how it begins."""
    document = match["document"]
    name = document["title"] or f"“{_short(document['begins'], 40)}”"
    return f"{document['source']}: {name}"


_CAPTIONS = {
    "Forgetting": "Domains that the model was not tuned on. The single figure is the mean over "
    "them of the relative change of the loss (above 0: forgotten).",
    "Tests": "Share of right answers; sums of log-probabilities are compared. Gain is against the "
    "first model, paired.",
    "Tasks": "Tasks of lm-evaluation-harness, under its names of the metrics.",
    "Written": "Texts after the same prompts, beside the human continuation, cut to the same "
    "length. Neither high nor low is good in itself: near the human column is.",
    "Originality": "Runs of words that are in the training text, case and punctuation aside; the "
    "human text was held out and shows what is normal.",
}


def caption(title: str, evaluation: Mapping[str, Any]) -> str:
    """How the figures of a table are defined."""
    if title.startswith("Voice"):
        return voice_page.caption(title, evaluation["voice"])
    return _CAPTIONS[title.partition(":")[0]] if title else _scores_caption(evaluation)


def _scores_caption(evaluation: Mapping[str, Any]) -> str:
    said = (
        f"Perplexity is exp(nats / tokens) over windows of {evaluation['window']} tokens that "
        "start after an end-of-text token, each token scored once; bits per byte is over the UTF-8 "
        f"bytes of the original text. Nats/token is against {labels(evaluation)[0]} on the same "
        "documents (below 0 is better), with a 95 % interval from a paired bootstrap over groups "
        "of documents. The mean of domains is exp of the mean of their losses. Precision "
        f"{evaluation['precision']}."
    )
    if evaluation["stride"]:
        said += f" Sliding perplexities (in the JSON) have a stride of {evaluation['stride']}."
    if evaluation["legacy_ppl"]:
        shown = ", ".join(
            f"{label} {value:.2f}"
            for label, value in evaluation["legacy_ppl"].items()
            if value is not None
        )
        said += f" As the original project counted (first 512 tokens, by example): {shown}."
    if evaluation["empty_documents"]:
        said += f" Left out as empty: {evaluation['empty_documents']} documents."
    return said
