// A text as a heat map: how likely a model found each token, or how much likelier than another one did.

const BOUNDS = [0.5, 0.2, 0.05, 0.01, 0.001]; // of probabilities, from one level of surprise to the next
const APART = [0.1, 0.7, 2.3]; // nats, from one level of a difference to the next

// A log-probability as a page has it: null for that of what is impossible, a word for what is no number.
function natsOf(each) { return each === null ? -Infinity : typeof each === "number" ? each : NaN; }

function withNats(model) {
  return { ...model, nats: model.nats.map(natsOf), id_nats: model.id_nats.map((row) => row.map(natsOf)) };
}

function surprise(nats) {
  const share = Math.exp(nats);
  return BOUNDS.filter((bound) => share < bound).length;
}

function classOf(first, second, place) {
  const more = second ? differenceAt(first, second, place) : first.nats[place];
  if (Number.isNaN(more)) return "none";
  if (!second) { const level = surprise(more); return level ? `s${level}` : ""; }
  const level = APART.filter((bound) => Math.abs(more) >= bound).length;
  return level ? `${more > 0 ? "a" : "b"}${level}` : "";
}

// ln p of the first model minus that of the second; of two impossible tokens nothing.
function differenceAt(first, second, place) {
  const [a, b] = [first.nats[place], second.nats[place]];
  return a === b ? 0 : a - b;
}

function legendOf(first, second) {
  const item = (style, text) => make("span", {}, make("span", { class: style }, "abc"), ` ${text}`);
  const none = [first, second].some((model) => model?.nats.some(Number.isNaN)) ? item("none", NO_NUMBER) : null;
  if (!second) {
    const names = BOUNDS.map((bound) => `${100 * bound} %`);
    return make("p", { class: "legend" }, "probability:", item("", `${names[0]} or more`),
      names.map((name, level) => item(`s${level + 1}`, `below ${name}`)), none);
  }
  return make("p", { class: "legend" },
    make("span", {}, `line above: ${first.name} knows more;`), APART.map((bound, level) => item(`a${level + 1}`, `by ${bound} nats`)),
    make("span", {}, `line below: ${second.name} knows more;`), APART.map((bound, level) => item(`b${level + 1}`, `by ${bound}`)), none);
}

// The section of one reading: choice of models, the text, and the token that is looked at.
function readerOf(reading) {
  const models = reading.models.map(withNats), chosen = { first: 0, second: Math.min(1, models.length - 1), mode: 0 };
  const box = make("div", { class: "text", role: "listbox", "aria-label": "the text, token by token; arrow keys go through it" });
  const panel = make("div", { class: "token", role: "status", "aria-live": "polite" });
  const legend = make("div"), about = make("p", { class: "soft" }), knowledge = make("div");
  const spans = reading.tokens.map((token, place) => spanOfToken(reading, token, place));
  let focused = 0, shown = -1;

  const first = () => models[chosen.first], second = () => models[chosen.second];
  function pair() { return chosen.mode === 2 ? [first(), second()] : [chosen.mode === 1 ? second() : first(), null]; }
  function paint() {
    const [one, other] = pair();
    spans.forEach((span, place) => { span.className = classOf(one, other, place); });
    legend.replaceChildren(legendOf(one, other));
    about.textContent = aboutOf(reading, models);
    if (models.length > 1) knowledge.replaceChildren(knowledgeOf(reading, first(), second(), (place) => look(place, true)));
    look(Math.max(shown, 0), false);
  }
  function look(place, isFocus) {
    shown = place;
    const sides = models.length > 1 ? [first(), second()] : [first()];
    panel.replaceChildren(...tokenOf(reading, sides, place));
    if (!isFocus) return;
    spans[focused].removeAttribute("aria-selected");
    spans[focused].tabIndex = -1;
    focused = place;
    spans[place].tabIndex = 0;
    spans[place].setAttribute("aria-selected", "true");
    spans[place].focus();
  }
  const placeOf = (event) => { const span = event.target.closest("span[data-place]"); return span ? Number(span.dataset.place) : -1; };
  box.addEventListener("pointerover", (event) => { const place = placeOf(event); if (place >= 0) look(place, false); });
  box.addEventListener("pointerleave", () => look(focused, false));
  box.addEventListener("click", (event) => { const place = placeOf(event); if (place >= 0) look(place, true); });
  box.addEventListener("focusin", (event) => { const place = placeOf(event); if (place >= 0 && place !== shown) look(place, false); });
  box.addEventListener("keydown", (event) => {
    const place = moved(event.key, focused, spans, first());
    if (place === null) return;
    event.preventDefault();
    look(place, true);
  });
  box.append(...spans.flatMap((span, place) => reading.spaced && place && !endsLine(reading, place - 1) ? [" ", span] : [span]));
  spans[0].tabIndex = 0;
  const names = models.map((model) => model.name), redraw = (name) => (number) => { chosen[name] = number; paint(); };
  const controls = make("div", { class: "controls" },
    models.length > 2 ? [selection("first", names, chosen.first, redraw("first")), selection("second", names, chosen.second, redraw("second"))] : null,
    models.length > 1 ? choices("shown:", models.length > 2 ? ["first", "second", "difference"] : [...names, "difference"], 0, redraw("mode")) : null);
  paint();
  return make("div", {}, about, controls, legend, make("div", { class: "reader" }, box, panel), knowledge);
}

function endsLine(reading, place) { return reading.symbols[reading.tokens[place]].endsWith("\n"); }

function spanOfToken(reading, token, place) {
  const text = reading.symbols[token], ends = text.endsWith("\n");
  const body = ends ? text.slice(0, -1) : text;
  // Line ends and what is not printed are shown by a sign; a blank is a blank, whose line shows how likely it was.
  const shown = Array.from(body, (character) => character === " " || character === "\t" ? character : seen(character)).join("");
  const span = make("span", { "data-place": place, tabindex: -1, role: "option" }, shown);
  if (ends) span.append("⏎\n");
  return span;
}

// Where a key leads from a token; null for other keys.
function moved(key, place, spans, model) {
  const last = spans.length - 1;
  switch (key) {
    case "ArrowRight": return Math.min(place + 1, last);
    case "ArrowLeft": return Math.max(place - 1, 0);
    case "ArrowDown": return onLine(place, spans, 1);
    case "ArrowUp": return onLine(place, spans, -1);
    case "Home": return 0;
    case "End": return last;
    case "n": return surprising(place, 1, model);
    case "p": return surprising(place, -1, model);
    default: return null;
  }
}

function surprising(place, step, model) {
  for (let next = place + step; next >= 0 && next < model.nats.length; next += step) if (surprise(model.nats[next]) >= 4) return next;
  return place;
}

// The token on the next or the previous line that lies nearest.
function onLine(place, spans, step) {
  const here = spans[place].getClientRects()[0], middle = here.left + here.width / 2;
  let best = place, line = null, least = Infinity;
  for (let next = place + step; next >= 0 && next < spans.length; next += step) {
    const box = spans[next].getClientRects()[0];
    if (!box || Math.abs(box.top - here.top) < here.height / 2) continue;
    if (line === null) line = box.top;
    if (Math.abs(box.top - line) > here.height / 2) break;
    const far = Math.abs(box.left + box.width / 2 - middle);
    if (far < least) [best, least] = [next, far];
  }
  return best;
}

function aboutOf(reading, models) {
  const number = reading.tokens.length;
  const losses = models.map((model) => {
    const whole = typeof model.loss === "number" ? `, of all that was scored ${model.loss.toFixed(4)}` : "";
    return `${model.name} ${fixed(meanLoss(model), 4)}${whole}`;
  });
  return `The first ${told(number)} of ${told(reading.of)} tokens of the validation text. Nats a token here: ${losses.join("; ")}. `
    + "Point at a token, or go through them by arrow keys; n and p lead to the next and the previous one below 1 %.";
}

function meanLoss(model) { return -model.nats.reduce((sum, each) => sum + each, 0) / model.nats.length; }

// What is said of one token: the probability that each model gave it, and what each found likelier.
function tokenOf(reading, sides, place) {
  const token = reading.tokens[place];
  const symbol = (number, came) => make("span", { class: came ? "symbol came" : "symbol" }, seen(reading.symbols[number]));
  const before = reading.tokens.slice(Math.max(0, place - 24), place).map((each) => reading.symbols[each]).join(reading.spaced ? " " : "");
  const head = make("h3", {}, `token ${told(place + 1)} of ${told(reading.tokens.length)}: `, symbol(token, true));
  const after = make("p", { class: "soft" }, before ? "after " : "the first", before ? make("span", { class: "symbol" }, seen(before.slice(-28))) : "");
  const columns = sides.map((model, number) => {
    const nats = model.nats[place];
    const bars = model.ids[place].map((each, rank) => {
      const theirs = model.id_nats[place][rank], bar = make("span", { class: "bar" });
      bar.style.width = `${Math.max(1, 100 * Math.exp(theirs) || 0)}%`;
      return [symbol(each, each === token), make("span", {}, bar), make("span", {}, percent(theirs))];
    });
    return make("div", {}, make("h3", {}, model.name),
      make("p", {}, make("strong", { class: "share" }, percent(nats)), Number.isNaN(nats) ? "" : ` (${fixed(-nats, 3)} nats)`),
      make("div", { class: `bars${number ? " second" : ""}` }, bars));
  });
  const more = sides.length > 1 ? differenceAt(sides[0], sides[1], place) : 0;
  const which = sides.length > 1 ? make("p", {}, Number.isNaN(more) ? "Their difference is no number." : Math.abs(more) < 0.005 ? "Both know the same." : `${sides[more > 0 ? 0 : 1].name} knows more, by ${fixed(Math.abs(more), 2)} nats.`) : null;
  return [head, after, make("div", { class: "beside" }, columns), which, make("p", { class: "soft" }, "framed in bold: what came")].filter(Boolean);
}
