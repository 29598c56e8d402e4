// The most probable classes as bars, one card for each run.

import { ask, fillWith, h, percent, shortTitle, svg } from "./dom.js";
import { copyButton, svgButton } from "./copying.js";

/** Make the card of a run; `card.ask(blob, name, truth)` fills it and returns the best classes' numbers. */
export function makeCard(run, several) {
  const body = h("div", { class: "card-body" });
  const title = several ? `${run.name} (${run.model})` : "Answer";
  const element = h("article", { class: "card" }, h("h2", { class: "small-title" }, title), body);
  let last = null;
  let shown = null;

  async function predict(blob, name, truth) {
    const started = performance.now();
    const response = await ask("/predict", { body: blob, run: run.name, top: 5 });
    const [found] = await response.json();
    last = { ...found, image: name };
    return { found: last, truth, milliseconds: performance.now() - started };
  }

  function render({ found, truth, milliseconds }) {
    const rows = found.predictions.map((each) => ({
      title: run.titles[run.classes.indexOf(each.class)],
      probability: each.probability,
    }));
    return [
      bars(rows, true),
      truth ? h("p", { class: "verdict" }, verdict(truth, rows[0].title, run)) : null,
      h(
        "p",
        { class: "tools" },
        h("span", { class: "note" }, `in ${Math.max(1, Math.round(milliseconds))} ms`),
        copyButton("JSON", () => JSON.stringify([found], null, 2)),
        copyButton("Command", () => `alexnet predict ${quoted(found.image)} ${run.command} --json`),
        svgButton(`answer-${run.name}`, () => barsDrawing(rows)),
      ),
    ];
  }

  return {
    run,
    element,
    async ask(blob, name, truth) {
      const asked = predict(blob, name, truth);
      await fillWith(body, "Asking …", asked, render);
      try {
        await asked;
      } catch (error) {
        if (shown) body.replaceChildren(...shown); // what is shown is still the answer to the last picture
        throw error;
      }
      shown = [...body.childNodes];
      const { found } = await asked;
      return found.predictions.map((each) => run.classes.indexOf(each.class));
    },
    wait: () => body.replaceChildren(h("p", { class: "note" }, run.ready ? "Give it a picture." : "The training has saved no weights yet. The answer comes with the first.")),
  };
}

/** Say whether the answer to a sample is right. */
function verdict(truth, answer, run) {
  const isNamed = (title) => title.split(", ").includes(truth);
  if (isNamed(answer)) return `It shows: ${truth}. The answer is right.`;
  if (run.titles.some(isNamed)) return `It shows: ${truth}. The answer is wrong.`;
  return `It shows: ${truth}. No class of the network has this name.`;
}

export const quoted = (name) => (/^[\w./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

/** A list of classes with bars; `large` for the main answer. */
export function bars(rows, large = false) {
  return h(
    "ol",
    { class: large ? "bars large" : "bars" },
    rows.map(({ title, probability }) =>
      h(
        "li",
        {},
        h("i", { "width%": 100 * probability, "aria-hidden": "true" }),
        h("span", { title }, shortTitle(title)),
        h("b", {}, percent(probability)),
      ),
    ),
  );
}

/** The same as a drawing that stands alone. */
function barsDrawing(rows) {
  const height = 34 * rows.length;
  const look = { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 480 ${height}`, "font-family": "sans-serif", "font-size": 15 };
  return svg(
    "svg",
    { ...look, width: 480, height },
    rows.map(({ title, probability }, row) =>
      svg(
        "g",
        { transform: `translate(0 ${34 * row})` },
        svg("rect", { width: 480, height: 30, rx: 4, fill: "#e9ecf1" }),
        svg("rect", { width: 480 * probability, height: 30, rx: 4, fill: row ? "#cbd1db" : "#9dbdf0" }),
        svg("text", { x: 10, y: 20, fill: "#1b1e23" }, shortTitle(title)),
        svg("text", { x: 470, y: 20, fill: "#1b1e23", "text-anchor": "end" }, percent(probability)),
      ),
    ),
  );
}
