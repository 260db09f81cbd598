// Lets Node import the page's modules: `/vendor/…` is the folder of the bundles.
import { register } from "node:module";

const vendor = new URL("../../../src/creativewritinggpt/studio/web/vendor/", import.meta.url).href;
const hook = `export function resolve(name, context, next) {
  return next(name.startsWith("/vendor/") ? ${JSON.stringify(vendor)} + name.slice(8) : name, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
