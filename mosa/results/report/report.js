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

// Black and dark grey are methods' colours on paper; on a dark page they are their opposites.
function colorOf(method, theme) {
  const { color } = data.styles[method];
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

const errorBars = (array) => ({ type: "data", array, visible: array.some((value) => value !== null), thickness: 1 });

const scoreOf = ({ decimals, unit }) => `%{y:.${decimals}f} ${unit}`.trim();

function drawScaling(div) {
  const theme = colors();
  const section = data.sections.find(({ id }) => id === div.dataset.section);
  const select = document.querySelector(`select[data-section="${CSS.escape(section.id)}"]`);
  const axis = select.value;
  const placed = section.points.filter((point) => point[axis] > 0);
  const range = placed.map((point) => point[axis]);
  const methods = [...new Set(section.points.map(({ method }) => method))];
  const traces = methods.map((method) => {
    const points = placed.filter((point) => point.method === method).sort((a, b) => a[axis] - b[axis]);
    const { symbol, dash } = data.styles[method];
    const color = colorOf(method, theme);
    const [point] = section.points.filter((other) => other.method === method);
    if (!points.length) { // nothing tuned: a level
      return {
        name: method, mode: "lines", line: { color, dash }, x: [Math.min(...range), Math.max(...range)], y: [point.mean, point.mean],
        hovertemplate: `${escapeText(point.variant)}: ${scoreOf(section)}<extra></extra>`,
      };
    }
    return {
      name: method, mode: "lines+markers", line: { color, dash, width: 1.5 }, marker: { color, symbol, size: 9 },
      x: points.map((p) => p[axis]), y: points.map((p) => p.mean), text: points.map((p) => escapeText(p.variant)),
      error_y: { ...errorBars(points.map((p) => p.sd)), color },
      hovertemplate: "<b>%{text}</b><br>" + scoreOf(section) + ", %{x:.4s} " + escapeText(select.selectedOptions[0].text) + "<extra></extra>",
    };
  });
  Plotly.react(div, traces, layout(theme, {
    xaxis: { type: "log", title: { text: select.selectedOptions[0].text }, exponentformat: "SI" },
    yaxis: { title: { text: section.mean_label } },
  }), wide);
}

function drawBars(div) {
  const theme = colors();
  const section = data.sections.find(({ id }) => id === div.dataset.section);
  const count = section.bars.length;
  const traces = section.bars.map((bar, index) => ({
    name: escapeText(bar.variant), mode: "markers", marker: { color: colorOf(bar.method, theme), symbol: data.styles[bar.method].symbol, size: 9 },
    x: bar.x.map((_, place) => place + 0.6 * ((index + 0.5) / count - 0.5)), y: bar.y, text: bar.x.map(escapeText),
    error_y: { ...errorBars(bar.sd), color: colorOf(bar.method, theme) },
    hovertemplate: `<b>${escapeText(bar.variant)}</b>, %{text}<br>${scoreOf(section)}<extra></extra>`,
  }));
  const names = section.bars[0].x;
  Plotly.react(div, traces, layout(theme, {
    xaxis: { tickvals: names.map((_, place) => place), ticktext: names.map(escapeText), showgrid: false },
    yaxis: { title: { text: section.label } },
  }), wide);
}

function drawTrials(div) {
  const theme = colors();
  const searches = data.choices.filter(({ x }) => x.length);
  const traces = searches.map(({ name, method, x, y, chosen, key }) => ({
    name: escapeText(name), mode: "lines+markers", x, y, line: { color: colorOf(method, theme), dash: data.styles[method].dash },
    marker: { symbol: data.styles[method].symbol, size: x.map((value) => (value === chosen ? 14 : 7)) },
    hovertemplate: `<b>${escapeText(name)}</b><br>${escapeText(key)} %{x}: ${scoreOf(data.tuned_by)}<extra></extra>`,
  }));
  const keys = [...new Set(searches.map(({ key }) => key))];
  Plotly.react(div, traces, layout(theme, {
    xaxis: { type: searches.every(({ x }) => Math.min(...x) > 0) ? "log" : "linear", title: { text: escapeText(keys.join(", ")) } },
    yaxis: { title: { text: `${data.tuned_by.label} on val; large: chosen` } },
  }), wide);
}

// Plotly reads a few tags in labels; a name is only text.
function escapeText(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "% {");
}

function drawAll() {
  document.querySelectorAll(".scaling").forEach(drawScaling);
  document.querySelectorAll(".bars").forEach(drawBars);
  document.querySelectorAll(".trials").forEach(drawTrials);
}

for (const select of document.querySelectorAll("select.axis")) {
  const section = data.sections.find(({ id }) => id === select.dataset.section);
  for (const option of [...select.options]) {
    if (!section.points.some((point) => point[option.value] > 0)) option.remove();
  }
  select.addEventListener("change", () => drawScaling(document.querySelector(`.scaling[data-section="${CSS.escape(section.id)}"]`)));
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
