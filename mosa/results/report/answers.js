// What the runs of a section answered: accuracy by class, confusions, calibration, agreement of variants.
"use strict";
const MEASURES = ["same answers", "shared mistakes", "gain of averaging", "gain of an oracle"];

const answersOf = { read() { return (this.found ??= JSON.parse(byId("answers-data").textContent)); } };

function startAnswers(root, number) {
  const found = answersOf.read()[number];
  const section = data.sections[number];
  const control = (name) => root.querySelector(`[data-answers='${name}']`);
  const draw = () => {
    const task = found.tasks[Number(control("task").value)];
    const variant = control("variant").value in task.variants ? control("variant").value : Object.keys(task.variants)[0];
    control("variant").value = variant;
    showChart(byId(`section${number}-classes`), () => classChart(section, task));
    showChart(byId(`section${number}-reliability`), () => reliabilityChart(section, task));
    fillConfusion(byId(`section${number}-confusion`), task, task.variants[variant]);
    fillConfused(byId(`section${number}-confused`), task, task.variants[variant]);
    root.querySelector(".sure").textContent = sureness(section, task, variant);
    fillAgreement(byId(`section${number}-agreement`), section, found, Number(control("measure").value));
  };
  root.querySelectorAll("[data-answers]").forEach((one) => one.addEventListener("change", draw));
  draw();
}

function sureness(section, task, variant) {
  const [accuracy, low, high] = task.variants[variant].accuracy;
  return `${nameWithSeeds(section, task, variant)} on ${task.name}: ${percent(accuracy)} % of ${counted(sum(task.images), "image")} are right. As these are a sample of such images, the accuracy on all of them probably lies between ${percent(low)} and ${percent(high)} % (Wilson's 95 % interval, of a run with a typical seed).`;
}

// Right images of each class over all seeds, in percent.
function classAccuracies({ images, variants }, variant) {
  const right = new Map(variants[variant].cells.filter(([label, predicted]) => label === predicted).map(([label, , count]) => [label, count]));
  return images.map((count, label) => (count ? (100 * (right.get(label) ?? 0)) / (count * variants[variant].seeds) : NaN));
}

const MOST_CLASSES = 40;

// Its name, and how many seeds of it kept their predictions, where some are missing.
function nameWithSeeds(section, task, variant) {
  const { seeds } = task.variants[variant];
  return `${section.variants[variant].name}${seeds < section.compared.seeds.length ? ` (n=${seeds})` : ""}`;
}

// Name and style of the variants of a task; the second of a method is open.
function styledVariants(section, task) {
  const methods = new Set();
  return Object.keys(task.variants).map((variant) => {
    const { method, ...style } = section.variants[variant];
    const open = methods.has(method);
    methods.add(method);
    return { label: nameWithSeeds(section, task, variant), ...styleOf(style), open };
  });
}

function classChart(section, task) {
  const byVariant = Object.keys(task.variants).map((variant) => [variant, classAccuracies(task, variant)]);
  const meanOf = (label) => mean(byVariant.map(([, accuracies]) => accuracies[label]));
  const labels = task.classes.map((_, label) => label).filter((label) => task.images[label]).sort((a, b) => meanOf(a) - meanOf(b)).slice(0, MOST_CLASSES);
  const step = Math.min(6, 300 / labels.length / byVariant.length);
  return {
    x: { label: task.classes.length > labels.length ? `the ${labels.length} hardest of ${task.classes.length} classes` : "class, the hardest first", scale: "names", names: labels.map((label) => task.classes[label]) },
    y: { label: "accuracy within the class (%)", scale: "linear", floor: 0, ceiling: 100 },
    series: styledVariants(section, task).map((one, place) => ({
      ...one, joined: false, level: null, points: labels.map((label, x) => ({
        x, y: byVariant[place][1][label], shift: (place - (byVariant.length - 1) / 2) * step, name: `${one.label}, ${task.classes[label]}`,
        text: `${percent(byVariant[place][1][label])} % of ${counted(task.images[label], "image")}` })),
    })),
  };
}

function reliabilityChart(section, task) {
  const series = styledVariants(section, task).map((one, place) => {
    const { bins } = Object.values(task.variants)[place];
    const name = one.label;
    const points = bins[0].map((images, bin) => images && {
      x: (100 * bins[1][bin]) / images, y: (100 * bins[2][bin]) / images, name, text: `${percent((100 * bins[2][bin]) / images)} % right where the confidence is ${percent((100 * bins[1][bin]) / images)} % (${counted(images, "answer")})` }).filter(Boolean);
    return { ...one, dash: one.open ? "--" : "-", joined: true, small: true, level: null, points };
  });
  const ideal = { label: "as sure as right", color: "var(--quiet)", dash: ":", marker: "o", joined: true, level: null, small: true, points: [0, 100].map((at) => ({ x: at, y: at, name: "as sure as right" })) };
  return { x: { label: "confidence (%)", scale: "linear", floor: 0, ceiling: 100 }, y: { label: "right (%)", scale: "linear", floor: 0, ceiling: 100 }, series: [ideal, ...series] };
}

const shade = (share) => `background: color-mix(in srgb, var(--accent) ${Math.round(70 * Math.min(1, Math.max(0, share)))}%, transparent)`;

function fillConfusion(table, { classes, images }, { cells, seeds }) {
  const region = table.parentElement;
  region.hidden = region.previousElementSibling.hidden = classes.length > MOST_CLASSES; // its heading, too, with CSV
  if (region.hidden) return void [table.tHead, table.tBodies[0]].forEach((part) => part.replaceChildren());
  const at = new Map(cells.map(([label, predicted, count]) => [`${label} ${predicted}`, count]));
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "class ↓ taken for →"), ...classes.map((name) => make("th", { scope: "col", class: "number" }, name))));
  table.tBodies[0].replaceChildren(...classes.map((name, label) => make("tr", {}, make("th", { scope: "row" }, name), ...classes.map((_, predicted) => {
    const count = (at.get(`${label} ${predicted}`) ?? 0) / seeds;
    return make("td", { class: "number", style: count ? shade(count / images[label]) : null, "data-csv": count }, count ? fixed(count, Number.isInteger(count) ? 0 : 1) : "");
  }))));
}

function fillConfused(table, { classes, images }, { confused }) {
  table.tBodies[0].replaceChildren(...confused.map(([label, predicted, count, which]) => make("tr", {},
    make("th", { scope: "row" }, classes[label]), make("td", {}, classes[predicted]), make("td", { class: "number" }, fixed(count, Number.isInteger(count) ? 0 : 1)),
    make("td", { class: "number" }, fixed((100 * count) / images[label], 0)), make("td", { class: "path" }, which.join(", ")))));
}

// The mean over the tasks of how two variants agree.
function agreementOf(found, measure) {
  const values = new Map();
  for (const [, a, b, ...shares] of found.pairs) {
    const value = shares[measure];
    if (isKnown(value)) for (const key of new Set([`${a} ${b}`, `${b} ${a}`])) values.set(key, [...(values.get(key) ?? []), value]);
  }
  return (a, b) => mean(values.get(`${a} ${b}`) ?? []);
}

function fillAgreement(table, section, found, measure) {
  const of = agreementOf(found, measure);
  const known = [...new Set(found.tasks.flatMap(({ variants }) => Object.keys(variants).map(Number)))].sort((a, b) => a - b);
  const most = Math.max(...known.flatMap((a) => known.map((b) => of(a, b))).filter(isKnown), 1);
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, `${MEASURES[measure]} (%)`), ...known.map((b) => make("th", { scope: "col", class: "number" }, section.variants[b].name))));
  table.tBodies[0].replaceChildren(...known.map((a) => make("tr", {}, make("th", { scope: "row" }, section.variants[a].name), ...known.map((b) => {
    const value = of(a, b);
    return make("td", { class: "number", style: isKnown(value) ? shade(value / most) : null }, isKnown(value) ? percent(value) : MISSING);
  }))));
}
