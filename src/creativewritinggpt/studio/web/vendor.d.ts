// Types of the bundles in vendor/ (see build.mjs).
declare module "*/vendor/codemirror.js" {
  export * from "@codemirror/state";
  export * from "@codemirror/view";
  export * from "@codemirror/commands";
  export * from "@codemirror/search";
}
declare module "*/vendor/lit-html.js" {
  export * from "lit-html";
  export { classMap } from "lit-html/directives/class-map.js";
  export { guard } from "lit-html/directives/guard.js";
  export { ifDefined } from "lit-html/directives/if-defined.js";
  export { keyed } from "lit-html/directives/keyed.js";
  export { live } from "lit-html/directives/live.js";
  export { ref, createRef } from "lit-html/directives/ref.js";
  export { repeat } from "lit-html/directives/repeat.js";
  export { when } from "lit-html/directives/when.js";
}
declare module "*/vendor/uplot.js" {
  export { default } from "uplot";
}
