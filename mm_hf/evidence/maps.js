"use strict";
/* Helpers for the rest of the page: elements, numbers, colours. All data become text, never HTML. */

const about = JSON.parse(document.getElementById("about").textContent);

/** An element with attributes by name (also "class") and children (texts or elements). */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A text from the data. Its writing direction does not affect the text around it. */
const data = (text) => element("bdi", {}, String(text));

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const minus = (text) => text.replace("-", "\u2212");

/** A number with three significant digits. */
function figure(value, signed = false) {
  if (!isNumber(value)) return "\u2013";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e6 || size < 1e-3 ? value.toExponential(1)
    : size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  return minus(signed && value > 0 ? `+${text}` : text);
}

/** A probability in percent. It is shown as 0 or 100 % only if it is exactly that. */
function percent(value) {
  if (!isNumber(value)) return "\u2013";
  if (value < 1 && value >= 0.9995) return "> 99.9 %";
  if (value > 0 && value < 0.0005) return "< 0.1 %";
  return `${Number((100 * value).toFixed(1))} %`;
}

const words = (name) => String(name).replaceAll("_", " ");

/* Bars */

/** A bar within a range; it starts at zero if zero is in the range. It is hidden from screen readers, because the number is
 * beside it. */
function bar(value, low, high, kind = "") {
  const place = (x) => 100 * Math.min(1, Math.max(0, (x - low) / (high - low || 1)));
  const zero = place(0), end = place(value);
  const fill = element("i", { class: `fill ${kind || (value < 0 ? "against" : "for")}` });
  fill.style.left = `${Math.min(zero, end)}%`;
  fill.style.width = `${Math.abs(end - zero)}%`;
  const whole = element("span", { class: "bar", "aria-hidden": "true" }, fill);
  if (low < 0) {
    const line = element("i", { class: "zero" });
    line.style.left = `${zero}%`;
    whole.append(line);
  }
  return whole;
}

/** A point within a range that does not begin at zero. */
function point(value, low, high) {
  const mark = element("i", { class: "point" });
  mark.style.left = `${100 * ((value - low) / (high - low || 1))}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, mark);
}

/* Maps */

const hex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
const scales = Object.fromEntries(Object.entries(about.colors).map(([name, colors]) => [name, colors.map(hex)]));

/** The colour at a share of a scale, 0 to 1. */
function colorAt(scale, share) {
  const at = Math.min(1, Math.max(0, share)) * (scale.length - 1), below = Math.min(scale.length - 2, Math.floor(at));
  return scale[below].map((from, part) => Math.round(from + (at - below) * (scale[below + 1][part] - from)));
}

const flat = (values) => (Array.isArray(values) ? values.flatMap(flat) : isNumber(values) ? [values] : []);

/** The largest absolute value in a map, which gets the strongest colour; 0 if all values are 0. */
const largest = (part) => flat(part.values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** The map of one picture as coloured cells. Cells with small values are more transparent. */
function heatMap(grid, signed, most, label) {
  const height = grid.length, width = Math.max(...grid.map((line) => line.length));
  const canvas = element("canvas", { class: "heat", width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  grid.forEach((line, y) => line.forEach((value, x) => {
    const share = most && isNumber(value) ? value / most : 0;
    const [red, green, blue] = colorAt(signed ? scales.signs : scales.sizes, signed ? (share + 1) / 2 : share);
    pixels.data.set([red, green, blue, 255 * (signed ? Math.abs(share) ** 0.7 : 0.2 + 0.8 * share ** 0.7)], 4 * (y * width + x));
  }));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** A heat map in words, for screen readers. */
function saidOfMap(grid) {
  let most = null;
  grid.forEach((line, y) => line.forEach((value, x) => {
    if (isNumber(value) && (most === null || Math.abs(value) > Math.abs(most.value))) most = { value, x, y };
  }));
  const cells = `${grid.length} rows of ${grid[0]?.length ?? 0} cells`;
  return most === null ? `Heat map, ${cells}.`
    : `Heat map, ${cells}; the largest value is in row ${most.y + 1}, column ${most.x + 1}: ${figure(most.value)}.`;
}

/** What the colours mean. */
function legend(part, most, tinted) {
  const stripe = element("i", { class: `stripe ${tinted ? (part.signed ? "signs" : "sizes") : ""}` });
  if (!tinted) {
    const colors = (part.signed ? scales.signs : scales.sizes).map((color) => `rgb(${color.join(" ")})`);
    stripe.style.backgroundImage = `linear-gradient(to right, ${colors.join(", ")})`;
  }
  const ends = part.signed ? [`against the answer ${figure(-most)}`, `for the answer ${figure(most, true)}`] : ["0", `largest effect, ${figure(most)}`];
  return element("span", { class: "legend" }, ends[0], stripe, ends[1]);
}

/** Tints a word or a stretch of time. `host` is an HTML or SVG element. */
function tint(host, value, part, most) {
  const share = most && isNumber(value) ? value / most : 0;
  host.classList.add("tint", part.signed ? (share < 0 ? "against" : "for") : "size");
  if (Math.abs(share) >= 0.5) host.classList.add("strong");
  host.style.setProperty("--weight", Math.abs(share).toFixed(3));
}
