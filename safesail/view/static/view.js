// What every page does beyond HTML. Nothing here makes markup out of text.
"use strict";
(() => {
  const root = document.documentElement;

  const theme = document.getElementById("theme");
  if (theme) {
    const order = ["auto", "light", "dark"];
    const show = () => { theme.querySelector("span").textContent = root.dataset.theme || "auto"; };
    theme.hidden = false;
    show();
    theme.addEventListener("click", () => {
      const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % order.length];
      if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
      try { localStorage.setItem("safesail-theme", next); } catch { /* not kept, then */ }
      show();
      document.dispatchEvent(new Event("themed"));
    });
  }

  const search = document.getElementById("q");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!search || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    search.focus();
  });
  const sort = document.getElementById("sort");
  if (sort && !root.dataset.exported) sort.addEventListener("change", () => sort.form.requestSubmit());

  // On a narrow screen filters stand before the list: closed, so that it is seen.
  if (matchMedia("(max-width: 760px)").matches) {
    for (const facet of document.querySelectorAll("#facets details")) facet.open = Boolean(facet.querySelector(".chosen"));
  }

  for (const group of document.querySelectorAll(".choose")) {
    const shown = document.getElementById(group.dataset.for);
    group.hidden = false;
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      for (const item of shown.querySelectorAll("[data-split]")) {
        item.hidden = button.dataset.split !== "" && item.dataset.split !== button.dataset.split;
      }
    });
  }

  // Along the active tokens of a window by arrow keys: only its strongest one is a stop of Tab.
  document.addEventListener("keydown", (event) => {
    const at = document.activeElement;
    if (!at || at.tagName !== "MARK" || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const all = [...at.closest(".tokens").querySelectorAll("mark")];
    const next = all[all.indexOf(at) + (event.key === "ArrowRight" ? 1 : -1)];
    if (!next) return;
    event.preventDefault();
    at.removeAttribute("tabindex");
    next.tabIndex = 0;
    next.focus();
  });

  for (const button of document.querySelectorAll("button.copy")) {
    const from = document.getElementById(button.dataset.from);
    const said = button.parentElement.querySelector(".copied");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(from.value);
        said.textContent = "Copied.";
      } catch {
        from.closest("details").open = true;
        from.select();
        said.textContent = "Selected: copy it with Ctrl+C.";
      }
    });
  }

  const waiting = document.querySelector("[data-reload]");
  if (waiting) setTimeout(() => location.reload(), 1000 * Number(waiting.dataset.reload));
})();
