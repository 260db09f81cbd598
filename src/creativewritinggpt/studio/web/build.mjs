// Bundles the libraries that package.json names into vendor/, with their licences.
import { build } from "esbuild";
import { mkdir, readFile, readdir, writeFile, copyFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const vendor = join(here, "vendor");
const entries = {
  codemirror: `
    export * from "@codemirror/state";
    export * from "@codemirror/view";
    export * from "@codemirror/commands";
    export * from "@codemirror/search";`,
  "lit-html": `
    export * from "lit-html";
    export { classMap } from "lit-html/directives/class-map.js";
    export { guard } from "lit-html/directives/guard.js";
    export { ifDefined } from "lit-html/directives/if-defined.js";
    export { keyed } from "lit-html/directives/keyed.js";
    export { live } from "lit-html/directives/live.js";
    export { ref, createRef } from "lit-html/directives/ref.js";
    export { repeat } from "lit-html/directives/repeat.js";
    export { when } from "lit-html/directives/when.js";`,
  uplot: `export { default } from "uplot";`,
};

await mkdir(vendor, { recursive: true });
const bundled = new Set();
for (const [name, contents] of Object.entries(entries)) {
  const result = await build({
    stdin: { contents, resolveDir: here, sourcefile: `${name}.entry.js` },
    bundle: true,
    format: "esm",
    minify: true,
    legalComments: "none",
    target: "es2022",
    metafile: true,
    outfile: join(vendor, `${name}.js`),
  });
  for (const input of Object.keys(result.metafile.inputs)) {
    const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) bundled.add(found[1]);
  }
}
await copyFile(join(here, "node_modules/uplot/dist/uPlot.min.css"), join(vendor, "uplot.css"));

const parts = [];
for (const name of [...bundled].sort()) {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((one) => /^licen[cs]e/i.test(one));
  if (!file) throw new Error(`${name} has no licence file`);
  const text = await readFile(join(folder, file), "utf8");
  parts.push(`${name} ${about.version} (${about.license})\n\n${text.trim()}\n`);
}
await writeFile(join(vendor, "LICENSES.txt"), parts.join(`\n${"-".repeat(78)}\n\n`));
