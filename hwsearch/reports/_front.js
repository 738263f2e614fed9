"use strict";

/** The best network within limits: the number of the point with the highest score whose every value is at most its limit, or -1. */
function within(points, limits) {
  let best = -1;
  points.forEach((point, number) => {
    const fits = Object.entries(limits).every(([name, most]) => point.values[name] <= most);
    if (fits && (best < 0 || point.score > points[best].score)) best = number;
  });
  return best;
}

/** A number as a person would write it. */
function told(value) {
  const size = Math.abs(value);
  return size >= 1e4 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(4)).toString();
}

/** About n round numbers between two others. */
function ticks(low, high, n = 5) {
  const raw = (high - low || 1) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw) || 10 * power;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9 * step; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

/** A line from one range to another. */
function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function draw(root, data) {
  const NS = "http://www.w3.org/2000/svg", left = 70, right = 20, top = 16, bottom = 52;
  const make = (name, facts, parent, text) => {
    const node = document.createElementNS(NS, name);
    Object.entries(facts).forEach(([key, value]) => node.setAttribute(key, value));
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  };
  const width = Math.min(720, Math.max(320, root.clientWidth)), height = Math.round(width < 500 ? 0.8 * width : 0.58 * width);  // so that words keep their size
  const points = data.points, [x, hue] = data.metrics;
  const of = (name) => points.map((point) => (name === "score" ? point.score : point.values[name]));
  const range = (name) => [Math.min(...of(name)), Math.max(...of(name))];
  const padded = ([low, high]) => [low - 0.04 * (high - low || 1), high + 0.04 * (high - low || 1)];
  const [x0, x1] = padded(range(x)), [y0, y1] = padded(range("score"));
  const across = scale(x0, x1, left, width - right), up = scale(y0, y1, height - bottom, top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": data.title }, root.querySelector(".plot"));
  ticks(x0, x1, width / 100).forEach((at) => {
    make("line", { x1: across(at), x2: across(at), y1: top, y2: height - bottom, class: "grid" }, svg);
    make("text", { x: across(at), y: height - bottom + 20, "text-anchor": "middle" }, svg, told(at));
  });
  ticks(y0, y1, height / 50).forEach((at) => {
    make("line", { x1: left, x2: width - right, y1: up(at), y2: up(at), class: "grid" }, svg);
    make("text", { x: left - 8, y: up(at) + 4, "text-anchor": "end" }, svg, told(at));
  });
  make("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, svg, `${x} (${data.known[x]})`);
  const label = { x: 16, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 16 ${height / 2})` };
  make("text", label, svg, "score (predicted)");
  const colour = hue ? scale(...range(hue), 240, 20) : () => 200;
  const telling = root.querySelector(".told");
  const tell = (number) => {
    const point = points[number];
    const values = Object.entries(point.values).map(([name, value]) => `${name} ${told(value)}`);
    telling.textContent = number < 0 ? "No network of this front is within these limits." : `score ${told(point.score)}, ${values.join(", ")}\n${point.network}`;
  };
  const circles = points.map((point, number) => {
    const place = { cx: across(point.values[x]), cy: up(point.score), r: 5, tabindex: 0 };
    const circle = make("circle", { ...place, style: `--hue: ${hue ? colour(point.values[hue]) : 200}` }, svg);
    circle.addEventListener("mouseenter", () => tell(number));
    circle.addEventListener("focus", () => tell(number));
    return circle;
  });
  const limits = {}, sliders = root.querySelector(".sliders");
  const choose = () => {
    const best = within(points, limits);
    circles.forEach((circle, number) => {
      const fits = Object.entries(limits).every(([name, most]) => points[number].values[name] <= most);
      circle.setAttribute("class", number === best ? "best" : fits ? "" : "out");
    });
    if (best < 0) telling.textContent = "No network of this front is within these limits.";
    else tell(best);
  };
  data.metrics.forEach((name) => {
    const [low, high] = range(name), line = document.createElement("label"), input = document.createElement("input");
    const shown = document.createElement("output");
    Object.assign(input, { type: "range", min: low, max: high, step: (high - low || 1) / 200 });
    input.value = high;
    input.setAttribute("aria-label", `most ${name}`);
    const moved = () => {
      limits[name] = Number(input.value) >= high - (high - low) / 400 ? Infinity : Number(input.value);
      shown.textContent = limits[name] === Infinity ? "any" : `at most ${told(limits[name])}`;
      choose();
    };
    input.addEventListener("input", moved);
    line.append(`${name} `, input, shown);
    sliders.append(line);
    limits[name] = Infinity;
    shown.textContent = "any";
  });
  if (hue) sliders.insertAdjacentHTML("beforeend", `<p class="key">Colour: ${hue}, from blue (${told(range(hue)[0])}) to red (${told(range(hue)[1])}).</p>`);
  choose();
}

if (typeof document === "undefined") module.exports = { within, told, ticks, scale };
else document.querySelectorAll(".front").forEach((root) => draw(root, JSON.parse(root.querySelector("script").textContent)));
