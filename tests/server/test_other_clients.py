"""Programs that people have, unchanged, against a real server process.

They come with ``make clients-env`` and run by ``make test-clients``; a client that is not there is
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cli, pytest.mark.slow]
JS = Path(__file__).parent / "js"


@pytest.fixture
def running(server: Callable[..., Any]) -> Any:
    return server("--weights", "fp32", "--precision", "fp32")


def test_langchain_asks_for_lists_and_streams(running: Any) -> None:
    pytest.importorskip("langchain_openai", reason="make clients-env")
    from langchain_openai import OpenAI

    llm: Any = OpenAI(
        base_url=f"{running.url}/v1", api_key="any", model="", max_tokens=6, seed=3, max_retries=0
    )
    texts = llm.batch([f"Once {number}" for number in range(20)])
    assert len(texts) == 20 and any(texts)
    alone = llm.invoke("Once")
    assert "".join(llm.stream("Once")) == alone


def test_simonw_llm_writes_from_a_shell(running: Any, tmp_path: Path) -> None:
    llm = Path(sys.executable).parent / "llm"
    if not llm.exists():
        pytest.skip("make clients-env")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: tiny-llama\n  api_base: {running.url}/v1\n"
        f"  completion: true\n  api_key_name: mine\n"
        f"- model_id: mychat\n  model_name: tiny-llama\n  api_base: {running.url}/v1\n"
    )
    env = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "any"}
    for name in ("mine", "mychat"):
        for flags in ([], ["--no-stream"]):
            out = subprocess.run(
                [str(llm), "-m", name, "Once", "-o", "max_tokens", "5", "--key", "any", *flags],
                capture_output=True, text=True, timeout=120, env=env, check=False,
            )  # fmt: skip
            assert out.returncode == 0 and out.stdout.strip("\n"), out.stderr


def node(script: str, url: str) -> Any:
    if shutil.which("node") is None or not (JS / "node_modules").is_dir():
        pytest.skip("make clients-env")
    out = subprocess.run(
        ["node", str(JS / script), url], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def test_openais_client_for_javascript(running: Any) -> None:
    assert node("openai.mjs", running.url) == {
        "same": True, "tokens": 6, "chat": "string", "aborted": True,
        "refused": ["BadRequestError", 400, "temperature"],
    }  # fmt: skip


def test_the_ai_sdk_reads_texts_and_streams(running: Any) -> None:
    assert node("ai.mjs", running.url) == {"same": True, "length": True}


@pytest.mark.parametrize("backend", ["huggingface", "remote"])
def test_lm_eval_gets_the_figures_of_our_own_evaluation(
    running: Any, tmp_path: Path, tiny_folder: Callable[[str], Path], backend: str
) -> None:
    pytest.importorskip("lm_eval", reason="make clients-env")
    folder = tiny_folder("llama")
    texts = ["Once upon a time a king had three daughters.", "The ferry was late. " * 4]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "tales.yaml").write_text(
        "task: tales\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files: {{test: {tmp_path / 'data.jsonl'}}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\n"
        "doc_to_target: '{{text}}'\nmetric_list:\n  - metric: word_perplexity\n"
    )
    arguments = f"base_url={running.url}/v1/completions,model=tiny-llama,num_concurrent=4"
    if backend == "huggingface":
        arguments += f",tokenizer={folder}"
    else:
        arguments += ",tokenizer_backend=remote"
    code = (
        "import json, sys, lm_eval\n"
        "from lm_eval.tasks import TaskManager\n"
        f"found = lm_eval.simple_evaluate('local-completions', model_args={arguments!r},\n"
        f"    tasks=['tales'], task_manager=TaskManager(include_path={str(tmp_path)!r}),\n"
        "    bootstrap_iters=0)\n"
        "print(json.dumps([s['resps'] for s in found['samples']['tales']]))\n"
    )
    env = {**os.environ, "OPENAI_API_KEY": "any", "HF_HOME": str(tmp_path / "hf"),
           "HF_HUB_OFFLINE": "1"}  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
                         env=env, check=False)  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    theirs = [float(resp[0][0]) if isinstance(resp[0], list) else float(resp[0])
              for resp in json.loads(out.stdout.splitlines()[-1])]  # fmt: skip
    from creativewritinggpt.data.document import Document
    from creativewritinggpt.evaluation.scoring import score_documents
    from creativewritinggpt.models.loading import load_model

    model = load_model(str(folder), device="cpu", precision="fp32")
    documents = [Document("tales", text, text) for text in texts]
    ours = [-score.nll for score in score_documents(model, documents)]
    assert theirs == pytest.approx(ours, rel=1e-6)
