"use strict";
// Elements and numbers. Everything of the data becomes text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

// An element with properties (`class`, `on...` functions, else attributes) and children, elements or texts.
function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

function draw(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return element;
}

const NO_NUMBER = "no number", INFINITE = { Infinity: "∞", "-Infinity": "-∞", NaN: NO_NUMBER };

// Four digits, as tables of this project have them; a dash for what is not known.
function told(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (!isFinite(value)) return INFINITE[value];
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? value.toLocaleString("en") : value.toPrecision(digits);
}

// The same without zeros that say nothing: of round numbers, and of settings.
function short(value, digits = 6) {
  if (typeof value !== "number" || Number.isInteger(value)) return told(value);
  return String(Number(value.toPrecision(digits)));
}

function fixed(value, digits) { return isFinite(value) ? value.toFixed(digits) : INFINITE[value]; }

// Smallest and largest: of more values than a call may have arguments.
function extent(values) {
  return values.reduce(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);
}

function percent(nats) {
  if (Number.isNaN(nats)) return NO_NUMBER;
  if (nats === -Infinity) return "0 %";
  const share = 100 * Math.exp(nats);
  return share >= 99.95 && share < 100 ? ">99.9 %" : share >= 0.1 ? `${share.toPrecision(3)} %` : `${share.toExponential(1)} %`;
}

// A token as one can see it: blanks and what is not printed have signs of their own.
const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u00ad": "-" };

function seen(text) {
  return Array.from(text, (character) => {
    const code = character.codePointAt(0);
    if (character in SIGNS) return SIGNS[character];
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    return code === 127 || /^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]$/u.test(character) ? `\\u{${code.toString(16)}}` : character;
  }).join("");
}

// A group of radio buttons; `choose` is called with the number of the one that is chosen.
function choices(label, names, chosen, choose) {
  const group = `group${choices.count = (choices.count || 0) + 1}`;
  const buttons = names.map((name, number) => make("label", {},
    make("input", { type: "radio", name: group, checked: number === chosen, onchange: () => choose(number) }), ` ${name}`));
  return make("fieldset", {}, make("legend", { class: "soft" }, label), buttons);
}

function selection(label, names, chosen, choose) {
  const select = make("select", { onchange: (event) => choose(event.target.selectedIndex) },
    names.map((name, number) => make("option", { selected: number === chosen }, name)));
  return make("label", {}, `${label} `, select);
}

function section(id, title, ...children) {
  return make("section", { id, "aria-label": title }, make("h2", {}, title), children);
}
