// The state of the page, as pure functions: reduce(state, action) returns a new state and changes nothing.

export const COVER = -1; // The reader's page before the first one.
const OPENED = ["Inserted", "Moved"]; // What is done to pages that are open afterwards.
export const EMPTY = {
  model: null,
  formats: [],
  stories: [],
  jobs: {},
  story: null,
  online: true,
  ui: {
    page: 0,
    view: "edit",
    slot: null,
    dialog: null,
    reader: null,
    toast: null,
    compare: null,
    dismissed: [],
    panel: false,
    prompt: "",
    pages: 5,
    seed: 1,
    temperature: 0.5,
    bestOf: 1,
    waiting: null,
    typed: null,
    codeWords: "",
    found: null,
    voices: null,
  },
};

const withStory = (state, id, change) => (state.story?.id === id ? { ...state, story: change(state.story) } : state);
const inRange = (page, story) => Math.max(0, Math.min(page, headOf(story).texts.length - 1));

/** What was typed, unless the texts that are shown have changed since: it was kept, or undone. */
function stillTyped(before, after) {
  const same =
    before.story?.id === after.story?.id &&
    (!after.story || headOf(before.story).texts.join("\n") === headOf(after.story).texts.join("\n"));
  return same ? after.ui.typed : null;
}

export function headOf(story) {
  return story.states[story.visits[story.visits.length - 1]];
}

function toShelf(stories, id, title, head) {
  const entry = { id, title, pages: head.texts.length, cover: head.pictures[0] };
  return stories.some((one) => one.id === id)
    ? stories.map((one) => (one.id === id ? entry : one))
    : [...stories, entry];
}

const REDUCERS = {
  overview: (state, { data }) => ({
    ...state,
    model: data.model,
    formats: data.formats,
    stories: data.stories,
    jobs: Object.fromEntries(data.jobs.map((job) => [job.id, job])),
  }),
  story: (state, { data }) => {
    const story = { ...data, states: Object.fromEntries(data.states.map((one) => [one.id, one])) };
    const page = state.story?.id === data.id ? inRange(state.ui.page, story) : 0;
    return { ...state, story, ui: { ...state.ui, page, slot: null, compare: null, waiting: null } };
  },
  job: (state, { job }) => ({ ...state, jobs: { ...state.jobs, [job.id]: job } }),
  state: (state, { story, title, state: made, head }) => {
    const next = withStory(state, story, (old) => ({
      ...old,
      states: { ...old.states, [made.id]: made },
      visits: head === made.id ? [...old.visits, head] : old.visits,
    }));
    const shelf = head === made.id ? toShelf(next.stories, story, title, made) : next.stories;
    const isOpened = head === made.id && OPENED.includes(made.label);
    const page = next.story?.id === story ? inRange(isOpened ? made.page : next.ui.page, next.story) : next.ui.page;
    return { ...next, stories: shelf, ui: { ...next.ui, page, typed: stillTyped(state, next) } };
  },
  shown: (state, { story, state: id }) => {
    const next = withStory(state, story, (old) => ({ ...old, visits: [...old.visits, id] }));
    if (next.story?.id !== story) return next;
    const ui = { ...next.ui, page: inRange(next.ui.page, next.story), compare: null, typed: stillTyped(state, next) };
    return { ...next, ui, stories: toShelf(next.stories, story, next.story.title, headOf(next.story)) };
  },
  branches: (state, { story, branches }) => withStory(state, story, (old) => ({ ...old, branches })),
  removed: (state, { story }) => ({
    ...state,
    stories: state.stories.filter((one) => one.id !== story),
    story: state.story?.id === story ? null : state.story,
  }),
  ui: (state, { change }) => ({ ...state, ui: { ...state.ui, ...change } }),
  online: (state, { value }) => (state.online === value ? state : { ...state, online: value }),
};

export function reduce(state, action) {
  return REDUCERS[action.type] ? REDUCERS[action.type](state, action) : state;
}

// -- what follows from the state

/** The state that was shown before the present one, and the one that undoing left last. */
export function undoTarget(story) {
  return story && headOf(story).parent;
}

export function redoTarget(story) {
  if (!story) return null;
  const forward = {};
  for (const visit of story.visits) {
    for (let one = story.states[visit]; one?.parent; one = story.states[one.parent]) forward[one.parent] = one.id;
  }
  return forward[headOf(story).id] ?? null;
}

/** The candidates of the newest edit of a page that waits, with the state that they would replace; none: null. */
export function candidatesOf(story, page, dismissed = []) {
  if (!story) return null;
  const head = headOf(story);
  const base = head.group ? story.states[head.parent] : head;
  const waiting = Object.values(story.states).filter((one) => one.parent === base.id && one.group && one.page === page);
  const group = head.group && head.page === page ? head.group : waiting[waiting.length - 1]?.group;
  if (!group || dismissed.includes(group)) return null;
  return { group, base, states: waiting.filter((one) => one.group === group) };
}

/** Earlier versions of one page on the way to the present state, the newest first. */
export function versionsOf(story, page) {
  const head = headOf(story),
    found = [];
  const look = (one) => `${one.pictures[page]} ${one.texts[page]}`;
  const seen = new Set([look(head)]);
  for (let one = story.states[head.parent]; one; one = story.states[one.parent]) {
    if (one.texts.length !== head.texts.length) break;
    if (!seen.has(look(one))) found.push(one);
    seen.add(look(one));
  }
  return found;
}

/** Locks after one of them is set or taken off. */
export function toggled(locks, name) {
  return locks.includes(name) ? locks.filter((one) => one !== name) : [...locks, name];
}

/** What the choice of a page of the branches is called: its caption, or else the first sentence of its text. */
export function captionOf(branches, id) {
  return branches.captions?.[id] || branches.pages[id].text.match(/^.*?[.!?](?=\s|$)/)?.[0] || branches.pages[id].text;
}

/** Who is in the story, and who else is locked: kind, name, colour, number of pages, and the lock, if there is one. */
export function castOf(story) {
  const head = headOf(story),
    locked = Object.fromEntries(
      head.locks.filter((one) => one.startsWith("cast.")).map((one) => [one.split(".")[1], one]),
    );
  const members = (head.checks?.cast ?? []).map((one) => ({
    ...one,
    pages: one.pages.length,
    lock: locked[one.kind] ?? null,
  }));
  const away = Object.entries(locked).filter(([kind]) => !members.some((one) => one.kind === kind));
  return [...members, ...away.map(([kind, lock]) => ({ kind, name: "", color: lock.split(".")[2], pages: 0, lock }))];
}

export function activeJobs(state) {
  return Object.values(state.jobs).filter((job) => job.status === "queued" || job.status === "running");
}

export function optionsOf(state, page, slot) {
  const jobs = Object.values(state.jobs).filter(
    (job) => job.kind === "alternatives" && job.story === state.story?.id && job.page === page && job.slot === slot,
  );
  const last = jobs[jobs.length - 1];
  const fits = last?.result?.state === state.story?.visits[state.story.visits.length - 1];
  return {
    busy: last && (last.status === "queued" || last.status === "running"),
    options: fits ? last.result.options : null,
  };
}
