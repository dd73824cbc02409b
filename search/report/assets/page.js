"use strict";
// Draws what the page's data say. Texts of the data reach the page as text nodes only.

const DATA = JSON.parse(document.getElementById("data").textContent);
const ROWS = DATA.rows;
const COUNT = ROWS.id.length;
const EVERY = [...Array(COUNT).keys()];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const BITS = [...new Set(ROWS.bits)].sort(byBits);
const PAGE = 40; // rows of the table at first, and per "show more"

const state = { selected: -1, filtered: EVERY, shown: PAGE, sort: null, hidden: new Set() };
const $ = (id) => document.getElementById(id);

function byBits(a, b) {
  const numbers = (name) => name.match(/\d+/g).map(Number);
  const [[wa, aa], [wb, ab]] = [numbers(a), numbers(b)];
  return ab - aa || wb - wa;
}

function make(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...content);
  return element;
}

function draw(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const bitsColour = (bits) => colour(`--c${BITS.indexOf(bits) % 6}`);
const bitsSymbol = (bits) => SYMBOLS[BITS.indexOf(bits) % SYMBOLS.length];

// --- numbers for people --------------------------------------------------------------------

function scaled(value, units) {
  let [unit, worth] = units[0];
  for (const [name, size] of units) if (Number(value.toPrecision(3)) >= size) [unit, worth] = [name, size];
  const number = value / worth;
  return `${number >= 100 ? number.toFixed(0) : Number(number.toPrecision(3))} ${unit}`;
}

function metricText(name, value) {
  if (value === null || value === undefined) return "";
  if (name.endsWith("accuracy")) return `${(100 * value).toFixed(1)} %`;
  if (name.endsWith("_bytes")) return scaled(value, [["B", 1], ["kB", 1e3], ["MB", 1e6], ["GB", 1e9]]);
  if (name.endsWith("_ms")) return scaled(value, [["ms", 1], ["s", 1e3]]);
  if (name.endsWith("_seconds")) return scaled(value, [["s", 1], ["min", 60], ["h", 3600]]);
  return value.toLocaleString("en");
}

function valueText(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
}

function latencyText(i) {
  const ms = DATA.metrics.latency_ms[i];
  const [low, high] = [ROWS.low_ms[i], ROWS.high_ms[i]];
  const range = low === null || !ms ? "" : ` ± ${((50 * (high - low)) / ms).toFixed(1)} %`;
  return metricText("latency_ms", ms) + range;
}

// --- selecting a row -----------------------------------------------------------------------

function select(i, { reveal = true } = {}) {
  state.selected = i;
  if (reveal && !state.filtered.includes(i)) {
    $("filters").reset();
    $("filters").elements.which.value = "all";
    filter();
  }
  const place = state.filtered.indexOf(i);
  if (place >= state.shown) state.shown = place + 10;
  fillTable();
  fillDetails();
  figures.forEach((figure) => figure.mark());
  const row = document.querySelector('#table tr[aria-selected="true"]');
  if (reveal && row) row.scrollIntoView({ block: "center", behavior: "smooth" });
}

function facts(i) {
  const out = DATA.objectives.map(({ name, label }) => [
    label,
    name === "latency_ms" ? latencyText(i) : metricText(name, DATA.metrics[name][i]),
  ]);
  if (ROWS.test[i] !== null) out.push(["test accuracy", metricText("accuracy", ROWS.test[i])]);
  for (const { name, values } of DATA.dimensions) {
    if (values[i] !== null) out.push([name, valueText(values[i])]);
  }
  return out.filter(([, value]) => value !== "");
}

function fillDetails() {
  const box = $("details");
  const i = state.selected;
  box.hidden = i < 0;
  if (i < 0) return;
  const entries = [["status", ROWS.status[i]], ["origin", ROWS.origin[i]], ...facts(i)];
  for (const name of Object.keys(DATA.metrics)) {
    if (DATA.objectives.some((o) => o.name === name)) continue;
    entries.push([name.replaceAll("_", " "), metricText(name, DATA.metrics[name][i])]);
  }
  const [bytes, ms] = [DATA.metrics.size_bytes[i], DATA.metrics.latency_ms[i]];
  if (ROWS.plain_bytes[i] && bytes) entries.push(["size by uncompressed", `${(bytes / ROWS.plain_bytes[i]).toFixed(2)}x`]);
  if (ROWS.plain_ms[i] && ms) entries.push(["latency by uncompressed", `${(ms / ROWS.plain_ms[i]).toFixed(2)}x`]);
  if (ROWS.without_payoff[i]) entries.push(["no gain in", ROWS.without_payoff[i]]);
  if (ROWS.parent[i]) entries.push(["network of", ROWS.parent[i]]);
  if (ROWS.reason[i]) entries.push(["why", ROWS.reason[i]]);
  const list = make("dl");
  for (const [name, value] of entries) {
    if (value) list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  }
  const head = make("h3", {}, `${ROWS.id[i]}${ROWS.front[i] ? ", on the front" : ""}`);
  box.replaceChildren(head, list);
  if (ROWS.artifact[i]) {
    const file = `artifacts/${encodeURIComponent(ROWS.artifact[i])}`;
    list.append(make("div", {}, make("dt", {}, "file"), make("dd", {}, make("a", { href: file }, ROWS.artifact[i]))));
  }
}

// --- the table -----------------------------------------------------------------------------

function columns() {
  const metric = (name, label) => ({
    label,
    number: true,
    value: (i) => DATA.metrics[name][i],
    text: (i) => (name === "latency_ms" ? latencyText(i) : metricText(name, DATA.metrics[name][i])),
  });
  return [
    { label: "trial", value: (i) => ROWS.id[i], text: (i) => ROWS.id[i], class: "id" },
    ...DATA.objectives.map(({ name, label }) => metric(name, label)),
    { label: "test", number: true, value: (i) => ROWS.test[i], text: (i) => metricText("accuracy", ROWS.test[i]) },
    { label: "bits", value: (i) => BITS.indexOf(ROWS.bits[i]), text: (i) => ROWS.bits[i] },
    ...DATA.dimensions
      .filter(({ name }) => !name.endsWith("_bits"))
      .map(({ name, values, categories }) => ({
        label: name,
        number: !categories,
        value: (i) => values[i],
        text: (i) => valueText(values[i]),
      })),
    { label: "ended", value: (i) => ROWS.status[i], text: (i) => ROWS.status[i] },
    ...(ROWS.reason.some(Boolean)
      ? [{ label: "why", value: (i) => ROWS.reason[i], text: (i) => ROWS.reason[i] }]
      : []),
  ];
}

const COLUMNS = columns();

function fillHead() {
  const cells = COLUMNS.map((column) => {
    const button = make("button", { type: "button" }, column.label);
    const cell = make("th", { scope: "col", class: column.number ? "number" : null }, button);
    button.addEventListener("click", () => {
      const again = state.sort && state.sort.column === column;
      state.sort = { column, down: again ? !state.sort.down : Boolean(column.number) };
      for (const other of cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
      filter();
    });
    return cell;
  });
  document.querySelector("#table thead").append(make("tr", {}, ...cells));
}

function sorted(places) {
  const sort = state.sort;
  const first = DATA.objectives[0];
  const best = first.direction === "max" ? -1 : 1;
  const value = sort ? sort.column.value : (i) => DATA.metrics[first.name][i];
  const sign = sort ? (sort.down ? -1 : 1) : best;
  return [...places].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return a - b;
    if (x === null || x === undefined) return 1; // what is not known comes last, both ways
    if (y === null || y === undefined) return -1;
    return x < y ? -sign : sign;
  });
}

const SEARCHED = EVERY.map((i) => {
  const settings = DATA.dimensions.map(({ name, values }) => `${name}=${valueText(values[i])}`);
  return [ROWS.id[i], ROWS.status[i], ROWS.bits[i], ROWS.reason[i], ...settings].join(" ").toLowerCase();
});

function filter() {
  const form = $("filters").elements;
  const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const bound = (field, factor, name, sign) => {
    if (form[field].value === "") return () => true;
    const limit = Number(form[field].value) * factor;
    return (i) => DATA.metrics[name][i] !== null && sign * DATA.metrics[name][i] <= sign * limit;
  };
  const which = { front: (i) => ROWS.front[i], feasible: (i) => ROWS.feasible[i], all: () => true };
  const rules = [
    which[form.which.value],
    bound("accuracy", 0.01, "accuracy", -1),
    bound("size", 1e3, "size_bytes", 1),
    bound("latency", 1, "latency_ms", 1),
    (i) => words.every((word) => SEARCHED[i].includes(word)),
    (i) => !state.hidden.has(ROWS.bits[i]),
  ];
  state.filtered = sorted(EVERY.filter((i) => rules.every((rule) => rule(i))));
  state.shown = PAGE;
  fillTable();
  figures.forEach((figure) => figure.filtered && figure.filtered());
}

function fillTable() {
  const rows = state.filtered.slice(0, state.shown).map((i) => {
    const chosen = i === state.selected;
    const cells = COLUMNS.map((column) =>
      make("td", { class: column.class ?? (column.number ? "number" : null) }, column.text(i)));
    const row = make("tr", {
      "data-row": i, tabindex: 0, "aria-selected": chosen, class: ROWS.front[i] ? "member" : null,
    }, ...cells);
    return row;
  });
  document.querySelector("#table tbody").replaceChildren(...rows);
  $("count").textContent = `${state.filtered.length.toLocaleString("en")} of ${COUNT.toLocaleString("en")}`;
  $("more").hidden = state.shown >= state.filtered.length;
}

function listenToTable() {
  const body = document.querySelector("#table tbody");
  const choose = (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    select(Number(row.dataset.row), { reveal: false });
    document.querySelector('#table tr[aria-selected="true"]')?.focus({ preventScroll: true });
  };
  body.addEventListener("click", choose);
  body.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(event);
    }
    const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (next) {
      event.preventDefault();
      event.target.closest("tr")[next]?.focus();
    }
  });
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("change", filter); // some tools choose an option without input
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("more").addEventListener("click", () => {
    state.shown += 5 * PAGE;
    fillTable();
  });
}

// --- the tip -------------------------------------------------------------------------------

function showTip(i, event) {
  const tip = $("tip");
  const lines = facts(i).map(([name, value]) =>
    make("div", {}, make("span", {}, name), make("span", {}, value)));
  tip.replaceChildren(make("b", {}, ROWS.id[i]), ...lines);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 16 + width > innerWidth ? event.clientX - width - 16 : event.clientX + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - height - 8))}px`;
}

const hideTip = () => { $("tip").hidden = true; };

// --- figures -------------------------------------------------------------------------------
// A figure draws itself when it is first seen: {element, draw(), mark(), filtered()}.

const figures = [];

function layout(more = {}) {
  const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { color: colour("--text"), family: "system-ui, sans-serif", size: 12 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--pale"), activecolor: colour("--text") },
    margin: { l: 56, r: 16, t: 26, b: 46 }, hovermode: "closest", hoverdistance: 18,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };

function axisOf({ name, label, log }) {
  const unit = { size_bytes: "B", compressed_bytes: "B", latency_ms: "ms", train_seconds: "s" }[name];
  return {
    title: { text: unit ? `${label} (${unit})` : label },
    type: log ? "log" : "linear",
    ...(log ? { dtick: unit === "B" ? 1 : undefined, minor: { showgrid: false } } : {}),
    ...(name === "accuracy" ? { tickformat: ".0%" } : {}),
    ...(unit === "B" ? { tickformat: "~s" } : {}),
  };
}

function nearFront(values) {
  const known = EVERY.filter((i) => ROWS.front[i] && values[i] !== null).map((i) => values[i]);
  if (known.length < 2) return undefined;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return [low - 0.3 * (high - low), high + 0.08 * (high - low)];
}

function listenToPlot(element) {
  const of = (event) => event.points[0]?.customdata;
  element.on("plotly_hover", (event) => {
    if (typeof of(event) === "number") showTip(of(event), event.event);
  });
  element.on("plotly_unhover", hideTip);
  element.on("plotly_click", (event) => {
    if (typeof of(event) === "number") select(of(event));
  });
}

function projection({ x, y, edge }) {
  const element = make("div", { class: "chart", role: "img" });
  const [across, up] = [DATA.objectives[x], DATA.objectives[y]];
  element.setAttribute("aria-label", `${up.label} above ${across.label}; the table of models has the numbers`);
  const [xs, ys] = [DATA.metrics[across.name], DATA.metrics[up.name]];
  const measured = EVERY.filter((i) => ROWS.status[i] === "measured");
  const errors = (places) => ({
    type: "data", symmetric: false, thickness: 1, width: 0,
    array: places.map((i) => (ROWS.high_ms[i] ?? DATA.metrics.latency_ms[i]) - DATA.metrics.latency_ms[i]),
    arrayminus: places.map((i) => DATA.metrics.latency_ms[i] - (ROWS.low_ms[i] ?? DATA.metrics.latency_ms[i])),
  });
  const marks = (places, marker, more = {}) => ({
    type: "scatter", mode: "markers", hoverinfo: "none", customdata: places,
    x: places.map((i) => xs[i]), y: places.map((i) => ys[i]), marker, ...more,
  });
  function traces() {
    const out = [];
    const seen = measured.filter((i) => !state.hidden.has(ROWS.bits[i]));
    out.push(marks(seen.filter((i) => !ROWS.feasible[i]), { symbol: "x-thin-open", size: 6, color: colour("--pale"), line: { width: 1 } }));
    const shown = BITS.filter((bits) => !state.hidden.has(bits));
    for (const bits of shown) {
      const places = seen.filter((i) => ROWS.bits[i] === bits && ROWS.feasible[i] && !ROWS.front[i]);
      out.push(marks(places, { symbol: bitsSymbol(bits), size: 7, color: bitsColour(bits), opacity: 0.22 }));
    }
    out.push({
      type: "scatter", mode: "lines", hoverinfo: "skip", x: edge.map((i) => xs[i]), y: edge.map((i) => ys[i]),
      line: { shape: across.direction === "min" ? "hv" : "vh", dash: "dot", width: 1.5, color: colour("--quiet") },
    });
    for (const bits of shown) {
      const places = seen.filter((i) => ROWS.bits[i] === bits && ROWS.front[i]);
      const bars = {};
      if (across.name === "latency_ms") bars.error_x = errors(places);
      if (up.name === "latency_ms") bars.error_y = errors(places);
      out.push(marks(places, { symbol: bitsSymbol(bits), size: 11, color: bitsColour(bits), line: { width: 1, color: colour("--page") } }, bars));
    }
    const i = state.selected;
    const known = i >= 0 && xs[i] !== null && ys[i] !== null;
    out.push({
      type: "scatter", mode: "markers", hoverinfo: "skip", x: known ? [xs[i]] : [], y: known ? [ys[i]] : [],
      marker: { symbol: "circle-open", size: 20, color: colour("--text"), line: { width: 2.5 } },
    });
    return out;
  }
  // The first look is at the front: a double click shows what lies far below it.
  const yaxis = { ...axisOf(up), ...(up.log ? {} : { range: nearFront(ys) }) };
  const redraw = () => Plotly.react(element, traces(), layout({ xaxis: axisOf(across), yaxis, uirevision: "kept" }), CONFIG);
  return {
    element,
    draw() { redraw(); listenToPlot(element); },
    redraw, mark: redraw, filtered: redraw,
  };
}

function growthFigure(xs, title) {
  const element = make("div", { class: "chart", role: "img", "aria-label": `hypervolume over ${title}` });
  const redraw = () => Plotly.react(element, [{
    type: "scatter", mode: "lines", x: xs, y: DATA.growth.hypervolume, line: { shape: "hv", width: 2, color: colour("--c0") },
    fill: "tozeroy", fillcolor: "rgba(79,168,224,.14)",
    hovertemplate: "%{y:.4f} after %{x}<extra></extra>",
  }], layout({ xaxis: { title: { text: title }, rangemode: "tozero" }, yaxis: { title: { text: "hypervolume" }, rangemode: "tozero" } }), CONFIG);
  return { element, draw: redraw, redraw, mark() {} };
}

function spaceFigure() {
  const element = $("space");
  const shown = EVERY.filter((i) => ROWS.feasible[i]);
  const axes = DATA.objectives.slice(0, 3);
  const values = (places, k) => places.map((i) => DATA.metrics[axes[k].name][i]);
  const redraw = () => {
    const marks = (places, size, opacity) => ({
      type: "scatter3d", mode: "markers", hoverinfo: "none", customdata: places,
      x: values(places, 1), y: values(places, 2), z: values(places, 0),
      marker: { size, opacity, color: places.map((i) => bitsColour(ROWS.bits[i])) },
    });
    const scene = {};
    [["xaxis", 1], ["yaxis", 2], ["zaxis", 0]].forEach(([key, k]) => {
      scene[key] = { ...axisOf(axes[k]), gridcolor: colour("--line"), backgroundcolor: "rgba(0,0,0,0)" };
    });
    Plotly.react(element, [
      marks(shown.filter((i) => !ROWS.front[i]), 3, 0.25),
      marks(shown.filter((i) => ROWS.front[i]), 6, 1),
    ], layout({ scene, margin: { l: 0, r: 0, t: 0, b: 0 } }), { displaylogo: false, responsive: true, displayModeBar: false });
  };
  return { element, draw() { redraw(); listenToPlot(element); }, redraw, mark() {} };
}

// --- parallel coordinates ------------------------------------------------------------------

function linesFigure() {
  const element = $("lines");
  const axes = [
    ...DATA.objectives.map((o) => ({ name: o.label, metric: o.name, log: o.log, values: DATA.metrics[o.name] })),
    ...DATA.dimensions.map((d) => ({ ...d })),
  ];
  const [top, bottom, side] = [44, 20, 52];
  for (const axis of axes) {
    const known = axis.values.filter((v) => v !== null && v !== undefined);
    axis.ticks = axis.categories ?? [...new Set(known)].sort((a, b) => a - b);
    const number = axis.categories ? (v) => axis.categories.indexOf(String(v)) : axis.log ? Math.log : (v) => v;
    const places = known.map(number);
    const [low, high] = [places.reduce((a, b) => Math.min(a, b), Infinity), places.reduce((a, b) => Math.max(a, b), -Infinity)];
    axis.place = (v) => (v === null || v === undefined ? null : high > low ? (number(v) - low) / (high - low) : 0.5);
    if (!axis.categories && axis.ticks.length > 6) axis.ticks = [axis.ticks[0], axis.ticks.at(-1)];
    axis.text = (v) => (axis.metric ? metricText(axis.metric, v) : valueText(v));
  }
  const canvas = make("canvas", { role: "img", "aria-label": "one line per model; the table has the numbers" });
  const svg = draw("svg", {});
  element.append(canvas, svg);
  const xOf = (k) => side + (k * (element.clientWidth - 2 * side)) / Math.max(1, axes.length - 1);
  const yOf = (place) => top + (1 - place) * (element.clientHeight - top - bottom);

  function drawAxes() {
    svg.replaceChildren();
    axes.forEach((axis, k) => {
      const x = xOf(k);
      svg.append(draw("line", { x1: x, x2: x, y1: yOf(1), y2: yOf(0) }));
      const name = axis.name.length > 16 ? `${axis.name.slice(0, 15)}…` : axis.name;
      svg.append(draw("text", { x, y: k % 2 ? 12 : 26, "text-anchor": "middle", class: "title" }, name));
      for (const tick of axis.ticks) {
        const y = yOf(axis.place(tick));
        svg.append(draw("text", { x: x + 5, y: y + (y < top + 6 ? -3 : y > yOf(0) - 6 ? 14 : 4) }, axis.text(tick)));
      }
    });
  }

  function path(pen, i) {
    pen.beginPath();
    let started = false;
    axes.forEach((axis, k) => {
      const place = axis.place(axis.values[i]);
      if (place === null) { started = false; return; }
      if (started) pen.lineTo(xOf(k), yOf(place)); else pen.moveTo(xOf(k), yOf(place));
      started = true;
    });
    pen.stroke();
  }

  function redraw() {
    element.style.minWidth = `${axes.length * 78}px`;
    const dots = devicePixelRatio || 1;
    canvas.width = element.clientWidth * dots;
    canvas.height = element.clientHeight * dots;
    const pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    pen.lineJoin = "round";
    const few = state.filtered.filter((i) => ROWS.front[i]);
    pen.globalAlpha = Math.max(0.08, Math.min(0.5, 40 / state.filtered.length));
    pen.strokeStyle = colour("--quiet");
    for (const i of state.filtered) if (!ROWS.front[i]) path(pen, i);
    pen.globalAlpha = 0.85;
    pen.lineWidth = 1.6;
    for (const i of few) {
      pen.strokeStyle = bitsColour(ROWS.bits[i]);
      path(pen, i);
    }
    if (state.selected >= 0) {
      pen.globalAlpha = 1;
      pen.lineWidth = 4;
      pen.strokeStyle = colour("--text");
      path(pen, state.selected);
    }
    drawAxes();
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const step = (element.clientWidth - 2 * side) / Math.max(1, axes.length - 1);
    const k = Math.max(0, Math.min(axes.length - 2, Math.floor((px - side) / step)));
    const share = (px - xOf(k)) / step;
    let [best, distance] = [-1, 12];
    for (const i of state.filtered) {
      const [a, b] = [axes[k], axes[k + 1] ?? axes[k]].map((axis) => axis.place(axis.values[i]));
      if (a === null || b === null) continue;
      const off = Math.abs(yOf(a + share * (b - a)) - py) - (ROWS.front[i] ? 3 : 0);
      if (off < distance) [best, distance] = [i, off];
    }
    return best;
  }

  canvas.addEventListener("mousemove", (event) => {
    const i = nearest(event);
    if (i < 0) hideTip(); else showTip(i, event);
  });
  canvas.addEventListener("mouseleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const i = nearest(event);
    if (i >= 0) select(i);
  });
  new ResizeObserver(() => figure.drawn && redraw()).observe(element);
  const figure = { element, draw: redraw, redraw, mark: redraw, filtered: redraw };
  return figure;
}

// --- putting it together -------------------------------------------------------------------

function add(figure) {
  const guarded = Object.fromEntries(["mark", "filtered", "redraw"].map((name) =>
    [name, () => { if (figure.drawn && figure[name]) figure[name](); }]));
  const wrapped = {
    ...guarded,
    draw() {
      if (figure.drawn) return;
      figure.drawn = true;
      figure.draw();
    },
    element: figure.element,
  };
  figures.push(wrapped);
  return wrapped;
}

function drawWhenSeen(list) {
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      list.find((figure) => figure.element === entry.target).draw();
    }
  }, { rootMargin: "300px" });
  for (const figure of list) watcher.observe(figure.element);
  addEventListener("beforeprint", () => {
    setTheme("light");
    for (const figure of list) figure.draw();
  });
  addEventListener("afterprint", () => setTheme(theme));
}

function fillLegend() {
  const paths = {
    circle: "M6 1a5 5 0 1 0 .01 0z", square: "M1 1h10v10H1z", diamond: "M6 0l6 6-6 6-6-6z",
    "triangle-up": "M6 1l6 10H0z", cross: "M4 0h4v4h4v4H8v4H4V8H0V4h4z",
    star: "M6 0l1.8 4H12L8.700 6.800 10 11.500 6 8.800 2 11.500 3.300 6.800 0 4h4.200z",
  };
  for (const bits of BITS) {
    const icon = draw("svg", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" });
    icon.append(draw("path", { d: paths[bitsSymbol(bits)], style: `fill: var(--c${BITS.indexOf(bits) % 6})` }));
    const button = make("button", { type: "button", "aria-pressed": "true" }, icon, bits);
    button.addEventListener("click", () => {
      const hide = !state.hidden.has(bits);
      state.hidden[hide ? "add" : "delete"](bits);
      button.setAttribute("aria-pressed", String(!hide));
      filter();
    });
    $("legend").append(button);
  }
}

const THEMES = ["auto", "light", "dark"];
let theme = "auto";

function setTheme(name) {
  const dark = name === "dark" || (name === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.toggleAttribute("data-dark", dark);
  $("theme").textContent = `theme: ${name}`;
  for (const figure of figures) figure.redraw();
}

async function loadPlotly() {
  const packed = Uint8Array.from(atob($("plotly").textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = make("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  $("plotly").remove();
}

function has3d() {
  try {
    return Boolean(make("canvas").getContext("webgl"));
  } catch {
    return false;
  }
}

function listen3d() {
  const button = $("three");
  button.hidden = DATA.objectives.length < 3;
  button.addEventListener("click", () => {
    if (!has3d()) {
      button.textContent = "3-D needs WebGL, which this browser does not offer";
      button.disabled = true;
      return;
    }
    $("space").hidden = !$("space").hidden;
    button.textContent = $("space").hidden ? "show in 3-D" : "hide 3-D";
    if (!$("space").hidden) space.draw();
  });
}

let space;

async function start() {
  setTheme(theme);
  fillHead();
  fillLegend();
  if (!ROWS.front.some(Boolean)) $("filters").elements.which.value = "all";
  listenToTable();
  filter();
  $("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(theme));
  for (const button of document.querySelectorAll("[data-select]")) {
    button.addEventListener("click", () => select(ROWS.id.indexOf(button.dataset.select)));
  }
  const lines = add(linesFigure());
  try {
    await loadPlotly();
  } catch (error) {
    $("trouble").textContent = `The figures need a newer browser (${error.message}).`;
    $("trouble").hidden = false;
    drawWhenSeen([lines]);
    document.documentElement.dataset.ready = "tables";
    return;
  }
  const projections = DATA.projections.map((p) => add(projection(p)));
  $("projections").prepend(...projections.map((figure) => figure.element));
  const grown = [[DATA.growth.rows, "trials and siblings"], [DATA.growth.minutes, "minutes"]];
  const growths = grown.map(([xs, title]) => add(growthFigure(xs, title)));
  $("growth").append(...growths.map((figure) => figure.element));
  space = add(spaceFigure());
  listen3d();
  drawWhenSeen([...projections, lines, ...growths]);
  document.documentElement.dataset.ready = "all";
}

start();
