// The endpoints, from the server's own description of itself.

import { $, askJson, h } from "./dom.js";

const TITLES = { predict: "Predictions", server: "Server", page: "What the page asks" };

/** Words in which `names` stand between backticks. */
const withCode = (words) => words.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));

function endpoint(path, method, { summary, description, parameters = [], requestBody }) {
  const needed = parameters.filter((each) => each.in === "query" && each.required).map((each) => `${each.name}=…`);
  const url = `${location.origin}${path}${needed.length ? `?${needed.join("&")}` : ""}`;
  const example = requestBody ? `curl --data-binary @cat.jpg '${url}'` : `curl '${url}'`;
  return h(
    "article",
    { class: "endpoint" },
    h("h3", {}, h("code", {}, `${method.toUpperCase()} ${path}`)),
    (description ?? summary).split("\n\n").map((words) => h("p", {}, withCode(words))),
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
    h("pre", {}, example),
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
