"""The verbs through ``main`` on tiny models; in a process of their own where that is the point."""

import io
import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import write_stories

from creativewritinggpt.cli.main import VERBS, main

pytestmark = pytest.mark.cli
ROOT = Path(__file__).resolve().parents[2]
FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory, tiny_model, tiny_tokenizer):
    """A short run over a file of stories, on a tiny model."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    stories = write_stories(folder / "stories.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CWGPT_CACHE", str(folder / "cache"))
        code = main(
            ["train", str(stories), "--model-name", str(folder / "model"), "--output-dir",
             str(folder / "out"), "--max-steps", "3", "--max-length", "48", *FAST]
        )  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that run, to be changed."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys\nfrom creativewritinggpt.cli.main import VERBS, main\n"
        "for words in (['--help'], *([verb, '--help'] for verb in VERBS)):\n"
        "    try: main(words)\n    except SystemExit as ended: assert not ended.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'matplotlib', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: cwgpt") == 1 + len(VERBS)


def test_train_evaluate_generate_through_the_command(cwgpt, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_folder("gpt2")
    stories = write_stories(tmp_path / "stories.jsonl")
    done = cwgpt("train", stories, "--model-name", model, "--max_steps", 4, "--max-length", 48,
                 "--patience", 0, "--json", *FAST)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 4 and result["best_val_loss"] < result["base_val_loss"] + 1

    done = cwgpt("evaluate", "--json", *FAST)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    domain = found["domains"]["stories"]
    assert {"documents", "tokens", "words", "bytes", "nll_sum", "perplexity", "bits_per_byte",
            "word_perplexity", "ci95", "eos_nll"} <= set(domain["tuned"])  # fmt: skip
    assert domain["difference"]["ci95"][0] <= domain["difference"]["nats_per_token"]
    assert json.loads((tmp_path / "outputs" / "evaluation.json").read_text()) == found
    assert "| stories |" in (tmp_path / "outputs" / "evaluation.md").read_text()
    # What was written stands beside people's text, and is looked for in the training text.
    [_, way] = found["generation"]["figures"]
    assert set(found["originality"][way]) == {"human", "base", "tuned"}
    assert way.startswith("top_p=0.9; 100 tokens; ")
    assert set(found["forgetting"]["relative"]) == {"tuned"}
    # Tuned on one file, whose held-out stories are few.
    assert list(found["without"]) == ["voice"] and "2,000" in found["without"]["voice"]
    done = cwgpt("evaluate", stories, "--compare", model, "outputs/evaluation.jsonl", "--texts", 0,
                 *FAST)  # fmt: skip
    assert done.returncode == 2 and "is of other documents" in done.stderr

    done = cwgpt("generate", "The lamp", "--max-new-tokens", 8, "--seed", 3, *FAST)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The lamp")
    assert "seed 3" in done.stderr
    again = cwgpt("generate", "--max-new-tokens", 8, "--seed", 3, "--json", *FAST,
                  stdin="The lamp\n")  # fmt: skip
    record = json.loads(again.stdout)["results"][0]
    assert record["prompt"] == "The lamp"
    assert done.stdout == record["prompt"] + record["text"] + "\n"


def test_the_original_commands_work_from_their_own_folder(trained, capsys, monkeypatch):
    out = str(trained / "out")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.stdin", (trained / "stories.jsonl").open())

    def original(name, *words):
        monkeypatch.setattr("sys.path", [str(ROOT), *sys.path])
        monkeypatch.setattr("sys.argv", [name, *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said

    said = original("evaluate.py", "--model", f"{out}/best_model", "--output-dir", out, *FAST)
    assert "stories" in said.err
    words = ["A king", "--model", f"{out}/best_model", "--max_new_tokens", "4", *FAST]
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    assert original("generate.py", *words).out.startswith("A king")
    said = original("train.py", "--resume", "--output_dir", out)
    assert "going on from step 3" in said.err


@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "analysis"])
def test_the_original_commands_do_not_shadow_libraries(name):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}.py', '--help']\n"
        f"try: runpy.run_path({str(ROOT / (name + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"assert {str(ROOT)!r} not in sys.path and '' not in sys.path, sys.path\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ctrl_c_stops_after_the_step_saves_and_resume_goes_on(tiny_folder, tmp_path):
    model = tiny_folder("gpt2")
    stories = write_stories(tmp_path / "stories.jsonl", count=80)
    words = ["train", stories, "--model-name", model, "--max-length", "48", "--num-epochs", "400",
             "--patience", "0", "--eval-steps", "100000", *FAST]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "creativewritinggpt", *map(str, words)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "Before training" in line:
                break
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130, rest
    assert "stopped after step" in rest and "cwgpt train --resume" in rest
    assert "Traceback" not in rest
    state = next((tmp_path / "outputs" / "checkpoints").glob("step-*"))
    steps = int(state.name[5:])
    assert (tmp_path / "outputs" / "final_model" / "adapter_model.safetensors").is_file()
    assert 0 < steps < 100000
    metrics = json.loads((tmp_path / "outputs" / "metrics.json").read_text())
    assert len(metrics["batch_losses"]) == steps


def test_prompts_file_gives_one_text_a_line(trained, capsys):
    prompts = trained / "prompts.txt"
    prompts.write_text("A king\n\nThe sea\n")
    capsys.readouterr()
    code = main(["generate", "--prompts", str(prompts), "--n", "2", "--json", "--max-new-tokens",
                 "3", "--model", str(trained / "out" / "best_model"), *FAST])  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0
    found = json.loads(captured.out)["results"]
    assert [record["prompt"] for record in found] == ["A king", "A king", "The sea", "The sea"]


def test_json_is_one_object_also_for_a_file_of_texts_and_the_presets(trained, capsys):
    prompts, out = trained / "prompts.txt", trained / "texts.jsonl"
    prompts.write_text("A king\nThe sea\n")
    model = str(trained / "out" / "best_model")
    capsys.readouterr()
    assert main(["generate", "--prompts", str(prompts), "--out", str(out), "--json",
                 "--max-new-tokens", "2", "--model", model, *FAST]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["prompts"], found["out"]) == (model, 2, str(out))
    assert main(["generate", "--presets", "--json"]) == 0
    assert "temperature" in json.loads(capsys.readouterr().out)["presets"]["steady"]


def test_piped_text_is_taken_without_mark_and_windows_line_ends(cwgpt, trained):
    model = str(trained / "out" / "best_model")
    done = cwgpt("generate", "and", "--model", model, "--max-new-tokens", 2, "--json", *FAST,
                 stdin="\ufeffOne\r\ntwo\r\n")  # fmt: skip
    assert json.loads(done.stdout)["results"][0]["prompt"] == "One\ntwo\nand"


def test_prompts_keep_their_own_seed_and_memory_without_out(trained, capsys):
    prompts = trained / "prompts.jsonl"
    fields = {"prompt": "A king", "seed": 5, "memory": "The sea is near."}
    prompts.write_text("\n".join(map(json.dumps, [fields, "A king"])))
    words = ["generate", "--prompts", str(prompts), "--max-new-tokens", "3", "--seed", "3",
             "--model", str(trained / "out" / "best_model"), *FAST]  # fmt: skip
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    [own, usual] = json.loads(capsys.readouterr().out)["results"]
    assert (own["seed"], usual["seed"]) == (5, 3)
    tokens = [record["usage"]["prompt_tokens"] for record in (own, usual)]
    assert tokens[0] == tokens[1]  # memory is no part of the prompt
    assert own["tokens"][0]["entropy"] != usual["tokens"][0]["entropy"]
    prompts.write_text(json.dumps(fields))
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out == "A king" + own["text"] + "\n" and "seed 5" in shown.err


def test_closed_pipe_is_quiet(trained):
    command = (
        f"{sys.executable} -m creativewritinggpt generate A --n 8 --max-new-tokens 40 --model "
        f"{trained / 'out' / 'best_model'} {' '.join(FAST)} </dev/null | head -c 1 >/dev/null; "
        "echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert done.stdout.strip() in ("0", "141")


def test_recipes_are_listed_shown_and_copied(tmp_path, capsys):
    assert main(["recipes"]) == 0
    assert "novel" in capsys.readouterr().out
    assert main(["recipes", "novel"]) == 0
    shown = capsys.readouterr().out
    target = tmp_path / "mine.yaml"
    assert main(["recipes", "novel", str(target)]) == 0
    assert target.read_text() == shown
    capsys.readouterr()
    assert main(["recipes", "novel", str(target)]) == 2
    assert target.read_text() == shown
    assert "nothing was overwritten" in capsys.readouterr().err


def test_doctor_says_what_there_is(cwgpt, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = json.loads(cwgpt("doctor", "--json").stdout)
    assert found["device"] and found["hub"]["reachable"] is None
    assert set(found["writing"]) == {"prompts", "steps"}
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("device", "precision", "threads", "memory", "starter", "model hub"):
        assert word in text


def test_json_stands_alone_on_stdout(trained, capsys):
    capsys.readouterr()
    model = str(trained / "out" / "best_model")
    code = main(["evaluate", str(trained / "stories.jsonl"), "--model", model, "--output-dir",
                 str(trained / "out"), "--max-documents", "5", "--json", *FAST])  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0
    assert json.loads(captured.out)["domains"]["stories"]["tuned"]["documents"] == 5
    assert "were trained on" in captured.err


def test_no_color_and_no_terminal_give_plain_text(cwgpt, trained, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    done = cwgpt("evaluate", "--model", trained / "out" / "best_model", "--output-dir",
                 trained / "out", *FAST)  # fmt: skip
    assert done.returncode == 0 and "tuned ppl" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_options_without_effect_are_said(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(trained / "out" / "best_model"), *FAST]
    few = ["--max-new-tokens", "3", "--alternatives", "2"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    capsys.readouterr()
    assert main(["generate", "Once", "--temperature", "0", "--top-k", "5", *few, *model]) == 0
    said = capsys.readouterr().err
    assert "--top-k has no effect: at temperature 0" in said
    assert "--alternatives has no effect" in said
    text = tmp_path / "a.txt"
    text.write_text("The mill fell. It rose again. " * 30)
    flags = ["--texts", "0", "--text-tokens", "9", "--sources", "sample"]
    assert main(["evaluate", str(text), *flags, *model]) == 0
    said = capsys.readouterr().err
    assert "--text-tokens has no effect" in said and "--sources has no effect" in said
