"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const MISSING = "—";
const byId = (id) => document.getElementById(id);

// Make an element; children are nodes or text, so that a name is never markup.
function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value === true ? "" : value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// Start what costs something when it comes into view, or is printed.
const waiting = new Map();
function whenSeen(node, start) {
  const once = () => { if (waiting.delete(node)) { observer.disconnect(); start(); } };
  const observer = new IntersectionObserver((entries) => { if (entries.some(({ isIntersecting }) => isIntersecting)) once(); }, { rootMargin: "400px" });
  waiting.set(node, once);
  observer.observe(node);
}

// --- tables: sorted by the buttons in their heads, filtered by words, taken away as CSV

function keyOf(text) {
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text : number;
}

const keyOfCell = (cell) => keyOf(cell.dataset.sort ?? cell.textContent.trim());

function compareKeys(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is missing stays last
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

// Mark a head as sorted by, and return 1 or -1.
function direction(head) {
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const other = { ascending: "descending", descending: "ascending" };
  const found = head.hasAttribute("aria-sort") ? other[head.getAttribute("aria-sort")] : first;
  [...head.parentElement.cells].forEach((cell) => cell.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", found);
  return found === "ascending" ? 1 : -1;
}

function sortTable(table, column) {
  const sign = direction(table.tHead.rows[0].cells[column]);
  const rows = [...table.tBodies[0].rows].map((row) => [keyOfCell(row.cells[column]), row]);
  rows.sort(([a], [b]) => compareKeys(a, b, sign));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function makeSortable(table, sort = sortTable) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.querySelector("button") || cell.hasAttribute("data-fixed")) return;
    const button = make("button", { type: "button" }, ...cell.childNodes);
    button.addEventListener("click", () => sort(table, column));
    cell.append(button);
  });
}

const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

function filterTable(input) {
  const table = byId(input.dataset.filters);
  const rows = [...table.tBodies[0].rows];
  const words = wordsOf(input);
  for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  const shown = rows.filter((row) => !row.hidden).length;
  document.querySelector(`output[for="${CSS.escape(table.id)}"]`).value = words.length ? `${shown} of ${rows.length}` : `${rows.length}`;
}

const textOf = (cell) => (cell.dataset.csv ?? cell.textContent).trim().replace(/\s+/g, " ");
const rowsOf = (table) => [...table.rows].filter((row) => !row.hidden).map((row) => [...row.cells].filter((cell) => !cell.hasAttribute("data-fixed")).map(textOf));

document.querySelectorAll("table.sortable").forEach((table) => makeSortable(table));
document.querySelectorAll("input[data-filters]").forEach((input) => {
  input.addEventListener("input", () => filterTable(input));
  filterTable(input);
});
document.addEventListener("click", ({ target }) => {
  const { csv, svg, png } = target.closest?.("button")?.dataset ?? {};
  if (csv) save(`${csv}.csv`, "text/csv", csvText(csv === "runs-table" ? runList.csv() : rowsOf(byId(csv))));
  if (svg) save(`${svg}.svg`, "image/svg+xml", svgText(byId(svg)));
  if (png) savePng(byId(png), `${png}.png`);
});

// --- a section: its numbers follow what is chosen in it

function startSection(root, number) {
  const section = data.sections[number];
  const { compared } = section;
  const state = {
    metric: section.metric, reference: section.reference, tasks: [...compared.tasks], sweep: true,
    cost: root.querySelector("select[data-control='cost']").value,
  };
  const tables = ["comparison", "differences", "efficiency"].map((name) => byId(`section${number}-${name}`));
  const changed = () => {
    fillSection(root, number, section, state, tables);
    drawSection(number, section, state);
  };
  for (const control of root.querySelectorAll("[data-control]")) control.addEventListener("change", () => {
    const { control: key } = control.dataset;
    if (key === "task") state.tasks = [...root.querySelectorAll("[data-control='task']:checked")].map(({ value }) => Number(value));
    else state[key] = key === "sweep" ? control.checked : key === "reference" ? Number(control.value) : control.value;
    if (key === "cost" || key === "sweep") drawSection(number, section, state);
    else changed();
  });
  root.querySelector("[data-all]").addEventListener("click", () => {
    const boxes = [...root.querySelectorAll("[data-control='task']")];
    const all = boxes.every(({ checked }) => checked);
    boxes.forEach((box) => { box.checked = !all; });
    boxes[0].dispatchEvent(new Event("change"));
  });
  root.querySelector(".controls").hidden = false;
  if (tables[1]) fillTable(tables[1], ...differencesOf(section, state, summaryOf(section, state)));
  drawSection(number, section, state);
}

const metricOf = (state) => data.metrics[state.metric];
const meanLabel = (label) => `mean over tasks of ${label}`;
const overallOf = (summary) => summary.keys.findIndex(({ kind, name }) => kind === "overall" && name === "mean over tasks");
const summaryOf = (section, state) => summarise(section, metricOf(state), state.tasks, section.compared.seeds, section.compared.variants);

function fillSection(root, number, section, state, [comparison, differences, efficiency]) {
  const summary = summaryOf(section, state);
  root.querySelector(".summary").replaceChildren(...sentencesOf(section, state, summary).map((text) => make("p", {}, text)));
  fillTable(comparison, ...comparisonOf(section, state, summary));
  if (differences) fillTable(differences, ...differencesOf(section, state, summary));
  const { label } = metricOf(state);
  root.querySelector(".of-metric").textContent = label[0].toUpperCase() + label.slice(1);
  efficiency.tHead.querySelector("[data-column='mean_over_tasks'] button").textContent = meanLabel(label);
  fillTable(efficiency, null, efficiencyOf(section, state, summary, [...efficiency.tHead.rows[0].cells].map((cell) => cell.dataset.column)));
  const input = document.querySelector(`input[data-filters="${comparison.id}"]`);
  if (input) filterTable(input);
}

function fillTable(table, heads, rows) {
  if (heads) {
    table.tHead.rows[0].replaceChildren(...heads.map(({ title, group, number }) => make("th", { scope: "col", class: number ? "number" : null }, title, group ? make("small", {}, ` ${group}`) : null)));
    makeSortable(table);
  } else [...table.tHead.rows[0].cells].forEach((cell) => cell.removeAttribute("aria-sort"));
  table.tBodies[0].replaceChildren(...rows);
}

function sentencesOf(section, state, summary) {
  const metric = metricOf(state);
  const overall = overallOf(summary);
  if (!state.tasks.length) return ["No task is chosen."];
  if (!summary.table.some((row) => row[overall].n)) return ["No variant has all tasks with one seed, so there is no mean to compare."];
  const over = `mean over ${counted(state.tasks.length, "task")}`;
  const best = bestOf(summary, overall, metric);
  const names = (places) => places.map((place) => section.variants[summary.variants[place]].name).join(", ");
  const places = summary.variants.map((_, place) => place);
  const short = places.filter((place) => summary.table[place][overall].n && summary.table[place][overall].n < summary.seeds.length);
  const notRanked = short.length ? [`Not ranked, as seeds are missing: ${names(short)}.`] : [];
  if (!best.length) return [`No ${over} is called the best, as fewer than two variants have all of ${counted(summary.seeds.length, "seed")}.`, ...notRanked];
  const scores = (some) => some.map((place) => {
    const { mean: middle, sd } = summary.table[place][overall];
    return `${section.variants[summary.variants[place]].name}, ${shown(metric, middle)}${isKnown(sd) ? ` ± ${shown(metric, sd)}` : ""} ${metric.unit}`.trim();
  }).join(" and ");
  const sentences = [`${metric.higher ? "Highest" : "Lowest"} ${over}: ${scores(best)}.`];
  const size = (place) => costOf(section.costs.adapter_parameters, summary.variants[place], state.tasks);
  const small = section.model_parameters && section.costs.adapter_parameters
    ? bestOf(summary, overall, metric, places.filter((place) => size(place) < 0.25 * section.model_parameters)) : [];
  if (small.length && small.join() !== best.join()) sentences.push(`Among those that tune less than 25% of the parameters: ${scores(small)}.`);
  return [...sentences, ...notRanked];
}

// Heads and rows of the comparison, as mosa/results/tables/columns.py has them.
function comparisonOf(section, state, summary) {
  const metric = metricOf(state);
  const several = summary.groups.length > 1;
  const repeats = summary.groups.every(([, tasks]) => tasks.length === 1);
  const even = new Set(summary.groups.map(([, tasks]) => tasks.length)).size === 1;
  const shownKeys = (kinds) => summary.keys.map((key, place) => ({ key, place })).filter(({ key }) => kinds(key));
  const means = shownKeys(({ kind, name }) => (kind === "group" && several && !repeats) || (kind === "overall" && (name === "mean over tasks" || (several && !even))));
  const tasks = shownKeys(({ kind }) => kind === "task");
  const costs = costColumns(section, state);
  const scoreColumn = ({ key, place }) => ({
    title: key.name, group: key.group, number: true,
    cells: scoreCells(section, metric, summary, place),
  });
  const columns = [...means.map(scoreColumn), ...costs, ...tasks.map(scoreColumn)];
  const heads = [{ title: "variant" }, { title: "method" }, ...columns];
  const rows = summary.variants.map((variant, row) => make("tr", {},
    make("th", { scope: "row" }, section.variants[variant].name), make("td", {}, section.variants[variant].method ?? MISSING),
    ...columns.map(({ cells }) => cells[row])));
  return [heads, rows];
}

const learnedNothing = (section, variant, tasks, seeds = section.compared.seeds) =>
  section.nothing.some(([of, task, seed]) => of === variant && tasks.includes(task) && seeds.includes(seed));

function scoreCells(section, metric, summary, place) {
  const best = bestOf(summary, place, metric);
  const second = best.length ? bestOf(summary, place, metric, summary.variants.map((_, row) => row).filter((row) => !best.includes(row))) : [];
  const { tasks } = summary.keys[place];
  return summary.variants.map((variant, row) => {
    const { mean: middle, sd, n } = summary.table[row][place];
    if (!n) return make("td", { class: "number", "data-sort": "" }, MISSING);
    const nothing = learnedNothing(section, variant, tasks);
    const notes = [n === summary.seeds.length ? "" : `(n=${n})`, nothing ? "†" : ""].filter(Boolean).join(" ");
    const rank = best.includes(row) ? "best" : second.includes(row) ? "second" : "";
    return make("td", { class: `number ${rank}`, "data-sort": shown(metric, middle) }, shown(metric, middle),
      isKnown(sd) ? make("small", {}, ` ± ${shown(metric, sd)}`) : null, notes ? make("small", {}, ` ${notes}`) : null);
  });
}

function costColumns(section, state) {
  const { costs, compared } = section;
  const column = (title, name, scale, digits) => costs[name] && {
    title, number: true,
    cells: compared.variants.map((variant) => {
      const value = costOf(costs[name], variant, state.tasks) / scale;
      return make("td", { class: "number", "data-sort": isKnown(value) ? fixed(value, digits) : "" }, isKnown(value) ? fixed(value, digits) : MISSING);
    }),
  };
  const most = Math.max(...compared.variants.flatMap((variant) => costs.total_parameters.values[variant].filter(isKnown)));
  const [unit, scale, digits] = most >= 1e7 ? ["M", 1e6, 3] : ["k", 1e3, 1];
  const flops = (variant) => costOf(costs.training_flops, variant, state.tasks);
  const one = costs.training_flops && [state.reference, ...compared.variants].find((variant) => isKnown(flops(variant)));
  const relative = one === undefined ? [] : [
    column("image-passes (k)", "image_passes", 1e3, 0),
    column(`training FLOPs (${section.variants[one].name} = 1)`, "training_flops", flops(one), 2)];
  return [column(`tuned (${unit}) without head`, "adapter_parameters", scale, digits), column(`tuned (${unit}) with head`, "total_parameters", scale, digits), ...relative].filter(Boolean);
}

// Differences, and each on a common scale around 0.
function differencesOf(section, state, summary) {
  const metric = metricOf(state);
  const found = state.tasks.length ? differencesTo(section, metric, summary, state.reference, data.quantiles) : [];
  const far = Math.max(...found.flatMap(({ mean: middle, low, high }) => [middle, low, high].filter(isKnown).map(Math.abs)), 0);
  const heads = [{ title: "variant" }, { title: `minus ${section.variants[state.reference].name}`, number: true }, { title: "95 % interval", number: true },
    { title: "from − to +" }, { title: "better on", number: true }, { title: "p (Holm)", number: true }];
  const rows = found.map((one) => {
    const known = one.seeds > 0;
    const interval = isKnown(one.low) ? `${shown(metric, one.low, true)} to ${shown(metric, one.high, true)}` : MISSING;
    const better = metric.higher ? one.mean > 0 : one.mean < 0;
    const sure = isKnown(one.low) && (one.low > 0 || one.high < 0);
    return make("tr", {}, make("th", { scope: "row" }, section.variants[one.variant].name),
      make("td", { class: "number", "data-sort": known ? one.mean : "" }, known ? shown(metric, one.mean, true) : MISSING),
      make("td", { class: "number", "data-sort": isKnown(one.low) ? one.low : "" }, interval),
      make("td", { "data-sort": known ? one.mean : "", "data-csv": sure ? (better ? "better" : "worse") : "not decided" }, known ? intervalDrawing(one, far) : ""),
      make("td", { class: "number", "data-sort": one.better }, known ? `${one.better} of ${counted(state.tasks.length, "task")}` : MISSING,
        known && one.seeds < summary.seeds.length ? make("small", {}, ` (${one.seeds} of ${counted(summary.seeds.length, "seed")})`) : null),
      make("td", { class: "number", "data-sort": isKnown(one.holm) ? one.holm : "" }, isKnown(one.holm) ? general(one.holm, 2) : MISSING));
  });
  return [heads, rows];
}

function intervalDrawing({ mean: middle, low, high }, far) {
  const at = (value) => 80 + (value / (far || 1)) * 74;
  const sure = isKnown(low) && (low > 0 || high < 0);
  return element("svg", { viewBox: "0 0 160 16", width: 160, height: 16, "aria-hidden": "true", class: sure ? "sure" : "unsure" },
    element("line", { x1: 80, x2: 80, y1: 0, y2: 16, stroke: "var(--quiet)" }),
    ...(isKnown(low) ? [element("line", { x1: at(low), x2: at(high), y1: 8, y2: 8, stroke: "var(--ink)", "stroke-width": 1.5 })] : []),
    element("circle", { cx: at(middle), cy: 8, r: 3.6, fill: sure ? "var(--accent)" : "var(--paper)", stroke: "var(--accent)", "stroke-width": 1.5 }));
}

function costText(name, value) {
  const [, comma, digits, kind] = /^\{:(,?)\.(\d)([fg])\}$/.exec(data.costs[name].form);
  if (kind === "g") return general(value, Number(digits));
  const text = fixed(value, Number(digits));
  return comma ? text.replace(/\B(?=(\d{3})+(?!\d))/g, ",") : text;
}

function efficiencyOf(section, state, summary, columns) {
  const metric = metricOf(state);
  const overall = overallOf(summary);
  const cost = (name, row) => (section.costs[name] ? costOf(section.costs[name], summary.variants[row], state.tasks) : NaN);
  const sign = metric.higher ? 1 : -1;
  const cells = summary.table.map((row) => row[overall]);
  const front = paretoFront(cells.map(({ mean: middle, n }, row) => ({ cost: cost("adapter_parameters", row), score: n === summary.seeds.length ? sign * middle : NaN })));
  const ppt = (score, parameters) => (metric.unit === "%" && metric.higher ? (score / 100) * Math.exp(-Math.log10(parameters / 1e7 + 1)) : NaN);
  return summary.variants.map((variant, row) => make("tr", {}, ...columns.map((name) => {
    if (name === "variant") return make("th", { scope: "row" }, section.variants[variant].name);
    if (name === "pareto") return make("td", {}, front[row] ? "yes" : "");
    const value = name === "mean_over_tasks" ? cells[row].mean : name === "ppt" ? ppt(cells[row].mean, cost("adapter_parameters", row)) : cost(name, row);
    const text = !isKnown(value) ? MISSING : name === "mean_over_tasks" ? shown(metric, value) : name === "ppt" ? fixed(value, 3) : costText(name, value);
    return make("td", { class: "number", "data-sort": isKnown(value) ? value : "" }, text);
  })));
}

// --- the charts of a section

const styleOf = ({ color, marker, dash }) => ({ color: color === "#000000" ? INK : color, marker, dash });
const floorOf = (metric) => metric.floor ?? -Infinity;
const clamp = (metric, value) => Math.max(floorOf(metric), metric.unit === "%" ? Math.min(100, value) : value);
const barOf = (metric, { mean: middle, sd }) => (isKnown(sd) ? { low: clamp(metric, middle - sd), high: clamp(metric, middle + sd) } : {});
const scoreAxis = (metric, label) => ({ label, scale: "linear", marksFar: true, unit: metric.unit, least: metric.least, floor: floorOf(metric), ceiling: metric.unit === "%" ? 100 : Infinity });

function drawSection(number, section, state) {
  const about = document.querySelector(`section[data-section="${number}"] .about-time`);
  if (about) about.hidden = state.cost !== "train_seconds";
  const costs = byId(`section${number}-costs`);
  showChart(costs, () => {
    const chart = costChart(section, state);
    costs.parentElement.querySelector(".over").textContent = chart.note;
    return chart;
  });
  showChart(byId(`section${number}-groups`), () => groupChart(section, state));
}

// What the cost chart is over, where that is not what is chosen: a sweep may have fewer tasks and seeds.
function overOf(section, state, tasks, seeds, variants) {
  const { compared } = section;
  const fewer = tasks.length < state.tasks.length;
  if (!tasks.length || (!fewer && seeds.length === compared.seeds.length)) return "";
  const names = tasks.map((task) => section.tasks[task].name).join(", ");
  const over = fewer ? `${tasks.length} of ${counted(state.tasks.length, "task")}: ${names}` : counted(tasks.length, "task");
  const numbers = seeds.length > 1 ? `seeds ${seeds.map((seed) => section.seeds[seed]).join(", ")}` : `seed ${section.seeds[seeds[0]]}, hence no bars`;
  const absent = compared.variants.filter((variant) => !variants.includes(variant)).map((variant) => section.variants[variant].name);
  const without = absent.length ? ` Without ${absent.join(", ")}.` : "";
  return `Over ${over}; ${numbers}; as the sweep's variants were run on these.${without}`;
}

// The sizes of those variants of a curve that have a score, as in mosa/results/plots/scaling.py.
function sizesOf(curve, scored) {
  if (scored.length < 2) return "";
  return Object.entries(curve.sizes).map(([name, texts]) => {
    const known = texts.filter((text, place) => isKnown(text) && scored.includes(curve.variants[place]));
    return known.length ? `\n${name} ${known.join(", ")}` : "";
  }).join("");
}

function costChart(section, state) {
  const metric = metricOf(state);
  const { variants, tasks: of, seeds, curves: lines } = state.sweep ? section.swept : section.compared;
  const tasks = state.tasks.filter((task) => of.includes(task));
  const summary = summarise(section, metric, tasks, seeds, variants);
  const overall = overallOf(summary);
  const cost = ((state.sweep && section.swept_costs) || section.costs)[state.cost];
  const note = overOf(section, state, tasks, seeds, variants);
  const { label } = data.costs[state.cost] ?? { label: "" };
  const drawn = new Map();
  const taken = new Map();
  const complete = [];
  const cellOf = (variant) => summary.table[variants.indexOf(variant)][overall];
  const series = lines.map((curve) => {
    const scored = curve.variants.filter((variant) => cellOf(variant).n);
    const points = scored.map((variant) => {
      const cell = cellOf(variant);
      const x = cost ? costOf(cost, variant, tasks) : NaN;
      if (!(x >= 0)) return null;
      const { name } = section.variants[variant];
      if (cell.n === seeds.length) complete.push({ name, x, y: cell.mean });
      if (x === 0) return null; // it has no place on a logarithmic axis, but may beat others
      const beside = taken.get(x) ?? 0;
      taken.set(x, beside + 1);
      return { name, x, y: cell.mean, nothing: learnedNothing(section, variant, tasks, seeds), shift: 5 * beside, ...barOf(metric, cell), text: `${shown(metric, cell.mean)}${isKnown(cell.sd) ? ` ± ${shown(metric, cell.sd)}` : ""} ${metric.unit}, ${costText(state.cost, x)} ${label}${cell.n < seeds.length ? ` (n=${cell.n})` : ""}` };
    }).filter(Boolean);
    const { method, ...style } = section.variants[curve.variants[0]];
    const open = (drawn.get(method) ?? 0) > 0;
    drawn.set(method, (drawn.get(method) ?? 0) + 1);
    const level = curve.reference && scored.length ? cellOf(scored[0]).mean : null;
    return { label: level === null ? curve.label + sizesOf(curve, scored) : `${curve.label}: ${shown(metric, level)}`, ...styleOf(style), open, joined: points.length > 1 && !curve.reference, level, points };
  }).filter((one) => one.points.length || one.level !== null);
  const sign = metric.higher ? 1 : -1;
  const on = paretoFront(complete.map(({ x, y }) => ({ cost: x, score: sign * y })));
  const front = complete.filter(({ x }, place) => on[place] && x > 0).map(({ name, x, y }) => ({ name, x, y, label: series.find((one) => one.points.some((point) => point.name === name))?.label }));
  const places = series.flatMap(({ points }) => points.map(({ x }) => x));
  const wide = Math.max(...places) / Math.min(...places) > 3;
  return {
    note,
    x: { label, scale: wide || places.length < 2 ? "log" : "linear", least: 0.1 * Math.max(...places, 0) }, y: scoreAxis(metric, meanLabel(metric.label)), series, front,
    empty: tasks.length ? "no variant has all of these tasks" : state.tasks.length ? "the sweep was not run on these tasks" : "choose a task",
  };
}

function groupChart(section, state) {
  const metric = metricOf(state);
  const summary = summaryOf(section, state);
  const groups = summary.groups.length > 1 && summary.groups.some(([, tasks]) => tasks.length > 1);
  const keys = [overallOf(summary), ...summary.keys.map((_, place) => place).filter((place) => summary.keys[place].kind === (groups ? "group" : "task") && (groups || state.tasks.length > 1))];
  const names = keys.map((place) => (summary.keys[place].kind === "overall" ? "mean" : summary.keys[place].name));
  const step = Math.min(9, 300 / keys.length / summary.variants.length);
  const drawn = new Map();
  const series = summary.variants.map((variant, row) => {
    const { name, method, ...style } = section.variants[variant];
    const open = (drawn.get(method) ?? 0) > 0;
    drawn.set(method, (drawn.get(method) ?? 0) + 1);
    const points = keys.map((place, x) => ({ ...summary.table[row][place], x })).filter(({ n }) => n).map((cell) => ({
      name: `${name}, ${names[cell.x]}`, x: cell.x, y: cell.mean, nothing: learnedNothing(section, variant, summary.keys[keys[cell.x]].tasks), shift: (row - (summary.variants.length - 1) / 2) * step, ...barOf(metric, cell),
      text: `${shown(metric, cell.mean)}${isKnown(cell.sd) ? ` ± ${shown(metric, cell.sd)}` : ""} ${metric.unit}${cell.n < summary.seeds.length ? ` (n=${cell.n})` : ""}`,
    }));
    return { label: name, ...styleOf(style), open, joined: false, level: null, points };
  });
  return { x: { label: "", scale: "names", names }, y: scoreAxis(metric, metric.label), series, empty: "choose a task" };
}

// --- trials

const openAgain = (chart) => ({
  x: chart.x, y: { label: chart.y.label, scale: "linear", floor: floorOf(chart.y), ceiling: chart.y.unit === "%" ? 100 : Infinity },
  series: chart.series.map((one) => ({ label: one.label, ...styleOf(one.style), open: one.variation > 0, joined: one.joined, level: one.level, points: one.points.map(({ name, x, y, text, marked }) => ({ name, x, y, text, marked })) })),
});

// --- runs: read, and made into rows, when they are seen

const BATCH = 100; // rows that are added at once

const runList = {
  table: byId("runs-table"),
  read() {
    if (this.runs) return this.runs;
    const { runs, names, shared, metrics } = JSON.parse(byId("runs-data").textContent);
    this.shared = shared;
    const several = (place) => new Set(runs.map(([of]) => of[place])).size > 1;
    const [manyBenchmarks, manyBackbones] = [several(0), several(2)];
    this.runs = runs.map(([of, seed, scores, lr, losses, seconds, total, created, memory, rate, number, nothing, { terms = {}, val = {} } = {}], place) => {
      const [benchmark, task, backbone, variant, name, method, split, device] = of.map((index) => names[index]);
      const cells = [name, manyBenchmarks ? `${benchmark}/${task}` : task, seed, ...scores, manyBackbones ? backbone : null, lr, losses.length, losses.at(-1), total];
      return {
        id: `${benchmark}/${task}/${backbone}/${variant}/seed${seed}`, benchmark, task, backbone, variant, name, method, split, device, seed, losses, terms, val, seconds, created, memory, rate, nothing, shared: shared[number],
        place, cells: cells.filter((cell) => cell !== null).map(String), text: `${benchmark}/${task} ${backbone} ${name} ${method} ${scores.join(" ")} ${nothing && NOTHING}`.toLowerCase(),
      };
    });
    const heads = ["variant", "task", "seed", ...metrics, ...(manyBackbones ? ["backbone"] : []), "lr", "epochs", "last loss", "seconds"];
    const numbers = new Set(["seed", ...metrics, "lr", "epochs", "last loss", "seconds"]);
    this.table.tHead.rows[0].replaceChildren(
      ...heads.map((head) => make("th", { scope: "col", class: numbers.has(head) ? "number" : null }, head)),
      make("th", { scope: "col", "data-fixed": true }, "details"), make("th", { scope: "col", "data-fixed": true }, "curve"));
    this.heads = heads;
    makeSortable(this.table, (_, column) => this.sort(column));
    this.show(this.runs);
    return this.runs;
  },
  show(runs) {
    this.shown = runs;
    this.table.tBodies[0].replaceChildren();
    this.more();
  },
  more() {
    const body = this.table.tBodies[0];
    const from = body.rows.length;
    body.append(...this.shown.slice(from, from + BATCH).map((run) => make("tr", {},
      ...run.cells.map((cell, column) => (column ? make("td", { class: this.table.tHead.rows[0].cells[column].className }, cell)
        : make("th", { scope: "row" }, cell, run.nothing ? make("small", { title: `learned nothing: ${run.nothing}` }, ` ${NOTHING}`) : null))),
      make("td", { "data-fixed": true }, make("button", { type: "button", "data-run": run.place, "aria-label": `Details of ${run.id}` }, "show")),
      make("td", { "data-fixed": true }, make("input", { type: "checkbox", "data-curve": run.place, checked: curves.chosen.has(run.place), "aria-label": `Curve of ${run.id}` })))));
    const rest = this.shown.length - body.rows.length;
    byId("runs-more").hidden = rest <= 0;
    byId("runs-more").textContent = `Show ${Math.min(rest, BATCH)} more of ${rest}`;
    const words = wordsOf(byId("runs-filter"));
    document.querySelector("output[for='runs-table']").value = words.length ? `${this.shown.length} of ${this.runs.length}` : `${this.runs.length}`;
  },
  filter() {
    const words = wordsOf(byId("runs-filter"));
    this.show(this.read().filter(({ text }) => words.every((word) => text.includes(word))));
  },
  sort(column) {
    const sign = direction(this.table.tHead.rows[0].cells[column]);
    const keyed = this.runs.map((run) => [keyOf(run.cells[column]), run]).sort(([a], [b]) => compareKeys(a, b, sign));
    this.runs = keyed.map(([, run]) => run);
    this.filter();
  },
  at(place) {
    return this.read().find((run) => run.place === Number(place));
  },
  csv() {
    this.read();
    return [this.heads, ...this.shown.map(({ cells }) => cells)];
  },
};

byId("runs-filter").addEventListener("input", () => runList.filter());
byId("runs-more").addEventListener("click", () => runList.more());
whenSeen(byId("runs-section"), () => runList.read());
// The next rows come when the end of the list is near.
new IntersectionObserver((entries) => {
  if (entries.some(({ isIntersecting }) => isIntersecting) && runList.runs) runList.more();
}, { root: byId("runs-table").parentElement, rootMargin: "300px" }).observe(byId("runs-more"));

// --- curves of several runs

// The loss that was summed, as mosa/peft/losses.py has it.
function lossParts({ options }) {
  const parts = ["CE"];
  if (options.second_pass) parts.push(`${options.second_pass} CE of the second pass`);
  if (options.consistency) parts.push(`${options.consistency} KL between passes`);
  if (options.feature_consistency) parts.push(`${options.feature_consistency} MSE of features`);
  return parts.join(" + ");
}

const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676"];
const LINES = ["-", "--", "-.", ":"];
const TERMS = { ce: "CE", ce_second: "CE of the second pass", kl: "KL", features: "MSE of features" };

// The colours of runs: that of the variant, as in other plots, where no other run has it.
function colorsOf(runs) {
  if (runs.length === 1) return [INK];
  const taken = new Set();
  return runs.map((run) => {
    const own = data.sections.flatMap(({ variants }) => variants).find(({ id }) => id === run.variant);
    const color = [own && styleOf(own).color, ...COLORS].find((one) => one && !taken.has(one)) ?? COLORS[taken.size % COLORS.length];
    taken.add(color);
    return color;
  });
}

// What is drawn of a run: its loss, the terms that it is the sum of, or a metric of val; by name.
function curvesOf(run, what) {
  if (what === "loss") return { "": run.losses };
  if (what !== "terms") return run.val[what] ? { "": run.val[what] } : {};
  const terms = Object.entries(run.terms).map(([name, values]) => [TERMS[name] ?? name, values]);
  return terms.length ? Object.fromEntries(terms) : lossParts(run.shared) === "CE" ? { CE: run.losses } : {};
}

function curveChart(runs, what = "loss") {
  const drawn = runs.map((run) => [run, curvesOf(run, what)]);
  const values = drawn.flatMap(([, of]) => Object.values(of).flat()).filter(isKnown);
  const wide = Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 8;
  const formulas = new Set(runs.map((run) => lossParts(run.shared)));
  const metric = data.metrics[what];
  const loss = `training loss${formulas.size === 1 ? `: ${[...formulas][0]}` : ""}`;
  const kinds = [...new Set(drawn.flatMap(([, of]) => Object.keys(of)))];
  const colors = colorsOf(runs);
  const differ = (key) => new Set(runs.map((run) => run[key])).size > 1;
  const series = drawn.flatMap(([run, of], place) => Object.entries(of).map(([name, curve]) => {
    const names = [run.name, differ("benchmark") ? `${run.benchmark}/${run.task}` : run.task, ...(differ("backbone") ? [run.backbone] : []), `seed ${run.seed}`];
    const full = `${names.join(", ")}${name && `: ${name}`}`;
    return {
      label: what === "loss" && formulas.size > 1 ? `${full} (${lossParts(run.shared)})` : full, color: colors[place], marker: "o",
      dash: LINES[(what === "terms" ? kinds.indexOf(name) : Math.floor(place / COLORS.length)) % 4], joined: true, level: null, small: true,
      points: curve.map((y, epoch) => ({ name: full, x: epoch + 1, y, text: `epoch ${epoch + 1}: ${isKnown(y) ? Number(y.toPrecision(4)) : MISSING}` })),
    };
  }));
  return {
    x: { label: "epoch", scale: "linear", least: 1 },
    y: { label: what === "loss" ? loss : metric ? `${metric.label} on val` : "terms of the training loss", scale: wide && metric?.unit !== "%" ? "log" : "linear", floor: metric ? floorOf(metric) : 0 },
    series, empty: runs.length ? "the records of these runs do not have it" : "choose runs in the list: the boxes of its last column",
  };
}

const curves = {
  chosen: new Set(),
  draw() {
    const runs = [...this.chosen].map((place) => runList.at(place));
    showChart(byId("curves"), () => curveChart(runs, byId("curves-what").value));
    document.querySelectorAll("input[data-curve]").forEach((box) => { box.checked = this.chosen.has(Number(box.dataset.curve)); });
  },
  // The first seed of every variant that is compared on a task.
  pick(value) {
    const [number, task] = value.split(" ").map(Number);
    const section = data.sections[number];
    const wanted = new Set(section.compared.variants.map((variant) => section.variants[variant].id));
    const found = new Map();
    for (const run of runList.read()) if (run.benchmark === section.benchmark && run.backbone === section.backbone && run.task === section.tasks[task].name && wanted.has(run.variant))
      if (!(found.get(run.variant)?.seed <= run.seed)) found.set(run.variant, run);
    this.chosen = new Set([...found.values()].map(({ place }) => place));
    this.draw();
  },
};

document.addEventListener("change", ({ target }) => {
  const place = target.dataset?.curve;
  if (place === undefined) return;
  if (target.checked) curves.chosen.add(Number(place)); else curves.chosen.delete(Number(place));
  byId("curves-task").value = "";
  curves.draw();
});
byId("curves-task").addEventListener("change", ({ target }) => target.value && curves.pick(target.value));
byId("curves-what").addEventListener("change", () => curves.draw());
whenSeen(byId("curves"), () => curves.pick(byId("curves-task").value));

// --- details of a run

const dialog = byId("details");
document.addEventListener("click", ({ target }) => {
  const place = target.closest?.("button[data-run]")?.dataset.run;
  if (place !== undefined) showRun(runList.at(place));
});

function showRun(run) {
  const { seconds, memory, rate, created, split, device } = run;
  const pairs = {
    record: `runs/${run.id}.json`, created, ...(run.nothing ? { [`${NOTHING} learned nothing`]: run.nothing } : {}), "evaluated on": split, loss: lossParts(run.shared),
    seconds: `prepare ${seconds[0]}, train ${seconds[1]}, evaluate ${seconds[2]}`,
    "peak memory": `${memory} MiB${device === "cpu" ? " of the whole process" : ""}`, throughput: `${rate} images/s`, ...run.shared,
  };
  byId("details-list").replaceChildren(...Object.entries(pairs).flatMap(([key, value]) => [
    make("dt", {}, key),
    make("dd", {}, String(typeof value === "object" && value ? Object.entries(value).map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", ") : value)),
  ]));
  byId("details-title").textContent = run.id;
  dialog.showModal();
  drawChart(byId("details-plot"), curveChart([run], Object.keys(run.terms).length ? "terms" : "loss"));
}

// --- start

document.querySelectorAll("section[data-section]").forEach((root) => startSection(root, Number(root.dataset.section)));
document.querySelectorAll("[data-answers-of]").forEach((root) => whenSeen(root, () => startAnswers(root, Number(root.dataset.answersOf))));
if (data.trials) showChart(byId("trials"), () => openAgain(data.trials));
byId("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
// On paper: light, every plot drawn, and what is folded open.
let before;
window.addEventListener("beforeprint", () => {
  before = { theme: document.documentElement.dataset.theme, folded: [...document.querySelectorAll("main > section > details:not([open])")] };
  document.documentElement.dataset.theme = "light";
  before.folded.forEach((details) => { details.open = true; });
  for (const start of [...waiting.values()]) start();
  for (const host of drawers.keys()) if (!host.drawn) drawNow(host);
});
window.addEventListener("afterprint", () => {
  if (before.theme) document.documentElement.dataset.theme = before.theme;
  else delete document.documentElement.dataset.theme;
  before.folded.forEach((details) => { details.open = false; });
});
