// Small parts that several views share.
import { COMMANDS } from "./commands.js";
import { h } from "./dom.js";

const ICONS = {
  undo: "M9 14 4 9l5-5M4 9h10a5.5 5.5 0 0 1 0 11h-3",
  redo: "m15 14 5-5-5-5M20 9H10a5.5 5.5 0 0 0 0 11h3",
  lock: "M7 11V8a5 5 0 0 1 10 0v3M5 11h14v9H5z",
  open: "M7 11V8a5 5 0 0 1 9.6-2M5 11h14v9H5z",
  redraw: "M20 12a8 8 0 1 1-2.5-5.8M20 3v5h-5",
  read: "M12 6c-2-2-5-2-8-1v13c3-1 6-1 8 1 2-2 5-2 8-1V5c-3-1-6-1-8 1zm0 0v13",
  map: "M6 6h4v4H6zM14 4h4v4h-4zM14 15h4v4h-4zM10 8l4-2M10 9l4 8",
  dice: "M5 5h14v14H5zM9 9h.01M15 9h.01M9 15h.01M15 15h.01M12 12h.01",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6 6 18",
  left: "m15 5-7 7 7 7",
  right: "m9 5 7 7-7 7",
  branch: "M7 4v16M7 14c0-5 10-3 10-9M14 8l3-3 3 3",
  pen: "m4 20 1-5L16 4l4 4L9 19zM14 6l4 4",
  plan: "M5 6h14M5 12h9M5 18h5M18 15v6M15 18h6",
  upload: "M12 16V5m0 0-5 5m5-5 5 5M5 19h14",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  share: "M12 15V4m0 0L8 8m4-4 4 4M6 12v8h12v-8",
  help: "M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 18h.01",
  moon: "M20 14A8 8 0 1 1 10 4a7 7 0 0 0 10 10z",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l5 5",
  hero: "M12 4a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM4 21c0-5 3-7 8-7 2 0 3 .3 4 .8M19 15v6M16 18h6",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  quiet: "M5 9v6h4l5 4V5L9 9zM17 9l4 6M21 9l-4 6",
  sound: "M5 9v6h4l5 4V5L9 9zM17 9a4 4 0 0 1 0 6",
  compare: "M12 4v16M4 7h5v10H4zM15 7h5v10h-5z",
  panel: "M4 6h16M4 12h16M4 18h16",
  copy: "M8 8h11v11H8zM5 15V5h10",
};

export function icon(name) {
  const svg = h("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" });
  svg.append(h("path", { d: ICONS[name] }));
  return svg;
}

/** A button of a command; its title names the key. */
export function button(state, name, { look = "", image, label, arg, text, ...more } = {}) {
  const command = COMMANDS[name],
    title = label ?? command.title;
  const key = command.keys && arg === undefined ? ` (${command.keys[0]})` : "";
  const off = command.when && !command.when(state);
  return h(
    "button",
    {
      type: "button",
      "data-do": name,
      "data-arg": arg,
      class: look,
      title: `${title}${key}`,
      "aria-label": text ? null : title,
      disabled: off,
      ...more,
    },
    image ? icon(image) : null,
    text ? h("span", {}, text) : null,
  );
}

export const picture = (name, size, alt, look = "") =>
  h("img", { src: `/api/pictures/${name}?size=${size}`, alt, class: look, draggable: "false" });

export function seconds(value) {
  return value === null || value === undefined
    ? ""
    : value < 1
      ? "a moment"
      : value < 90
        ? `${Math.round(value)} s`
        : `${Math.round(value / 60)} min`;
}

/** A code's own light colour; consecutive codes are a golden angle apart in hue. */
export const codeColor = (code) => `hue${Math.floor(((code * 0.381966) % 1) * 24)}`;
