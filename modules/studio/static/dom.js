// Builds elements, and changes a page to look like a new one while it keeps focus, scrolling and pictures.

export function h(tag, attributes = {}, ...children) {
  const node =
    tag === "svg" || tag === "path"
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "value") node.setAttribute("data-value", value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const isEdited = (node) =>
  node === document.activeElement && (node.isContentEditable || ("value" in node && node.tagName !== "BUTTON"));

/** Make `old` like `fresh`, element by element; what a person is typing into stays as it is. */
export function morph(old, fresh) {
  if (old.nodeType === 3 && fresh.nodeType === 3) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeName !== fresh.nodeName || (old.dataset?.key ?? "") !== (fresh.dataset?.key ?? "")) {
    old.replaceWith(fresh);
    applyValue(fresh);
    return;
  }
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (isEdited(old)) return;
  const before = [...old.childNodes],
    after = [...fresh.childNodes];
  after.forEach((child, index) => {
    if (before[index]) morph(before[index], child);
    else {
      old.append(child);
      applyValue(child);
    }
  });
  before.slice(after.length).forEach((child) => child.remove());
  applyValue(old, false);
}

function applyValue(node, deep = true) {
  if (node.nodeType !== 1) return;
  const nodes = deep ? [node, ...node.querySelectorAll("[data-value]")] : [node];
  for (const one of nodes)
    if (one.dataset?.value !== undefined && one.value !== one.dataset.value) one.value = one.dataset.value;
}
