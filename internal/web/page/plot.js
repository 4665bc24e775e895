// A plot of the last minutes: a line for each series, told apart by its dashes too, and what each
// is now in words below it.
import { draw, make, write } from "./dom.js";

const kept = 150; // points
const wide = 300;
const high = 100;
const dashes = ["", "7 3", "2 3", "9 3 2 3", "4 4"];

// plot shows series in a figure. add({ name: { value, style } }) appends a point to each.
export function plot(figure, unit) {
  const series = new Map();
  const top = make("span");
  figure.querySelector("figcaption").append(" ", top);
  const title = draw("title", {}, "nothing yet");
  const picture = draw("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", role: "img" }, title);
  const legend = make("div", { class: "legend" });
  figure.append(picture, legend);
  let points = 0;

  function begin(name, style) {
    const dash = dashes[series.size % dashes.length];
    const line = draw("path", { class: `s-${style}`, "stroke-dasharray": dash });
    const sample = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" },
      draw("path", { class: `s-${style}`, d: "M0 5H26", "stroke-dasharray": dash }));
    const said = make("span");
    picture.append(line);
    legend.append(make("span", {}, sample, said));
    series.set(name, { line, said, values: new Array(points).fill(0) });
  }

  function add(now) {
    for (const [name, { style }] of Object.entries(now)) if (!series.has(name)) begin(name, style);
    points = Math.min(points + 1, kept);
    let most = 0;
    for (const [name, s] of series) {
      s.values.push(now[name]?.value ?? 0);
      if (s.values.length > kept) s.values.shift();
      most = Math.max(most, ...s.values);
    }
    for (const [name, s] of series) {
      const step = wide / (kept - 1);
      const from = wide - (s.values.length - 1) * step;
      const y = (v) => high - 2 - (most ? (v / most) * (high - 6) : 0);
      s.line.setAttribute("d", s.values.map((v, i) => `${i ? "L" : "M"}${(from + i * step).toFixed(1)} ${y(v).toFixed(1)}`).join(""));
      write(s.said, `${name} ${unit(s.values.at(-1))}`);
    }
    write(top, most ? `at most ${unit(most)}` : "");
    write(title, [...series.values()].map((s) => s.said.textContent).join(", ") || "nothing yet");
  }
  return add;
}
