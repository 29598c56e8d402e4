// A small canvas to draw on. The answer follows the pen.

import { h } from "./dom.js";

/** The name of what is drawn. */
export const DRAWING = "drawing.png";
const SIDE = 256;
const INKS = { blue: "#2f6fd6", red: "#c8402f", green: "#3d8b47", yellow: "#e3b23c", dark: "#2b2d33" };
const GROUND = "#cfd6dc";

/** Make the board in `home`; `take(blob, name)` gets the drawing while it grows. */
export function makeBoard(home, take) {
  const canvas = h("canvas", { width: SIDE, height: SIDE, "aria-label": "Drawing board", role: "img" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const filled = h("input", { type: "checkbox", id: "filled", checked: true });
  let ink = INKS.blue;
  let path = [];
  let before = null;
  let busy = false;
  let waiting = false;

  const clear = () => {
    context.fillStyle = GROUND;
    context.fillRect(0, 0, SIDE, SIDE);
  };
  const offer = async () => {
    if (busy) {
      waiting = true;
      return;
    }
    busy = true;
    do {
      waiting = false;
      const blob = await new Promise((done) => canvas.toBlob(done));
      await take(blob, DRAWING);
    } while (waiting);
    busy = false;
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * SIDE) / box.width,
      ((event.clientY - box.top) * SIDE) / box.height,
    ];
  };
  const paint = () => {
    context.putImageData(before, 0, 0);
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = 12;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    path.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (path.length === 1) context.lineTo(...path[0]);
    context.stroke();
    if (filled.checked && path.length > 2) context.fill();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    before = context.getImageData(0, 0, SIDE, SIDE);
    path = [place(event)];
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!before) return;
    path.push(place(event));
    paint();
    offer();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      before = null;
      offer();
    });
  }
  const inks = Object.entries(INKS).map(([name, color], index) => {
    const choose = (event) => {
      ink = color;
      inks.forEach((each) => each.setAttribute("aria-pressed", each === event.currentTarget));
    };
    const look = { class: "ink", "aria-label": `${name} pen`, "aria-pressed": index === 0 ? "true" : "false" };
    const button = h("button", { ...look, type: "button", onclick: choose });
    button.style.background = color;
    return button;
  });
  const again = () => {
    clear();
    offer();
  };
  clear();
  home.append(
    canvas,
    h(
      "div",
      { class: "row" },
      h("span", { class: "inks", role: "group", "aria-label": "Pens" }, inks),
      h("label", { class: "check", for: "filled" }, filled, " fill"),
      h("button", { class: "quiet", type: "button", onclick: again }, "Clear"),
    ),
    h("p", { class: "note" }, "Draw one thing, large: each stroke is filled, as in the training pictures."),
  );
}
