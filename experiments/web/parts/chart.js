// Charts: curves with bands and levels, read off by the pointer or by the arrow keys.

const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2 1 2"];
const MARGIN = { left: 62, right: 22, top: 10, bottom: 40 };
const HEIGHT = 300;

function colour(number) { return `var(--c${number % 7})`; }

// Round numbers along an axis, of about so many.
function ticksOf(low, high, many) {
  const rough = (high - low) / many, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + 1e-9 * step; tick++) found.push(tick * step);
  return found;
}

// Places of values from `low` to `high` between `from` and `to`.
function scaleOf(values, isLog, from, to, many) {
  let [low, high] = extent(values);
  if (!isFinite(low)) [low, high] = [0, 1];
  if (isLog && low > 0) {
    if (low === high) [low, high] = [low / 2, high * 2];
    const at = (value) => from + (to - from) * Math.log(value / low) / Math.log(high / low);
    const base = high / low > 1000 ? 10 : 2, ticks = [];
    for (let tick = base ** Math.ceil(Math.log(low) / Math.log(base) - 1e-9); tick <= high * 1.0001; tick *= base) ticks.push(tick);
    return { at, ticks: ticks.length > 1 ? ticks : [low, high] };
  }
  if (low === high) [low, high] = [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
  const ticks = ticksOf(low, high, many), whole = ticks.filter(Number.isInteger);
  const counts = values.every(Number.isInteger) && whole.length > 1; // steps and orders have nothing between
  return { at: (value) => from + (to - from) * (value - low) / (high - low), ticks: counts ? whole : ticks };
}

// A path through points of which some are not known.
function pathOf(xs, ys, x, y) {
  let path = "", pen = "M";
  xs.forEach((each, place) => {
    const value = ys[place];
    if (value === null || value === undefined || each === null) { pen = "M"; return; }
    path += `${pen}${x.at(each).toFixed(1)} ${y.at(value).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

// A chart: {title, xlabel, ylabel, log, ticks, levels: [[label, y]], curves: [{label, band, x, y, low, high}],
// named: optional function of x for what stands there}. Returns the figure; `figure.show(chart)` draws another.
function chartOf(chart) {
  const plot = make("div", { class: "plot" }), key = make("div", { class: "key" });
  const line = make("div", { class: "told", role: "status" }, "");
  const caption = make("figcaption", {}, chart.title), hidden = new Set();
  const figure = make("figure", { class: "chart" }, caption, plot, key, line);
  let width = 0;

  function redraw() {
    width = plot.clientWidth || 600;
    plot.replaceChildren(svgOf(chart, hidden, width, (texts) => line.replaceChildren(...texts)));
  }
  figure.show = (other) => {
    chart = other;
    caption.textContent = chart.title;
    key.replaceChildren(...keysOf(chart, hidden, redraw));
    redraw();
  };
  figure.show(chart);
  new ResizeObserver(() => { if (plot.clientWidth && plot.clientWidth !== width) redraw(); }).observe(plot);
  return figure;
}

// A button a curve, which hides it.
function keysOf(chart, hidden, redraw) {
  if (chart.curves.length === 1 && !chart.curves[0].label) return [];
  const buttons = chart.curves.map((curve, number) => {
    const sample = draw("svg", { viewBox: "0 0 34 12", "aria-hidden": true },
      draw("line", { x1: 0, x2: 34, y1: 6, y2: 6, stroke: colour(curve.colour ?? number), "stroke-width": 2.5, "stroke-dasharray": DASHES[(curve.dash ?? number) % DASHES.length] }));
    const text = [curve.label, curve.band].filter(Boolean).join("; ");
    return make("button", { type: "button", "aria-pressed": String(!hidden.has(curve.label)), title: "show or hide", onclick: (event) => {
      hidden.has(curve.label) ? hidden.delete(curve.label) : hidden.add(curve.label);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(curve.label)));
      redraw();
    } }, sample, text);
  });
  return [...buttons, ...chart.levels.map(([label]) => make("span", { class: "soft" }, `┄ ${label}`))];
}

function svgOf(chart, hidden, width, tell) {
  const curves = chart.curves.map((curve, number) => ({ ...curve, number })).filter((curve) => !hidden.has(curve.label));
  const inside = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: HEIGHT - MARGIN.bottom };
  const known = (values) => (values || []).filter((value) => value !== null && value !== undefined);
  const xs = [...new Set(curves.flatMap((curve) => known(curve.x)))].sort((a, b) => a - b);
  const ys = [...curves.flatMap((curve) => [...known(curve.y), ...known(curve.low), ...known(curve.high)]), ...chart.levels.map(([, level]) => level)];
  const x = scaleOf(xs, chart.log.includes("x"), inside.left, inside.right, width < 500 ? 4 : 7);
  const y = scaleOf(chart.range || cut(ys, chart), chart.log.includes("y"), inside.bottom, inside.top, 5);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, tabindex: 0, role: "img", "aria-label": spoken(chart) });
  svg.append(...axesOf(chart, x, y, inside));
  const clip = `clip${svgOf.count = (svgOf.count || 0) + 1}`;
  svg.append(draw("clipPath", { id: clip }, draw("rect", { x: inside.left, y: inside.top, width: inside.right - inside.left, height: inside.bottom - inside.top })));
  const drawn = draw("g", { "clip-path": `url(#${clip})` });
  chart.levels.forEach(([, level], number) => drawn.append(draw("line", { class: "level", x1: inside.left, x2: inside.right, y1: y.at(level), y2: y.at(level), "stroke-dasharray": DASHES[1 + number % 5] })));
  curves.forEach((curve) => drawn.append(...linesOf(curve, x, y)));
  svg.append(drawn, ...pointerOf(svg, chart, curves, xs, x, y, inside, width, tell));
  return svg;
}

// Where one curve runs far off, the others must still be seen: at most three times the spread of the first.
function cut(ys, chart) {
  const first = (chart.curves[0]?.y || []).filter((value) => value !== null);
  const levels = chart.levels.map(([, level]) => level);
  if (!first.length || ys.length < 2) return ys;
  const [low, high] = extent([...first, ...levels]), room = 3 * (high - low || Math.abs(high) || 1);
  return ys.map((value) => Math.min(Math.max(value, low - room), high + room));
}

function spoken(chart) {
  const ends = chart.curves.map((curve) => `${curve.label}: ${told(curve.y[0])} to ${told(curve.y[curve.y.length - 1])}`);
  return `${chart.title}. ${chart.ylabel} by ${chart.xlabel}. ${ends.join("; ")}. Arrow keys read it off.`;
}

function axesOf(chart, x, y, inside) {
  const found = [];
  for (const tick of y.ticks) {
    const at = y.at(tick);
    found.push(draw("line", { class: "grid", x1: inside.left, x2: inside.right, y1: at, y2: at }));
    found.push(draw("text", { x: inside.left - 6, y: at + 4, "text-anchor": "end" }, short(tick)));
  }
  const named = chart.ticks.length ? chart.ticks.map((_, place) => place) : x.ticks;
  const every = Math.max(1, Math.ceil(named.length * 52 / (inside.right - inside.left)));
  named.forEach((tick, place) => {
    if (place % every) return;
    const name = chart.ticks.length ? chart.ticks[tick] : short(tick);
    found.push(draw("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: inside.top, y2: inside.bottom }));
    found.push(draw("text", { x: x.at(tick), y: inside.bottom + 16, "text-anchor": "middle" }, name.length > 12 ? `${name.slice(0, 11)}…` : name));
  });
  const middle = (inside.top + inside.bottom) / 2;
  found.push(draw("text", { x: (inside.left + inside.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, chart.xlabel));
  found.push(draw("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, chart.ylabel));
  return found;
}

function linesOf(curve, x, y) {
  const stroke = colour(curve.colour ?? curve.number), dash = DASHES[(curve.dash ?? curve.number) % DASHES.length], found = [];
  if (curve.low) {
    const known = curve.x.map((_, place) => place).filter((place) => curve.low[place] !== null && curve.high[place] !== null);
    const there = known.map((place) => `${x.at(curve.x[place]).toFixed(1)} ${y.at(curve.high[place]).toFixed(1)}`);
    const back = known.reverse().map((place) => `${x.at(curve.x[place]).toFixed(1)} ${y.at(curve.low[place]).toFixed(1)}`);
    if (there.length) found.push(draw("path", { class: "band", fill: stroke, d: `M${there.join("L")}L${back.join("L")}Z` }));
    for (const side of [curve.low, curve.high]) found.push(draw("path", { class: "edge", stroke, "stroke-dasharray": dash, d: pathOf(curve.x, side, x, y) }));
  }
  found.push(draw("path", { class: "curve", stroke, "stroke-dasharray": dash, d: pathOf(curve.x, curve.y, x, y) }));
  if (curve.x.length < 25) curve.x.forEach((each, place) => {
    if (curve.y[place] !== null) found.push(draw("circle", { cx: x.at(each), cy: y.at(curve.y[place]), r: 2.8, fill: stroke }));
  });
  return found;
}

// The line that follows the pointer, and what stands at it.
function pointerOf(svg, chart, curves, xs, x, y, inside, width, tell) {
  const cross = draw("line", { class: "cross", y1: inside.top, y2: inside.bottom, visibility: "hidden" });
  const dots = curves.map((curve) => draw("circle", { r: 4.5, fill: "none", stroke: colour(curve.colour ?? curve.number), "stroke-width": 2, visibility: "hidden" }));
  let place = -1;
  function show(next) {
    if (!xs.length) return;
    place = Math.min(Math.max(next, 0), xs.length - 1);
    const at = xs[place], name = chart.ticks.length ? chart.ticks[at] : chart.named ? chart.named(at) : short(at);
    cross.setAttribute("x1", x.at(at));
    cross.setAttribute("x2", x.at(at));
    cross.setAttribute("visibility", "visible");
    const parts = [make("strong", {}, `${chart.xlabel} ${name}: `)];
    curves.forEach((curve, number) => {
      const there = curve.x.indexOf(at), value = there < 0 ? null : curve.y[there];
      dots[number].setAttribute("visibility", value === null || value === undefined ? "hidden" : "visible");
      if (value === null || value === undefined) return;
      dots[number].setAttribute("cx", x.at(at));
      dots[number].setAttribute("cy", y.at(value));
      const bounds = curve.low && curve.low[there] !== null ? ` [${told(curve.low[there])}, ${told(curve.high[there])}]` : "";
      parts.push(make("span", {}, `${curve.label} ${told(value)}${bounds}   `));
    });
    tell(parts);
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    let best = 0;
    xs.forEach((each, number) => { if (Math.abs(x.at(each) - at) < Math.abs(x.at(xs[best]) - at)) best = number; });
    show(best);
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: place + 1, ArrowLeft: place < 0 ? xs.length - 1 : place - 1, Home: 0, End: xs.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
  return [cross, ...dots];
}
