// What a person can look at: codes, the map, the reader, the dialogs.
import { api } from "./api.js";
import { lock } from "./commands_story.js";
import { COVER, headOf } from "./reducers.js";

const hasStory = (state) => Boolean(state.story);

/** Search the cards of codes; `of` is what they belong to. */
async function seek(state, ui, query, of = "") {
  const found = await api.codes(query);
  ui({ found: { ...found, of, words: query.words ?? "" } });
}

export const VIEW_COMMANDS = {
  codes: {
    title: "Look into the codes",
    group: "Codes",
    keys: ["K"],
    when: hasStory,
    run: (c) => VIEW_COMMANDS.slot.run({ ...c, arg: c.state.ui.slot ?? 0 }),
  },
  slot: {
    title: "Show other codes of a slot",
    group: "Codes",
    when: hasStory,
    run: async ({ state, ui, arg }) => {
      ui({ slot: Number(arg) });
      await api.lookUp(state.story.id, state.ui.page, Number(arg));
    },
  },
  setCode: {
    title: "Take another code",
    group: "Codes",
    when: hasStory,
    run: ({ state, arg }) =>
      api.edit(state.story.id, { operation: "codes", page: state.ui.page, codes: { [state.ui.slot]: Number(arg) } }),
  },
  cards: {
    title: "What the codes mean",
    group: "Codes",
    keys: ["Shift+K"],
    run: ({ state, ui }) => {
      ui({ view: state.ui.view === "codes" ? "edit" : "codes", panel: false });
      return seek(state, ui, { words: state.ui.codeWords });
    },
  },
  seek: {
    title: "Search the codes",
    group: "Codes",
    run: ({ state, ui }) => seek(state, ui, { words: state.ui.codeWords }),
  },
  seekCode: {
    title: "Show the card of a code",
    group: "Codes",
    run: ({ state, ui, arg }) => {
      ui({ view: "codes", codeWords: "" });
      return seek(state, ui, { codes: arg });
    },
  },
  seekPage: {
    title: "Codes of the open page",
    group: "Codes",
    when: hasStory,
    run: ({ state, ui }) => {
      ui({ codeWords: "" });
      return seek(
        state,
        ui,
        { codes: headOf(state.story).codes[state.ui.page].join() },
        `of page ${state.ui.page + 1}`,
      );
    },
  },
  seekPicture: { title: "Search the codes by a picture", group: "Codes", run: ({ choose }) => choose("codes") },
  putCode: {
    title: "Put a code into the page",
    group: "Codes",
    when: hasStory,
    run: async ({ state, ui, arg }) => {
      const [slot, code] = arg.split(":").map(Number);
      await api.edit(state.story.id, { operation: "codes", page: state.ui.page, codes: { [slot]: code } });
      ui({ view: "edit", slot: null });
    },
  },
  lockCode: { title: "Lock a code", group: "Codes", when: hasStory, run: lock("") },
  read: {
    title: "Read",
    group: "View",
    keys: ["F"],
    when: hasStory,
    run: ({ state, ui }) => ui({ reader: { page: state.ui.page || COVER } }),
  },
  map: {
    title: "Map of branches",
    group: "View",
    keys: ["M"],
    when: hasStory,
    run: ({ state, ui }) => ui({ view: state.ui.view === "map" ? "edit" : "map" }),
  },
  branch: {
    title: "Branch at this page",
    group: "View",
    keys: ["B"],
    when: hasStory,
    run: async ({ state, ui }) => {
      await api.fork(state.story.id, state.ui.page);
      ui({ view: "map" });
    },
  },
  takePath: {
    title: "Make this way a story",
    group: "View",
    run: async ({ state, ui, arg }) => {
      const job = await api.restore(state.story.branches.endings[arg]);
      ui({ waiting: job.id, view: "edit", reader: null });
    },
  },
  play: { title: "Play from here", group: "View", run: ({ ui, arg }) => ui({ reader: { node: arg } }) },
  dark: {
    title: "Light or dark",
    group: "View",
    keys: ["Shift+D"],
    run: () => {
      const root = document.documentElement,
        dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    },
  },
  speak: {
    title: "Read aloud",
    group: "View",
    keys: ["Space"],
    when: (s) => Boolean(s.ui.reader) && s.ui.voices !== 0,
    run: ({ state, ui }) => ui({ reader: { ...state.ui.reader, speaking: !state.ui.reader.speaking } }),
  },
  help: { title: "Keys", group: "View", keys: ["?"], run: ({ ui }) => ui({ dialog: "help" }) },
  share: {
    title: "Export and share",
    group: "View",
    keys: ["X"],
    when: hasStory,
    run: ({ ui }) => ui({ dialog: "share" }),
  },
  close: {
    title: "Close",
    group: "View",
    keys: ["Escape"],
    typing: true,
    run: ({ state, ui }) => {
      document.activeElement?.blur();
      ui(
        state.ui.dialog
          ? { dialog: null }
          : state.ui.reader
            ? { reader: null }
            : state.ui.view !== "edit"
              ? { view: "edit" }
              : { slot: null, compare: null, toast: null, panel: false },
      );
    },
  },
  readerTo: {
    title: "Turn to",
    group: "View",
    run: ({ arg, ui, state }) => {
      const { reader } = state.ui,
        page = Number(arg);
      ui({
        reader:
          reader.node === undefined
            ? { page, back: page < reader.page, speaking: reader.speaking }
            : { node: arg, speaking: reader.speaking },
      });
    },
  },
  fullScreen: {
    title: "Full screen",
    group: "View",
    keys: ["Shift+F"],
    when: (s) => Boolean(s.ui.reader),
    run: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  },
  copyPlan: {
    title: "Copy the story string",
    group: "View",
    when: hasStory,
    run: async ({ state, say }) => {
      await navigator.clipboard.writeText(headOf(state.story).plan);
      say("The story string is copied.");
    },
  },
  nameChoice: {
    title: "Name a choice",
    group: "View",
    when: hasStory,
    run: ({ state, arg, text }) => api.name(state.story.id, arg, text),
  },
};
