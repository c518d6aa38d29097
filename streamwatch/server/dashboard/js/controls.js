// What can be done with a stream: pause, change, remove, publish this browser's camera into it.

import { api } from "./api.js";
import { h, say, setText } from "./dom.js";
import { confirmation, field, openDialog } from "./forms.js";
import { publisherOf, watchPublishers } from "./whip.js";

/** @returns {element, show(stream), close()} */
export function controls(context, id) {
  const fault = h("span", { class: "fault", role: "alert" });
  const told = h("span", { class: "muted", role: "status" });
  const pause = h("button", { type: "button" }, "Pause");
  const publish = h("button", { type: "button", class: "primary", hidden: true }, "Publish this camera");
  const change = h("button", { type: "button", onclick: () => settings(id) }, "Settings");
  const remove = h("button", { type: "button", class: "danger", onclick: () => confirmation("Remove stream", `“${name}” is no longer watched. Its alerts and evidence stay.`, "Remove", gone) }, "Remove");
  let name = id;
  let paused = false;
  const gone = async () => {
    await api.removeStream(id);
    say(`${name} was removed.`);
    location.hash = "#/";
  };
  const publisher = publisherOf(id);
  const showPublisher = () => {
    setText(told, publisher.text);
    setText(publish, publisher.active ? "Stop publishing" : "Publish this camera");
  };
  const unwatch = watchPublishers(showPublisher);
  showPublisher();
  publish.addEventListener("click", () => (publisher.active ? publisher.stop() : publisher.start()));
  pause.addEventListener("click", async () => {
    pause.disabled = true;
    fault.textContent = "";
    await api.changeStream(id, { enabled: paused }).catch((error) => (fault.textContent = error.message));
    pause.disabled = false;
  });
  // The address says whether a browser publishes; it is part of the API's record, not of what moves.
  api.stream(id).then((given) => (publish.hidden = !given.url.startsWith("whip:") || !context.may("operate")), () => {});
  if (context.publish === id) publisher.start(); // it was just added for that
  context.publish = null;
  const element = h("div", { class: "end", hidden: true }, told, fault, publish, pause, change, remove);
  return {
    element,
    show(stream) {
      element.hidden = !stream || !context.may("operate");
      if (!stream) return;
      name = stream.name;
      paused = stream.state === "paused";
      setText(pause, paused ? "Resume" : "Pause");
    },
    close: unwatch,
  };
}

async function settings(id) {
  const given = await api.stream(id);
  const optional = (value) => (value === null ? "" : String(value));
  const name = h("input", { name: "name", maxlength: 200, value: given.name });
  const fps = h("input", { name: "fps", type: "number", min: "0.1", max: "240", step: "any", value: optional(given.settings.sample_fps), placeholder: "as configured" });
  const threshold = h("input", { name: "threshold", type: "number", min: "0", max: "1", step: "any", value: optional(given.settings.threshold), placeholder: "that of the weights" });
  const url = h("input", { name: "url", autocomplete: "off", spellcheck: "false", placeholder: given.url });
  const fault = h("p", { class: "fault", role: "alert" });
  const number = (field) => (field.value === "" ? null : Number(field.value));
  const save = async () => {
    const change = { name: name.value, sample_fps: number(fps), threshold: number(threshold) };
    if (url.value.trim()) change.url = url.value.trim();
    await api.changeStream(id, change);
    say("Saved.");
  };
  openDialog("Stream settings", { fault, submit: h("button", { class: "primary" }, "Save"), save }, [
    field("Name", name),
    field("New address", url, "Empty: stays as it is."),
    field("Analysed frames a second", fps),
    field("Threshold", threshold, "A score above it counts as fake, 0 to 1."),
  ]);
}
