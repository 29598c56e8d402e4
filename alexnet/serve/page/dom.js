// Elements, messages, requests. All text goes into the page as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: h("button", {class: "main", onclick: f}, "text", other). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  fill(element, properties, children);
  return element;
}

/** Make an element of SVG. */
export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, properties, children);
  return element;
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width%") element.style.width = `${value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
}

export function show(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/** Keep `element` as high as it is until what it shows next is there, so that nothing jumps. */
export function hold(element) {
  element.style.minHeight = `${element.offsetHeight}px`;
  const observer = new MutationObserver(() => {
    if (element.hasAttribute("aria-busy") || element.querySelector("[aria-busy]")) return;
    element.style.minHeight = "";
    observer.disconnect();
  });
  observer.observe(element, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-busy"] });
}

/** Show an error until the next picture; say it to screen readers. */
export function complain(message) {
  $("alert").textContent = message ?? "";
  $("alert").hidden = !message;
  if (message) $("alert").scrollIntoView({ block: "nearest" });
}

/** Say something to screen readers only. */
export function say(message) {
  $("status").textContent = message;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Ask the server; `body` makes it a POST. Returns the response, or throws `Refused`.
 *  With `patient`, ask again where the server says that it needs time.
 */
export async function ask(path, { patient, ...options } = {}) {
  for (;;) {
    const response = await send(path, options);
    if (response.ok) return response;
    const wait = Number(response.headers.get("retry-after"));
    if (!(patient && response.status === 503 && wait)) throw await refusal(response);
    await new Promise((done) => setTimeout(done, 1000 * wait));
  }
}

async function send(path, { body, run, signal, ...query }) {
  const url = new URL(path, location.href);
  if (run) url.searchParams.set("run", run);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const headers = body ? { "content-type": "application/octet-stream" } : {};
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = `Bearer ${token}`;
  try {
    return await fetch(url, { method: body ? "POST" : "GET", body, headers, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
}

async function refusal(response) {
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    // it was no JSON
  }
  return new Refused(response.status, message);
}

export const askJson = async (path, options) => (await ask(path, options)).json();

/** Ask for an answer that comes in lines of JSON. */
export async function* askLines(path, options) {
  const { body } = await ask(path, options);
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const found = JSON.parse(line);
      if (found.error) throw new Refused(503, found.error);
      yield found;
    }
  }
}

/** Show `promise`'s result in `target`; meanwhile a note, and an error where it failed. */
export async function fillWith(target, note, promise, render) {
  const ticket = (target.ticket = {});
  target.setAttribute("aria-busy", "true");
  const timer = setTimeout(() => {
    if (target.ticket === ticket) show(target, h("p", { class: "note waiting" }, note));
  }, 150);
  try {
    const found = await promise;
    if (target.ticket === ticket) show(target, render(found));
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    if (target.ticket === ticket) show(target, h("p", { class: "note" }, sentence(error.message)));
  } finally {
    clearTimeout(timer);
    if (target.ticket === ticket) target.removeAttribute("aria-busy");
  }
}

export function sentence(text) {
  const isName = /^\S+: /.test(text);
  const whole = isName ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

export function percent(fraction) {
  const points = 100 * fraction;
  if (points > 0 && points < 0.1) return "< 0.1\u00a0%";
  return `${points.toFixed(points < 9.95 ? 1 : 0)}\u00a0%`;
}

export const number = (value) => value.toLocaleString("en-GB");
export const shortTitle = (title) => title.split(",")[0];
