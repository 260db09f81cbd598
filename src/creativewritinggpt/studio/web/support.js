// Read by every browser, so in the language of 2009: says of one that is too old that it is.
(function () {
  "use strict";
  var supported =
    "noModule" in document.createElement("script") &&
    typeof HTMLDialogElement === "function" &&
    typeof structuredClone === "function" &&
    typeof Array.prototype.at === "function" &&
    typeof String.prototype.replaceAll === "function" &&
    "replaceChildren" in Element.prototype &&
    window.CSS && CSS.supports && CSS.supports("selector(:focus-visible)");
  if (supported) return;
  document.documentElement.setAttribute("data-state", "too-old"); // read by app.js, which comes first
  document.addEventListener("DOMContentLoaded", function () {
    var text = /** @type {HTMLElement} */ (document.getElementById("gate-text"));
    text.textContent =
      "This browser is too old for the studio. Please open this address in Chrome, Edge, Firefox " +
      "or Safari of 2022 or later; the story is safe in its file.";
  });
})();
