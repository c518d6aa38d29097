// Dialogs: add a stream, log in.

import { api } from "./api.js";
import { h, say } from "./dom.js";

const SLUG = "[a-z0-9]([a-z0-9_\\-]{0,62}[a-z0-9])?";

/** A name as people write it -> the id under which the stream is known. */
export function slug(name) {
  return name.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 64);
}

/** A label with its input; the hint is read after both, and is not part of the name. */
export function field(name, input, hint) {
  if (!hint) return h("label", {}, name, input);
  const id = `hint-${name.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  input.setAttribute("aria-describedby", id);
  return h("div", { class: "field" }, h("label", {}, name, input), h("small", { id }, hint));
}

export function addStream(context) {
  const name = h("input", { name: "name", required: true, maxlength: 200, autocomplete: "off", placeholder: "Front desk" });
  const id = h("input", { name: "id", required: true, pattern: SLUG, autocomplete: "off", spellcheck: "false", title: "1 to 64 of a-z, 0-9, - and _" });
  const url = h("input", { name: "url", required: true, autocomplete: "off", spellcheck: "false", placeholder: "rtsp://user:password@10.0.0.7/stream1" });
  const fps = h("input", { name: "fps", type: "number", min: "0.1", max: "240", step: "any", placeholder: "as configured" });
  const camera = h("input", { type: "checkbox", name: "camera" });
  const fault = h("p", { class: "fault", role: "alert" });
  const submit = h("button", { class: "primary" }, "Add stream");
  const address = field("Address", url, "A user name and password in it are stored, and never shown again.");
  let typed = false;
  name.addEventListener("input", () => typed || (id.value = slug(name.value)));
  id.addEventListener("input", () => (typed = id.value !== ""));
  camera.addEventListener("change", () => {
    address.hidden = camera.checked;
    url.disabled = camera.checked;
  });
  const save = async () => {
    const settings = { id: id.value, name: name.value, url: camera.checked ? "whip:" : url.value.trim() };
    if (fps.value) settings.sample_fps = Number(fps.value);
    await api.addStream(settings);
    say(`${name.value} was added.`);
    context.publish = camera.checked ? settings.id : null;
    if (camera.checked) location.hash = `#/streams/${encodeURIComponent(settings.id)}`;
  };
  openDialog("Add stream", { fault, submit, save }, [
    field("Name", name),
    field("Id", id, "Used in addresses, alerts and metrics; it stays."),
    h("label", { class: "check" }, camera, "Publish this browser’s camera (WebRTC)"),
    address,
    field("Analysed frames a second", fps),
  ]);
}

/** A modal form: `save` may throw an error to be shown; Escape and Cancel leave without it. */
export function openDialog(title, { fault, submit, save }, fields) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => dialog.remove() },
    h("form", { onsubmit: (event) => {
      event.preventDefault();
      attempt(fault, submit, save).then((done) => done && dialog.close());
    } },
    h("h1", { id: "dialog-title" }, title), fields, fault,
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), submit)));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

async function attempt(fault, button, action) {
  fault.textContent = "";
  button.disabled = true;
  try {
    await action();
    return true;
  } catch (error) {
    fault.textContent = error.message;
    return false;
  } finally {
    button.disabled = false;
  }
}

export function confirmation(title, text, verb, action) {
  const fault = h("p", { class: "fault", role: "alert" });
  openDialog(title, { fault, submit: h("button", { class: "danger" }, verb), save: action }, [h("p", {}, text)]);
}

/** @param done called once the service has accepted the token; @param why said above the button at first */
export function loginForm(done, why = "") {
  const token = h("input", { type: "password", name: "token", required: true, autocomplete: "current-password", spellcheck: "false" });
  const fault = h("p", { class: "fault", role: "alert" }, why);
  const submit = h("button", { class: "primary" }, "Log in");
  const form = h("form", { class: "login", "aria-labelledby": "login-title", onsubmit: (event) => {
    event.preventDefault();
    attempt(fault, submit, () => api.login(token.value.trim()).catch((error) => {
      throw error.status === 401 ? new Error("This token is not known, or was revoked.") : error;
    })).then((accepted) => accepted && done());
  } },
  h("h1", { id: "login-title" }, "Log in"),
  field("Token", token, "Made by “streamwatch token create”."),
  fault, submit);
  queueMicrotask(() => token.focus());
  return form;
}
