// The browser's voices, which may load late or be missing altogether.
const PATIENCE = 1500; // Milliseconds until a browser without voices is believed.
const SPEED = 0.9;
const speech = window.speechSynthesis;

/** Call `onCount` with the number of voices, now or as soon as they are known. */
export function watchVoices(onCount) {
  if (!speech) return onCount(0);
  const count = () => speech.getVoices().length;
  const look = () => count() && onCount(count());
  speech.addEventListener?.("voiceschanged", look);
  look();
  setTimeout(() => onCount(count()), PATIENCE);
}

let spoken = null,
  hush = null; // What is being read, and what ends that.

/** Read what the reader shows, and turn the page at its end, as long as the voice is on. */
export function readAloud(state, ui) {
  const told = state.ui.reader?.speaking ? document.querySelector(".told") : null;
  const key = told && `${told.closest("[data-key]").dataset.key} ${told.textContent}`;
  if (key === spoken) return;
  hush?.();
  spoken = key;
  const stop = () => ui({ reader: { ...state.ui.reader, speaking: false } });
  const turn = () => {
    const next = document.querySelector(".reader footer .turn:last-child:enabled, .reader footer > .main");
    if (next) next.click();
    else stop();
  };
  hush = told && say(told.textContent, turn, stop);
}

/** Read a text aloud; then `onEnd`, or `onFailure`, unless it was hushed by the function that is returned. */
function say(text, onEnd, onFailure) {
  speech.cancel();
  const words = new SpeechSynthesisUtterance(text);
  Object.assign(words, { lang: document.documentElement.lang, rate: SPEED, onend: onEnd, onerror: onFailure });
  speech.speak(words);
  return () => {
    words.onend = words.onerror = null;
    speech.cancel();
  };
}
