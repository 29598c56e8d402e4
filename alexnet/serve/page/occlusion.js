// Cover the picture piece by piece, and show what the class loses, while the server computes.

import { Refused, askLines, h, percent, sentence, shortTitle, show } from "./dom.js";
import { copyButton, pngButton } from "./copying.js";

const WORDS = "Occlusion: a grey square covers the picture piece by piece. The picture stays where covering it costs the class most.";
const underWay = new Set();

/** End what is being computed; the server stops when the connection closes. */
export function abandonOcclusion() {
  for (const each of underWay) each.abort();
  underWay.clear();
}

/** A figure that covers the picture of `subject`, {run, square}, once it is asked to. */
export function occlusionFigure({ run, square }, label) {
  const picture = h("div", {}, uncovered(run, square));
  const state = h("div", { class: "state" });
  const start = () => cover({ run, square }, label, picture, state, start);
  state.append(h("button", { class: "main", type: "button", onclick: start }, "Cover it piece by piece"));
  return h("figure", {}, picture, state, h("figcaption", {}, WORDS));
}

/** The part of the picture that the network sees, as it is. */
function uncovered(run, square) {
  const canvas = h("canvas", { class: "big", width: run.crop, height: run.crop, "aria-hidden": "true" });
  const edge = (run.size - run.crop) / 2;
  createImageBitmap(square).then((image) => canvas.getContext("2d").drawImage(image, -edge, -edge));
  return canvas;
}

async function cover({ run, square }, label, picture, state, again) {
  const controller = new AbortController();
  underWay.add(controller);
  const bar = h("progress", { "aria-label": "Places covered", max: 1, value: 0 });
  const words = h("span", { class: "note" }, "Covering …");
  const stop = h("button", { class: "quiet", type: "button", onclick: () => controller.abort() }, "Stop");
  show(state, bar, h("p", { class: "tools" }, words, stop));
  let found = null;
  let trouble = null;
  try {
    const options = { body: square, run: run.name, signal: controller.signal };
    for await (found of askLines(`/evidence/occlusion/${label}`, options)) {
      show(picture, h("img", { src: found.picture, class: "big", alt: `occlusion: ${lost(found, run)}` }));
      bar.max = found.count;
      bar.value = found.done;
      words.textContent = `${places(found)} of ${found.count} places`;
    }
  } catch (error) {
    trouble = error instanceof Refused ? sentence(error.message) : null;
    if (!trouble && !controller.signal.aborted) throw error;
  } finally {
    underWay.delete(controller);
  }
  const isDone = found && found.done === found.count;
  const repeat = h("button", { type: "button", onclick: again }, "Cover it again");
  show(state, isDone ? finished(found, run, picture) : [h("p", { class: "note" }, trouble ?? stopped(found)), repeat]);
}

const places = (found) => `A square of ${found.side} × ${found.side} pixels has covered ${found.done}`;
const stopped = (found) => (found ? `Stopped after ${found.done} of ${found.count} places.` : "Stopped.");

function lost(found, run) {
  const title = shortTitle(run.titles[run.classes.indexOf(found.class)]);
  return `covered at the worst place, ${title} loses ${percent(Math.max(found.largest, 0))} of all probability`;
}

function finished(found, run, picture) {
  return [
    h("p", { class: "note" }, sentence(lost(found, run))),
    h(
      "p",
      { class: "tools" },
      h("span", { class: "note" }, `${places(found)} places in ${found.seconds.toPrecision(2)} s.`),
      pngButton("occlusion", picture),
      copyButton("JSON", () => JSON.stringify(found)),
    ),
  ];
}
