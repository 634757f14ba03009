// One table of everything that a person can do: buttons, keys and the dialog of keys are made from it.
import { api } from "./api.js";
import { candidatesOf, COVER, headOf, redoTarget, toggled, undoTarget } from "./reducers.js";

const edit = (operation, more = {}) => async ({ state, ui }) => {
  await api.edit(state.story.id, { operation, page: state.ui.page, ...more });
  ui({ dismissed: [] });
};
const hasStory = (state) => Boolean(state.story);
const canUndo = (state) => Boolean(state.story && undoTarget(state.story));
const canRedo = (state) => Boolean(redoTarget(state.story));
const hasCandidates = (state) => Boolean(candidatesOf(state.story, state.ui.page, state.ui.dismissed));
const turn = (by) => ({ state, ui }) => {
  const count = headOf(state.story).texts.length;
  ui({ page: Math.max(0, Math.min(count - 1, state.ui.page + by)), slot: null, compare: null });
};
const lock = (part) => ({ state, arg }) => api.lock(state.story.id, toggled(headOf(state.story).locks, arg ?? `${state.ui.page + 1}${part}`));

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

async function seek(state, ui, query, of = "") {
  const found = await api.codes(query);
  ui({ found: { ...found, of, words: query.words ?? "" } });
}

async function pick(number, { state }) {
  const found = candidatesOf(state.story, state.ui.page, state.ui.dismissed);
  const chosen = [found.base, ...found.states][number];
  if (chosen) await api.show(state.story.id, chosen.id);
}

export const COMMANDS = {
  make: { title: "Make the story", group: "Make", keys: ["Ctrl+Enter"], typing: true, run: (c) => make(c) },
  makeFirst: { title: "Make it before all others", group: "Make", keys: ["Ctrl+Shift+Enter"], typing: true, run: (c) => make(c, true) },
  dice: { title: "Another seed", group: "Make", keys: ["D"], run: ({ ui }) => ui({ seed: Math.floor(Math.random() * 1e6) }) },
  focusPrompt: { title: "Write a prompt", group: "Make", keys: ["N"], run: ({ ui }) => { ui({ panel: true }); setTimeout(() => document.querySelector("[data-field=prompt]")?.focus()); } },
  previous: { title: "Page before", group: "Pages", keys: ["ArrowLeft"], when: hasStory, run: turn(-1) },
  next: { title: "Page after", group: "Pages", keys: ["ArrowRight"], when: hasStory, run: turn(1) },
  redraw: { title: "Redraw the picture", group: "Page", keys: ["R"], when: hasStory, run: edit("redraw") },
  rewrite: { title: "Rewrite the text", group: "Page", keys: ["T"], when: hasStory, run: edit("rewrite") },
  replan: { title: "Plan this page anew", group: "Page", keys: ["P"], when: hasStory, run: edit("replan") },
  replanAfter: { title: "Plan from here on anew", group: "Page", keys: ["Shift+P"], when: hasStory, run: edit("replan", { and_after: true }) },
  editText: { title: "Edit the text", group: "Page", keys: ["E"], when: hasStory, run: () => document.querySelector(".words")?.focus() },
  saveWords: { title: "Keep the words as typed", group: "Page", keys: ["Ctrl+S"], typing: true, when: hasStory, run: ({ words }) => words("words") },
  drawWords: { title: "Redraw to the words as typed", group: "Page", keys: ["Ctrl+D"], typing: true, when: hasStory, run: ({ words }) => words("text") },
  lockPage: { title: "Lock the page", group: "Page", keys: ["L"], when: hasStory, run: lock("") },
  lockText: { title: "Lock the text", group: "Page", keys: ["Shift+T"], when: hasStory, run: lock(".text") },
  lockPicture: { title: "Lock the picture", group: "Page", keys: ["Shift+R"], when: hasStory, run: lock(".picture") },
  upload: { title: "Replace the picture", group: "Page", keys: ["U"], when: hasStory, run: ({ choose }) => choose() },
  insert: { title: "Insert a page after this one", group: "Pages", keys: ["I"], when: hasStory, run: ({ state, ui, arg }) => { const place = arg === undefined ? state.ui.page + 1 : Number(arg); ui({ page: place }); return api.edit(state.story.id, { operation: "insert", page: place }); } },
  moveLeft: { title: "Move the page forwards", group: "Pages", keys: ["Shift+ArrowLeft"], when: (s) => hasStory(s) && s.ui.page > 0, run: ({ state, ui }) => { ui({ page: state.ui.page - 1 }); return api.edit(state.story.id, { operation: "move", page: state.ui.page, to: state.ui.page - 1 }); } },
  moveRight: { title: "Move the page backwards", group: "Pages", keys: ["Shift+ArrowRight"], when: (s) => hasStory(s) && s.ui.page < headOf(s.story).texts.length - 1, run: ({ state, ui }) => { ui({ page: state.ui.page + 1 }); return api.edit(state.story.id, { operation: "move", page: state.ui.page, to: state.ui.page + 1 }); } },
  remove: { title: "Remove the page", group: "Pages", keys: ["Delete"], when: (s) => hasStory(s) && headOf(s.story).texts.length > 1, run: edit("remove") },
  undo: { title: "Undo", group: "Versions", keys: ["Ctrl+Z"], when: canUndo, run: ({ state }) => api.show(state.story.id, undoTarget(state.story)) },
  redo: { title: "Redo", group: "Versions", keys: ["Ctrl+Y", "Ctrl+Shift+Z"], when: canRedo, run: ({ state }) => api.show(state.story.id, redoTarget(state.story)) },
  restore: { title: "Take back a version of the page", group: "Versions", when: hasStory, run: ({ state, arg }) => api.edit(state.story.id, { operation: "restore", page: state.ui.page, state: arg }) },
  pick: { title: "Pick a candidate", group: "Candidates", keys: ["1", "2", "3", "4"], when: hasCandidates, run: (c) => pick(Number(c.arg ?? c.key) - 1, c) },
  compare: { title: "Compare with what was there", group: "Candidates", keys: ["C"], when: hasCandidates, run: ({ state, ui }) => ui({ compare: state.ui.compare ? null : candidatesOf(state.story, state.ui.page, []).base.id }) },
  dismiss: { title: "Put the candidates away", group: "Candidates", when: hasCandidates, run: ({ state, ui }) => ui({ dismissed: [...state.ui.dismissed, candidatesOf(state.story, state.ui.page, state.ui.dismissed).group] }) },
  codes: { title: "Look into the codes", group: "Codes", keys: ["K"], when: hasStory, run: (c) => COMMANDS.slot.run({ ...c, arg: c.state.ui.slot ?? 0 }) },
  slot: { title: "Show other codes of a slot", group: "Codes", when: hasStory, run: async ({ state, ui, arg }) => { ui({ slot: Number(arg) }); await api.lookUp(state.story.id, state.ui.page, Number(arg)); } },
  setCode: { title: "Take another code", group: "Codes", when: hasStory, run: ({ state, arg }) => api.edit(state.story.id, { operation: "codes", page: state.ui.page, codes: { [state.ui.slot]: Number(arg) } }) },
  cards: { title: "What the codes mean", group: "Codes", keys: ["Shift+K"], run: ({ state, ui }) => { ui({ view: state.ui.view === "codes" ? "edit" : "codes", panel: false }); return seek(state, ui, { words: state.ui.codeWords }); } },
  seek: { title: "Search the codes", group: "Codes", run: ({ state, ui }) => seek(state, ui, { words: state.ui.codeWords }) },
  seekCode: { title: "Show the card of a code", group: "Codes", run: ({ state, ui, arg }) => { ui({ view: "codes", codeWords: "" }); return seek(state, ui, { codes: arg }); } },
  seekPage: { title: "Codes of the open page", group: "Codes", when: hasStory, run: ({ state, ui }) => { ui({ codeWords: "" }); return seek(state, ui, { codes: headOf(state.story).codes[state.ui.page].join() }, `of page ${state.ui.page + 1}`); } },
  seekPicture: { title: "Search the codes by a picture", group: "Codes", run: ({ choose }) => choose("codes") },
  putCode: { title: "Put a code into the page", group: "Codes", when: hasStory, run: async ({ state, ui, arg }) => { const [slot, code] = arg.split(":").map(Number); await api.edit(state.story.id, { operation: "codes", page: state.ui.page, codes: { [slot]: code } }); ui({ view: "edit", slot: null }); } },
  lockCode: { title: "Lock a code", group: "Codes", when: hasStory, run: lock("") },
  read: { title: "Read", group: "View", keys: ["F"], when: hasStory, run: ({ state, ui }) => ui({ reader: { page: state.ui.page || COVER } }) },
  map: { title: "Map of branches", group: "View", keys: ["M"], when: hasStory, run: ({ state, ui }) => ui({ view: state.ui.view === "map" ? "edit" : "map" }) },
  branch: { title: "Branch at this page", group: "View", keys: ["B"], when: hasStory, run: async ({ state, ui }) => { await api.fork(state.story.id, state.ui.page); ui({ view: "map" }); } },
  takePath: { title: "Make this way a story", group: "View", run: async ({ state, ui, arg }) => { const job = await api.restore(state.story.branches.endings[arg]); ui({ waiting: job.id, view: "edit", reader: null }); } },
  play: { title: "Play from here", group: "View", run: ({ ui, arg }) => ui({ reader: { node: arg } }) },
  dark: { title: "Light or dark", group: "View", keys: ["Shift+D"], run: () => { const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches; root.dataset.theme = dark ? "light" : "dark"; } },
  speak: { title: "Read aloud", group: "View", keys: ["Space"], when: (s) => Boolean(s.ui.reader) && s.ui.voices !== 0, run: ({ state, ui }) => ui({ reader: { ...state.ui.reader, speaking: !state.ui.reader.speaking } }) },
  help: { title: "Keys", group: "View", keys: ["?"], run: ({ ui }) => ui({ dialog: "help" }) },
  share: { title: "Export and share", group: "View", keys: ["X"], when: hasStory, run: ({ ui }) => ui({ dialog: "share" }) },
  close: { title: "Close", group: "View", keys: ["Escape"], typing: true, run: ({ state, ui }) => { document.activeElement?.blur(); ui(state.ui.dialog ? { dialog: null } : state.ui.reader ? { reader: null } : state.ui.view !== "edit" ? { view: "edit" } : { slot: null, compare: null, toast: null, panel: false }); } },
  openStory: { title: "Open a story", group: "Shelf", run: async ({ arg, open }) => open(arg) },
  duplicate: { title: "Duplicate the story", group: "Shelf", when: hasStory, run: async ({ state, open }) => open((await api.duplicate(state.story.id)).story) },
  removeStory: { title: "Take the story off the shelf", group: "Shelf", when: hasStory, run: async ({ state, open }) => { await api.remove(state.story.id); const other = state.stories.find((one) => one.id !== state.story.id); if (other) await open(other.id); } },
  panel: { title: "Prompt and shelf", group: "Shelf", run: ({ state, ui }) => ui({ panel: !state.ui.panel }) },
  cancel: { title: "Cancel", group: "Make", run: ({ arg }) => api.cancel(arg) },
  toPage: { title: "Open a page", group: "Pages", when: hasStory, run: ({ arg, ui }) => ui({ page: Number(arg), slot: null, compare: null, view: "edit" }) },
  readerTo: { title: "Turn to", group: "View", run: ({ arg, ui, state }) => { const { reader } = state.ui, page = Number(arg); ui({ reader: reader.node === undefined ? { page, back: page < reader.page, speaking: reader.speaking } : { node: arg, speaking: reader.speaking } }); } },
  fullScreen: { title: "Full screen", group: "View", keys: ["Shift+F"], when: (s) => Boolean(s.ui.reader), run: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()) },
  copyPlan: { title: "Copy the story string", group: "View", when: hasStory, run: async ({ state, say }) => { await navigator.clipboard.writeText(headOf(state.story).plan); say("The story string is copied."); } },
  nameChoice: { title: "Name a choice", group: "View", when: hasStory, run: ({ state, arg, text }) => api.name(state.story.id, arg, text) },
  lockCast: { title: "Lock a character", group: "Page", when: hasStory, run: lock("") },
  keepHero: { title: "Keep this hero", group: "Make", run: ({ arg, ui }) => { ui({ prompt: `${arg} `, panel: true }); setTimeout(() => document.querySelector("[data-field=prompt]")?.focus()); } },
};

/** The name of a key press as the table writes it. */
export function keyName(event) {
  const key = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && key !== "?" ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift}${key}`;
}

export function commandFor(name, isTyping) {
  const entry = Object.entries(COMMANDS).find(([, command]) => command.keys?.includes(name) && (!isTyping || command.typing));
  return entry ? entry[0] : null;
}
