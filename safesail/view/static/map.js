// The map: points on a canvas, moved by pointer or keys; explanations come in chunks when they are needed.
"use strict";
(() => {
  const canvas = document.getElementById("map");
  if (!canvas) return;
  const box = canvas.parentElement;
  const tip = document.getElementById("tip");
  const exported = box.dataset.exported === "1";
  const context = canvas.getContext("2d");
  const OKABE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6761d", "#66a61e", "#1b9e77", "#7570b3", "#e7298a"];
  const NONE = "#8b8d94";
  const MAX_PICKED = 60;

  let data = null;
  let view = { x: 0.5, y: 0.5, scale: 1 };
  let colours = [];       // of each point, an index into palette
  let palette = [];
  let order = [];         // points by colour, so that a colour is set once
  let lit = null;         // points that are highlighted, or null
  let grid = null;        // points by cell, for the nearest to a pointer
  let lasso = null;
  let drawing = false;
  let hovered = -1;
  const GRID = 128;
  const frames = [];
  const texts = new Map();
  const waiting = new Map();

  const bytes = (packed) => Uint8Array.from(atob(packed), (c) => c.charCodeAt(0)).buffer;

  window.safesailPoints = (given) => {
    data = {
      n: given.n, chunk: given.chunk, saes: given.saes, domains: given.domains,
      xy: new Uint16Array(bytes(given.xy)), index: new Uint32Array(bytes(given.index)),
      sae: new Uint16Array(bytes(given.sae)), layer: new Int16Array(bytes(given.layer)),
      domain: new Uint8Array(bytes(given.domain)), score: new Uint8Array(bytes(given.score)),
    };
    grid = Array.from({ length: GRID * GRID }, () => []);
    for (let i = 0; i < data.n; i += 1) grid[cell(data.xy[2 * i] / 65535, data.xy[2 * i + 1] / 65535)].push(i);
    colour();
  };
  window.safesailTexts = (chunk, said) => {
    texts.set(chunk, said);
    for (const done of waiting.get(chunk) || []) done();
    waiting.delete(chunk);
  };

  function text(i) {
    const chunk = Math.floor(i / data.chunk);
    const said = () => texts.get(chunk)[i % data.chunk];
    if (texts.has(chunk)) return Promise.resolve(said());
    return new Promise((resolve) => {
      if (!waiting.has(chunk)) {
        waiting.set(chunk, []);
        const script = document.createElement("script");
        script.src = `${box.dataset.texts}${chunk}.js`;
        document.head.append(script);
      }
      waiting.get(chunk).push(() => resolve(said()));
    });
  }

  const cell = (x, y) => Math.min(GRID - 1, Math.floor(x * GRID)) + GRID * Math.min(GRID - 1, Math.floor(y * GRID));
  const name = (i) => `${data.saes[data.sae[i]]}#${data.index[i]}`;

  function scale(share) {  // cividis, by five of its colours
    const stops = [[0, 34, 78], [68, 78, 107], [125, 124, 120], [187, 172, 105], [254, 232, 56]];
    const at = Math.min(3.999, Math.max(0, share * 4));
    const low = stops[Math.floor(at)], high = stops[Math.floor(at) + 1];
    return `rgb(${low.map((v, c) => Math.round(v + (high[c] - v) * (at % 1))).join(",")})`;
  }

  function colour() {
    const by = document.getElementById("colour").value;
    const legend = [];
    colours = new Uint8Array(data.n);
    if (by === "score") {
      palette = [NONE, ...Array.from({ length: 12 }, (_, i) => scale(i / 11))];
      for (let i = 0; i < data.n; i += 1) colours[i] = data.score[i] ? 1 + Math.min(11, Math.floor((data.score[i] - 1) / 254 * 12)) : 0;
      legend.push([palette[1], "−0.2"], [palette[6], "0.3"], [palette[12], "1"], [NONE, "no score"]);
    } else if (by === "layer") {
      const layers = [...new Set(data.layer)].filter((l) => l >= 0).sort((a, b) => a - b);
      palette = [NONE, ...layers.map((_, i) => scale(layers.length > 1 ? i / (layers.length - 1) : 0.5))].slice(0, 255);
      const at = new Map(layers.map((l, i) => [l, Math.min(254, i + 1)]));
      for (let i = 0; i < data.n; i += 1) colours[i] = at.get(data.layer[i]) || 0;
      const some = layers.length <= 12 ? layers : layers.filter((_, i) => i % Math.ceil(layers.length / 10) === 0);
      for (const l of some) legend.push([palette[at.get(l)], `layer ${l}`]);
    } else {
      const shown = data.domains.slice(0, OKABE.length);
      palette = [NONE, ...OKABE];
      for (let i = 0; i < data.n; i += 1) colours[i] = data.domain[i] < shown.length ? data.domain[i] + 1 : 0;
      shown.forEach((d, i) => legend.push([OKABE[i], d]));
      legend.push([NONE, data.domains.length > shown.length ? "another, or no domain" : "no domain"]);
    }
    order = Array.from({ length: data.n }, (_, i) => i).sort((a, b) => colours[a] - colours[b]);
    const list = document.getElementById("maplegend");
    list.replaceChildren(...legend.map(([fill, label]) => {
      const item = document.createElement("li");
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      svg.setAttribute("viewBox", "0 0 12 12");
      svg.setAttribute("aria-hidden", "true");
      for (const [key, value] of [["cx", 6], ["cy", 6], ["r", 5], ["fill", fill]]) dot.setAttribute(key, value);
      svg.append(dot);
      item.append(svg, label);
      return item;
    }));
    draw();
  }

  function fit() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    draw();
  }
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const zoom = () => 0.94 * view.scale;
  const toScreen = (x, y) => { const [w, h] = size(); return [(x - view.x) * w * zoom() + w / 2, (y - view.y) * h * zoom() + h / 2]; };
  const toMap = (px, py) => { const [w, h] = size(); return [(px - w / 2) / (w * zoom()) + view.x, (py - h / 2) / (h * zoom()) + view.y]; };

  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; if (data) paint(); });
  }

  function paint() {
    const began = performance.now();
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = size();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, w, h);
    // Fewer points are larger; far more than these would be one blot, and circles take time.
    const r = Math.min(7, Math.max(0.7, Math.min(5, 150 / Math.sqrt(data.n))) * Math.min(3, Math.sqrt(view.scale)));
    const round = data.n <= 20000;
    const z = zoom(), ox = w / 2 - view.x * w * z, oy = h / 2 - view.y * h * z;
    const kx = w * z / 65535, ky = h * z / 65535;
    let current = -1;
    context.globalAlpha = lit ? 0.22 : 0.85;
    if (!round) squares(kx * ratio, ky * ratio, ox * ratio, oy * ratio, Math.max(1, Math.round(2 * r * ratio)));
    for (let k = 0; round && k < order.length; k += 1) {
      const i = order[k];
      const x = data.xy[2 * i] * kx + ox, y = data.xy[2 * i + 1] * ky + oy;
      if (x < -r || y < -r || x > w + r || y > h + r) continue;
      if (colours[i] !== current) { current = colours[i]; context.fillStyle = palette[current]; }
      context.beginPath();
      context.arc(x, y, r, 0, 6.3);
      context.fill();
    }
    context.globalAlpha = 1;
    const ink = getComputedStyle(document.documentElement).color;
    context.strokeStyle = ink;
    context.lineWidth = 1.2;
    for (const i of lit || []) ring(i, kx, ky, ox, oy, r + 1.5, true);
    if (hovered >= 0) ring(hovered, kx, ky, ox, oy, r + 4, false);
    if (lasso && lasso.length > 1) {
      context.beginPath();
      lasso.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.stroke();
    }
    frames.push(performance.now() - began);
    if (frames.length > 240) frames.shift();
  }
  // So many points are written pixel by pixel: a call for each takes a hundred times longer without a GPU.
  function squares(kx, ky, ox, oy, side) {
    const { width, height } = canvas;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const alpha = (lit ? 60 : 225) << 24;
    const paints = palette.map((colour) => {
      const [r, g, b] = colour[0] === "#" ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) : colour.match(/\d+/g).map(Number);
      return (alpha | (b << 16) | (g << 8) | r) >>> 0;
    });
    for (let k = 0; k < order.length; k += 1) {
      const i = order[k];
      const x = Math.round(data.xy[2 * i] * kx + ox), y = Math.round(data.xy[2 * i + 1] * ky + oy);
      if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
      const paint = paints[colours[i]];
      for (let row = y * width + x, last = row + side * width; row < last; row += width) pixels.fill(paint, row, row + side);
    }
    context.putImageData(image, 0, 0);
  }
  function ring(i, kx, ky, ox, oy, r, filled) {
    const x = data.xy[2 * i] * kx + ox, y = data.xy[2 * i + 1] * ky + oy;
    context.beginPath();
    context.arc(x, y, r, 0, 7);
    if (filled) { context.fillStyle = palette[colours[i]]; context.fill(); }
    context.stroke();
  }
  // For measurements: milliseconds of the last frames' drawing.
  window.safesailFrames = frames;

  function nearest(px, py) {
    const [mx, my] = toMap(px, py);
    const [w, h] = size();
    const reach = 12;
    const dx = reach / (w * zoom()), dy = reach / (h * zoom());
    let best = -1, least = reach * reach;
    const from = (v) => Math.max(0, Math.floor(v * GRID)), to = (v) => Math.min(GRID - 1, Math.floor(v * GRID));
    for (let gx = from(mx - dx); gx <= to(mx + dx); gx += 1) {
      for (let gy = from(my - dy); gy <= to(my + dy); gy += 1) {
        for (const i of grid[gx + GRID * gy]) {
          const [x, y] = toScreen(data.xy[2 * i] / 65535, data.xy[2 * i + 1] / 65535);
          const d = (x - px) ** 2 + (y - py) ** 2;
          if (d < least) { least = d; best = i; }
        }
      }
    }
    return best;
  }

  async function hover(i, px, py) {
    hovered = i;
    draw();
    if (i < 0) { tip.hidden = true; return; }
    const said = await text(i);
    if (hovered !== i) return;
    const head = document.createElement("b");
    head.textContent = name(i);
    const body = document.createElement("div");
    body.dir = "auto";
    body.textContent = plain(said);
    tip.replaceChildren(head, body);
    tip.hidden = false;
    const [w, h] = size();
    // Placed through the object model, which the page's policy allows, unlike a style attribute.
    tip.style.left = `${Math.max(0, Math.min(px + 14, w - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, Math.min(py + 14, h - tip.offsetHeight - 4))}px`;
  }

  // As `safesail.view.text.visible` has it on the server.
  const plain = (s) => s.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu,
    (c) => { const code = c.codePointAt(0); return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`; });

  // In an export features lie in folders by their SAE's number; a server takes a name.
  function address(i) {
    const sae = data.saes[data.sae[i]];
    return exported ? `${(JSON.parse(box.dataset.feature))[data.sae[i]]}/${data.index[i]}.html`
      : `${box.dataset.feature}?sae=${encodeURIComponent(sae)}&index=${data.index[i]}`;
  }

  async function pick(points, what) {
    lit = points.length ? points : null;
    draw();
    document.getElementById("pickedn").textContent = `${points.length.toLocaleString("en")} ${what}`
      + (points.length > MAX_PICKED ? `; the first ${MAX_PICKED} are listed` : "");
    const items = await Promise.all(points.slice(0, MAX_PICKED).map(async (i) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = address(i);
      const index = document.createElement("span");
      index.className = "index";
      index.textContent = name(i);
      const said = document.createElement("span");
      said.className = "clamp";
      said.dir = "auto";
      said.textContent = plain(await text(i));
      link.append(index, " ", said);
      item.append(link);
      return item;
    }));
    document.getElementById("pickedlist").replaceChildren(...items);
  }

  function inView() {
    const [x0, y0] = toMap(0, 0), [x1, y1] = toMap(...size());
    const seen = [];
    for (let i = 0; i < data.n; i += 1) {
      const x = data.xy[2 * i] / 65535, y = data.xy[2 * i + 1] / 65535;
      if (x >= x0 && x <= x1 && y >= y0 && y <= y1) seen.push(i);
    }
    return seen;
  }

  function inside(x, y, ring) {
    let odd = false;
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i, i += 1) {
      const [xi, yi] = ring[i], [xj, yj] = ring[j];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
    }
    return odd;
  }

  function lassoed() {
    const ring = lasso.map(([x, y]) => toMap(x, y));
    const found = [];
    for (let i = 0; i < data.n; i += 1) if (inside(data.xy[2 * i] / 65535, data.xy[2 * i + 1] / 65535, ring)) found.push(i);
    return found;
  }

  function zoomAt(px, py, factor) {
    const [mx, my] = toMap(px, py);
    view.scale = Math.min(200, Math.max(0.8, view.scale * factor));
    const [nx, ny] = toMap(px, py);
    view.x += mx - nx;
    view.y += my - ny;
    draw();
  }

  const lassoButton = document.getElementById("lasso");
  const wantsLasso = (event) => event.shiftKey || lassoButton.getAttribute("aria-pressed") === "true";
  lassoButton.addEventListener("click", () => {
    const on = lassoButton.getAttribute("aria-pressed") !== "true";
    lassoButton.setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("lassoing", on);
  });
  document.getElementById("reset").addEventListener("click", () => { view = { x: 0.5, y: 0.5, scale: 1 }; pick([], "picked"); });
  document.getElementById("colour").addEventListener("change", colour);

  let down = null;
  const at = (event) => { const b = canvas.getBoundingClientRect(); return [event.clientX - b.left, event.clientY - b.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    if (!data) return;
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = at(event);
    down = { x, y, moved: false, view: { ...view } };
    if (wantsLasso(event)) lasso = [[x, y]];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!data) return;
    const [x, y] = at(event);
    if (!down) { hover(nearest(x, y), x, y); return; }
    if (Math.abs(x - down.x) + Math.abs(y - down.y) > 4) down.moved = true;
    if (lasso) lasso.push([x, y]);
    else {
      const [w, h] = size();
      view.x = down.view.x - (x - down.x) / (w * zoom());
      view.y = down.view.y - (y - down.y) / (h * zoom());
    }
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!down) return;
    const [x, y] = at(event);
    if (lasso) { const found = lassoed(); lasso = null; pick(found, "in the lasso"); }
    else if (!down.moved) { const i = nearest(x, y); if (i >= 0) location.href = address(i); }
    down = null;
  });
  canvas.addEventListener("pointerleave", () => { if (data && !down) hover(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!data) return;
    event.preventDefault();
    zoomAt(...at(event), Math.exp(-event.deltaY * 0.0015));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!data) return;
    const [w, h] = size();
    const step = 0.12 / view.scale;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); }
    else if (event.key === "+" || event.key === "=") zoomAt(w / 2, h / 2, 1.4);
    else if (event.key === "-") zoomAt(w / 2, h / 2, 1 / 1.4);
    else if (event.key === "Enter") pick(inView(), "in view");
    else if (event.key === "Escape") pick([], "picked");
    else return;
    event.preventDefault();
  });

  document.getElementById("mapsearch").addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = document.getElementById("mapq").value.trim();
    if (!asked || !data) { pick([], "picked"); return; }
    let found;
    if (exported) {
      const words = asked.toLowerCase().split(/\s+/);
      const all = await Promise.all(Array.from({ length: data.n }, (_, i) => text(i)));
      found = all.flatMap((said, i) => (words.every((word) => said.toLowerCase().includes(word)) ? [i] : []));
    } else {
      const answer = await fetch(`/map/hits?q=${encodeURIComponent(asked)}`);
      found = answer.ok ? await answer.json() : [];
    }
    pick(found, `found for “${asked}”`);
  });

  document.addEventListener("themed", draw);
  new ResizeObserver(fit).observe(canvas);
})();
