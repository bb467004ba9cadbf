// The page: sections of what its data has.

const CHARTS = { learning: "Learning curves", horizon: "Loss by horizon", error: "Error by horizon", order: "Loss by order" };

function settingsOf(runs) {
  const names = [...new Set(runs.flatMap((run) => run.settings.map((setting) => setting.name)))];
  const of = new Map(runs.map((run) => [run, new Map(run.settings.map((setting) => [setting.name, setting]))]));
  const cell = (setting) => (setting === undefined ? "–" : Array.isArray(setting.value) ? setting.value.join(", ") : setting.value === "" ? "(none)" : short(setting.value));
  const rows = names.map((name) => {
    const each = runs.map((run) => of.get(run).get(name)), known = each.filter(Boolean);
    const isOwn = known.some((setting) => "default" in setting), differ = known.length > 1 && new Set(known.map(cell)).size > 1;
    return { name, cells: each.map(cell), isOwn, differ, meaning: known[0].meaning, default: known.find((setting) => "default" in setting)?.default };
  });
  const table = (shown) => make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "settings" }, make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "setting"), runs.map((run) => make("th", { scope: "col" }, runs.length > 1 ? run.name : "value")), make("th", { scope: "col" }, "default"))),
    make("tbody", {}, shown.map((row) => make("tr", {}, make("td", {}, make("div", { class: row.isOwn ? "setting" : "" }, row.name), make("div", { class: "soft meaning" }, row.meaning)), row.cells.map((text) => make("td", {}, text)),
      make("td", {}, row.default === undefined ? "" : row.default === "" ? "(none)" : short(row.default)))))));
  const isFirst = (row) => row.isOwn || row.differ, first = rows.filter(isFirst).sort((a, b) => b.differ - a.differ), rest = rows.filter((row) => !isFirst(row));
  return [make("p", { class: "soft" }, first.length ? `Settings that differ ${runs.length > 1 ? "between the runs, or " : ""}from the defaults:` : "All settings are the defaults."), first.length ? table(first) : null,
    rest.length ? make("details", {}, make("summary", {}, `${rest.length} settings as by default`), table(rest)) : null];
}

function figuresOf(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.figures)))];
  const rows = names.map((name) => ({ name, ...Object.fromEntries(runs.map((run, number) => [`run${number}`, run.figures[name]])) }));
  return make("details", {}, make("summary", {}, `all ${names.length} figures of summary.json`),
    tableOf([{ name: "figure", key: "name" }, ...runs.map((run, number) => ({ name: runs.length > 1 ? run.name : "value", key: `run${number}`, isNumber: true }))], rows, { sortable: false }));
}

const TEXT_COLUMNS = [{ name: "model", key: "name" }, { name: "validation nats", key: "valid_loss", isNumber: true }, { name: "bits a character", key: "valid_bits_per_char", isNumber: true },
  { name: "test nats", key: "test_loss", isNumber: true }, { name: "test bits a character", key: "test_bits_per_char", isNumber: true }, { name: "size", key: "size" }];

function columnsOf(data) {
  const columns = data.columns || TEXT_COLUMNS;
  return columns.filter((column) => data.table.some((row) => row[column.key] !== null && row[column.key] !== undefined && row[column.key] !== ""));
}

function samplesOf(samples) {
  return Object.entries(samples).map(([name, drawn]) => make("details", { open: Object.keys(samples).length === 1 }, make("summary", {}, name),
    [...drawn].reverse().map(([step, text], number) => make("details", { open: number === 0 }, make("summary", {}, `step ${told(step)}`), make("pre", { class: "sample" }, text)))));
}

function pageOf(data) {
  const charts = Object.entries(data.charts || {}), parts = [];
  parts.push(section("run", "What was run", settingsOf(data.runs), figuresOf(data.runs)));
  if (data.table?.length) parts.push(section("table", "Figures", data.note ? make("p", { class: "soft" }, data.note) : null, tableOf(columnsOf(data), data.table)));
  if (charts.length) parts.push(section("curves", "Curves", make("div", { class: "charts" }, charts.map(([name, chart]) => chartOf({ ...chart, title: CHARTS[name] || chart.title })))));
  if (data.forecasts?.length) parts.push(section("forecasts", "Forecasts", forecastsOf(data.forecasts, data.times)));
  (data.readings || []).forEach((reading, number) => {
    const title = data.readings.length > 1 ? `The text as ${reading.models.map((model) => model.name).join(" and ")} read it` : "The text as it was read";
    parts.push(section(`text${number || ""}`, title, number || data.readings.length < 2 ? null : make("p", { class: "soft" }, "These runs cut the text into different tokens, so they stand one below the other."), readerOf(reading)));
  });
  if (Object.values(data.samples || {}).some((drawn) => drawn.length)) parts.push(section("samples", "Samples while it was trained", samplesOf(data.samples)));
  const links = parts.map((part) => make("a", { href: `#${part.id}` }, part.getAttribute("aria-label")));
  const names = data.runs.map((run) => `${run.name} (${run.script})`).join(", ");
  return [make("header", {}, make("h1", {}, data.title), make("p", { class: "soft" }, names), make("nav", { "aria-label": "sections" }, links)), make("main", {}, parts),
    make("footer", { class: "soft" }, make("p", {}, "Written by lmseq. This file holds all that it shows."))];
}

document.body.append(...pageOf(JSON.parse(document.getElementById("data").textContent)));
