// OpenAI's client for JavaScript against a server: node openai.mjs URL
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const body = { model, prompt: "Once", max_tokens: 6, seed: 3 };
const whole = await client.completions.create({ ...body, logprobs: 1 });
let text = "";
for await (const chunk of await client.completions.create({ ...body, stream: true })) {
  text += chunk.choices[0].text;
}
const chat = await client.chat.completions.create({
  model, messages: [{ role: "user", content: "Hi" }], max_tokens: 4,
});
let refused = null;
try {
  await client.completions.create({ ...body, temperature: 9 });
} catch (error) {
  refused = [error.constructor.name, error.status, error.param];
}
const controller = new AbortController();
let aborted = 0;
const long = await client.completions.create(
  { ...body, max_tokens: 8000, stream: true, ignore_eos: true }, { signal: controller.signal },
);
try {
  for await (const chunk of long) {
    aborted += 1;
    if (aborted === 3) controller.abort();
  }
} catch (error) {
  if (error.name !== "AbortError" && error.constructor.name !== "APIUserAbortError") throw error;
}
console.log(JSON.stringify({
  same: text === whole.choices[0].text, tokens: whole.choices[0].logprobs.tokens.length,
  chat: typeof chat.choices[0].message.content, refused, aborted: aborted < 50,
}));
