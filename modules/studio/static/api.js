// Requests to the server, and its events.

async function call(method, path, body, type = "application/json") {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = type;
    options.body = type === "application/json" ? JSON.stringify(body) : body;
  }
  const answer = await fetch(`/api/${path}`, options);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Error(typeof problem.detail === "string" ? problem.detail : "the request was refused");
}

export const api = {
  project: () => call("GET", "project"),
  story: (id) => call("GET", `stories/${id}`),
  make: (body) => call("POST", "stories", body),
  edit: (story, body) => call("POST", `stories/${story}/edits`, body),
  show: (story, state) => call("POST", `stories/${story}/shown`, { state }),
  lock: (story, locks) => call("POST", `stories/${story}/locks`, { locks }),
  lookUp: (story, page, slot) => call("POST", `stories/${story}/alternatives`, { page, slot }),
  fork: (story, page) => call("POST", `stories/${story}/branches`, { page, branches: 2, depth: 1 }),
  name: (story, page, caption) => call("POST", `stories/${story}/captions`, { page, caption }),
  codes: (query) => call("GET", `codes?${new URLSearchParams(query)}`),
  codesOf: (picture) => call("POST", "codes/picture", { picture }),
  duplicate: (story) => call("POST", `stories/${story}/duplicate`),
  remove: (story) => call("DELETE", `stories/${story}`),
  cancel: (job) => call("POST", `jobs/${job}/cancel`),
  restore: (plan) => call("POST", "import", { plan }),
  restorePicture: (file) => call("POST", "import/picture", file, "application/octet-stream"),
  upload: (file) => call("POST", "pictures", file, "application/octet-stream"),
};

/** Follow the server's events from `event` on. The browser connects again by itself and says what it saw last. */
export function follow(event, onEvent, onOnline) {
  const source = new EventSource(`/api/events?after=${encodeURIComponent(event)}`);
  source.onopen = () => onOnline(true);
  source.onerror = () => onOnline(false);
  source.onmessage = (message) => onEvent(JSON.parse(message.data), source);
}
