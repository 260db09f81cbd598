"""Runs as child processes: recorded, followed, stopped, found again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from studios import SmallStudio, wait_for

from creativewritinggpt.errors import InputError
from creativewritinggpt.studio import run_routes
from creativewritinggpt.studio.answers import Conflict, NotFound
from creativewritinggpt.studio.curves import Curves
from creativewritinggpt.studio.processes import Identity, Processes
from creativewritinggpt.studio.runs import Runs
from creativewritinggpt.studio.uploads import Uploads


@pytest.fixture
def studio(tmp_path):
    return SmallStudio(tmp_path)


@pytest.fixture
def runs(studio):
    made = Runs(studio, watch=False)
    yield made
    for record in made.records():
        if record.ended is None:
            made.processes.end(record.identity)


def child(runs, code, kind="evaluate", **more):
    return runs.start(runs.new_id(kind), kind, "a run", ["-c", textwrap.dedent(code)], **more)


SLEEPER = """
    import json, signal, sys, time
    sys.stderr.write("begun\\n"); sys.stderr.flush()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print(json.dumps({"outcome": "interrupted"}))
"""


def begun(runs, record):
    until = time.monotonic() + 20
    while "begun" not in runs.log(record.id) and time.monotonic() < until:
        time.sleep(0.02)


def test_what_a_child_prints_is_the_result_and_its_end_is_published(runs, studio):
    record = wait_for(runs, child(runs, "print('{\"answer\": 42}')"))
    assert runs.show(record)["state"] == "done"
    assert runs.result(record.id) == {"answer": 42}
    states = [event["run"]["state"] for event in studio.events.seen if event["kind"] == "run"]
    assert states[0] == "running" and states[-1] == "done"


def test_a_run_that_ended_unseen_says_how_long_it_took(runs):
    record = child(runs, "print('{}')")
    until = time.monotonic() + 20
    while runs.processes.alive(record.identity) and time.monotonic() < until:
        time.sleep(0.02)
    os.utime(runs.place(record.id) / "output.json", (record.began + 0.01,) * 2)
    time.sleep(0.2)
    assert runs.show(wait_for(runs, record))["seconds"] < 0.1


def test_an_error_is_one_sentence_with_advice_and_the_log_has_the_rest(runs):
    code = "import sys; sys.stderr.write('line\\nerror: no text\\ngive some\\n'); sys.exit(2)"
    shown = runs.show(wait_for(runs, child(runs, code)))
    assert (shown["state"], shown["message"], shown["advice"]) == ("failed", "no text", "give some")
    assert "line" in runs.log(shown["id"])


def test_a_killed_child_has_failed_without_a_word(runs):
    record = child(runs, SLEEPER)
    begun(runs, record)
    os.kill(record.pid, signal.SIGKILL)
    shown = runs.show(wait_for(runs, record))
    assert shown["state"] == "failed" and "without a word" in shown["message"]


def test_stop_is_what_ctrl_c_is(runs):
    record = child(runs, SLEEPER)
    begun(runs, record)
    assert runs.show(runs.stop(record.id))["state"] == "stopping"
    assert runs.show(wait_for(runs, record))["state"] == "stopped"


def test_a_child_that_heeds_no_interrupt_ends_at_the_second_stop(runs):
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.stderr.write('begun'); sys.stderr.flush(); time.sleep(60)"
    )
    record = child(runs, code)
    begun(runs, record)
    runs.stop(record.id)
    runs.stop(record.id)
    assert runs.show(wait_for(runs, record, 10))["state"] == "stopped"


def test_a_later_studio_finds_a_run_that_goes_on_and_one_that_has_ended(runs, studio):
    done = wait_for(runs, child(runs, "print('{}')"))
    going = child(runs, SLEEPER)
    begun(runs, going)
    later = Runs(studio, watch=False)
    states = {one.id: later.show(one)["state"] for one in later.records()}
    assert states == {done.id: "done", going.id: "running"}
    later.stop(going.id)
    assert later.show(wait_for(later, later.get(going.id)))["state"] == "stopped"


def test_a_child_outlives_a_studio_that_is_killed(tmp_path):
    code = f"""
        import sys, time
        sys.path[:0] = {[str(p) for p in sys.path if p]!r}
        from pathlib import Path
        from studios import SmallStudio
        from creativewritinggpt.studio.runs import Runs
        runs = Runs(SmallStudio(Path({str(tmp_path)!r})), watch=False)
        wait = "import time; time.sleep(1); print('{{}}')"
        record = runs.start(runs.new_id("evaluate"), "evaluate", "x", ["-c", wait])
        print(record.id, flush=True)
        time.sleep(60)
    """
    studio = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    id = studio.stdout.readline().strip()
    studio.kill()
    studio.wait()
    later = Runs(SmallStudio(tmp_path), watch=False)
    record = later.get(id)
    assert later.show(record)["state"] == "running"
    assert later.show(wait_for(later, record))["state"] == "done"


def test_a_pid_that_is_used_again_is_not_taken_for_the_run():
    mine = Identity(os.getpid(), 1.0)
    processes = Processes()
    assert not processes.alive(mine) and not processes.interrupt(mine)
    processes.end(mine)  # or this test would end here


def test_folders_of_runs_that_never_began_and_old_uploads_go(studio):
    """A studio that is killed between sending a file, or making a run's folder, and its start."""
    folders = [
        studio.outputs / ".studio" / "runs" / "train-20200101-000000-abcdef" / "texts",
        studio.outputs / ".studio" / "uploads" / "0123456789abcdef",
    ]

    def places():
        return [folders[0].parent.exists(), folders[1].exists()]

    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "novel.txt").write_text("text")
    Runs(studio, watch=False), Uploads(studio)
    assert places() == [True, True]  # another studio may be about to use them
    for folder in (folders[0].parent, folders[1]):
        os.utime(folder, (1, 1))
    Runs(studio, watch=False), Uploads(studio)
    assert places() == [False, False]


def test_damaged_records_do_no_harm(runs, studio):
    record = wait_for(runs, child(runs, "print('{}')"))
    other = runs.folder / "evaluate-x"
    other.mkdir()
    for text in ("", "[]", '{"format": 2}', '{"format": 1, "id": "evaluate-x", "odd": 1}'):
        (other / "run.json").write_text(text)
        assert [one.id for one in Runs(studio, watch=False).records()] == [record.id]


def test_an_aside_run_is_out_of_the_list_and_nothing_is_deleted(runs, studio):
    record = wait_for(runs, child(runs, "print('{}')"))
    runs.set_aside(record.id)
    with pytest.raises(NotFound):
        runs.get(record.id)
    assert [one.id for one in Runs(studio, watch=False).aside()] == [record.id]
    assert runs.show(runs.bring_back(record.id))["state"] == "done"
    assert runs.records() == [record] and runs.aside() == []
    with pytest.raises(NotFound):
        runs.bring_back("../runs")


def test_of_a_child_that_prints_its_progress_the_last_line_is_the_result(runs):
    code = """
        print('{"event": "progress", "done": 1}')
        print('{"event": "result", "folder": "x"}')
    """
    record = wait_for(runs, child(runs, code, "export"))
    assert runs.result(record.id) == {"event": "result", "folder": "x"}
    half = wait_for(runs, child(runs, 'print(\'{"event": "progress", "done": 1}\')', "export"))
    assert runs.show(half)["state"] == "failed"


def test_a_run_that_goes_on_is_neither_resumed_nor_set_aside(runs):
    record = child(runs, SLEEPER)
    with pytest.raises(Conflict):
        runs.set_aside(record.id)
    with pytest.raises(Conflict):
        runs.resume(record.id, record.words)


def test_an_error_of_an_earlier_attempt_is_not_said_of_the_next(runs):
    record = wait_for(runs, child(runs, "import sys; sys.stderr.write('error: old\\n')"))
    assert record.ended["message"] == "old"
    runs.resume(record.id, ["-c", "pass"])
    assert wait_for(runs, record).ended["message"] != "old"
    assert "old" in runs.log(record.id)


def test_the_thread_notices_an_end_by_itself(studio):
    runs = Runs(studio)
    record = child(runs, "print('{}')")
    until = time.monotonic() + 20
    while record.ended is None and time.monotonic() < until:
        time.sleep(0.05)
    assert record.ended["state"] == "done"


def log_lines(folder, *entries):
    with (folder / "metrics.jsonl").open("a") as stream:
        for entry in entries:
            stream.write(entry if isinstance(entry, str) else json.dumps(entry) + "\n")


def step(number, loss=2.0):
    return {"step": number, "loss": loss, "learning_rate": 0.1, "tokens": 9, "step_seconds": 0.5}


def test_curves_follow_a_log_and_leave_half_a_line(tmp_path):
    curves = Curves(tmp_path)
    assert not curves.follow()
    log_lines(tmp_path, step(1), '{"step": 2, "lo')
    assert curves.follow() and curves.steps == [1]
    log_lines(tmp_path, 'ss": 1.5, "learning_rate": 0.1, "tokens": 9, "step_seconds": 0.5}\n')
    assert curves.follow() and curves.steps == [1, 2] and curves.losses == [2.0, 1.5]
    assert not curves.follow()


def test_curves_of_a_resumed_run_begin_anew_where_its_log_was_cut(tmp_path):
    curves = Curves(tmp_path)
    log_lines(tmp_path, *(step(number) for number in range(1, 8)))
    curves.follow()
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)[:4]
    (tmp_path / "new").write_text("".join(kept))
    (tmp_path / "new").replace(tmp_path / "metrics.jsonl")
    log_lines(tmp_path, *(step(number) for number in range(5, 20)))
    curves.follow()
    assert curves.steps == list(range(1, 20))


def test_curves_say_last_best_and_trend(tmp_path):
    entries = [step(number, 4.0 - number / 10) for number in range(1, 31)]
    validation = {"step": 20, "val_loss": 2.0, "domains": {"book": 2.0}}
    later = {"step": 30, "val_loss": 2.5, "domains": {"book": 2.5}}
    log_lines(tmp_path, *entries, validation, later)
    plan = {"total_steps": 60, "eval_steps": 10, "base_val_loss": 3.0, "base_domains": {"book": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps({"plan": plan}))
    curves = Curves(tmp_path)
    curves.follow()
    said = curves.sentence()
    assert "Step 30 of 60" in said and "falling" in said
    assert "validation loss 2.500, best 2.000 at step 20; the base model has 3.000" in said
    assert curves.seconds_left() == 15.0


def test_many_steps_are_averaged_for_the_page(tmp_path):
    log_lines(tmp_path, *(step(number, float(number)) for number in range(1, 6001)))
    curves = Curves(tmp_path)
    curves.follow()
    shown = curves.to_dict()
    assert len(shown["steps"]) == len(shown["loss"]) <= 1500
    assert shown["steps"][-1] == 6000 and abs(shown["loss"][0] - 2.5) < 1e-9


def test_routes_answer_with_a_sentence(studio):
    client = TestClient(Starlette(routes=run_routes.routes(studio)))
    assert client.get("/api/runs").json() == {"runs": []}
    for path in ("/api/runs/none", "/api/runs/none/curves", "/api/judge/none"):
        answer = client.get(path)
        assert answer.status_code == 404 and "no such run" in answer.json()["error"]["message"]
    answer = client.post("/api/train", json={"files": [], "sources": []})
    assert answer.status_code == 400 and "nothing to train on" in answer.json()["error"]["message"]
    assert list((studio.outputs / ".studio" / "runs").iterdir()) == []


def test_a_name_is_given_and_none_is_refused(runs):
    record = wait_for(runs, child(runs, "print('{}')"))
    assert runs.rename(record.id, "  My book ").name == "My book"
    with pytest.raises(InputError):
        runs.rename(record.id, "  ")
