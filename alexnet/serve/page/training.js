// The curves of a training, also while it goes on.

import { $, askJson, h, percent, show, svg } from "./dom.js";
import { copyButton, svgButton } from "./copying.js";

const EVERY = 3000;
const [WIDEST, HEIGHT, LEFT, BOTTOM] = [440, 240, 52, 34];

/** Show the curves of a run; ask again while it trains. `renew` is called when weights are newer. */
export async function followTraining(run, isNamed, renew, checkpoint) {
  const rows = await askJson("/training", { run: run.name });
  if (checkpoint !== undefined && rows.checkpoint !== checkpoint) renew();
  if (!rows.epochs.length && !rows.steps.length && !rows.training) return;
  $("training").hidden = false;
  draw(run, isNamed, rows);
  if (rows.training) setTimeout(() => followTraining(run, isNamed, renew, rows.checkpoint).catch(() => {}), EVERY);
}

/** The part of the page for a run, made when it is first asked for. */
function homeOf(run) {
  const id = `training-${run.name}`;
  if (!$(id)) $("training-body").append(h("div", { id }));
  return $(id);
}

function draw(run, isNamed, { epochs, steps, training, planned }) {
  const byEpoch = (key) => epochs.filter((row) => row[key] !== null).map((row) => [row.epoch, row[key]]);
  const lastStep = Math.max(1, ...epochs.map((row) => row.step / row.epoch));
  const byStep = steps.map((row) => [row.step / lastStep, row.train_loss]);
  const loss = epochs.length > 1 || (epochs.length && !steps.length) ? byEpoch("train_loss") : epochs.length ? byStep : steps.map((row) => [row.step, row.train_loss]);
  const charts = [
    ["Loss, nats per image", [["training", loss], ["validation", byEpoch("val_loss")]], (value) => value.toPrecision(2)],
    ["Validation error", [["top-1", byEpoch("top1_error")], ["top-5", byEpoch("top5_error")]], (value) => `${Math.round(100 * value)} %`],
  ];
  const last = epochs.at(-1);
  const state = training ? `Epoch ${Math.min((last?.epoch ?? 0) + 1, planned)} of ${planned} is under way.` : `${epochs.length} of ${planned} epochs.`;
  const error = last && last.top1_error !== null ? ` Top-1 error on the validation images: ${percent(last.top1_error)}.` : "";
  const json = copyButton("JSON", () => JSON.stringify({ run: run.name, epochs, steps }));
  show(
    homeOf(run),
    isNamed ? h("h3", {}, run.name) : null,
    h("p", { class: "note" }, state + error),
    h("div", { class: "charts" }, charts.map(([title, curves, text], place) => chart(title, curves, text, epochs.length ? "epoch" : "step", place ? null : json))),
  );
}

function chart(title, curves, text, unit, json) {
  const drawn = curves.filter(([, points]) => points.length);
  if (!drawn.length) return h("figure", { class: "chart" }, h("h3", {}, title), h("p", { class: "note" }, "No values yet."));
  const make = () => drawing(drawn, text, unit, `${title}: ${drawn.map(([name, points]) => `${name} ${text(points.at(-1)[1])} at last`).join(", ")}`);
  const legend = drawn.map(([name, points], index) =>
    h("li", {}, svg("svg", { viewBox: "0 0 34 12", width: 34, height: 12, "aria-hidden": "true" }, svg("g", { class: `c${index + 1}` }, svg("line", { x1: 1, x2: 33, y1: 6, y2: 6 }))), `${name} `, h("b", {}, text(points.at(-1)[1]))),
  );
  return h("figure", { class: "chart" }, h("h3", {}, title), h("ul", { class: "legend" }, legend), make(), h("p", { class: "tools" }, svgButton(title.split(",")[0].toLowerCase(), () => printed(make())), json));
}

function drawing(curves, text, unit, description) {
  const width = Math.min(WIDEST, $("training-body").clientWidth); // letters stay as large on a phone
  const all = curves.flatMap(([, points]) => points);
  const [first, last] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))];
  const highest = Math.max(...all.map(([, y]) => y)) * 1.05 || 1;
  const across = (x) => LEFT + ((x - first) / (last - first || 1)) * (width - LEFT - 14);
  const down = (y) => HEIGHT - BOTTOM - (y / highest) * (HEIGHT - BOTTOM - 10);
  const step = nice(highest / 4);
  const ticks = Array.from({ length: Math.floor(highest / step) + 1 }, (_, index) => index * step);
  const grid = ticks.flatMap((value) => [
    svg("line", { class: "rule", x1: LEFT, x2: width - 14, y1: down(value), y2: down(value) }),
    svg("text", { x: LEFT - 8, y: down(value) + 4.5, "text-anchor": "end" }, text(value)),
  ]);
  const ends = [...new Set([first, last])].map((x) =>
    svg("text", { x: across(x), y: HEIGHT - 14, "text-anchor": "middle" }, `${Number(x.toFixed(1))}`),
  );
  const lines = curves.map(([, points], index) =>
    svg(
      "g",
      { class: `c${index + 1}` },
      svg("polyline", { points: points.map(([x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`).join(" ") }),
      points.length === 1 ? svg("circle", { cx: across(points[0][0]), cy: down(points[0][1]), r: 4 }) : null,
    ),
  );
  return svg(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": description },
    grid,
    ends,
    svg("text", { x: (width + LEFT) / 2, y: HEIGHT - 2, "text-anchor": "middle" }, unit),
    lines,
  );
}

function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= step);
}

/** Give a drawing its colours as attributes, so that it stands alone. */
function printed(drawn) {
  const colors = ["#1d5fc4", "#b4500b"];
  drawn.setAttribute("font-family", "sans-serif");
  drawn.setAttribute("font-size", "13");
  for (const line of drawn.querySelectorAll(".rule")) line.setAttribute("stroke", "#d9dde3");
  for (const word of drawn.querySelectorAll("text")) word.setAttribute("fill", "#59606b");
  colors.forEach((color, index) => {
    for (const line of drawn.querySelectorAll(`.c${index + 1} > *`)) {
      line.setAttribute("stroke", color);
      line.setAttribute("fill", "none");
      line.setAttribute("stroke-width", "2.25");
      if (index && line.tagName !== "circle") line.setAttribute("stroke-dasharray", "7 4");
    }
  });
  return drawn;
}
