"use strict";
const data = JSON.parse(document.getElementById("data").textContent), byCode = new Map(data.cards.map((card) => [card.code, card]));
const find = document.getElementById("find"), sort = document.getElementById("sort"), slot = document.getElementById("slot");
const grid = document.querySelector(".cards"), more = document.querySelector(".more"), dialog = document.querySelector("dialog");
const PAGE = 24, rows = Math.ceil(Object.values(data.pages).filter(([place]) => place >= 0).length / data.columns);
let shown = PAGE;
for (let index = 0; index < data.slots; index++) slot.append(new Option(index + 1, index));

const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const percent = (value) => Math.round(100 * value) + " %";
const mainSlot = (card) => card.slots.indexOf(Math.max(...card.slots));
const page = (row) => {
  const [place, text, story, step] = data.pages[row], title = text + " (story " + story + ", page " + step + ")";
  if (place < 0) return make("div", {title}, text);
  const x = place % data.columns, y = Math.floor(place / data.columns);
  const position = 100 * x / (data.columns - 1) + "% " + (rows > 1 ? 100 * y / (rows - 1) : 0) + "%";
  return make("div", {class: "picture", role: "img", "aria-label": text, title, style: "background-position:" + position});
};
const chips = (pairs, word) => pairs.map(([code, value]) => make("button", {class: "chip", "data-code": code, title: word + value.toFixed(2)}, String(code)));
const row = (list, name, ...value) => { if (value.length) list.append(make("dt", {}, name), make("dd", {}, ...value)); };
const view = (card) => {
  const box = make("article", {class: "code"}), most = Math.max(...card.positions), list = make("dl", {}), removal = card.removal;
  box.append(make("h3", {}, make("i", {style: "--c:var(--c" + card.colors[0] + ")"}), "Code " + card.code, make("span", {}, card.uses + " uses")));
  box.append(make("p", {class: "about"}, make("b", {}, card.tells.attribute + ": " + card.tells.value), make("span", {}, " on " + percent(card.tells.share) + " of its pages, " + percent(card.tells.base) + " of all pages")));
  box.append(make("div", {class: "pages"}, ...card.pages.map(page)));
  row(list, "words", ...(card.words.length ? [card.words.map(([word]) => word).join(", ")] : []));
  row(list, "slots", make("div", {class: "slots", title: card.slots.map((count, index) => "slot " + (index + 1) + ": " + count).join(", ")}, ...card.slots.map((count) => make("i", {style: "--v:" + count / card.uses}))));
  row(list, "where", make("div", {class: "bars", title: "share of all first, second, … pages"}, ...card.positions.map((share) => make("i", {style: "height:" + 100 * share / most + "%"}))));
  row(list, "next", ...chips(card.successors, "share of the next pages: "));
  row(list, "near", ...chips(card.near, "cosine: "));
  if (removal) {
    const text = removal.text_nats === null ? "" : removal.text_nats.toFixed(1) + " nats of text";
    const picture = removal.diffusion_loss === null ? "" : removal.diffusion_loss.toFixed(3) + " picture error";
    const places = removal.places + (removal.places === 1 ? " place" : " places");
    row(list, "loss", [text, picture].filter(Boolean).join(", ") + " (" + places + ")");
  }
  box.append(list);
  return box;
};
const orders = {
  uses: (card) => -card.uses, strength: (card) => -card.tells.strength, code: (card) => card.code,
  nats: (card) => -(card.removal && card.removal.text_nats || 0), picture: (card) => -(card.removal && card.removal.diffusion_loss || 0),
};
const matches = (card, words) => {
  const text = [card.code, card.tells.attribute, card.tells.value, ...card.words.map(([word]) => word)].join(" ").toLowerCase().split(" ");
  return words.every((word) => /^\d+$/.test(word) ? card.code === Number(word) : text.some((other) => other.startsWith(word)));
};
const refresh = () => {
  const words = find.value.toLowerCase().split(/[\s:,]+/).filter(Boolean), order = orders[sort.value];
  const found = data.cards.filter((card) => (slot.value === "" || mainSlot(card) === Number(slot.value)) && matches(card, words));
  found.sort((a, b) => order(a) - order(b) || a.code - b.code);
  grid.replaceChildren(...found.slice(0, shown).map(view));
  more.hidden = found.length <= shown;
  document.querySelector(".controls output").textContent = found.length + (found.length === 1 ? " code" : " codes");
};
for (const control of [find, sort, slot]) control.addEventListener("input", () => { shown = PAGE; refresh(); });
more.addEventListener("click", () => { shown += PAGE; refresh(); });

let tip = null;
const hide = () => { if (tip) tip.remove(); tip = null; };
const target = (event) => event.target.closest && event.target.closest("[data-code]");
addEventListener("click", (event) => {
  const element = target(event), card = element && byCode.get(Number(element.dataset.code));
  if (card) { hide(); dialog.replaceChildren(view(card)); if (!dialog.open) dialog.showModal(); dialog.focus(); }
  else if (event.target === dialog) dialog.close();
});
addEventListener("pointerover", (event) => {
  const element = target(event), card = element && element.closest("svg") && !element.closest(".matrix") && byCode.get(Number(element.dataset.code));
  hide();
  if (!card || event.pointerType === "touch") return;
  tip = view(card);
  tip.id = "tip";
  document.body.append(tip);
  const left = event.clientX + 18 + tip.offsetWidth > innerWidth ? event.clientX - 18 - tip.offsetWidth : event.clientX + 18;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(innerHeight - tip.offsetHeight - 8, event.clientY + 12)) + "px";
});
refresh();
