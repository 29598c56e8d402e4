// The network as a table; a layer's maps and filters; what a unit sees.

import { $, askJson, fillWith, h, hold, number, show, svg } from "./dom.js";
import { copyButton, pngButton } from "./copying.js";

/** Units of a layer without maps that are named. */
const CHIPS = 16;
const shape = (output) => (output.length === 3 ? `${output[1]} × ${output[2]} × ${output[0]}` : number(output[0]));
const state = { subjects: [], tables: new Map(), layer: null, unit: null };

/** Forget what was measured of networks, whose weights are others now. */
export const forgetTables = () => state.tables.clear();

/** Show the network of the first of `subjects`, [{run, square}], and the chosen layer of all. */
export async function showInside(subjects) {
  state.subjects = subjects;
  $("inside").hidden = false;
  const { run } = subjects[0];
  await fillWith($("rows"), "Measuring the network …", tableOf(run), (table) => drawTable(table));
  const table = await tableOf(run);
  const known = table.rows.some((row) => row.name === state.layer);
  if (!known) state.layer = table.rows.find((row) => row.has_maps).name;
  choose(state.layer);
}

function tableOf(run) {
  if (!state.tables.has(run.name)) state.tables.set(run.name, askJson("/network", { run: run.name }));
  return state.tables.get(run.name);
}

function drawTable(table) {
  const slowest = Math.max(...table.rows.map((row) => row.seconds));
  const total = table.rows.reduce((sum, row) => sum + row.seconds, 0);
  const body = table.rows.map((row) => {
    const button = h("button", { "aria-pressed": "false", onclick: () => choose(row.name, true) }, row.name);
    const kind = row.activation ? `${row.type}, ${row.activation}` : row.type;
    const share = row.parameters / table.parameters;
    return h(
      "tr",
      { "data-layer": row.name, onclick: (event) => event.target.tagName !== "BUTTON" && choose(row.name, true) },
      h("th", { scope: "row" }, button, h("small", {}, kind)),
      h("td", { class: "glyph" }, glyph(row.output, table.input)),
      h("td", {}, shape(row.output)),
      h("td", { class: "wide-only" }, row.parameters ? number(row.parameters) : "–", meter(share)),
      h("td", { class: "wide-only" }, row.field[0] < table.input[1] && row.has_maps ? `${row.field[0]} px` : "all"),
      h("td", { class: "wide-only" }, `${Math.round((100 * row.seconds) / total)} %`, meter(row.seconds / slowest)),
    );
  });
  const head = ["layer", "", "output", "parameters", "sees", "time"].map((name, column) =>
    column === 1 ? h("td", {}) : h("th", { scope: "col", class: column > 2 ? "wide-only" : null }, name),
  );
  const drawn = h(
    "table",
    { class: "network" },
    h("caption", {}, `${table.model}: ${number(table.parameters)} parameters, ${number(table.macs)} multiply-adds`),
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, body),
  );
  const tools = [copyButton("JSON", () => JSON.stringify(table)), copyButton("Command", () => `alexnet summary --model ${table.model} --classes ${table.rows.at(-1).output[0]}`)];
  return [drawn, h("p", { class: "tools" }, tools)];
}

const meter = (part) => h("span", { class: "meter", "aria-hidden": "true" }, h("i", { "width%": 100 * part }));

/** A block as high as the maps are large, and as wide as there are many. */
function glyph(output, input) {
  const [units, side] = output.length === 3 ? output : [output[0], 1];
  const height = 4 + 26 * Math.sqrt(side / input[1]);
  const width = 3 + 5 * Math.log2(1 + units / 8);
  return svg(
    "svg",
    { viewBox: "0 0 56 32", width: 56, height: 32, "aria-hidden": "true" },
    svg("rect", { x: 28 - width / 2, y: 16 - height / 2, width, height, rx: 2 }),
  );
}

function choose(layer, byUser = false) {
  if (layer !== state.layer) state.unit = null;
  state.layer = layer;
  for (const row of document.querySelectorAll("[data-layer]")) {
    const chosen = row.dataset.layer === layer;
    row.classList.toggle("chosen", chosen);
    row.querySelector("button").setAttribute("aria-pressed", chosen);
  }
  hold($("layer"));
  show($("layer"), state.subjects.map((subject) => layerOf(subject, layer)));
  const isBelow = $("layer").getBoundingClientRect().top > 0.8 * innerHeight;
  if (byUser && isBelow) $("layer").scrollIntoView();
}

/** A layer of one run: its maps for the picture, its filters, and the chosen unit. */
function layerOf(subject, layer) {
  const { run, square } = subject;
  const maps = h("div", {});
  const unit = h("div", { class: "unit" });
  const filters = h("div", {});
  const several = state.subjects.length > 1;
  fillWith(maps, "Computing …", askJson(`/maps/${layer}`, { body: square, run: run.name }), (found) => {
    const best = state.unit ?? (found.maps ?? found.units)[0].unit;
    showUnit(subject, layer, best, unit);
    return drawLayer(found, subject, maps, unit, layer);
  });
  tableOf(run).then((table) => {
    const row = table.rows.find((each) => each.name === layer);
    if (row?.has_filters && row.learns) drawFilters(run, layer, filters);
  });
  const title = several ? `${layer} of ${run.name}` : layer;
  return h("div", { class: "column" }, h("h3", {}, title), maps, unit, filters);
}

function drawLayer(found, subject, home, unit, layer) {
  const mark = (chosen) => {
    for (const each of home.querySelectorAll("[aria-pressed]")) {
      each.setAttribute("aria-pressed", each.dataset.unit === String(chosen));
    }
  };
  const press = (chosen) => {
    state.unit = chosen;
    mark(chosen);
    showUnit(subject, layer, chosen, unit);
  };
  const areAll = !found.maps && found.shape[0] <= CHIPS;
  const first = state.unit ?? (found.maps ?? found.units)[0].unit;
  const pressed = (each) => ({ "data-unit": each, "aria-pressed": each === first ? "true" : "false" });
  const tools = h(
    "p",
    { class: "tools" },
    areAll ? null : pngButton(`maps-${layer}`, home),
    copyButton("JSON", () => JSON.stringify(found)),
    copyButton("Command", () => `alexnet features PICTURE ${layer}.npz ${subject.run.command} --layer ${layer}`),
  );
  if (found.maps) {
    const [count, height, width] = found.shape;
    const words = `${count} maps of ${height} × ${width}; the ${found.maps.length} with the largest mean, the strongest first. White is the layer’s largest value.`;
    const tiles = found.maps.map((each) => {
      const image = h("img", { src: each.picture, alt: `map ${each.unit}` });
      const look = { ...pressed(each.unit), title: `map ${each.unit}: mean ${each.mean.toPrecision(2)}` };
      return h("button", { ...look, onclick: () => press(each.unit) }, image);
    });
    return [h("p", { class: "note" }, words), h("div", { class: "maps" }, tiles), tools];
  }
  const words = `${number(found.active)} of ${number(found.shape[0])} units are above 0.${areAll ? "" : " First all units as squares, then the strongest."}`;
  const units = found.units.slice(0, CHIPS).map((each) => {
    const name = each.title ? each.title.split(",")[0] : `unit ${each.unit}`;
    return h("button", { ...pressed(each.unit), onclick: () => press(each.unit) }, `${name} ${each.value.toPrecision(3).replace("-", "−")}`);
  });
  const all = h("img", { src: found.picture, class: "all-units", alt: "All units as grey squares" });
  return [h("p", { class: "note" }, words), h("div", { class: "flat" }, areAll ? null : all, h("div", { class: "chips" }, units)), tools];
}

function drawFilters(run, layer, home) {
  fillWith(home, "Loading filters …", askJson(`/filters/${layer}`, { run: run.name }), (found) => {
    const each = found.filters.length / found.towers;
    const towers = Array.from({ length: found.towers }, (_, tower) => {
      const own = found.filters.slice(tower * each, (tower + 1) * each);
      const images = own.map((source, index) => h("img", { src: source, alt: "", title: `filter ${tower * each + index}` }));
      return [
        found.towers > 1 ? h("h5", {}, `Tower ${tower + 1}`) : null,
        h("div", { class: "filters", role: "img", "aria-label": `${own.length} filters` }, images),
      ];
    });
    return h(
      "details",
      { open: found.colour },
      h("summary", {}, `${found.shape[0]} filters of ${found.shape[2]} × ${found.shape[3]} over ${found.shape[1]} maps`),
      h("p", { class: "note" }, found.words),
      towers.flat(),
      h("p", { class: "tools" }, pngButton(`filters-${layer}`, home)),
    );
  });
}

/** What one unit sees: in this picture, in general, and in the data set. */
async function showUnit({ run, square }, layer, unit, home) {
  const table = await tableOf(run);
  const row = table.rows.find((each) => each.name === layer);
  const here = h("div", {});
  const made = h("div", {});
  const best = h("div", {});
  const parts = [h("h4", {}, row.has_maps ? `Map ${unit}` : `Unit ${unit}`)];
  if (row.has_maps) {
    parts.push(here);
    const asked = askJson(`/maps/${layer}/${unit}`, { body: square, run: run.name });
    fillWith(here, "Computing …", asked, (found) => drawPlace(found, row, here));
  }
  if (row.learns) {
    parts.push(h("div", { class: "pair" }, made, best));
    offerPreferred(run, layer, unit, made);
    if (run.data) drawPatches(run, layer, unit, best);
  }
  show(home, parts);
}

function drawPlace(found, row, home) {
  const [top, left] = found.window;
  const words = `It fires most at ${found.largest.toPrecision(3)}, where it sees ${row.field[0]} × ${row.field[1]} pixels.`;
  return [
    h(
      "div",
      { class: "trio" },
      figure(found.picture, "where it fires"),
      figure(found.map, "its map"),
      figure(found.patch, `what it sees from row ${top}, column ${left}`),
    ),
    h(
      "p",
      { class: "tools" },
      h("span", { class: "note" }, words),
      pngButton(`${found.layer}-${found.unit}`, home),
      copyButton("JSON", () => JSON.stringify(found)),
    ),
  ];
}

const figure = (source, words) => h("figure", {}, h("img", { src: source, alt: words }), h("figcaption", {}, words));

function offerPreferred(run, layer, unit, home) {
  const act = () => {
    const asked = askJson(`/preferred/${layer}/${unit}`, { run: run.name });
    fillWith(home, "Climbing …", asked, (found) => [
      figure(found.picture, "an image made to excite it most"),
      h("p", { class: "tools" }, pngButton(`preferred-${layer}-${unit}`, home)),
    ]);
  };
  home.append(h("button", { onclick: act }, "Make its preferred image"));
}

function drawPatches(run, layer, unit, home) {
  fillWith(home, "Looking at the data set …", askJson(`/patches/${layer}/${unit}`, { patient: true }), (found) => [
    h(
      "figure",
      {},
      h("div", { class: "patches" }, found.patches.map((source) => h("img", { src: source, alt: "" }))),
      h("figcaption", {}, `what excites it most in the ${found.split} images`),
    ),
    h("p", { class: "tools" }, pngButton(`patches-${layer}-${unit}`, home)),
  ]);
}
