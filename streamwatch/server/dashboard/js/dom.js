// Elements without a framework.

/** h("a", {href, class, onclick, "aria-label", hidden: true}, ...children): null, false and undefined are left out. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Writes only what differs: an unchanged node costs no layout and is not announced again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Makes the children of `parent` exactly `nodes`, in order, without ever moving the one that holds the focus: moving a node
 * blurs it, and a keyboard user would be thrown out of the list each time that a stream's concern changes.
 */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let anchor = nodes.findIndex((node) => node.contains(document.activeElement));
  if (anchor < 0) {
    if (!nodes.length) return;
    anchor = 0;
    if (parent.firstElementChild !== nodes[0]) parent.prepend(nodes[0]);
  }
  for (let i = anchor - 1; i >= 0; i--) {
    if (nodes[i + 1].previousElementSibling !== nodes[i]) parent.insertBefore(nodes[i], nodes[i + 1]);
  }
  for (let i = anchor + 1; i < nodes.length; i++) {
    if (nodes[i - 1].nextElementSibling !== nodes[i]) parent.insertBefore(nodes[i], nodes[i - 1].nextSibling);
  }
}

/** Says something to a screen reader. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
