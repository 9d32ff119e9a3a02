// Charts as SVG: points and lines over an axis of numbers, logarithms or names, drawn when they come into view.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const FONT = 12;
const INK = "var(--ink)";
const DASHES = { "--": "6 4", "-": "", ":": "2 3", "-.": "7 3 2 3" };
// Corners and first angle of matplotlib's markers (mosa/results/style.py).
const POLYGONS = { s: [4, 45], D: [4, 0], "^": [3, -90], v: [3, 90], "<": [3, 180], ">": [3, 0], p: [5, -90], h: [6, -90] };

function element(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const pen = document.createElement("canvas").getContext("2d");
function textWidth(text, size = FONT) {
  pen.font = `${size}px system-ui, sans-serif`;
  return pen.measureText(text).width;
}

function markerPath(marker, radius) {
  const at = (angle, far) => `${(far * Math.cos((angle * Math.PI) / 180)).toFixed(2)},${(far * Math.sin((angle * Math.PI) / 180)).toFixed(2)}`;
  const around = (corners, first, far) => Array.from({ length: corners }, (_, k) => at(first + (360 * k) / corners, far(k)));
  if (marker === "o") return `M${-radius},0a${radius},${radius} 0 1 0 ${2 * radius},0a${radius},${radius} 0 1 0 ${-2 * radius},0Z`;
  if (marker === "*") return `M${around(10, -90, (k) => radius * (k % 2 ? 0.5 : 1.3)).join("L")}Z`;
  if (marker in POLYGONS) return `M${around(...POLYGONS[marker], () => radius * 1.2).join("L")}Z`;
  const [a, b] = [radius * 1.25, radius * 0.42]; // a cross, upright (P) or on its side (x, X)
  const corners = [[b, a], [b, b], [a, b], [a, -b], [b, -b], [b, -a], [-b, -a], [-b, -b], [-a, -b], [-a, b], [-b, b], [-b, a]];
  const turn = marker === "P" ? (x, y) => [x, y] : (x, y) => [(x - y) * 0.7, (x + y) * 0.7];
  return `M${corners.map(([x, y]) => turn(x, y).map((part) => part.toFixed(2)).join(",")).join("L")}Z`;
}

// --- axes

function tickText(value) {
  const size = Math.abs(value);
  for (const [limit, suffix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= limit) return `${Number((value / limit).toPrecision(4))}${suffix}`;
  return `${Number(value.toPrecision(4))}`;
}

function linearTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

// Every tick of a logarithmic axis has its whole number beside it; as many as have place.
function logTicks(low, high, most) {
  for (const factors of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      ticks.push(...factors.map((factor) => Number(`${factor}e${power}`)).filter((tick) => tick >= low * 0.999 && tick <= high * 1.001));
    if (ticks.length <= most || factors.length === 1) return ticks;
  }
  return [];
}

function axisOf({ scale, names, least = 0, floor = -Infinity, ceiling = Infinity }, values, most) {
  if (scale === "names") return { low: -0.5, high: names.length - 0.5, ticks: names.map((_, place) => place), toLine: (v) => v, textOf: (place) => names[place] };
  const log = scale === "log";
  const to = log ? Math.log10 : (v) => v;
  const back = log ? (v) => 10 ** v : (v) => v;
  let [low, high] = values.length ? [to(Math.min(...values)), to(Math.max(...values))] : [0, 1];
  const width = Math.max(high - low, log ? 0.8 : least || 1e-9 + Math.abs(high) * 0.02);
  const middle = (low + high) / 2;
  [low, high] = [Math.max(middle - 0.57 * width, log ? -Infinity : floor), Math.min(middle + 0.57 * width, log ? Infinity : ceiling + 0.02 * width)];
  const ticks = log ? logTicks(back(low), back(high), most) : linearTicks(low, high, most);
  return { low, high, ticks, toLine: to, textOf: tickText };
}

// --- drawing

const SPACE = { top: 8, right: 14, bottom: 44 };

// Whether names stand beside each other; else they are turned.
const isCrowded = ({ scale, names }, width) => scale === "names" && Math.max(...names.map((name) => textWidth(name))) > width / names.length - 6;

function drawChart(host, chart) {
  host.chart = chart;
  host.hidden_ ??= new Set();
  const width = Math.max(280, Math.round(host.clientWidth) || 560);
  const crowded = isCrowded(chart.x, width - 70);
  const below = SPACE.bottom + (crowded ? Math.max(...chart.x.names.map((name) => textWidth(name, 11))) * 0.64 : 0);
  const height = (width < 480 ? 256 : 296) + below;
  const series = chart.series.filter(({ label }) => !host.hidden_.has(label));
  const points = series.flatMap((one) => one.points.filter((point) => isKnown(point.x) && isKnown(point.y)));
  const levels = series.map(({ level }) => level).filter(isKnown);
  const [least, most] = chart.y.marksFar ? shownRange([...points.map((p) => p.y), ...levels], chart.y.unit) : [-Infinity, Infinity];
  const isFar = (value) => value < least || value > most;
  const heights = points.filter((p) => !isFar(p.y)).flatMap((p) => [p.y, p.low, p.high].filter(isKnown)).concat(levels.filter((level) => !isFar(level)));
  const y = axisOf(chart.y, heights, (height - below) / 42);
  const labels = y.ticks.map(y.textOf);
  const left = Math.max(...labels.map((label) => textWidth(label)), 10) + 30;
  const plot = { left, right: width - SPACE.right, top: SPACE.top, bottom: height - below };
  const x = axisOf(chart.x, points.map((p) => p.x), (plot.right - plot.left) / 62);
  const px = (value) => plot.left + ((x.toLine(value) - x.low) / (x.high - x.low)) * (plot.right - plot.left);
  const py = (value) => plot.bottom - ((y.toLine(value) - y.low) / (y.high - y.low)) * (plot.bottom - plot.top);

  const body = element("g", { class: "body" });
  const legend = drawLegend(host, chart, width, height);
  const svg = element("svg", {
    viewBox: `0 0 ${width} ${height + legend.height}`, width: "100%", "font-family": "system-ui, sans-serif", "font-size": FONT,
    role: "group", "aria-roledescription": "chart", "aria-label": `${host.dataset.label ?? ""} Arrow keys go from point to point.`, tabindex: 0, fill: INK, class: "chart",
  });
  svg.append(drawAxes(chart, { x, y, px, py, plot, labels, crowded, height }), body, legend.group);
  if (!points.length && !levels.length)
    body.append(element("text", { x: (plot.left + plot.right) / 2, y: (plot.top + plot.bottom) / 2, "text-anchor": "middle", fill: "var(--quiet)" }, chart.empty ?? "nothing to draw"));
  const front = (chart.front ?? []).filter(({ label }) => !host.hidden_.has(label));
  if (front.length) body.append(frontLine(front, px, py, plot));
  const marks = series.flatMap((one) => drawSeries(body, one, { px, py, plot, isFar }));
  if (front.length) nameFront(body, front, marks, plot);
  host.replaceChildren(svg, host.tip ??= tipOf(host));
  host.tip.hidden = true;
  makePointsSpeak(host, svg, marks, chart);
}

function drawAxes(chart, { x, y, px, py, plot, labels, crowded, height }) {
  const group = element("g", { class: "axes" });
  y.ticks.forEach((tick, index) => group.append(
    element("line", { x1: plot.left, x2: plot.right, y1: py(tick), y2: py(tick), stroke: "var(--line)" }),
    element("text", { x: plot.left - 6, y: py(tick) + 4, "text-anchor": "end" }, labels[index])));
  for (const tick of x.ticks) {
    const at = px(tick);
    const turned = { "text-anchor": "end", "font-size": 11, transform: `translate(${at + 4} ${plot.bottom + 13}) rotate(-40)` };
    group.append(
      element("line", { x1: at, x2: at, y1: plot.bottom, y2: plot.bottom + 4, stroke: "var(--quiet)" }),
      element("text", { class: "x-tick", ...(crowded ? turned : { "text-anchor": "middle", x: at, y: plot.bottom + 17 }) }, x.textOf(tick)));
  }
  group.append(
    element("line", { x1: plot.left, x2: plot.right, y1: plot.bottom, y2: plot.bottom, stroke: "var(--quiet)" }),
    element("text", { x: (plot.left + plot.right) / 2, y: height - 6, "text-anchor": "middle", class: "x-title" }, chart.x.label),
    element("text", { x: 0, y: 0, transform: `translate(12 ${(plot.top + plot.bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "y-title" }, chart.y.label));
  return group;
}

const markOf = (one, radius = 4.6) => ({
  d: markerPath(one.marker, radius), fill: one.open ? "var(--paper)" : one.color, stroke: one.open ? one.color : "var(--paper)", "stroke-width": one.open ? 1.6 : 0.8,
});

const NOTHING = "†";

// A point that lies far off all others: at the edge, with its value.
function farMark(body, one, point, cx, edge, up) {
  body.append(element("text", { x: cx, y: edge + (up ? 20 : -10), "text-anchor": "middle", "font-size": 11, class: "far", fill: one.color }, `${Number(point.y.toPrecision(3))}${point.nothing ? ` ${NOTHING}` : ""}`));
  return element("path", { d: up ? "M0,0L-5,9H5Z" : "M0,0L-5,-9H5Z", fill: one.color });
}

function drawSeries(body, one, { px, py, plot, isFar }) {
  const group = element("g", { class: "series", "data-series": one.label });
  const points = one.points.filter((point) => isKnown(point.x) && isKnown(point.y));
  if (isKnown(one.level) && !isFar(one.level)) group.append(element("line", {
    x1: plot.left, x2: plot.right, y1: py(one.level), y2: py(one.level), stroke: one.color, "stroke-dasharray": DASHES[one.dash] ?? "", class: "level" }));
  const near = points.filter((point) => !isFar(point.y));
  if (one.joined && near.length > 1) group.append(element("polyline", {
    points: near.map((p) => `${px(p.x).toFixed(1)},${py(p.y).toFixed(1)}`).join(" "), fill: "none", stroke: one.color, "stroke-width": 1.6, "stroke-dasharray": DASHES[one.dash] ?? "" }));
  const marks = points.map((point) => {
    const far = isFar(point.y);
    const up = far && py(point.y) < plot.top;
    const [cx, cy] = [px(point.x) + (point.shift ?? 0), far ? (up ? plot.top : plot.bottom) : py(point.y)];
    if (isKnown(point.low) && !far) group.append(element("path", {
      d: `M${cx - 3},${py(point.low)}h6m-3,0V${py(point.high)}m-3,0h6`, stroke: one.color, fill: "none", class: "bar" }));
    const mark = far ? farMark(group, one, point, cx, cy, up) : element("path", markOf(one, point.marked ? 7 : one.small ? 2.6 : 4.6));
    for (const [key, value] of Object.entries({ transform: `translate(${cx.toFixed(1)} ${cy.toFixed(1)})`, class: "point", "data-x": point.x, "data-y": point.y, "data-name": point.name })) mark.setAttribute(key, value);
    if (point.nothing && !far) group.append(element("text", { x: cx + 6, y: cy - 5, "font-size": 11, class: "nothing" }, NOTHING));
    group.append(mark);
    return { mark, point, cx, cy };
  });
  body.append(group);
  return marks;
}

function frontLine(front, px, py, plot) {
  const sorted = [...front].sort((a, b) => a.x - b.x);
  let d = "";
  sorted.forEach((point, index) => { d += `${index ? `H${px(point.x)}V` : `M${px(point.x)},`}${py(point.y)}`; });
  return element("path", { d: `${d}H${plot.right}`, fill: "none", stroke: "var(--quiet)", "stroke-width": 3, opacity: 0.3, "stroke-linejoin": "round", class: "front" });
}

// The names of the front's points, where they hide nothing.
function nameFront(body, front, marks, plot) {
  const boxes = marks.map(({ cx, cy }) => [cx - 7, cy - 7, cx + 7, cy + 7]);
  for (const { name } of front) {
    const found = marks.find(({ point }) => point.name === name);
    if (!found) continue;
    const width = textWidth(name, 11);
    const { cx, cy } = found;
    const places = [[cx - width - 9, cy - 6], [cx + 9, cy - 6], [cx + 9, cy + 14], [cx - width - 9, cy + 14], [cx - width / 2, cy - 12]];
    const free = places.map(([x, y]) => [x, y - 10, x + width, y + 2]).find((box) =>
      box[0] >= plot.left && box[2] <= plot.right && box[1] >= plot.top && box[3] <= plot.bottom
      && !boxes.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]));
    if (!free) continue;
    boxes.push(free);
    body.append(element("text", { x: free[0], y: free[3] - 2, "font-size": 11, class: "point-name" }, name));
  }
}

// Each name of the legend hides and shows its series.
function drawLegend(host, chart, width, top) {
  const group = element("g", { class: "legend" });
  let [x, y] = [14, top + 14];
  if (chart.series.length > 1 || chart.series[0]?.points.length > 1) for (const one of chart.series) {
    const lines = one.label.split("\n");
    const wide = textWidth(lines.join(", ")) + 32;
    if (x + wide > width && x > 14) [x, y] = [14, y + 18];
    const off = host.hidden_.has(one.label);
    const text = element("text", { x: x + 28, y: y + 4 }, lines.join(", "));
    const entry = element("g", { class: "entry", role: "button", tabindex: 0, "aria-pressed": String(!off), opacity: off ? 0.4 : 1, "data-label": one.label },
      element("rect", { x: x - 2, y: y - 9, width: textWidth(lines.join(", ")) + 34, height: 18, fill: "transparent" }),
      ...(one.joined || isKnown(one.level) ? [element("line", { x1: x, x2: x + 22, y1: y, y2: y, stroke: one.color, "stroke-width": 1.6, "stroke-dasharray": DASHES[one.dash] ?? "" })] : []),
      ...(one.points.length || !isKnown(one.level) ? [element("path", { ...markOf(one), transform: `translate(${x + 11} ${y})` })] : []), text);
    group.append(entry);
    x += textWidth(lines.join(", ")) + 46;
  }
  return { group, height: group.childNodes.length ? y - top + 14 : 0 };
}

function tipOf(host) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  host.addEventListener("click", ({ target }) => toggleSeries(host, target.closest?.(".entry")));
  host.addEventListener("keydown", (event) => {
    const entry = event.target.closest?.(".entry");
    if (!entry || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    toggleSeries(host, entry);
    [...host.querySelectorAll(".entry")].find((one) => one.dataset.label === entry.dataset.label)?.focus();
  });
  return tip;
}

function toggleSeries(host, entry) {
  if (!entry) return;
  const { label } = entry.dataset;
  if (!host.hidden_.delete(label)) host.hidden_.add(label);
  drawChart(host, host.chart);
}

// A point tells what it is to the mouse, a finger, and the arrow keys.
function makePointsSpeak(host, svg, marks, chart) {
  let current = -1;
  const tell = (index) => {
    marks[current]?.mark.classList.remove("current");
    current = index;
    if (index < 0) return void (host.tip.hidden = true);
    const { mark, point, cx, cy } = marks[index];
    mark.classList.add("current");
    host.tip.replaceChildren(...[point.name, point.text, point.nothing && `${NOTHING} a run of it learned nothing: it is no better than a guess`].filter(Boolean).map((text, line) => Object.assign(document.createElement(line ? "span" : "strong"), { textContent: text })));
    host.tip.hidden = false;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const place = Math.min(Math.max(0, cx * scale - host.tip.offsetWidth / 2), host.clientWidth - host.tip.offsetWidth);
    const above = cy * scale - host.tip.offsetHeight - 10;
    host.tip.style.left = `${place}px`;
    host.tip.style.top = `${above < 0 ? cy * scale + 12 : above}px`;
  };
  svg.addEventListener("pointermove", ({ clientX, clientY }) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const [x, y] = [(clientX - box.left) * scale, (clientY - box.top) * scale];
    let [best, far] = [-1, 18 ** 2];
    marks.forEach(({ cx, cy }, index) => { const d = (cx - x) ** 2 + (cy - y) ** 2; if (d < far) [best, far] = [index, d]; });
    if (best !== current) tell(best);
  });
  svg.addEventListener("pointerleave", () => tell(-1));
  svg.addEventListener("blur", () => tell(-1));
  const order = marks.map((_, index) => index).sort((a, b) => marks[a].cx - marks[b].cx || marks[a].cy - marks[b].cy);
  svg.addEventListener("keydown", (event) => {
    if (event.target !== svg) return;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") tell(-1);
    if (!step || !marks.length) return;
    event.preventDefault();
    const place = current < 0 ? (step > 0 ? 0 : marks.length - 1) : (order.indexOf(current) + step + marks.length) % marks.length;
    tell(order[place]);
  });
}

// --- drawn when they are seen, and again when their width changes

const drawers = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) { seen.unobserve(target); drawNow(target); }
}, { rootMargin: "300px" });
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.drawn && Math.abs(target.drawn - target.clientWidth) > 8) drawNow(target);
});

function drawNow(host) {
  host.drawn = host.clientWidth;
  drawChart(host, drawers.get(host)());
}

// Draw what a function returns, now if it is in view already.
function showChart(host, chartOf) {
  drawers.set(host, chartOf);
  if (host.drawn) return drawNow(host);
  seen.observe(host);
  resized.observe(host);
}

// --- to take away

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// The chart as a file of its own, on white, whatever the page's colours are.
function svgText(host) {
  const page = document.documentElement;
  const before = page.dataset.theme;
  page.dataset.theme = "light";
  const style = getComputedStyle(page);
  const copy = host.querySelector("svg.chart").cloneNode(true);
  const [, , width, height] = copy.getAttribute("viewBox").split(" ");
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.prepend(element("rect", { width, height, fill: "#fff" }));
  copy.querySelectorAll(".entry[opacity='0.4']").forEach((entry) => entry.remove());
  const text = new XMLSerializer().serializeToString(copy).replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  if (before) page.dataset.theme = before; else delete page.dataset.theme;
  return text;
}

async function savePng(host, name, scale = 3) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(host))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width * scale, image.height * scale];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => save(name, "image/png", blob));
}

const csvCell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const csvText = (rows) => `${rows.map((row) => row.map((cell) => csvCell(String(cell))).join(",")).join("\n")}\n`;
