// The list of an export: what the server answers by SQL is answered here from `data/catalog.js`, by the same addresses.
"use strict";
(() => {
  const PAGE = 50, MAX_HITS = 1000;
  const SORTS = {
    feature: [() => 0, false], score: [(r) => r.score ?? -1e300, true], score_up: [(r) => r.score ?? 1e300, false],
    density: [(r) => r.density ?? -1e300, true], density_up: [(r) => r.density ?? 1e300, false],
  };
  const STATES = {
    explained: [(r) => r.explanation !== null && r.explanation !== "***", "explained"],
    scored: [(r) => r.score !== null, "scored"],
    above_chance: [(r) => r.chance !== null && r.low !== null && r.low > r.chance, "above chance"],
    beyond_lookup: [(r) => r.beyond === 1, "above the token table"],
    with_effect: [(r) => r.effect === 1, "shown to do something"],
    unexplained: [(r) => r.explanation === null || r.explanation === "***", "not explained"],
    hidden: [(r) => r.explanation === "***", "masked"],
  };
  const NAMES = ["sae", "index", "layer", "explanation", "tags", "score", "low", "high", "chance", "lookup", "beyond", "density", "mask", "tops", "effect"];
  const asked = new URLSearchParams(location.search);
  const query = Object.fromEntries(["q", "domain", "sae", "layer", "least", "state", "sort", "after", "before"].map((k) => [k, asked.get(k) || ""]));
  // As `safesail.view.text.visible` has it on the server.
  const plain = (s) => s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu,
    (c) => { const code = c.codePointAt(0); return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`; });
  const figure = (v, d = 2) => (v && Math.abs(v) < 10 ** -d ? v.toExponential(1) : v.toFixed(d)).replace("-", "−");
  const count = (n) => n.toLocaleString("en");

  function make(tag, given = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function shape(tag, given, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function axis(row) {  // `score_axis(..., small=True)` of charts.py
    const x = (v) => 7 + (Math.min(1, Math.max(-0.2, v)) + 0.2) / 1.2 * 134;
    const line = (x1, y1, x2, y2, kind) => shape("line", { class: kind, x1, y1, x2, y2 });
    const words = `score ${figure(row.score, 3)}` + (row.low === null ? "" : `, interval ${figure(row.low, 3)} to ${figure(row.high, 3)}`);
    const svg = shape("svg", { class: "score small", viewBox: "0 0 148 18", width: 148, height: 18, role: "img", "aria-label": words }, line(7, 9, 141, 9, "axis"));
    for (const at of [0, 0.5, 1]) svg.append(line(x(at), 7, x(at), 11, at ? "axis" : "axis zero"));
    if (row.chance !== null) svg.append(line(x(row.chance), 4, x(row.chance), 14, "chance"));
    if (row.lookup !== null) svg.append(shape("path", { class: "lookup", d: `M${x(row.lookup)} 2.25l3.5 -3.5h-7z M${x(row.lookup)} 4v10` }));
    if (row.low !== null) svg.append(line(x(row.low), 9, x(row.high), 9, "interval"));
    svg.append(shape("circle", { class: "point", cx: x(row.score), cy: 9, r: 3.5 }));
    return svg;
  }

  function line(row, data) {
    const link = make("a", { href: `${data.folders[row.sae]}/${row.index}.html` },
      make("span", { class: "sae" }, plain(data.saes[row.sae])), make("span", { class: "index" }, `#${row.index}`));
    const id = make("td", { class: "id" }, link);
    if (row.layer !== null) id.append(make("span", { class: "sub" }, `layer ${row.layer}`));
    const text = make("td", { class: "text", dir: "auto" });
    if (row.explanation === "***") text.append(make("span", { class: "none" }, "masked"));
    else if (row.explanation) text.append(make("p", { class: "clamp" }, plain(row.explanation)));
    else text.append(make("span", { class: "none" }, row.tops.length ? `not explained; fires on ${plain(row.tops.join(" "))}` : "not explained"));
    if (row.tags.length) text.append(make("ul", { class: "tags", "aria-label": "Tags" }, ...row.tags.map((t) => make("li", {}, plain(t)))));
    const score = make("td", { class: "figure" });
    if (row.score === null) score.append(make("span", { class: "none" }, "–"));
    else {
      score.append(axis(row), make("span", { class: "number" }, figure(row.score)));
      if (row.low !== null) score.append(" ", make("span", { class: "sub" }, `${figure(row.low)} to ${figure(row.high)}`));
    }
    const density = row.density === null ? make("span", { class: "none" }, "–") : `${Number((100 * row.density).toPrecision(3))} %`;
    return make("tr", {}, id, text, score, make("td", { class: "figure density" }, density));
  }

  const words = (s) => s.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").match(/[\u3040-\u30ff\u3400-\u9fff]|[\p{L}\p{N}]+/gu) || [];
  const stem = (w) => (w.length > 4 ? w.replace(/(ings?|edly|ed|ers?|ies|es|s|e|y)$/, "") : w);

  function search(rows, text) {  // by words: the sum of how rare those are that stand in an explanation
    const wanted = [...new Set(words(text).map(stem))];
    const held = rows.map((row) => new Set(row.explanation && row.explanation !== "***" ? words(row.explanation).map(stem) : []));
    const rarity = wanted.map((w) => Math.log(1 + rows.length / (1 + held.filter((h) => h.has(w)).length)));
    const rank = held.map((h) => wanted.reduce((sum, w, i) => sum + (h.has(w) ? rarity[i] : 0), 0) / Math.sqrt(8 + h.size));
    return rows.map((_, i) => i).filter((i) => rank[i] > 0).sort((a, b) => rank[b] - rank[a] || a - b).slice(0, MAX_HITS).map((i) => rows[i]);
  }

  function address(changed) {
    const given = { ...query, after: "", before: "", ...changed };
    const set = Object.entries(given).filter(([, value]) => value !== "");
    return `index.html${set.length ? `?${new URLSearchParams(set)}` : ""}`;
  }

  function fits(row, data, without) {
    const bit = data.domains.indexOf(query.domain);
    return (without === "state" || !query.state || STATES[query.state]?.[0](row))
      && (without === "domain" || !query.domain || (bit >= 0 && Math.floor(row.mask / 2 ** bit) % 2 === 1))
      && (without === "layer" || !query.layer || row.layer === Number(query.layer))
      && (without === "sae" || !query.sae || data.saes[row.sae] === query.sae)
      && (without === "least" || !query.least || (row.score !== null && row.score >= Number(query.least)));
  }

  function facets(rows, data) {
    const counted = (name, pairs) => {
      const left = rows.filter((row) => fits(row, data, name));
      return pairs.map(([value, label, holds]) => [value, label, left.filter(holds).length]).filter(([value, , n]) => n || String(value) === query[name]);
    };
    const layers = [...new Set(rows.map((r) => r.layer))].filter((l) => l !== null).sort((a, b) => a - b);
    const all = [
      ["state", "State", counted("state", Object.entries(STATES).map(([key, [holds, label]]) => [key, label, holds]))],
      ["domain", "Domain", counted("domain", data.domains.map((d, bit) => [d, d, (r) => Math.floor(r.mask / 2 ** bit) % 2 === 1]))],
      ["least", "Score at least", counted("least", [1, 2, 3, 4, 5, 6, 7, 8, 9].map((t) => [t / 10, t / 10, (r) => r.score !== null && r.score >= t / 10]))],
      ["layer", "Layer", counted("layer", layers.map((l) => [l, l, (r) => r.layer === l]))],
      ["sae", "SAE", counted("sae", data.saes.map((s, i) => [s, s, (r) => r.sae === i]))],
    ];
    return all.filter(([name, , choices]) => choices.length > 1 || query[name]).map(([name, title, choices]) => {
      const items = choices.slice(0, 40).map(([value, label, n]) => {
        const chosen = String(value) === query[name];
        const link = make("a", { href: address({ [name]: chosen ? "" : String(value) }) },
          make("span", {}, plain(String(label))), make("span", { class: "n" }, count(n)));
        if (chosen) {
          link.className = "chosen";
          link.setAttribute("aria-current", "true");
          link.firstChild.append(" ", make("span", { class: "vh" }, "(chosen; remove)"));
        }
        return make("li", {}, link);
      });
      const made = make("details", {}, make("summary", {}, title), make("ul", {}, ...items));
      made.open = name === "state" || name === "domain" || query[name] !== "";
      return made;
    });
  }

  window.safesailCatalog = (data) => {
    if (!location.search) return;  // the first page stands there already
    const rows = data.rows.map((cells, n) => ({ n, ...Object.fromEntries(NAMES.map((name, i) => [name, cells[i]])) }));
    const hits = query.q.trim() ? search(rows, query.q) : null;
    const kept = (hits || rows).filter((row) => fits(row, data, ""));
    const ranked = hits !== null && (query.sort === "" || query.sort === "relevance");
    let start = 0, end = PAGE;
    if (ranked) { start = Number(query.after) || 0; end = start + PAGE; }
    else {
      const name = SORTS[query.sort] ? query.sort : data.scored ? "score" : "feature";
      const [key, falls] = SORTS[name];
      kept.sort((a, b) => (falls ? key(b) - key(a) : key(a) - key(b)) || a.n - b.n);
      const place = (query.after || query.before).split("_");
      if (place.length === 2) {
        const [at, n] = place.map(Number);
        const passed = kept.findIndex((r) => (falls ? key(r) < at : key(r) > at) || (key(r) === at && r.n > n));
        const before = passed < 0 ? kept.length : passed;
        const here = before > 0 && kept[before - 1].n === n ? before - 1 : before;
        start = query.after ? before : Math.max(0, here - PAGE);
        end = query.after ? before + PAGE : here;
      }
    }
    const page = kept.slice(start, end);
    const body = document.getElementById("rows") || document.querySelector("#results").appendChild(make("table", { class: "features" })).appendChild(make("tbody"));
    body.replaceChildren(...page.map((row) => line(row, data)));
    body.closest("table").hidden = !page.length;
    document.querySelector(".empty")?.remove();
    if (!page.length) body.closest("table").after(make("p", { class: "empty" }, "Nothing fits. Remove a filter, or search for other words."));
    const found = document.getElementById("found");
    found.replaceChildren(make("span", {}, `${count(kept.length)} feature${kept.length === 1 ? "" : "s"}`));
    if (hits) found.append(" ", make("span", { class: "sub" }, "found by words"));
    document.getElementById("facets").replaceChildren(...facets(hits || rows, data));
    const paging = document.querySelector("#results .paging");
    const written = (row) => (ranked ? "" : `${SORTS[SORTS[query.sort] ? query.sort : data.scored ? "score" : "feature"][0](row)}_${row.n}`);
    paging.replaceChildren();
    if (start > 0) paging.append(make("a", { rel: "prev", href: address(ranked ? { after: start > PAGE ? String(start - PAGE) : "" } : { before: written(page[0] || kept[start - 1]) }) }, "← Previous"));
    if (end < kept.length) paging.append(make("a", { rel: "next", href: address(ranked ? { after: String(end) } : { after: written(page.at(-1)) }) }, "Next →"));
    const form = document.querySelector("form.search");
    form.elements.q.value = query.q;
    for (const hidden of form.querySelectorAll("input[type=hidden]")) hidden.remove();
    for (const name of ["domain", "sae", "layer", "least", "state"]) if (query[name]) form.append(make("input", { type: "hidden", name, value: query[name] }));
    const sort = form.elements.sort;
    if (hits && !sort.querySelector("[value=relevance]")) sort.prepend(make("option", { value: "relevance" }, "best match"));
    sort.value = query.sort || (hits ? "relevance" : data.scored ? "score" : "feature");
  };
})();
