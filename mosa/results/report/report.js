"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const wide = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };

// --- tables: sorted by the buttons in their heads, filtered by words

function keyOf(cell) {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is missing stays last
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[column];
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const other = { ascending: "descending", descending: "ascending" };
  const direction = head.hasAttribute("aria-sort") ? other[head.getAttribute("aria-sort")] : first;
  heads.forEach((cell) => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[column]), row]);
  rows.sort(([a], [b]) => (a === "" || b === "" ? compareKeys(a, b) : sign * compareKeys(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sortTable(table, column));
    cell.append(button);
  });
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(input.dataset.filters);
  const output = document.querySelector(`output[for="${CSS.escape(table.id)}"]`);
  const rows = [...table.tBodies[0].rows].map((row) => [row.textContent.toLowerCase(), row]);
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [text, row] of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    output.value = words.length ? `${shown} of ${rows.length}` : `${rows.length}`;
  };
  input.addEventListener("input", apply);
  apply();
}

// --- plots

function colors() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["paper", "ink", "quiet", "line"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Black is a method's colour on paper; on a dark page it is white.
function colorOf({ color }, theme) {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  return dark && color === "#000000" ? theme.ink : color;
}

function layout(theme, changes) {
  const axis = { gridcolor: theme.line, linecolor: theme.quiet, zeroline: false, automargin: true };
  return {
    paper_bgcolor: theme.paper, plot_bgcolor: theme.paper, margin: { l: 50, r: 10, t: 10, b: 40 },
    font: { family: "system-ui, sans-serif", size: 12, color: theme.ink },
    hoverlabel: { bgcolor: theme.paper, bordercolor: theme.quiet, font: { color: theme.ink } },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    ...changes,
    xaxis: { ...axis, ...changes.xaxis }, yaxis: { ...axis, ...changes.yaxis },
  };
}

const errorBars = (bars) => ({
  type: "data", symmetric: false, arrayminus: bars.map(([below]) => below), array: bars.map(([, above]) => above),
  visible: bars.some(([below]) => below !== null), thickness: 1,
});

// A chart is described in mosa/results/plots/chart.py; matplotlib draws the same description.
function pointsOf(chart, series, theme) {
  const { points, style, joined, variation } = series;
  const color = colorOf(style, theme);
  const { label, unit, names } = { ...chart.x, unit: chart.y.unit };
  const places = points.map(({ at }) => (names.length ? names[at] : `${Number(at.toPrecision(4)).toLocaleString("en")} ${label}`));
  return {
    name: legendOf(series), mode: joined ? "lines+markers" : "markers", legendgroup: series.label,
    line: { color, dash: data.dashes[style.dash], width: 1.5 },
    marker: { color, symbol: data.symbols[style.marker] + (variation ? "-open" : ""), size: points.map(({ marked }) => (marked ? 14 : 9)) },
    x: points.map(({ x }) => x), y: points.map(({ y }) => y),
    text: points.map(({ name, text }, index) => `<b>${escapeText(name)}</b><br>${escapeText(text)} ${unit}, ${escapeText(places[index])}`),
    error_y: { ...errorBars(points.map(({ bar }) => bar)), color },
    hovertemplate: "%{text}<extra></extra>",
  };
}

function levelOf(series, range, theme) {
  return {
    name: legendOf(series), mode: "lines", legendgroup: series.label, showlegend: !series.points.length,
    line: { color: colorOf(series.style, theme), dash: data.dashes[series.style.dash], width: 1 },
    x: range, y: range.map(() => series.level), hovertemplate: `${legendOf(series)}<extra></extra>`,
  };
}

const legendOf = ({ label }) => escapeText(label).replace(/\n/g, "<br>");

function drawChart(div, chart) {
  const theme = colors();
  const places = chart.series.flatMap(({ points }) => points.map(({ x }) => x));
  const range = places.length ? [Math.min(...places), Math.max(...places)] : [1, 10];
  const traces = chart.series.flatMap((series) => [
    ...(series.level === null ? [] : [levelOf(series, range, theme)]),
    ...(series.points.length || series.level === null ? [pointsOf(chart, series, theme)] : []),
  ]);
  div.style.height = chart.series.length > 8 ? `${24 + (chart.series.length - 8) * 1.1}rem` : "";
  const { names, scale, label } = chart.x;
  const ticks = names.length ? { tickvals: names.map((_, place) => place), ticktext: names.map(escapeText), showgrid: false } : {};
  Plotly.react(div, traces, layout(theme, {
    xaxis: { type: scale === "log" ? "log" : "linear", title: { text: escapeText(label) }, exponentformat: "SI", ...ticks },
    yaxis: { title: { text: escapeText(chart.y.label) } },
  }), wide);
}

function drawScaling(div) {
  const { costs } = data.sections[div.dataset.section];
  const select = document.querySelector(`select[data-section="${CSS.escape(div.dataset.section)}"]`);
  if (costs[select.value]) drawChart(div, costs[select.value]);
}

// Plotly reads a few tags in labels; a name is only text.
function escapeText(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "% {");
}

function drawAll() {
  document.querySelectorAll(".scaling").forEach(drawScaling);
  document.querySelectorAll(".bars").forEach((div) => drawChart(div, data.sections[div.dataset.section].bars));
  document.querySelectorAll(".trials").forEach((div) => drawChart(div, data.trials));
}

for (const select of document.querySelectorAll("select.axis")) {
  const div = document.querySelector(`.scaling[data-section="${CSS.escape(select.dataset.section)}"]`);
  select.addEventListener("change", () => drawScaling(div));
}

// --- details of a run

const dialog = document.getElementById("details");
document.addEventListener("click", ({ target }) => {
  const name = target.closest?.("button[data-run]")?.dataset.run;
  if (name) showRun(name);
});

function showRun(name) {
  const [number, losses, created, seconds, memory, rate, split] = data.runs[name];
  const shared = data.shared[number];
  const list = document.getElementById("details-list");
  const pairs = {
    record: `runs/${name}.json`, created, "evaluated on": split,
    seconds: `prepare ${seconds[0]}, train ${seconds[1]}, evaluate ${seconds[2]}`,
    "peak memory": `${memory} MiB`, throughput: `${rate} images/s`, ...shared,
  };
  list.replaceChildren();
  for (const [key, value] of Object.entries(pairs)) {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = key;
    text.textContent = typeof value === "object" ? Object.entries(value).map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", ") : value;
    list.append(term, text);
  }
  document.getElementById("details-title").textContent = name;
  dialog.showModal();
  const theme = colors();
  Plotly.react("details-plot", [{
    mode: "lines+markers", x: losses.map((_, epoch) => epoch + 1), y: losses, line: { color: theme.ink },
    hovertemplate: "epoch %{x}: %{y:.4g}<extra></extra>",
  }], layout(theme, { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "mean training loss" } } }), wide);
}

// --- light and dark

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let before;
window.addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  drawAll();
});
window.addEventListener("afterprint", () => {
  if (before) document.documentElement.dataset.theme = before;
  else delete document.documentElement.dataset.theme;
  drawAll();
});
drawAll();
