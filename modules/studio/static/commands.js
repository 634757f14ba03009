// One table of everything that a person can do: buttons, keys and the dialog of keys are made from it.
//
// title    what it does, for people      group  where the dialog of keys shows it
// keys     the keys that do it           typing  whether these work in a text field too
// when     (state) -> whether it can be done now
// run      ({ state, ui, arg, ... }) -> does it; what it throws is shown
import { STORY_COMMANDS } from "./commands_story.js";
import { VIEW_COMMANDS } from "./commands_view.js";

export const COMMANDS = { ...STORY_COMMANDS, ...VIEW_COMMANDS };

/** The name of a key press as the table writes it. */
export function keyName(event) {
  const key = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && key !== "?" ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift}${key}`;
}

export function commandFor(name, isTyping) {
  const entry = Object.entries(COMMANDS).find(
    ([, command]) => command.keys?.includes(name) && (!isTyping || command.typing),
  );
  return entry ? entry[0] : null;
}
