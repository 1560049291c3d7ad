// Before the page is drawn: the theme that was chosen last, so that it does not flash.
"use strict";
(() => {
  let kept = null;
  try { kept = localStorage.getItem("safesail-theme"); } catch { /* storage is off: the system's theme stands */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
