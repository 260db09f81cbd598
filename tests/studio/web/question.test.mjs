import assert from "node:assert/strict";
import { test } from "node:test";

const { createQuestion } = await import(
  "../../../src/creativewritinggpt/studio/web/write/question.js"
);

function studio() {
  const listeners = {};
  const heard = [];
  const app = { events: { on: (kind, take) => (listeners[kind] ??= []).push(take) } };
  const question = createQuestion(app, "token",
    (event) => heard.push(event.text), (event) => heard.push(event.state));
  const say = (event) => listeners[event.kind].forEach((take) => take(event));
  return { question, heard, say };
}
const settled = () => new Promise((resolve) => setTimeout(resolve));

test("an answer that comes before the id of its job is heard", async () => {
  const { question, heard, say } = studio();
  await question.ask(async () => {
    say({ kind: "job", id: "7", state: "running" });
    say({ kind: "token", job: "6", text: "another's" });
    say({ kind: "token", job: "7", text: "early" });
    return { job: "7" };
  });
  await settled();
  say({ kind: "token", job: "7", text: "late" });
  say({ kind: "job", id: "7", state: "done" });
  assert.deepEqual(heard, ["running", "early", "late", "done"]);
});

test("of two questions the last one is answered", async () => {
  const { question, heard, say } = studio();
  let release;
  const first = question.ask(() => new Promise((resolve) => (release = () => resolve({ job: "1" }))));
  const second = question.ask(async () => ({ job: "2" }));
  assert.deepEqual(await second, { job: "2" });
  release();
  assert.equal(await first, null);
  await settled();
  say({ kind: "token", job: "1", text: "old" });
  say({ kind: "token", job: "2", text: "new" });
  assert.deepEqual([question.job(), ...heard], ["2", "new"]);
});

test("a question that is refused or forgotten hears nothing", async () => {
  const { question, heard, say } = studio();
  await assert.rejects(question.ask(() => Promise.reject(new Error("409"))));
  say({ kind: "token", job: "", text: "nobody's" });
  await question.ask(async () => ({ job: "3" }));
  question.forget();
  say({ kind: "token", job: "3", text: "late" });
  await settled();
  assert.deepEqual(heard, []);
});
