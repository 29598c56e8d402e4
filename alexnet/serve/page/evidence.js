// Where in the picture a class is seen; the ten views; the nearest training images.

import { $, askJson, fillWith, h, percent, shortTitle } from "./dom.js";
import { bars } from "./answer.js";
import { copyButton, pngButton } from "./copying.js";

const WORDS = {
  "grad-cam": "Grad-CAM: the last maps, weighted by how much they count for the class. The picture fades where they are low.",
  occlusion: "Occlusion: a grey square covers the picture piece by piece. The picture stays where covering it costs the class most.",
};

/** Show Grad-CAM, and offer occlusion, for each of `subjects`: [{run, square, labels}]. */
export function showEvidence(subjects) {
  $("evidence").hidden = false;
  $("evidence-body").replaceChildren(
    ...subjects.map(({ run, square, labels }) => {
      const select = h("select", { id: `label-${run.name}` }, options(run, labels));
      const cards = h("div", { class: "pair" });
      const draw = () => cards.replaceChildren(...Object.keys(WORDS).map((kind) => card(kind)));
      const card = (kind) => {
        const body = h("div", {});
        const act = () => compute(kind, body);
        if (kind === "grad-cam") act();
        else body.append(h("button", { class: "main", onclick: act }, "Cover it piece by piece"));
        return h("figure", {}, body, h("figcaption", {}, WORDS[kind]));
      };
      const compute = (kind, body) => {
        const asked = askJson(`/evidence/${kind}/${select.value}`, { body: square, run: run.name });
        const note = kind === "occlusion" ? "Covering … for a large network this takes seconds." : "Computing …";
        return fillWith(body, note, asked, (found) => rendered(kind, found, run, body));
      };
      select.addEventListener("change", draw);
      draw();
      const name = subjects.length > 1 ? `${run.name}: the evidence for ` : "The evidence for ";
      return h("div", {}, h("p", { class: "which-class" }, h("label", { for: select.id }, name), select), cards);
    }),
  );
}

function options(run, labels) {
  const rest = run.titles.map((_, index) => index).filter((index) => !labels.includes(index));
  return [...labels, ...rest].map((index) => h("option", { value: index }, shortTitle(run.titles[index])));
}

function rendered(kind, found, run, body) {
  const title = shortTitle(run.titles[run.classes.indexOf(found.class)]);
  const lost = Math.max(found.largest, 0);
  const words =
    kind === "occlusion"
      ? `covered at the worst place, ${title} loses ${percent(lost)} of all probability`
      : `where ${title} is seen`;
  return [
    h("img", { src: found.picture, class: "big", alt: `${kind}: ${words}` }),
    h(
      "p",
      { class: "tools" },
      h("span", { class: "note" }, words),
      pngButton(kind, body),
      copyButton("JSON", () => JSON.stringify(found)),
    ),
  ];
}

/** Show the ten views of a run with the answer to each. */
export function showViews({ run, square }) {
  $("views").hidden = false;
  const asked = Promise.all([askJson("/views", { body: square, run: run.name }), createImageBitmap(square)]);
  fillWith($("views-body"), "Asking about ten views …", asked, ([found, image]) => {
    const pictures = found.views.map((view) => {
      const canvas = h("canvas", { width: view.side, height: view.side, "aria-hidden": "true" });
      const context = canvas.getContext("2d");
      if (view.flip) context.setTransform(-1, 0, 0, 1, view.side, 0);
      context.drawImage(image, -view.left, -view.top);
      const answer = view.predictions[0];
      const words = `${shortTitle(answer.title)} ${percent(answer.probability)}`;
      return h("li", {}, canvas, h("span", {}, words));
    });
    const command = `alexnet predict PICTURE ${run.command} --views 10`;
    const mean = [
      h("h3", { class: "small-title" }, "Mean of the ten"),
      bars(found.mean),
      h("p", { class: "tools" }, copyButton("JSON", () => JSON.stringify(found)), copyButton("Command", () => command)),
    ];
    return h("div", { class: "views" }, h("ul", { class: "ten" }, pictures), h("div", {}, mean));
  });
}

/** Show the training images nearest to the picture in the last hidden layer. */
export function showNearest({ run, square }) {
  if (!run.data) return;
  $("near").hidden = false;
  const asked = askJson("/nearest", { body: square, patient: true });
  fillWith($("near-body"), "Looking at the training images …", asked, (found) => [
    h("p", { class: "note" }, `Of ${found.searched.toLocaleString("en-GB")} training images, those whose ${found.layer} is nearest, by Euclidean distance.`),
    h(
      "ul",
      { class: "tiles" },
      found.images.map((each) =>
        h("li", {}, h("img", { src: each.picture, alt: "" }), h("span", {}, shortTitle(each.title))),
      ),
    ),
    h("p", { class: "tools" }, pngButton("nearest", $("near-body")), copyButton("JSON", () => JSON.stringify(found))),
  ]);
}
