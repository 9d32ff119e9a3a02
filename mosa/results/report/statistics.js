// The statistics of the page, on plain numbers: those of mosa/results/stats.py, aggregate.py and paired.py,
// which a test holds them against.
"use strict";
const EXACT = 9; // decimals of a score that count
const MIN_SEEDS = 3; // of an interval
const MIN_TASKS = 6; // of a signed-rank test

const isKnown = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const sum = (values) => values.reduce((a, b) => a + b, 0);
// NaN where a value is missing, so that no mean is taken over what is left.
const mean = (values) => (values.length && values.every(isKnown) ? sum(values) / values.length : NaN);

function sampleSd(values) {
  if (values.length < 2) return NaN;
  const middle = mean(values);
  return Math.sqrt(sum(values.map((value) => (value - middle) ** 2)) / (values.length - 1));
}

// As Python's format: halves go to the even digit.
function fixed(value, digits) {
  const size = Math.abs(value);
  let text = size.toFixed(digits);
  const tail = size.toFixed(Math.min(100, digits + 40)).split(".")[1]?.slice(digits) ?? "";
  if (/^50*$/.test(tail) && Number(text.at(-1)) % 2) text = (Number(text) - 10 ** -digits).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `-${text}` : text;
}

// As Python's format g of a number that is not negative.
function general(value, digits) {
  const [near, power] = value.toExponential(digits - 1).split("e");
  const tail = value.toExponential(99).split("e")[0].replace(".", "").slice(digits);
  const isUp = /^50*$/.test(tail) && Number(near.at(-1)) % 2;
  const head = isUp ? (Number(near) - 10 ** (1 - digits)).toFixed(digits - 1) : near;
  if (power >= -4 && power < digits) return `${Number(`${head}e${power}`)}`;
  return `${Number(head)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
}

const exact = (value) => (isKnown(value) ? Number(fixed(value, EXACT)) : NaN);

// Of an accuracy in percent, as the tables of means print top-1.
const percent = (value) => fixed(exact(value), 1);

function shown(metric, value, signed = false) {
  const text = fixed(exact(value), metric.decimals);
  return signed && !text.startsWith("-") ? `+${text}` : text;
}

// Student's interval of a mean; quantiles[n] is that of n values, from Python.
function studentInterval(values, quantiles) {
  const margin = (sampleSd(values) / Math.sqrt(values.length)) * quantiles[values.length];
  return [mean(values) - margin, mean(values) + margin];
}

// As mosa/results/plots/chart.py: few scores far from all others do not squeeze these.
function shownRange(values, unit) {
  const found = values.filter(isKnown).sort((a, b) => a - b);
  const far = unit === "%" ? 10 : 0.5 * Math.max(...found.map(Math.abs));
  for (let number = 1; number <= Math.floor(found.length / 4); number++) {
    const end = found.length - number;
    for (const [rest, gap] of [[found.slice(number), found[number] - found[number - 1]], [found.slice(0, end), found[end] - found[end - 1]]])
      if (gap > Math.max(far, 2 * (rest.at(-1) - rest[0]))) return [rest[0], rest.at(-1)];
  }
  return [found[0], found.at(-1)];
}

function ranksOf(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2 + 1);
}

// The signed-rank test over tasks, exact, two-sided.
function wilcoxonP(differences) {
  const known = differences.filter((value) => isKnown(value) && value !== 0);
  const doubled = ranksOf(known.map(Math.abs)).map((rank) => 2 * rank);
  let ways = [1];
  for (const rank of doubled) {
    const next = new Array(ways.length + rank).fill(0);
    ways.forEach((number, total) => { next[total] += number; next[total + rank] += number; });
    ways = next;
  }
  const found = sum(doubled.filter((_, index) => known[index] > 0));
  return Math.min(1, (2 * Math.min(sum(ways.slice(0, found + 1)), sum(ways.slice(found)))) / 2 ** doubled.length);
}

function holm(values) {
  const order = values.map((_, index) => index).sort((a, b) => values[a] - values[b]);
  const adjusted = [];
  let most = 0;
  order.forEach((index, place) => { most = Math.max(most, (values.length - place) * values[index]); adjusted[index] = Math.min(1, most); });
  return adjusted;
}

// Which points no other beats: less cost and as good a score, or as little cost and a better one.
function paretoFront(points) {
  return points.map((a) => isKnown(a.cost) && isKnown(a.score) && !points.some((b) =>
    b.cost <= a.cost && b.score >= a.score && (b.cost < a.cost || b.score > a.score)));
}

// The means of a section over some of its tasks: by variant and key, { mean, sd, n, seeds }.
function summarise(section, metric, tasks, seeds, variants) {
  const groups = groupsOf(section, tasks);
  const keys = [
    ...tasks.map((task) => ({ kind: "task", name: section.tasks[task].name, group: section.tasks[task].group, tasks: [task] })),
    ...groups.map(([name, members]) => ({ kind: "group", name, tasks: members })),
    { kind: "overall", name: "mean over tasks", tasks },
    { kind: "overall", name: "mean of groups", tasks },
  ];
  const table = variants.map((variant) => {
    const scores = section.scores[metric.name][variant];
    const over = (members, seed) => mean(members.map((task) => scores[task]?.[seed]));
    return keys.map((key) => {
      const bySeed = seeds.map((seed) => key.name === "mean of groups" && key.kind === "overall"
        ? mean(groups.map(([, members]) => over(members, seed))) : over(key.tasks, seed));
      const known = bySeed.filter(isKnown);
      return { mean: exact(mean(known)), sd: sampleSd(known), n: known.length, bySeed };
    });
  });
  return { keys, table, groups, variants, seeds, tasks };
}

function groupsOf(section, tasks) {
  const groups = new Map();
  for (const task of tasks) {
    const { group } = section.tasks[task];
    groups.set(group, [...(groups.get(group) ?? []), task]);
  }
  return [...groups];
}

// Places of the variants with the best complete mean; several if they are equal as printed.
function bestOf(summary, key, metric, among = null) {
  const complete = summary.table.map((row, place) => [row[key], place])
    .filter(([cell, place]) => cell.n === summary.seeds.length && (!among || among.includes(place)));
  if (complete.length < 2) return [];
  const sign = metric.higher ? 1 : -1;
  const best = shown(metric, sign * Math.max(...complete.map(([cell]) => sign * cell.mean)));
  return complete.filter(([cell]) => shown(metric, cell.mean) === best).map(([, place]) => place);
}

// Every variant minus the reference, over the seeds for which both have all tasks.
function differencesTo(section, metric, summary, reference, quantiles) {
  const sign = metric.higher ? 1 : -1;
  const overall = summary.keys.findIndex(({ name, kind }) => kind === "overall" && name === "mean over tasks");
  const [ours, theirs] = [summary.table, summary.table[summary.variants.indexOf(reference)]];
  const found = [];
  summary.variants.forEach((variant, place) => {
    if (variant === reference) return;
    const [a, b] = [ours[place][overall].bySeed, theirs[overall].bySeed];
    const common = summary.seeds.map((_, index) => index).filter((index) => isKnown(a[index]) && isKnown(b[index]));
    const one = { variant, mean: NaN, low: NaN, high: NaN, seeds: common.length, better: 0, worse: 0, p: NaN, holm: NaN };
    found.push(one);
    if (!common.length) return;
    const bySeed = common.map((index) => exact(a[index] - b[index]));
    const byTask = summary.tasks.map((_, task) => {
      const over = (row) => exact(mean(common.map((index) => row[task].bySeed[index])));
      return exact(over(ours[place]) - over(theirs));
    });
    one.mean = mean(bySeed);
    if (common.length >= MIN_SEEDS && new Set(bySeed).size > 1) [one.low, one.high] = studentInterval(bySeed, quantiles);
    one.better = byTask.filter((gain) => sign * gain > 0).length;
    one.worse = byTask.filter((gain) => sign * gain < 0).length;
    if (summary.tasks.length >= MIN_TASKS) one.p = wilcoxonP(byTask);
  });
  const tested = found.filter(({ p }) => isKnown(p));
  holm(tested.map(({ p }) => p)).forEach((value, index) => { tested[index].holm = value; });
  return found;
}

// The mean over tasks of a cost; NaN where tasks are missing, unless a count is the same for all others.
function costOf(cost, variant, tasks) {
  const over = (values) => {
    const here = tasks.map((task) => values[variant][task]);
    const known = here.filter(isKnown);
    return cost.same && known.length && known.every((value) => value === known[0]) ? known[0] : mean(here);
  };
  return cost.per ? over(cost.values) / over(cost.per) : over(cost.values);
}
