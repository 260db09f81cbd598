"""``cwgpt choices``: from what ``generate`` wrote and a hand picked, to pairs."""

from __future__ import annotations

import json

FAST = ["--device", "cpu", "--precision", "fp32", "--num-workers", "1"]


def test_texts_are_written_picked_by_hand_and_reported(cwgpt, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cwgpt("generate", "The lamp", "--n", 3, "--out", "texts.jsonl", "--max-new-tokens", 8,
                 "--seed", 3, "--model", tiny_folder("gpt2"), *FAST)  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    rows[1]["picked"] = True
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = cwgpt("choices", "texts.jsonl", "--json", "--out", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["recorded"] == result["usable"] == 1 and result["pairs"] == 2
    assert result["kinds"]["pick"]["alternatives"] == 2
    assert result["places"]["taken"] == [0, 1, 0]
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {pair["chosen"] for pair in pairs} == {rows[1]["text"]}
    assert {pair["rejected"] for pair in pairs} == {rows[0]["text"], rows[2]["text"]}

    shown = cwgpt("choices", "texts.jsonl", "pairs.jsonl")
    assert shown.returncode == 0 and "the same decision in another file (1)" in shown.stdout
