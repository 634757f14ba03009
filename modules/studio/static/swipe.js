// Swipes of a finger to the left (forwards) and to the right.
const FAR = 45; // Pixels.

export function onSwipe(turn) {
  let from = null;
  document.addEventListener(
    "touchstart",
    (event) => {
      from = event.touches.length === 1 ? event.touches[0] : null;
    },
    { passive: true },
  );
  document.addEventListener("touchend", (event) => {
    if (!from) return;
    const to = event.changedTouches[0],
      x = to.clientX - from.clientX,
      y = to.clientY - from.clientY;
    from = null;
    if (Math.abs(x) > FAR && Math.abs(x) > 1.5 * Math.abs(y)) turn(x < 0);
  });
}
