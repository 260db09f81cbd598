// The AI SDK's completion model against a server: node ai.mjs URL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "cwgpt", baseURL: `${process.argv[2]}/v1` });
const model = provider.completionModel("");
const options = { model, prompt: "Once", maxOutputTokens: 6, seed: 3, maxRetries: 0 };
const whole = await generateText(options);
let text = "";
for await (const part of streamText(options).textStream) text += part;
console.log(JSON.stringify({ same: text === whole.text, length: whole.text.length > 0 }));
