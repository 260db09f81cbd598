"""Folders for hubs, Ollama and LM Studio, and what happens when an export does not end well."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import yaml
from corpora import write_stories
from export_models import save_adapter

import creativewritinggpt
from creativewritinggpt.cli.main import main
from creativewritinggpt.errors import InputError, RunError
from creativewritinggpt.export import gguf_file, hub, naming, programs, quantization, run
from creativewritinggpt.export.run import export
from creativewritinggpt.export.settings import ExportSettings
from creativewritinggpt.generation.sampling.settings import GenerationSettings
from creativewritinggpt.models.loading import load_model

# docs/gguf.md of ggml-org/ggml, with Python's names of groups.
GGUF_NAME = re.compile(
    r"^(?P<BaseName>[A-Za-z0-9\s]*(?:(?:-(?:(?:[A-Za-z\s][A-Za-z0-9\s]*)|(?:[0-9\s]*)))*))-"
    r"(?:(?P<SizeLabel>(?:\d+x)?(?:\d+\.)?\d+[A-Za-z]?)(?:-(?P<FineTune>[A-Za-z0-9\s-]+))?)?-"
    r"(?:(?P<Version>v\d+(?:\.\d+)*))(?:-(?P<Encoding>(?!LoRA|vocab)[\w_]+))?"
    r"(?:-(?P<Type>LoRA|vocab))?(?:-(?P<Shard>\d{5}-of-\d{5}))?\.gguf$"
)
QUICK = ExportSettings(verify=3)


def load(folder):
    return load_model(str(folder), "cpu", "fp32", threads=1)


@pytest.fixture
def trained(saved, tmp_path, monkeypatch):
    """A run of one step, with its evaluation, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    stories = write_stories(tmp_path / "my-secret-stories.jsonl")
    creativewritinggpt.train(
        stories, model_name=str(saved("llama")), output_dir=str(tmp_path / "ferry"), device="cpu",
        precision="fp32", num_workers=1, max_length=48, max_steps=1,
    )  # fmt: skip
    folder = tmp_path / "ferry" / "best_model"
    evaluation = ["--texts", "2", "--text-tokens", "8", "--num-workers", "1", "--device", "cpu"]
    assert main(["evaluate", "--model", str(folder), "--output-dir", "ferry", *evaluation]) == 0
    return folder


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.slow
def test_a_hub_folder_says_everything_and_nothing_local(trained, tmp_path, saved):
    model = load(trained)
    # As if the base were of the hub: then there is one to name.
    model.kind, model.base_name, model.revision = "hub", "acme/Tiny-1M", "abc"
    settings = ExportSettings(license="mit", quantize=["Q8_0"], verify=3)
    result = export(model, "hub", tmp_path / "out", settings)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
        "tokenizer_config.json", "run.json", "export.json", "SHA256SUMS",
    }  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    front = front_matter(card)
    assert front["base_model"] == "acme/Tiny-1M" and front["base_model_relation"] == "adapter"
    assert front["license"] == "mit" and front["library_name"] == "peft"
    assert front["pipeline_tag"] == "text-generation" and "gguf" in front["tags"]
    assert "95 % interval" in card and "my-secret-stories" in card  # the source's name
    assert "Longest runs of words" in card and "mean KL" in card
    for path in (tmp_path / "out").rglob("*"):
        content = path.read_bytes()
        for place in (str(tmp_path), str(saved("llama")), os.path.expanduser("~"), "/tmp/"):
            assert place.encode() not in content, (path, place)
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        content = (tmp_path / "out" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert any(note.startswith("to upload: hf upload YOUR-NAME/ferry") for note in result.notes)
    assert GGUF_NAME.match(result.files[1].name)
    # The adapter loads with the base that it names.
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "acme/Tiny-1M"


def test_figures_may_lie_elsewhere(saved, tmp_path):
    one = {"perplexity": 12.5, "ci95": [12.0, 13.0], "tokens": 900}
    (tmp_path / "e.json").write_text(json.dumps({"domains": {"novel": {"tuned": one}}}))
    settings = ExportSettings(evaluation=str(tmp_path / "e.json"), verify=1)
    export(load(saved("gpt2")), "hub", tmp_path / "out", settings)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| novel | tuned | 12.50 | 12.00 – 13.00 | 900 |" in card
    (tmp_path / "e.json").write_text("[]")
    with pytest.raises(InputError, match="is no evaluation.json"):
        export(load(saved("gpt2")), "hub", tmp_path / "other", settings)


def test_relations_and_licences(saved, tmp_path):
    base = saved("llama")
    first = save_adapter(base, tmp_path / "noir", seed=1)
    second = save_adapter(base, tmp_path / "fairy", seed=2)
    model = load(base)
    model.kind, model.base_name = "hub", "acme/Tiny-1M"
    relations = {}
    from creativewritinggpt.generation.style import Style

    for name, weights, parts in (
        ("plain", "gguf", []),
        ("one", "merged", [f"{first}:0.5"]),
        ("blend", "merged", [f"{first}:0.5", f"{second}:0.5"]),
    ):
        if parts:
            Style.parse(parts, None).apply(model)
        settings = ExportSettings(weights=weights, verify=1)
        result = export(model, "hub", tmp_path / name, settings)
        front = front_matter((tmp_path / name / "README.md").read_text("utf-8"))
        relations[name] = (front["base_model_relation"], front["library_name"])
        assert "license" not in front and any("licence" in note for note in result.notes)
    assert relations == {
        "plain": ("quantized", "gguf"),
        "one": ("finetune", "transformers"),
        "blend": ("merge", "transformers"),
    }
    assert "noir × 0.5, fairy × 0.5" in (tmp_path / "blend" / "README.md").read_text("utf-8")


def test_a_licence_is_read_from_the_bases_card(saved, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(saved("gpt2"), folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\ntags: [x]\n---\n# Base\n")
    (folder / "LICENSE").write_text("All of it.\n")
    settings = ExportSettings(verify=1)
    export(load(folder), "hub", tmp_path / "out", settings)
    assert front_matter((tmp_path / "out" / "README.md").read_text())["license"] == "cc-by-4.0"
    assert (tmp_path / "out" / "LICENSE").read_text() == "All of it.\n"


def test_paths_are_cut_down_to_names():
    local = ["/home/eve/x/y.txt", "C:\\Users\\eve\\b.txt", "~/novel.txt"]
    assert hub.without_paths({"a": local}) == {"a": ["y.txt", "b.txt", "novel.txt"]}
    kept = ["HuggingFaceTB/SmolLM2-135M", "https://huggingface.co/a/b", "and/or", "1/2", "a: /"]
    assert hub.without_paths(kept) == kept
    assert hub.without_paths("trained on /data/eve/book.txt, twice") == "trained on book.txt, twice"


def test_an_ollama_folder(saved, tmp_path):
    settings = ExportSettings(preset="mystery", name="Ferry", verify=1)
    result = export(load(saved("llama")), "ollama", tmp_path / "out", settings)
    text = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    lines = text.splitlines()
    assert f"FROM ./{result.files[0].name}" in lines
    assert 'TEMPLATE """{{ .Prompt }}"""' in lines and "PARAMETER num_ctx 192" in lines
    assert "PARAMETER temperature 0.9" in lines and "PARAMETER repeat_penalty 1.03" in lines
    assert "# Ollama has no: typical_p, DRY" in lines
    assert result.notes[0].startswith("ollama create ferry -f ")
    assert "is lost" in result.notes[1]


def test_adapters_of_the_same_name_are_told_apart():
    strengths = {"/a/ferry/best_model": 0.5, "/b/ferry/final_model": 0.25, "/c/noir": 1.0}
    assert naming.by_name(strengths) == {"ferry": 0.5, "ferry-2": 0.25, "noir": 1.0}


def test_texts_in_a_modelfile_are_escaped():
    settings = GenerationSettings(stop=['"\n\\'], penalty_range=0)
    text = programs.modelfile("x.gguf", 128, settings, 'a """quoted""" licence')
    assert 'PARAMETER stop "\\"\\n\\\\"' in text and "PARAMETER repeat_last_n -1" in text
    assert text.count('"""') == 4  # those around the template and around the licence


def test_lm_studios_folders(saved, tmp_path):
    settings = ExportSettings(publisher="eve", name="ferry", verify=1)
    result = export(load(saved("qwen3")), "lm-studio", tmp_path / "models", settings)
    [path] = (tmp_path / "models").rglob("*.gguf")
    assert path == result.files[0] and path.parent == tmp_path / "models" / "eve" / "ferry"


def test_only_an_export_is_ever_replaced(saved, tmp_path):
    model = load(saved("llama"))
    (tmp_path / "out").mkdir()  # an empty folder is no loss
    export(model, "gguf", tmp_path / "out", QUICK)
    with pytest.raises(InputError, match="holds an export already") as refused:
        export(model, "gguf", tmp_path / "out", QUICK)
    assert "--overwrite" in refused.value.advice
    export(model, "hub", tmp_path / "out", QUICK, overwrite=True)
    export(model, "ollama", tmp_path / "out", QUICK, overwrite=True)

    (tmp_path / "out" / "novel.txt").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "export.json").write_text("[]")
    (tmp_path / "file").write_text("mine")
    for name, words in (("out", "novel.txt"), ("mine", "export.json"), ("file", "is a file")):
        with pytest.raises(InputError, match=words):
            export(model, "gguf", tmp_path / name, QUICK, overwrite=True)
    assert (tmp_path / "out" / "novel.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(saved, tmp_path, monkeypatch):
    model = load(saved("llama"))
    export(model, "gguf", tmp_path / "out", QUICK)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_file, "quantized", full)
        with pytest.raises(RunError, match="disk is full"):
            export(model, "gguf", tmp_path / "out", QUICK, overwrite=True)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(RunError, match="too little space"):
        export(model, "gguf", tmp_path / "out", QUICK, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_llama_cpp_it_is_said(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(run.llama_cpp, "is_installed", lambda: False)
    monkeypatch.setattr(quantization, "llama_cpp_library", lambda: None)
    model = load(saved("llama"))
    result = export(model, "gguf", tmp_path / "out")
    [levels] = result.record["verification"].values()
    assert levels[3]["run"] is False and "pip install" in levels[3]["how"]
    with pytest.raises(InputError, match="Q4_K_M is made by llama.cpp") as refused:
        export(model, "gguf", tmp_path / "k", ExportSettings(quantize=["Q4_K_M"]))
    assert "pip install" in refused.value.advice


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": "Q3"}, "quantize is 'Q3'"),
        ({"release": "latest"}, "release is 'latest'"),
        ({"name": "../evil"}, "name is '../evil'"),
        ({"publisher": "a/b"}, "publisher is 'a/b'"),
        ({"verify": 9}, "verify is 9"),
        ({"preset": "noirish"}, "no preset 'noirish'"),
        ({"format": "Q8_0"}, "unknown setting 'format'"),
    ],
)
def test_settings_that_can_not_be(settings, words):
    with pytest.raises(InputError, match=re.escape(words)):
        ExportSettings.from_mapping(settings)


def test_the_command_tells_line_by_line(saved, tmp_path, capsys):
    out = str(tmp_path / "out")
    words = ["export", str(saved("gpt2")), "--to", "gguf", "--out", out, "--verify", "3", "--json"]
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"} and len(lines) > 4
    assert lines[-1]["event"] == "result" and lines[-1]["export"]["to"] == "gguf"
    assert os.path.isfile(lines[-1]["files"][0])
    assert main(words) == 2
    assert "holds an export already" in capsys.readouterr().err


def test_the_command_says_what_was_checked_and_what_was_not(saved, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", str(saved("gpt2")), "--to", "merged", "--out", out, "--quantize", "Q4_0"]) == 0  # noqa: E501  # fmt: skip
    said = capsys.readouterr().err
    assert "--quantize has no effect" in said
    assert "ok 3 logits: mean KL" in said and "-- 4 llama.cpp: not run" in said
    assert main(["export", "a", "--model", "b", "--to", "gguf"]) == 2
    assert main(["export", str(saved("gpt2")), "--to", "gguf", "--chat-template", "keep"]) == 2
    assert "has no chat template" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_at_any_moment_nothing_unverified_has_its_name(saved, tmp_path):
    """Whatever stands under the final name was verified; the next export cleans up."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "creativewritinggpt", "export", str(saved("llama")), "--to", "gguf",
        "--out", str(out), "--quantize", "F32,Q8_0", "--verify", "3", "--json",
    ]  # fmt: skip
    for lines in (1, 3, 5, 7):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        time.sleep(0.1)
        assert not out.exists()
    assert list(tmp_path.glob(".out.new.*"))
    export(load(saved("llama")), "gguf", out, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    record = json.loads((out / "export.json").read_text())
    assert all(
        level["passed"] is not False
        for levels in record["verification"].values()
        for level in levels
    )


def test_llama_cpp_that_does_not_run_is_said_and_a_file_it_refuses_is_not_written(
    saved, tmp_path, monkeypatch
):
    pytest.importorskip("xllamacpp")
    from creativewritinggpt.export import llama_cpp

    model = load(saved("llama"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "xllamacpp.py").write_text("raise ImportError('no such processor')")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(broken))
        result = export(model, "gguf", tmp_path / "out")
    [levels] = result.record["verification"].values()
    assert levels[3]["run"] is False and "no such processor" in levels[3]["why"]

    (tmp_path / "bad.gguf").write_bytes(result.files[0].read_bytes()[:20_000])
    with pytest.raises(llama_cpp.Refused, match="does not run the file"):
        llama_cpp.ask(tmp_path / "bad.gguf", [], [0, 5], 1, vocabulary=384, filler=5)


def test_the_python_api_exports_and_tells_how_far_it_is(saved, tmp_path):
    writer = creativewritinggpt.load(saved("qwen2"), device="cpu", precision="fp32")
    told = []
    result = writer.export(
        "gguf", tmp_path / "out", quantize="q5_1", verify=2, name="ferry",
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    assert result.files[0].name.endswith("-ferry-v1.0-Q5_1.gguf") and result.files[0].is_file()
    assert told[0][0].startswith("writing") and told[-1][0].endswith("weights")
    assert result.notes == [f"llama-server -m {result.files[0]}"]
    with pytest.raises(InputError, match="there is no export to 'onnx'"):
        writer.export("onnx")
    assert writer.write("A king", max_new_tokens=3, seed=1)  # as before
