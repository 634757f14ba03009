// The browser's voices, which may load late or be missing altogether.
const PATIENCE = 1500; // Milliseconds until a browser without voices is believed.
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

/** Read a text aloud, in the place of what is being read; then `onEnd`, unless it was hushed. */
export function say(text, onEnd) {
  speech.cancel();
  const words = Object.assign(new SpeechSynthesisUtterance(text), { lang: document.documentElement.lang, rate: 0.9, onend: onEnd });
  speech.speak(words);
  return () => { words.onend = null; speech.cancel(); };
}
