// The state of the page: undo, redo, candidates, versions, locks. Run by `node --test`.
import assert from "node:assert/strict";
import test from "node:test";
import { candidatesOf, captionOf, castOf, EMPTY, headOf, optionsOf, redoTarget, reduce, toggled, undoTarget, versionsOf } from "../../modules/studio/static/reducers.js";

const state = (id, parent, more = {}) => ({ id, parent, texts: ["a", "b"], pictures: ["p", "q"], codes: [[1], [2]], locks: [], page: 1, group: null, ...more });
const opened = (states, visits) => reduce(EMPTY, { type: "story", data: { id: "story1", title: "t", states, visits, branches: null } });
const freeze = (value) => { if (value && typeof value === "object") { Object.values(value).forEach(freeze); Object.freeze(value); } return value; };

test("a new state is shown, and undo and redo walk the tree", () => {
  let now = freeze(opened([state("s1", null)], ["s1"]));
  now = freeze(reduce(now, { type: "state", story: "story1", title: "t", state: state("s2", "s1", { texts: ["a", "c"] }), head: "s2" }));
  assert.equal(headOf(now.story).id, "s2");
  assert.equal(undoTarget(now.story), "s1");
  assert.equal(redoTarget(now.story), null);
  now = freeze(reduce(now, { type: "shown", story: "story1", state: "s1" }));
  assert.equal(redoTarget(now.story), "s2");
  now = reduce(now, { type: "state", story: "story1", title: "t", state: state("s3", "s1"), head: "s3" });
  now = reduce(now, { type: "shown", story: "story1", state: "s1" });
  assert.equal(redoTarget(now.story), "s3");
  assert.equal(undoTarget(now.story), null);
});

test("undo leads all the way back", () => {
  const states = Array.from({ length: 30 }, (_, index) => state(`s${index}`, index ? `s${index - 1}` : null));
  let now = opened(states, states.map((one) => one.id)), steps = 0;
  while (undoTarget(now.story)) { now = reduce(now, { type: "shown", story: "story1", state: undoTarget(now.story) }); steps += 1; }
  assert.equal(steps, 29);
  while (redoTarget(now.story)) now = reduce(now, { type: "shown", story: "story1", state: redoTarget(now.story) });
  assert.equal(headOf(now.story).id, "s29");
});

test("candidates wait, also after one was picked", () => {
  let now = opened([state("s1", null), state("c1", "s1", { group: "g" }), state("c2", "s1", { group: "g" })], ["s1"]);
  assert.deepEqual(candidatesOf(now.story, 1).states.map((one) => one.id), ["c1", "c2"]);
  assert.equal(candidatesOf(now.story, 0), null);
  assert.equal(candidatesOf(now.story, 1, ["g"]), null);
  now = reduce(now, { type: "shown", story: "story1", state: "c2" });
  assert.equal(candidatesOf(now.story, 1).base.id, "s1");
});

test("versions of a page are those that look different", () => {
  const states = [state("s1", null, { texts: ["a", "old"] }), state("s2", "s1"), state("s3", "s2", { texts: ["x", "b"] })];
  const now = opened(states, ["s1", "s2", "s3"]);
  assert.deepEqual(versionsOf(now.story, 1).map((one) => one.id), ["s1"]);
});

test("the open page stays in the story, and the shelf shows what is shown", () => {
  let now = reduce(opened([state("s1", null)], ["s1"]), { type: "ui", change: { page: 1 } });
  now = reduce(now, { type: "state", story: "story1", title: "t", state: state("s2", "s1", { texts: ["a"], pictures: ["z"] }), head: "s2" });
  assert.equal(now.ui.page, 0);
  assert.deepEqual(now.stories, [{ id: "story1", title: "t", pages: 1, cover: "z" }]);
  assert.equal(reduce(now, { type: "removed", story: "story1" }).story, null);
  assert.equal(reduce(now, { type: "unknown" }), now);
});

test("a page that was inserted or moved is open afterwards", () => {
  const made = (id, parent, label, page) => ({ type: "state", story: "story1", title: "t", state: state(id, parent, { label, page, texts: ["a", "b", "c"] }), head: id });
  let now = reduce(opened([state("s1", null)], ["s1"]), made("s2", "s1", "Inserted", 2));
  assert.equal(now.ui.page, 2);
  now = reduce(now, made("s3", "s2", "Moved", 0));
  assert.equal(now.ui.page, 0);
  assert.equal(reduce(now, made("s4", "s3", "Redrawn", 2)).ui.page, 0);
});

test("what was typed stays until the texts change", () => {
  const typed = { of: "story1-0", text: "Once" };
  let now = reduce(opened([state("s1", null)], ["s1"]), { type: "ui", change: { typed } });
  now = reduce(now, { type: "state", story: "story1", title: "t", state: state("s2", "s1", { locks: ["1"] }), head: "s2" });
  assert.equal(now.ui.typed, typed);
  now = reduce(now, { type: "state", story: "story1", title: "t", state: state("s3", "s2", { texts: ["Once", "b"] }), head: "s3" });
  assert.equal(now.ui.typed, null);
  now = reduce(reduce(now, { type: "ui", change: { typed } }), { type: "shown", story: "story1", state: "s2" });
  assert.equal(now.ui.typed, null);
});

test("the cast keeps those who are locked, and choices have names", () => {
  const cast = [{ kind: "fox", name: "Rusty", color: "red", pages: [0, 1] }];
  const story = opened([state("s1", null, { checks: { cast }, locks: ["cast.fox.blue", "cast.pig.pink"] })], ["s1"]).story;
  assert.deepEqual(castOf(story).map((one) => [one.kind, one.pages, one.lock]), [["fox", 2, "cast.fox.blue"], ["pig", 0, "cast.pig.pink"]]);
  const branches = { pages: { "2a": { text: "He runs. Then he hides." }, "2b": { text: "No end" } }, captions: { "2b": "Home" } };
  assert.deepEqual(["2a", "2b"].map((id) => captionOf(branches, id)), ["He runs.", "Home"]);
});

test("locks toggle, and other codes belong to the state that they were drawn for", () => {
  assert.deepEqual(toggled(toggled(["1"], "2.text"), "1"), ["2.text"]);
  let now = opened([state("s1", null)], ["s1"]);
  const job = { id: "j", kind: "alternatives", story: "story1", page: 1, slot: 0, status: "done", result: { state: "s1", options: [1] } };
  now = reduce(now, { type: "job", job });
  assert.deepEqual(optionsOf(now, 1, 0).options, [1]);
  now = reduce(now, { type: "state", story: "story1", title: "t", state: state("s2", "s1"), head: "s2" });
  assert.equal(optionsOf(now, 1, 0).options, null);
});
