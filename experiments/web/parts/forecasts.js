// Forecasts of series, origin by origin: what came before, what was forecast with its bands, and what came.

const BEFORE = 3; // times the horizon, of what is shown before an origin

// drawn: what the page has of each variable; times: lists of times, which they name by a number.
function forecastsOf(drawn, times) {
  const forecasts = drawn.map((each) => ({ ...each, times: each.times === null ? null : times[each.times] }));
  let number = 0, place = 0;
  const name = (each) => [each.series, each.column].filter(Boolean).join(", ");
  const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "origin of the forecast" });
  const at = make("output", {}), shares = make("span", {}), holder = make("div");
  const chart = chartOf(originOf(forecasts[0], 0));

  function show() {
    const each = forecasts[number];
    place = Math.min(place, each.origins.length - 1);
    slider.max = each.origins.length - 1;
    slider.value = place;
    slider.disabled = each.origins.length < 2;
    const time = each.times ? `, ${each.times[each.origins[place] - each.first] ?? ""}` : "";
    at.textContent = `origin ${told(place + 1)} of ${told(each.origins.length)}: after ${told(each.origins[place])} values${time}`;
    slider.setAttribute("aria-valuetext", at.textContent);
    shares.textContent = shareOf(each);
    chart.show(originOf(each, place));
  }
  slider.addEventListener("input", () => { place = Number(slider.value); show(); });
  const several = forecasts.length > 1 ? selection("series", forecasts.map(name), 0, (chosen) => { number = chosen; show(); }) : null;
  const step = (by, text) => make("button", { type: "button", onclick: () => { place = Math.min(Math.max(place + by, 0), forecasts[number].origins.length - 1); show(); } }, text);
  show();
  holder.append(make("p", { class: "soft" }, `Move the slider, by arrow keys too, to see the forecast from each origin.`, shares),
    make("div", { class: "controls" }, several, step(-1, "previous"), slider, step(1, "next"), at), chart);
  return holder;
}

function shareOf({ origins, shown, of }) {
  if (shown >= of) return "";
  if (shown === 1) return ` Shown is one of ${told(of)} origins.`;
  return ` Shown are ${told(shown)} of ${told(of)} origins, spread evenly from ${told(origins[0])} to ${told(origins[shown - 1])}.`;
}

function originOf(each, at) {
  const origin = each.origins[at], horizon = Math.max(...each.models.map((model) => model.points[at].length));
  const from = Math.max(each.first, origin - BEFORE * horizon), until = Math.min(each.first + each.values.length, origin + horizon);
  const range = (begin, end) => Array.from({ length: Math.max(0, end - begin) }, (_, number) => begin + number);
  const value = (time) => each.values[time - each.first];
  const curves = each.models.flatMap((model, number) => {
    const ahead = range(origin, origin + model.points[at].length);
    const bands = model.bands.map((band, place) => ({ label: `${model.name}, ${band.label}`, band: "", colour: number, dash: 1 + place, x: ahead, y: ahead.map(() => null), low: band.low[at], high: band.high[at] }));
    return [{ label: model.name, band: "", colour: number, dash: number ? 4 : 0, x: ahead, y: model.points[at] }, ...bands];
  });
  const came = { label: "what came", band: "", colour: 6, dash: 0, x: range(from, until), y: range(from, until).map(value) };
  return { title: `${[each.series, each.column].filter(Boolean).join(", ")}, ${horizon} steps from ${told(origin)}`, xlabel: each.times ? "time" : "step", ylabel: each.column || "value",
    log: "", ticks: [], levels: [], range: each.range, named: each.times ? (time) => each.times[time - each.first] ?? told(time) : null, curves: [...curves, came] };
}
