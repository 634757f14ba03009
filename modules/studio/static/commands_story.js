// What a person can do to stories and their pages.
import { api } from "./api.js";
import { candidatesOf, headOf, redoTarget, toggled, undoTarget } from "./reducers.js";

const hasStory = (state) => Boolean(state.story);
const canUndo = (state) => Boolean(state.story && undoTarget(state.story));
const canRedo = (state) => Boolean(redoTarget(state.story));
const hasCandidates = (state) => Boolean(candidatesOf(state.story, state.ui.page, state.ui.dismissed));

/** Change the open page. */
const edit =
  (operation, more = {}) =>
  async ({ state, ui }) => {
    await api.edit(state.story.id, { operation, page: state.ui.page, ...more });
    ui({ dismissed: [] });
  };

/** Open another page. */
const turn =
  (by) =>
  ({ state, ui }) => {
    const count = headOf(state.story).texts.length;
    ui({ page: Math.max(0, Math.min(count - 1, state.ui.page + by)), slot: null, compare: null });
  };

/** Set or take off a lock: `arg`, or that of a part of the open page. */
export const lock =
  (part) =>
  ({ state, arg }) =>
    api.lock(state.story.id, toggled(headOf(state.story).locks, arg ?? `${state.ui.page + 1}${part}`));

/** Move the open page, which stays open. */
const move = (by) => ({
  when: (state) => hasStory(state) && state.ui.page + by in headOf(state.story).texts,
  run: ({ state }) => api.edit(state.story.id, { operation: "move", page: state.ui.page, to: state.ui.page + by }),
});

async function make({ state, ui }, first = false) {
  const { prompt, pages, seed, temperature, bestOf } = state.ui;
  if (!prompt.trim()) {
    document.querySelector("[data-field=prompt]")?.focus();
    throw new Error("say in one line what the story is about");
  }
  document.activeElement?.blur(); // So that single keys are commands again.
  const job = await api.make({ prompt, pages, seed, temperature, best_of: bestOf, first });
  ui({ waiting: job.id, view: "edit", panel: false });
}

async function pick(number, { state }) {
  const found = candidatesOf(state.story, state.ui.page, state.ui.dismissed);
  const chosen = [found.base, ...found.states][number];
  if (chosen) await api.show(state.story.id, chosen.id);
}

export const STORY_COMMANDS = {
  make: { title: "Make the story", group: "Make", keys: ["Ctrl+Enter"], typing: true, run: (c) => make(c) },
  makeFirst: {
    title: "Make it before all others",
    group: "Make",
    keys: ["Ctrl+Shift+Enter"],
    typing: true,
    run: (c) => make(c, true),
  },
  dice: {
    title: "Another seed",
    group: "Make",
    keys: ["D"],
    run: ({ ui }) => ui({ seed: Math.floor(Math.random() * 1e6) }),
  },
  focusPrompt: {
    title: "Write a prompt",
    group: "Make",
    keys: ["N"],
    run: ({ ui }) => {
      ui({ panel: true });
      setTimeout(() => document.querySelector("[data-field=prompt]")?.focus());
    },
  },
  cancel: { title: "Cancel", group: "Make", run: ({ arg }) => api.cancel(arg) },
  keepHero: {
    title: "Keep this hero",
    group: "Make",
    run: ({ arg, ui }) => {
      ui({ prompt: `${arg} `, panel: true });
      setTimeout(() => document.querySelector("[data-field=prompt]")?.focus());
    },
  },
  previous: { title: "Page before", group: "Pages", keys: ["ArrowLeft"], when: hasStory, run: turn(-1) },
  next: { title: "Page after", group: "Pages", keys: ["ArrowRight"], when: hasStory, run: turn(1) },
  insert: {
    title: "Insert a page after this one",
    group: "Pages",
    keys: ["I"],
    when: hasStory,
    run: ({ state, arg }) => api.edit(state.story.id, { operation: "insert", page: Number(arg ?? state.ui.page + 1) }),
  },
  moveLeft: { title: "Move the page towards the start", group: "Pages", keys: ["Shift+ArrowLeft"], ...move(-1) },
  moveRight: { title: "Move the page towards the end", group: "Pages", keys: ["Shift+ArrowRight"], ...move(1) },
  remove: {
    title: "Remove the page",
    group: "Pages",
    keys: ["Delete"],
    when: (s) => hasStory(s) && headOf(s.story).texts.length > 1,
    run: edit("remove"),
  },
  toPage: {
    title: "Open a page",
    group: "Pages",
    when: hasStory,
    run: ({ arg, ui }) => ui({ page: Number(arg), slot: null, compare: null, view: "edit" }),
  },
  redraw: { title: "Redraw the picture", group: "Page", keys: ["R"], when: hasStory, run: edit("redraw") },
  rewrite: { title: "Rewrite the text", group: "Page", keys: ["T"], when: hasStory, run: edit("rewrite") },
  replan: { title: "Plan this page anew", group: "Page", keys: ["P"], when: hasStory, run: edit("replan") },
  replanAfter: {
    title: "Plan from here on anew",
    group: "Page",
    keys: ["Shift+P"],
    when: hasStory,
    run: edit("replan", { and_after: true }),
  },
  editText: {
    title: "Edit the text",
    group: "Page",
    keys: ["E"],
    when: hasStory,
    run: () => document.querySelector(".words")?.focus(),
  },
  saveWords: {
    title: "Keep the words as typed",
    group: "Page",
    keys: ["Ctrl+S"],
    typing: true,
    when: hasStory,
    run: ({ words }) => words("words"),
  },
  drawWords: {
    title: "Redraw to the words as typed",
    group: "Page",
    keys: ["Ctrl+D"],
    typing: true,
    when: hasStory,
    run: ({ words }) => words("text"),
  },
  lockPage: { title: "Lock the page", group: "Page", keys: ["L"], when: hasStory, run: lock("") },
  lockText: { title: "Lock the text", group: "Page", keys: ["Shift+T"], when: hasStory, run: lock(".text") },
  lockPicture: { title: "Lock the picture", group: "Page", keys: ["Shift+R"], when: hasStory, run: lock(".picture") },
  upload: { title: "Replace the picture", group: "Page", keys: ["U"], when: hasStory, run: ({ choose }) => choose() },
  lockCast: { title: "Lock a character", group: "Page", when: hasStory, run: lock("") },
  undo: {
    title: "Undo",
    group: "Versions",
    keys: ["Ctrl+Z"],
    when: canUndo,
    run: ({ state }) => api.show(state.story.id, undoTarget(state.story)),
  },
  redo: {
    title: "Redo",
    group: "Versions",
    keys: ["Ctrl+Y", "Ctrl+Shift+Z"],
    when: canRedo,
    run: ({ state }) => api.show(state.story.id, redoTarget(state.story)),
  },
  restore: {
    title: "Take back a version of the page",
    group: "Versions",
    when: hasStory,
    run: ({ state, arg }) => api.edit(state.story.id, { operation: "restore", page: state.ui.page, state: arg }),
  },
  pick: {
    title: "Pick a candidate",
    group: "Candidates",
    keys: ["1", "2", "3", "4"],
    when: hasCandidates,
    run: (c) => pick(Number(c.arg ?? c.key) - 1, c),
  },
  compare: {
    title: "Compare with what was there",
    group: "Candidates",
    keys: ["C"],
    when: hasCandidates,
    run: ({ state, ui }) =>
      ui({ compare: state.ui.compare ? null : candidatesOf(state.story, state.ui.page, []).base.id }),
  },
  dismiss: {
    title: "Put the candidates away",
    group: "Candidates",
    when: hasCandidates,
    run: ({ state, ui }) =>
      ui({ dismissed: [...state.ui.dismissed, candidatesOf(state.story, state.ui.page, state.ui.dismissed).group] }),
  },
  openStory: { title: "Open a story", group: "Shelf", run: async ({ arg, open }) => open(arg) },
  duplicate: {
    title: "Duplicate the story",
    group: "Shelf",
    when: hasStory,
    run: async ({ state, open }) => open((await api.duplicate(state.story.id)).story),
  },
  removeStory: {
    title: "Take the story off the shelf",
    group: "Shelf",
    when: hasStory,
    run: async ({ state, open }) => {
      await api.remove(state.story.id);
      const other = state.stories.find((one) => one.id !== state.story.id);
      if (other) await open(other.id);
    },
  },
  panel: { title: "Prompt and shelf", group: "Shelf", run: ({ state, ui }) => ui({ panel: !state.ui.panel }) },
};
