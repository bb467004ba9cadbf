// Where each of two models knows more: by kind of token, and the places that they differ most in.

const MOST_PLACES = 8;

function knowledgeOf(reading, first, second, go) {
  if (first === second) return make("p", { class: "soft" }, "Choose two models to compare.");
  const more = reading.tokens.map((_, place) => differenceAt(first, second, place));
  const mean = more.reduce((sum, each) => sum + each, 0) / more.length, ahead = more.filter((each) => each > 0).length;
  const best = mean > 0 ? first.name : second.name;
  const whole = Number.isNaN(mean) ? "The mean of their difference is no number." : mean === 0 ? "In the mean both know the same." : `${best} knows more, by ${fixed(Math.abs(mean), 4)} nats a token in the mean.`;
  const sum = `${whole} ${first.name} gave the higher probability to `
    + `${(100 * ahead / more.length).toFixed(1)} % of the tokens.`;
  const placesBy = (sign) => more.map((_, place) => place).filter((place) => sign * more[place] > 0)
    .sort((a, b) => compared(sign * more[a], sign * more[b], false));
  return make("div", {}, make("h3", {}, `Where does each know more: ${first.name} and ${second.name}`), make("p", { class: "sum" }, sum),
    kindsOf(reading, first, second, more),
    make("div", { class: "places" }, placesOf(reading, first, placesBy(1), more, go), placesOf(reading, second, placesBy(-1), more, go)));
}

function kindsOf(reading, first, second, more) {
  const rows = reading.kinds.map((name, kind) => {
    const places = reading.kind_of.map((each, place) => (each === kind ? place : -1)).filter((place) => place >= 0);
    const average = (of) => places.reduce((sum, place) => sum + of(place), 0) / places.length;
    const spread = (mean) => 1.96 * Math.sqrt(places.reduce((sum, place) => sum + (more[place] - mean) ** 2, 0) / Math.max(1, places.length - 1) / places.length);
    const mean = average((place) => more[place]);
    const bounds = places.length > 1 && isFinite(mean) ? { low: mean - spread(mean), high: mean + spread(mean) } : {};
    return { name, count: places.length, first: average((place) => -first.nats[place]), second: average((place) => -second.nats[place]), mean, ...bounds };
  }).filter((row) => row.count);
  return tableOf([
    { name: "kind of token", key: "name" }, { name: "tokens", key: "count", isNumber: true },
    { name: `${first.name}, nats`, key: "first", isNumber: true }, { name: `${second.name}, nats`, key: "second", isNumber: true },
    { name: `${first.name} knows more by (95 %, tokens taken as independent)`, key: "mean", isNumber: true, interval: ["low", "high"] }], rows);
}

function placesOf(reading, model, order, more, go) {
  const items = order.slice(0, MOST_PLACES).map((place) => {
    const from = Math.max(0, place - 20), join = (numbers) => seen(numbers.map((each) => reading.symbols[each]).join(reading.spaced ? " " : ""));
    const before = join(reading.tokens.slice(from, place)).slice(-24), token = join([reading.tokens[place]]);
    return make("li", {}, make("button", { type: "button", onclick: () => go(place) }, `…${before}`, make("strong", {}, `[${token}]`), ` by ${fixed(Math.abs(more[place]), 2)} nats`));
  });
  return make("div", {}, make("h3", {}, `${model.name} knows most more at`), items.length ? make("ol", {}, items) : make("p", { class: "soft" }, "no token"));
}
