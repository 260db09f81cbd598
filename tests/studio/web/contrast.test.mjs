import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const web = new URL("../../../src/creativewritinggpt/studio/web/", import.meta.url);
const styles = ["style.css", "write/insight.css"].map((name) => readFileSync(new URL(name, web), "utf8"));

/** The variables of all blocks of a selector, in both style sheets. */
function variables(selector) {
  const found = {};
  for (const style of styles) {
    for (const [, name, body] of style.matchAll(/([^{}]+)\{([^{}]*)\}/g)) {
      if (name.replace(/\/\*.*?\*\//gs, "").trim() !== selector) continue;
      for (const [, key, value] of body.matchAll(/--([\w-]+):\s*([^;]+)/g)) found[key] ??= value.trim(); // the first: those for forced colours follow
    }
  }
  return found;
}

function luminance(colour) {
  assert.match(colour, /^#[0-9a-f]{6}$/i, colour);
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

const light = variables(":root");
const themes = { light, dark: { ...light, ...variables(':root[data-theme="dark"]') } };
const steps = [1, 2, 3, 4, 5, 6].flatMap((at) => [`heat-${at}`, `heat-d${at}`]);

for (const [theme, colours] of Object.entries(themes)) {
  test(`ink can be read on every step of the heat, ${theme}`, () => {
    for (const name of [...steps, "heat-d0", "heat-old"]) {
      if (colours[name] === "transparent") continue;
      const found = contrast(colours["heat-ink"], colours[name]);
      assert.ok(found >= 4.5, `${theme} ${name}: ${found.toFixed(2)}`);
    }
    for (const ink of ["ink", "model-ink", "quiet"]) {
      const found = contrast(colours[ink], colours.paper);
      assert.ok(found >= 4.5, `${theme} ${ink}: ${found.toFixed(2)}`);
    }
  });

  test(`lines of why stand out from the paper, ${theme}`, () => {
    for (const name of ["why-for", "why-against"]) {
      assert.ok(contrast(colours[name], colours.paper) >= 3, `${theme} ${name}`);
    }
  });
}
