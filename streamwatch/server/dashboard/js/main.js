// Starts the page: session, connections, header, and which page the address asks for.

import { access, api } from "./api.js";
import { openAlerts } from "./alerts.js";
import { ServerClock } from "./clock.js";
import { Connection } from "./connection.js";
import { h, say, setText } from "./dom.js";
import { themeChanged } from "./draw.js";
import { addStream, loginForm } from "./forms.js";
import { duration } from "./format.js";
import { Pictures } from "./pictures.js";
import { recall, remember } from "./settings.js";
import { Store } from "./store.js";
import { openStream } from "./stream.js";
import { openSystem } from "./system.js";
import { openWall } from "./wall.js";
import { watchPublishers } from "./whip.js";

const byId = (id) => document.getElementById(id);
const store = new Store(new ServerClock());
const pictures = new Pictures((header, bitmap) => store.show(header, bitmap));
const connection = new Connection({
  message: (message) => {
    store.receive(message);
    if (message.type === "alert" && message.phase !== "updated") say(`${message.phase === "opened" ? "Alert" : "Resolved"}: ${message.after.summary}`);
  },
  state: showLink,
  refused: askSession,
});
const context = { store, pictures, connection, may: () => false, publish: null };
const PAGES = { "": openWall, streams: openStream, alerts: openAlerts, system: openSystem };
let page = null;
let started = false;

function route() {
  const [name = "", argument] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  page?.close();
  const open = PAGES[name === "streams" && !argument ? "" : name] ?? openWall;
  page = open(context, argument);
  byId("main").replaceChildren(page.element);
  for (const link of document.querySelectorAll(".bar nav a")) {
    const here = link.dataset.page === (name === "alerts" || name === "system" ? name : "wall");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showTitle();
}

function showTitle() {
  const count = store.activeAlerts;
  document.title = `${count ? `(${count}) ` : ""}${page?.title ?? "Log in"} · StreamWatch`;
  byId("alert-count").hidden = !count;
  setText(byId("alert-count"), String(count));
  byId("alert-count").setAttribute("aria-label", `${count} active`);
}

/** What the service lets this browser do; false when it wants a token first. */
async function askSession() {
  let session;
  try {
    session = await api.session();
  } catch {
    return false; // out of reach: that is the connection's affair
  }
  context.may = (scope) => session.scopes.includes(scope);
  byId("add").hidden = !context.may("operate");
  byId("logout").hidden = session.anonymous || !session.authenticated;
  const useless = session.authenticated && !context.may("read");
  if (!session.authenticated || useless) showLogin(useless ? "This token may not read what the page shows." : "");
  return !session.authenticated || useless;
}

function showLogin(why = "") {
  if (!started && page?.title === "Log in" && !why) return;
  started = false;
  connection.stop();
  pictures.stop();
  page?.close();
  page = { title: "Log in", close: () => {}, element: loginForm(start, why) };
  byId("banner").replaceChildren();
  byId("main").replaceChildren(page.element);
  byId("add").hidden = byId("logout").hidden = true;
  showTitle();
}

async function start() {
  if (await askSession()) return;
  started = true;
  route();
  connection.start();
  pictures.start();
}

const LINK = { connecting: "Connecting", live: "Connected", lost: "Disconnected" };
let countdown = null;

function showLink(state) {
  const was = store.connected;
  store.connected = state === "live";
  byId("link").dataset.state = state;
  setText(byId("link").lastElementChild, LINK[state]);
  clearInterval(countdown);
  if (state === "lost") showLost();
  else if (state === "live") byId("banner").replaceChildren();
  if (was !== store.connected) for (const id of store.streams.keys()) store.tell("stream", id);
  if (was !== store.connected) store.tell("streams", null);
}

function showLost() {
  const left = h("span", { class: "num" });
  if (!byId("banner").firstElementChild) {
    byId("banner").replaceChildren(h("div", {}, h("span", { role: "alert" }, `Disconnected from the service${connection.reason ? ` (${connection.reason})` : ""}. Nothing on this page is live.`), left, h("button", { type: "button", onclick: () => connection.retry() }, "Try now")));
  }
  const shown = byId("banner").querySelector(".num");
  const tell = () => setText(shown, connection.retryAt === null ? "Trying again" : `Next attempt in ${duration(Math.max(0, connection.retryAt - performance.now()))}`);
  tell();
  countdown = setInterval(tell, 250);
}

const THEMES = [null, "light", "dark"];

function showTheme() {
  const theme = recall("theme", null);
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  setText(byId("theme").querySelector(".wide"), `Theme: ${theme ?? "auto"}`);
  byId("theme").setAttribute("aria-label", `Theme: ${theme ?? "auto"}`);
  repaint();
}

function repaint() {
  themeChanged();
  for (const id of store.streams.keys()) store.tell("stream", id);
}

function shortcut(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  if (event.key === "/" && page?.element.focusSearch) {
    event.preventDefault();
    page.element.focusSearch();
  }
}

/** A camera that is on is said on every page. */
function showPublishing({ stream, active }) {
  byId("publishing").hidden = !active;
  byId("publishing").href = `#/streams/${encodeURIComponent(stream)}`;
}

access.refused = () => showLogin();
watchPublishers(showPublishing);
byId("add").addEventListener("click", () => addStream(context));
byId("logout").addEventListener("click", () => api.logout().then(() => showLogin(), () => {}));
byId("theme").addEventListener("click", () => {
  remember("theme", THEMES[(THEMES.indexOf(recall("theme", null)) + 1) % THEMES.length]);
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
document.addEventListener("keydown", shortcut);
addEventListener("hashchange", () => {
  if (!started) return;
  route();
  byId("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
store.listen((kind) => kind === "alert" && showTitle());
showTheme();
start();
