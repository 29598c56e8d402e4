// The endpoints, from the server's own description of itself.

import { $, askJson, h } from "./dom.js";

const TITLES = { predict: "Predictions", server: "Server", page: "What the page asks" };

function endpoint(path, method, { summary, description, parameters = [], requestBody }) {
  const url = `${location.origin}${path}`;
  const example = requestBody ? `curl --data-binary @cat.jpg '${url}'` : `curl '${url}'`;
  return h(
    "article",
    { class: "endpoint" },
    h("h3", {}, h("code", {}, `${method.toUpperCase()} ${path}`)),
    h("p", {}, description ?? summary),
    parameters.length
      ? h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["parameter", "in", "default", ""].map((name) => h(name ? "th" : "td", {}, name)))),
          h(
            "tbody",
            {},
            parameters.map((each) =>
              h("tr", {}, h("th", { scope: "row" }, each.name), h("td", {}, each.in), h("td", {}, `${each.schema.default ?? (each.required ? "needed" : "–")}`), h("td", {}, each.description ?? "")),
            ),
          ),
        )
      : null,
    h("pre", { tabindex: "0" }, example),
  );
}

const found = await askJson("/openapi.json");
const all = Object.entries(found.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, each]) => ({ path, method, each })));
$("endpoints").append(
  ...Object.entries(TITLES).flatMap(([tag, title]) => [
    h("h2", {}, title),
    ...all.filter(({ each }) => each.tags?.includes(tag)).map(({ path, method, each }) => endpoint(path, method, each)),
  ]),
);
