// The HTTP API. Every failure is an ApiError whose message is fit for the person at the screen.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Told of every 401, so that the login form can take over. */
export const access = { refused: () => {} };

const BASE = "api/v1/";

export async function call(method, path, { json, body, type } = {}) {
  const headers = {};
  if (json !== undefined) headers["Content-Type"] = "application/json";
  else if (type) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(new URL(BASE + path, document.baseURI), { method, headers, body: json === undefined ? body : JSON.stringify(json) });
  } catch {
    throw new ApiError(0, "The service cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401 && path !== "session") access.refused();
  throw new ApiError(response.status, await problem(response));
}

async function problem(response) {
  try {
    const told = await response.json();
    if (told.errors?.length) return told.errors.map((error) => `${error.path ? `${error.path}: ` : ""}${error.message}`).join("\n");
    return told.detail || told.title || `The service answered ${response.status}.`;
  } catch {
    return `The service answered ${response.status}.`;
  }
}

const json = async (method, path, options) => {
  const response = await call(method, path, options);
  return response.status === 204 ? null : response.json();
};
const segment = encodeURIComponent;
const query = (given) => {
  const kept = Object.entries(given).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};

export const api = {
  session: () => json("GET", "session"),
  login: (token) => json("POST", "session", { json: { token } }),
  logout: () => json("DELETE", "session"),
  stream: (id) => json("GET", `streams/${segment(id)}`),
  addStream: (settings) => json("POST", "streams", { json: settings }),
  changeStream: (id, change) => json("PATCH", `streams/${segment(id)}`, { json: change }),
  removeStream: (id) => json("DELETE", `streams/${segment(id)}`),
  /** `since` and `until` in ms. */
  scores: async (id, since, until, limit = 500) => {
    const given = { since: new Date(since).toISOString(), until: until && new Date(until).toISOString(), limit };
    return (await json("GET", `streams/${segment(id)}/scores${query(given)}`)).items;
  },
  alerts: (filter) => json("GET", `alerts${query(filter)}`),
  alert: (id) => json("GET", `alerts/${segment(id)}`),
  review: (id, review, note) => json("PATCH", `alerts/${segment(id)}`, { json: { review, note } }),
  deliveries: async (id) => (await json("GET", `alerts/${segment(id)}/deliveries`)).items,
  evidence: (id) => json("GET", `alerts/${segment(id)}/evidence`),
  system: () => json("GET", "system"),
};
