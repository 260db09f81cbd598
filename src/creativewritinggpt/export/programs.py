"""Files for Ollama and LM Studio beside a GGUF file.

Both wrap prompts in a chat template where they find one, and guess one where they do not; a model
that continues texts needs the prompt as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..generation.sampling.settings import GenerationSettings

# Our settings, Ollama's parameter, and the value that switches it off and need not stand there.
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "penalty_range": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "num_predict",
}
_LOST = {
    "typical_p": ("typical_p", 1.0),
    "xtc_probability": ("XTC", 0.0),
    "dry_multiplier": ("DRY", 0.0),
    "no_repeat_ngram": ("no_repeat_ngram", 0),
    "banned": ("banned phrases", None),
    "logit_bias": ("logit_bias", None),
    "samplers": ("the order of the samplers", None),
}


def modelfile(
    gguf: str, context_length: int, settings: GenerationSettings, license_text: str | None
) -> str:
    """A ``Modelfile`` of Ollama for a model that continues texts.

    Args:
        gguf: Name of the file beside it.
        context_length: In tokens; Ollama's own default is shorter than most models'.
        settings: Generation settings that become its parameters.
        license_text: To stand in it, or None.
    """
    lines = [
        "# A model that continues texts: the prompt goes in as it is, without a chat template.",
        '# ollama create NAME -f Modelfile; ollama run NAME "The night ferry was late,"',
        f"FROM ./{gguf}",
        'TEMPLATE """{{ .Prompt }}"""',
        f"PARAMETER num_ctx {context_length}",
    ]
    for ours, theirs in _PARAMETERS.items():
        value = getattr(settings, ours)
        if ours == "penalty_range" and value == 0:
            value = -1  # all of the text, which is 0 here
        lines.append(f"PARAMETER {theirs} {value:g}")
    lines += [f"PARAMETER stop {quoted(text)}" for text in settings.stop or ()]
    if lost := lost_settings(settings):
        lines.append(f"# Ollama has no: {', '.join(lost)}")
    if license_text:
        # Nothing escapes three quotation marks within three quotation marks.
        safe = license_text.strip().replace('"""', "'''")
        lines.append(f'LICENSE """{safe}"""')
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A text as a parameter of a Modelfile, which knows the escapes of Go."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def lost_settings(settings: GenerationSettings | Mapping[str, Any]) -> list[str]:
    """What is set that Ollama has no parameter for."""
    values = settings if isinstance(settings, Mapping) else vars(settings)
    return [name for key, (name, off) in _LOST.items() if values.get(key, off) != off]
