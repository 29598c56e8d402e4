// Everything can be taken along: figures as PNG or SVG, answers as JSON, commands.

import { h, say } from "./dom.js";

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** A button that copies what `make` returns. */
export function copyButton(label, make) {
  const button = h("button", { class: "quiet", type: "button" }, label);
  button.addEventListener("click", async () => {
    await copy(await make());
    say(`${label}: copied`);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

function save(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A button that saves the images of `figure` side by side, as wide as the widest. */
export function pngButton(name, figure) {
  return h("button", { class: "quiet", type: "button", onclick: () => savePng(name, figure) }, "PNG");
}

const widthOf = (image) => image.naturalWidth ?? image.width;
const heightOf = (image) => image.naturalHeight ?? image.height;

async function savePng(name, figure) {
  const images = [...figure.querySelectorAll("img, canvas")];
  if (!images.length) return;
  const across = Math.min(images.length, 8);
  const side = Math.max(...images.map((image) => Math.max(widthOf(image), 32)));
  const canvas = h("canvas", { width: across * (side + 4) - 4 });
  canvas.height = Math.ceil(images.length / across) * (side + 4) - 4;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  images.forEach((image, place) => {
    const left = (place % across) * (side + 4);
    const top = Math.floor(place / across) * (side + 4);
    context.drawImage(image, left, top, side, (side * heightOf(image)) / widthOf(image));
  });
  canvas.toBlob((blob) => save(`${name}.png`, blob));
}

/** A button that saves the drawing that `make` returns, an element of SVG. */
export function svgButton(name, make) {
  const act = () => {
    const text = new XMLSerializer().serializeToString(make());
    save(`${name}.svg`, new Blob([text], { type: "image/svg+xml" }));
  };
  return h("button", { class: "quiet", type: "button", onclick: act }, "SVG");
}
