// The page: a picture in, an answer out, then a look inside.

import { $, Refused, ask, askJson, complain, h, say, sentence, shortTitle } from "./dom.js";
import { makeCard } from "./answer.js";
import { DRAWING, makeBoard } from "./board.js";
import { showEvidence, showNearest, showViews } from "./evidence.js";
import { forgetTables, showInside } from "./network.js";
import { listen, preview, showSamples } from "./picture.js";
import { followTraining } from "./training.js";

/** The sample that is taken at the start, if there is one. */
const FIRST = ["automobile", "car"];
let closeBoard = () => {};
const state = { cards: [], which: "all", subjects: [], asked: 0, last: null };

/** Ask all runs about a picture, and then look inside. `truth` is what a sample shows. */
async function take(blob, name, truth = null) {
  const asked = ++state.asked;
  if (name !== DRAWING) closeBoard();
  state.last = [blob, name, truth];
  complain(null);
  try {
    const best = await Promise.all(state.cards.map((card) => card.ask(blob, name, truth)));
    if (asked !== state.asked) return;
    preview(blob, name);
    const { run } = state.cards[0];
    say(`Most probable for ${name}: ${shortTitle(run.titles[best[0][0]])}`);
    await look(blob, name, best, asked);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (asked === state.asked) refuse(error, `${name}: `);
  }
}

function refuse(error, about = "") {
  if (error.status === 401) askForToken();
  else complain(sentence(about + error.message));
}

/** Fetch the square that each run works with, and show what it makes of it. */
async function look(blob, name, best, asked) {
  if (name === DRAWING && (await isFollowed(asked))) return;
  state.subjects = await Promise.all(
    state.cards.map(async ({ run }, index) => {
      const square = await (await ask("/square", { body: blob, run: run.name })).blob();
      return { run, square, labels: best[index] };
    }),
  );
  if (asked === state.asked) showChosen();
}

/** While the pen moves, the next drawing follows at once: only the last is looked into. */
async function isFollowed(asked) {
  await new Promise((done) => setTimeout(done, 400));
  return asked !== state.asked;
}

function showChosen() {
  const { which, subjects } = state;
  const chosen = which === "all" ? subjects : subjects.filter(({ run }) => run.name === which);
  showEvidence(chosen);
  showInside(chosen);
  showViews(chosen);
  showNearest(subjects[0]);
}

/** With several runs: choose the one to look into, or compare all. */
function offerChoice(runs) {
  if (runs.length < 2) return;
  const choices = [["all", "Side by side"], ...runs.map((run) => [run.name, run.name])];
  const buttons = choices.map(([value, words]) => {
    const act = () => {
      state.which = value;
      buttons.forEach((each) => each.setAttribute("aria-pressed", each.dataset.value === value));
      if (state.subjects.length) showChosen();
    };
    const pressed = value === "all" ? "true" : "false";
    return h("button", { "data-value": value, "aria-pressed": pressed, onclick: act }, words);
  });
  $("which").append(...buttons);
}

function askForToken() {
  const form = $("token");
  $("about").textContent = "";
  form.hidden = false;
  $("secret").focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", $("secret").value);
    location.reload();
  };
}

function describe(runs) {
  const [run] = runs;
  const names = run.titles.slice(0, 10).map(shortTitle);
  const more = run.titles.length > names.length ? `, … ${run.titles.length} in all` : "";
  if (runs.length > 1) {
    const each = runs.map((one) => `${one.name} (${one.model}, ${one.titles.length} classes)`);
    $("about").textContent = `Side by side: ${each.join(" and ")}.`;
  } else {
    const who = `${called(run)} tells apart`;
    $("about").textContent = `${who}: ${names.join(", ")}${more}. Any picture is taken for one of these.`;
  }
}

function called(run) {
  if (run.command === "--run shipped") return `The net that comes with alexnet, ${run.model},`;
  return run.name === run.model ? run.name : `${run.name} (${run.model})`;
}

async function start() {
  const about = await askJson("/about");
  $("ask").hidden = false;
  describe(about.runs);
  state.cards = about.runs.map((run) => makeCard(run, about.runs.length > 1));
  for (const card of state.cards) card.wait();
  $("answer").append(...state.cards.map((card) => card.element));
  offerChoice(about.runs);
  listen(take, about.most_bytes);
  if (about.runs[0].drawings) closeBoard = offerBoard();
  const samples = await showSamples(about.samples, take);
  const first = samples.find((button) => FIRST.includes(button.title)) ?? samples[0];
  if (about.runs.every((run) => run.ready)) first.click();
  const renew = () => {
    forgetTables();
    if (state.last) take(...state.last);
    else first.click();
  };
  for (const run of about.runs) followTraining(run, about.runs.length > 1, renew).catch(() => {});
}

/** Offer the board to draw on; return what closes it. */
function offerBoard() {
  const [button, board] = [$("draw"), $("board")];
  button.hidden = false;
  makeBoard(board, take);
  const open = (isOpen) => {
    board.hidden = !isOpen;
    $("drop").hidden = isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    button.textContent = isOpen ? "Show the picture" : "Draw one";
  };
  button.addEventListener("click", () => open(board.hidden));
  return () => open(false);
}

start().catch((error) => {
  if (error instanceof Refused) refuse(error);
  else throw error;
});
