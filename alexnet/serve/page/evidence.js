// Where in the picture a class is seen; the ten views; the nearest training images.

import { $, askJson, fillWith, h, hold, percent, shortTitle, show } from "./dom.js";
import { bars } from "./answer.js";
import { copyButton, pngButton } from "./copying.js";
import { abandonOcclusion, occlusionFigure } from "./occlusion.js";

const WORDS = "Grad-CAM: the last convolution’s maps, weighted by how much they count for the class. The picture fades where they are low.";

/** Show Grad-CAM, and offer occlusion, for each of `subjects`: [{run, square, labels}]. */
export function showEvidence(subjects) {
  abandonOcclusion();
  $("evidence").hidden = false;
  hold($("evidence-body"));
  $("evidence-body").replaceChildren(
    ...subjects.map((subject) => {
      const { run, labels } = subject;
      const select = h("select", { id: `label-${run.name}` }, options(run, labels));
      const figures = h("div", { class: "pair" });
      const draw = () => figures.replaceChildren(gradCam(subject, select.value), occlusionFigure(subject, select.value));
      select.addEventListener("change", () => {
        abandonOcclusion();
        draw();
      });
      draw();
      const name = subjects.length > 1 ? `${run.name}: the evidence for ` : "The evidence for ";
      return h("div", {}, h("p", { class: "which-class" }, h("label", { for: select.id }, name), select), figures);
    }),
  );
}

function options(run, labels) {
  const rest = run.titles.map((_, index) => index).filter((index) => !labels.includes(index));
  return [...labels, ...rest].map((index) => h("option", { value: index }, shortTitle(run.titles[index])));
}

function gradCam({ run, square }, label) {
  const body = h("div", {});
  const asked = askJson(`/evidence/grad-cam/${label}`, { body: square, run: run.name });
  fillWith(body, "Computing …", asked, (found) => {
    const title = shortTitle(run.titles[run.classes.indexOf(found.class)]);
    const words = found.largest > 0 ? `Where ${title} is seen.` : `By this measure ${title} is seen nowhere.`;
    return [
      h("img", { src: found.picture, class: "big", alt: `grad-cam: ${words}` }),
      h(
        "p",
        { class: "tools" },
        h("span", { class: "note" }, words),
        pngButton("grad-cam", body),
        copyButton("JSON", () => JSON.stringify(found)),
      ),
    ];
  });
  return h("figure", {}, body, h("figcaption", {}, WORDS));
}

/** Show the ten views of each run with the answer to each. */
export function showViews(subjects) {
  $("views").hidden = false;
  hold($("views-body"));
  show($("views-body"), subjects.map((subject) => viewsOf(subject, subjects.length > 1)));
}

function viewsOf({ run, square }, isNamed) {
  const home = h("div", {});
  const asked = Promise.all([askJson("/views", { body: square, run: run.name }), createImageBitmap(square)]);
  fillWith(home, "Asking about ten views …", asked, ([found, image]) => {
    const pictures = found.views.map((view) => {
      const canvas = h("canvas", { width: view.side, height: view.side, "aria-hidden": "true" });
      const context = canvas.getContext("2d");
      if (view.flip) context.setTransform(-1, 0, 0, 1, view.side, 0);
      context.drawImage(image, -view.left, -view.top);
      const answer = view.predictions[0];
      const title = shortTitle(answer.title);
      return h("li", {}, canvas, h("span", { class: "clipped", title }, title), percent(answer.probability));
    });
    const command = `alexnet predict PICTURE ${run.command} --views 10`;
    const mean = [
      h("h3", { class: "small-title" }, "Mean of the ten"),
      bars(found.mean),
      h("p", { class: "tools" }, pngButton("views", home), copyButton("JSON", () => JSON.stringify(found)), copyButton("Command", () => command)),
    ];
    return h("div", { class: "views" }, h("ul", { class: "ten" }, pictures), h("div", {}, mean));
  });
  return h("div", {}, isNamed ? h("h3", {}, run.name) : null, home);
}

/** Show the training images nearest to the picture in the last hidden layer. */
export function showNearest({ run, square }) {
  if (!run.data) return;
  $("near").hidden = false;
  hold($("near-body"));
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
