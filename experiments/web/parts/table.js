// Tables that one can sort, with intervals drawn.

// columns: [{name, key, isNumber, interval: [lowKey, highKey]}]; rows: objects. Sorted by a click on a head.
function tableOf(columns, rows, { sortable = true } = {}) {
  const body = make("tbody"), heads = columns.map((column) => make("th", { class: column.isNumber ? "number" : "", scope: "col" }));
  let sorted = null, isUp = true;
  const span = new Map(columns.filter((column) => column.interval).map((column) => [column, spanOf(column, rows)]));

  function show() {
    const shown = sorted ? [...rows].sort((a, b) => compared(a[sorted.key], b[sorted.key], isUp)) : rows;
    body.replaceChildren(...shown.map((row) => make("tr", { class: row.own ? "own" : null }, columns.map((column) => cellOf(column, row, span)))));
    columns.forEach((column, number) => {
      const order = sorted === column ? (isUp ? "ascending" : "descending") : "none";
      if (sortable) heads[number].setAttribute("aria-sort", order);
      const sign = order === "none" ? "" : isUp ? " ▲" : " ▼";
      const press = () => { isUp = sorted === column ? !isUp : true; sorted = column; show(); heads[number].querySelector("button").focus(); };
      heads[number].replaceChildren(sortable ? make("button", { type: "button", title: "sort", onclick: press }, column.name + sign) : column.name);
    });
  }
  show();
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "table" }, make("table", {}, make("thead", {}, make("tr", {}, heads)), body));
}

// Numbers by size, texts by the alphabet; what is not known last, up and down.
function compared(a, b, isUp) {
  const missing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const areNumbers = typeof a === "number" && typeof b === "number"; // of which two may be infinite
  return (isUp ? 1 : -1) * (areNumbers ? (a > b) - (a < b) : String(a).localeCompare(String(b), "en", { numeric: true }));
}

function spanOf(column, rows) {
  const [low, high] = column.interval;
  const values = rows.flatMap((row) => [row[column.key], row[low], row[high]]).filter(Number.isFinite);
  return values.length ? extent(values) : [0, 1];
}

function cellOf(column, row, span) {
  const value = row[column.key];
  const cell = make("td", { class: column.isNumber ? "number" : "" }, told(value));
  if (!column.interval || !Number.isFinite(value)) return cell;
  const [low, high] = column.interval.map((key) => row[key]), [from, to] = span.get(column);
  const at = (each) => 6 + 118 * (to > from ? (each - from) / (to - from) : 0.5);
  if (typeof low === "number") cell.append(` [${told(low)}, ${told(high)}]`);
  const svg = draw("svg", { class: "interval", viewBox: "0 0 130 14", "aria-hidden": true }, draw("line", { x1: 0, x2: 130, y1: 7, y2: 7, stroke: "var(--line)" }));
  if (typeof low === "number") {
    svg.append(draw("line", { x1: at(low), x2: at(high), y1: 7, y2: 7, stroke: "var(--c0)", "stroke-width": 3 }));
    for (const end of [low, high]) svg.append(draw("line", { x1: at(end), x2: at(end), y1: 2, y2: 12, stroke: "var(--c0)", "stroke-width": 2 }));
  }
  svg.append(draw("circle", { cx: at(value), cy: 7, r: 4, fill: "var(--c0)" }));
  cell.append(svg);
  return cell;
}
