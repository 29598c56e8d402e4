// The ways in for a picture: drop, paste, choose, a sample, a drawing.

import { $, ask, complain, h } from "./dom.js";

/** Connect all ways in; `take(blob, name)` gets each picture. */
export function listen(take, mostBytes) {
  const offer = (file) => {
    if (!file) return;
    if (file.size > mostBytes) {
      complain(`${file.name}: larger than ${Math.floor(mostBytes / 2 ** 20)} MB. Send a smaller one.`);
      return;
    }
    take(file, file.name || "pasted.png");
  };
  const input = $("file");
  $("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    offer(input.files[0]);
    input.value = "";
  });
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    offer(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => offer(event.clipboardData?.files[0]));
}

/** Show the samples of each kind as buttons, and return these. */
export async function showSamples(kinds, take) {
  const groups = await Promise.all(
    kinds.map(async ({ words, names }) => {
      const buttons = await Promise.all(names.map((name) => sampleButton(name, take)));
      return [h("p", { class: "note" }, words), h("div", { class: "samples" }, buttons)];
    }),
  );
  $("samples").replaceChildren(...groups.flat());
  return [...$("samples").querySelectorAll("button")];
}

async function sampleButton(name, take) {
  const blob = await (await ask(`/samples/${encodeURIComponent(name)}`)).blob();
  const image = h("img", { src: URL.createObjectURL(blob), alt: name });
  return h("button", { title: name, onclick: () => take(blob, `${name}.png`, name) }, image);
}

let shown = null;

/** Show the picture that is asked about. */
export function preview(blob, name) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(blob);
  const image = $("preview");
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth <= 128);
  image.src = shown;
  image.alt = `The picture: ${name}`;
  image.hidden = false;
  $("invite").hidden = true;
}
